"""Two processes on the CPU (gloo), started by torchrun as on a machine with GPUs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rsp_robot.errors import UserError
from rsp_robot.files import read_jsonl
from rsp_robot.pretrain.checkpoints import load_newest, saved_steps
from rsp_robot.pretrain.config import PretrainConfig
from rsp_robot.pretrain.distributed import World, joined_world
from rsp_robot.pretrain.objectives.rsp import RSPConfig
from rsp_robot.pretrain.train import pretrain

CPU = torch.device("cpu")
RSP = RSPConfig(decoder_width=16, decoder_depth=1, decoder_heads=2, groups=3, classes=4, min_gap=2, max_gap=4)
SCRIPT = """
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(int(sys.argv[4]))
from rsp_robot.backbones import vit
from rsp_robot.errors import Preempted, UserError
from rsp_robot.pretrain.batches import Batches
from rsp_robot.pretrain.config import PretrainConfig
from rsp_robot.pretrain.objectives.rsp import RSPConfig
from rsp_robot.pretrain.train import pretrain
vit.VARIANTS["vit-toy"] = {"width": 16, "depth": 1, "heads": 2}
rsp = RSPConfig(decoder_width=16, decoder_depth=1, decoder_heads=2, groups=3, classes=4, min_gap=2, max_gap=4)
config = PretrainConfig(
    Path(sys.argv[1]), Path(sys.argv[2]), arch="vit-toy", image_size=16, patch_size=8, objective=rsp, steps=4,
    batch_size=8, micro_batch=2, repeated_sampling=2, base_lr=0.1, warmup=0.5, device="cpu", checkpoint_every=2,
    log_every=1, resume=True, holdout=0.3, probe_every=2,
)
if sys.argv[3] == "preempted":
    prepare = Batches.prepare
    def preempt(self, objective, shard, step):
        if step == 2 and shard.place == 1:  # one process hears of it, once
            os.kill(os.getpid(), signal.SIGTERM)
        return prepare(self, objective, shard, step)
    Batches.prepare = preempt
try:
    print(pretrain(config))
except Preempted as stopped:
    print(stopped)
except UserError as mistake:
    sys.exit(f"mistake: {mistake}")
"""


@pytest.fixture
def config(toy_arch: str, make_demonstrations: Callable[..., Path], tmp_path: Path) -> PretrainConfig:
    return PretrainConfig(
        data=make_demonstrations(), out=tmp_path / "one", arch=toy_arch, image_size=16, patch_size=8, objective=RSP,
        steps=4, batch_size=8, micro_batch=2, repeated_sampling=2, base_lr=0.1, warmup=0.5, device="cpu",
        checkpoint_every=2, log_every=1, holdout=0.3, probe_every=2,
    )  # fmt: skip


def two_processes(data: Path, out: Path, mode: str = "whole") -> subprocess.CompletedProcess[str]:
    script = out.with_suffix(".py")
    script.write_text(SCRIPT)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    threads = str(torch.get_num_threads())
    command = [*torchrun, str(script), str(data), str(out), mode, threads]
    started = subprocess.Popen(
        command, env={**os.environ, "OMP_NUM_THREADS": threads}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, start_new_session=True,
    )  # fmt: skip
    try:
        said = started.communicate(timeout=240)
    except subprocess.TimeoutExpired:
        os.killpg(started.pid, signal.SIGKILL)  # the two as well: they would hold the pipes open for ever
        raise
    return subprocess.CompletedProcess(command, started.returncode, *said)


def without_key_biases(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Leave out what has no gradient in exact arithmetic: Adam makes steps of its rounding, which differs."""
    kept = {}
    for name, value in weights.items():
        if name.endswith("attn.qkv.bias"):
            value = torch.cat([value.chunk(3)[0], value.chunk(3)[2]])
        elif name.endswith("cattn.kv.bias"):
            value = value.chunk(2)[1]
        kept[name] = value
    return kept


def test_two_processes_learn_what_one_learns_from_the_same_batches(config: PretrainConfig, tmp_path: Path) -> None:
    one, two = pretrain(config), tmp_path / "two"
    stopped = two_processes(config.data, two, "preempted")
    assert stopped.returncode == 0, stopped.stderr
    assert stopped.stdout.count("stopped by SIGTERM after step 3 of 4, all saved; go on with --resume") == 2
    assert saved_steps(two / "checkpoints") == [2, 3]
    ended = two_processes(config.data, two)
    assert ended.returncode == 0, ended.stderr
    alone, together = (load_newest(run / "checkpoints", CPU) for run in (one, two))
    assert alone is not None and together is not None and together["step"] == 4
    weights = [without_key_biases(state["model"]) for state in (alone, together)]
    torch.testing.assert_close(weights[1], weights[0], rtol=1e-5, atol=1e-6)
    rows = [[row for row in read_jsonl(run / "metrics.jsonl") if "loss" in row] for run in (one, two)]
    assert [row["step"] for row in rows[1]] == [1, 2, 3, 4], "one process writes"
    for name in ("loss", "loss_future", "loss_mae", "kl", "grad_norm"):
        assert [row[name] for row in rows[1]] == pytest.approx([row[name] for row in rows[0]], rel=1e-4)
    config_files = [(run / "config.yaml").read_text() for run in (one, two)]
    assert config_files[0] == config_files[1], "how many processes there are is no setting"


def test_a_mistake_is_told_by_one_process(config: PretrainConfig, tmp_path: Path) -> None:
    pretrain(replace(config, steps=1))
    failed = two_processes(config.data, config.out)
    assert failed.returncode != 0
    assert failed.stderr.count("mistake: ") == 1
    assert "holds a run with other settings (steps)" in failed.stderr


def test_alone_every_exchange_is_free() -> None:
    with joined_world("cpu") as world:
        assert world == World(0, 1, CPU) and world.main
        assert world.any(True) and not world.any(False)
        values = torch.tensor([1.0, 2.0])
        assert world.mean(values) is values
        assert world.on_main(lambda: "done") == "done"


def test_one_device_cannot_serve_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with (
        pytest.raises(UserError, match="'cuda:0' cannot serve 2 processes; leave --device out"),
        joined_world("cuda:0"),
    ):
        pass
