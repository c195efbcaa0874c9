from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rsp_robot.encoder import FrozenEncoder
from rsp_robot.errors import Preempted, UserError
from rsp_robot.files import read_json, read_jsonl
from rsp_robot.pretrain.batches import Batches, Prepared
from rsp_robot.pretrain.checkpoints import build_objective, checkpoint_path, load_newest, load_objective, saved_steps
from rsp_robot.pretrain.config import PretrainConfig
from rsp_robot.pretrain.engine import Engine
from rsp_robot.pretrain.loading import find_videos
from rsp_robot.pretrain.objectives.rsp import RSPConfig
from rsp_robot.pretrain.train import MEASURED_BY_THE_CLOCK, pretrain

CPU = torch.device("cpu")
RSP = RSPConfig(decoder_width=16, decoder_depth=1, decoder_heads=2, groups=3, classes=4, min_gap=2, max_gap=4)


@pytest.fixture
def config(toy_arch: str, make_demonstrations: Callable[..., Path], tmp_path: Path) -> PretrainConfig:
    return PretrainConfig(
        data=make_demonstrations(), out=tmp_path / "run", arch=toy_arch, image_size=16, patch_size=8, objective=RSP,
        steps=4, batch_size=4, base_lr=0.1, warmup=0.5, device="cpu", checkpoint_every=2, log_every=1,
    )  # fmt: skip


def result(run: Path) -> tuple[dict[str, bytes], dict[str, torch.Tensor]]:
    """Everything that a run leaves and that matters, to the last bit."""
    names = ("config.yaml", "encoder/config.json", "encoder/model.safetensors")
    state = load_newest(run / "checkpoints", CPU)
    assert state is not None
    moments = {
        f"{index}.{name}": value
        for index, moment in state["optimizer"]["state"].items()
        for name, value in moment.items()
    }
    files = {name: (run / name).read_bytes() for name in names}
    files["checkpoints"] = repr(saved_steps(run / "checkpoints")).encode()
    files["metrics.jsonl"] = json.dumps([untimed(row) for row in read_jsonl(run / "metrics.jsonl")]).encode()
    return files, state["model"] | moments


def untimed(row: dict[str, Any]) -> dict[str, Any]:
    """Leave out of a row what depends on the machine's mood."""
    return {key: value for key, value in row.items() if key not in MEASURED_BY_THE_CLOCK}


def assert_same_result(found: Path, expected: Path) -> None:
    found_files, found_tensors = result(found)
    expected_files, expected_tensors = result(expected)
    assert [name for name in expected_files if found_files[name] != expected_files[name]] == []
    assert found_tensors.keys() == expected_tensors.keys()
    assert [name for name, value in expected_tensors.items() if not torch.equal(found_tensors[name], value)] == []


def test_a_run_logs_and_exports(config: PretrainConfig) -> None:
    run = pretrain(config)
    assert run == config.out
    rows = read_jsonl(run / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    names = {
        "step", "loss", "loss_future", "loss_mae", "kl", "kl_per_group", "posterior_entropy", "prior_entropy",
        "codes_used", "loss_future_prior", "prior_gap", "rank", "rank_patches", "feature_std", "feature_covariance",
        "lr", "grad_norm", "pairs_per_s", "data_wait", "peak_memory_mib", "skipped_steps",
    }  # fmt: skip
    assert all(set(row) == names for row in rows)
    assert all(np.isfinite(np.concatenate([np.ravel(value) for value in row.values()])).all() for row in rows)
    peak = 0.1 * 4 / 256
    assert [row["lr"] for row in rows] == pytest.approx([0.0, peak / 2, peak, peak / 2])
    assert all(1 <= row["rank"] <= 16 and len(row["kl_per_group"]) == 3 for row in rows)
    assert all(0 <= row["data_wait"] < 1 < row["peak_memory_mib"] and row["pairs_per_s"] > 0 for row in rows)
    encoder = FrozenEncoder.load(run)
    assert (encoder.image_size, encoder.dim, encoder.pooling) == (16, 16, "cls")
    known = {"objective": "rsp", "data": str(config.data), "steps": 4, "seed": 0, "start": "random weights"}
    assert encoder.provenance == known
    assert not torch.equal(encoder.backbone.cls_token, build_objective(config).backbone.cls_token)


def test_the_loss_falls(config: PretrainConfig) -> None:
    run = pretrain(replace(config, steps=80, base_lr=0.5, batch_size=8, flip=False, log_every=10, warmup=0.1))
    rows = read_jsonl(run / "metrics.jsonl")
    assert rows[-1]["loss_future"] < 0.95 * rows[0]["loss_future"]
    assert rows[-1]["loss_mae"] < 0.95 * rows[0]["loss_mae"]


def test_the_same_config_gives_the_same_bits_and_another_seed_does_not(config: PretrainConfig, tmp_path: Path) -> None:
    torch.manual_seed(123)
    first = pretrain(config)
    torch.manual_seed(456)
    assert_same_result(pretrain(replace(config, out=tmp_path / "again")), first)
    other = pretrain(replace(config, out=tmp_path / "other", seed=1))
    assert FrozenEncoder.load(other).weights_checksum() != FrozenEncoder.load(first).weights_checksum()


def test_logging_and_checkpoints_do_not_change_the_weights(config: PretrainConfig, tmp_path: Path) -> None:
    often = FrozenEncoder.load(pretrain(config))
    other = replace(config, out=tmp_path / "b", log_every=3, checkpoint_every=100, prefetch=0, keep_doublings=True)
    seldom = FrozenEncoder.load(pretrain(other))
    assert often.weights_checksum() == seldom.weights_checksum()
    assert [row["step"] for row in read_jsonl(tmp_path / "b" / "metrics.jsonl")] == [3, 4], "the last is always logged"


class Killed(BaseException):
    """Stands for a kill: nothing may catch it."""


class Interruption:
    """Counts what a run does (steps begun and ended, files written and put in place); kills it at one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen, self.at = 0, -1
        step = Engine.step

        def watched_step(*arguments: Any) -> Any:
            self.pass_by()
            losses = step(*arguments)
            self.pass_by()
            return losses

        def watched(function: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any) -> Any:
                self.pass_by()
                return function(*arguments)

            return call

        monkeypatch.setattr(Engine, "step", watched_step)
        for name in ("fsync", "replace"):
            monkeypatch.setattr(os, name, watched(getattr(os, name)))

    def pass_by(self) -> None:
        self.seen += 1
        if self.seen == self.at:
            raise Killed

    def arm(self, at: int) -> None:
        self.seen, self.at = 0, at


class NoBoard:
    """TensorBoard's writer keeps a thread, and a killed run would leave it behind in this process."""

    def __init__(self, folder: str, purge_step: int) -> None: ...

    def add_scalar(self, name: str, value: float, step: int) -> None: ...

    def add_histogram(self, name: str, values: np.ndarray, step: int) -> None: ...

    def close(self) -> None: ...


def test_a_run_interrupted_anywhere_ends_as_the_undisturbed_one(
    config: PretrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter", NoBoard)
    find_videos(config)  # the index is written once, by whoever comes first
    interruption = Interruption(monkeypatch)
    undisturbed = pretrain(config)
    points = interruption.seen
    assert points > 4 * 2 + 4 + 2 * 2 + 2, "steps, rows, checkpoints, export"
    for point in range(1, points + 1):
        again = replace(config, out=tmp_path / f"killed-{point}", resume=True)
        interruption.arm(point)
        with pytest.raises(Killed):
            pretrain(again)
        interruption.arm(-1)
        assert_same_result(pretrain(again), undisturbed)


def test_two_interruptions_and_a_torn_row(config: PretrainConfig, tmp_path: Path) -> None:
    undisturbed = pretrain(config)
    again = replace(config, out=tmp_path / "again", resume=True)
    for step in (1, 3):
        with before(step, kill), pytest.raises(Killed):
            pretrain(again)
        with open(again.out / "metrics.jsonl", "ab") as file:
            file.write(b'{"step": 3, "lo')
    assert_same_result(pretrain(again), undisturbed)


def kill() -> None:
    raise Killed


@contextmanager
def before(step: int, event: Callable[[], None]) -> Iterator[None]:
    """Let something happen before a step, counted from 0, is taken."""
    prepare = Batches.prepare

    def eventful(self: Batches, objective: Any, shard: Any, at: int) -> Prepared:
        if at == step:
            event()
        return prepare(self, objective, shard, at)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Batches, "prepare", eventful)
        yield


def test_resuming_goes_on_from_the_newest_checkpoint(config: PretrainConfig) -> None:
    resumable = replace(config, resume=True)
    with before(3, kill), pytest.raises(Killed):
        pretrain(resumable)
    with before(1, kill):
        pretrain(resumable)  # never comes to step 1 again
    assert [row["step"] for row in read_jsonl(config.out / "metrics.jsonl")] == [1, 2, 3, 4]


KILLED = """
import sys
from pathlib import Path
from rsp_robot.backbones import vit
from rsp_robot.pretrain.config import PretrainConfig
from rsp_robot.pretrain.objectives.rsp import RSPConfig
from rsp_robot.pretrain.train import pretrain
vit.VARIANTS["vit-toy"] = {"width": 16, "depth": 1, "heads": 2}
rsp = RSPConfig(decoder_width=16, decoder_depth=1, decoder_heads=2, groups=3, classes=4, min_gap=2, max_gap=4)
pretrain(PretrainConfig(
    Path(sys.argv[1]), Path(sys.argv[2]), arch="vit-toy", image_size=16, patch_size=8, objective=rsp,
    steps=int(sys.argv[3]), batch_size=4, base_lr=0.1, warmup=0.5, device="cpu", checkpoint_every=2, log_every=1,
))
"""


def test_a_process_killed_with_sigkill_ends_as_the_undisturbed_one(config: PretrainConfig, tmp_path: Path) -> None:
    longer, killed = replace(config, steps=4000), tmp_path / "killed"
    command = [sys.executable, "-c", KILLED, str(config.data), str(killed), "4000"]
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())})
    deadline = time.monotonic() + 120
    while len(saved_steps(killed / "checkpoints")) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait()
    reached = saved_steps(killed / "checkpoints")[-1]
    assert 0 < reached < 4000
    # The rest is short: as many steps as were taken and a few more, in this process.
    whole = replace(longer, out=tmp_path / "whole")
    stop_at = reached + 7
    for run in (replace(longer, out=killed, resume=True), whole):
        with before(stop_at - 1, lambda: os.kill(os.getpid(), signal.SIGTERM)), pytest.raises(Preempted):
            pretrain(run)
    states = [load_newest(run / "checkpoints", CPU) for run in (killed, whole.out)]
    torch.testing.assert_close(states[0], states[1], rtol=0, atol=0)
    rows = [[untimed(row) for row in read_jsonl(run / "metrics.jsonl")] for run in (killed, whole.out)]
    assert rows[0] == rows[1] and rows[0][-1]["step"] == stop_at


@pytest.mark.parametrize(("number", "error"), [(signal.SIGTERM, Preempted), (signal.SIGINT, KeyboardInterrupt)])
def test_asked_to_stop_a_run_saves_and_ends(
    config: PretrainConfig, tmp_path: Path, number: int, error: type[BaseException]
) -> None:
    undisturbed = pretrain(config)
    again = replace(config, out=tmp_path / "again", resume=True)
    with before(2, lambda: os.kill(os.getpid(), number)), pytest.raises(error) as stopped:
        pretrain(again)
    if error is Preempted:
        assert str(stopped.value) == "stopped by SIGTERM after step 3 of 4, all saved; go on with --resume"
    assert saved_steps(again.out / "checkpoints") == [2, 3]
    assert not (again.out / "encoder").exists()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    with before(2, kill):
        pretrain(again)  # step 2 is not taken again
    found, expected = result(again.out), result(undisturbed)
    assert {k: v for k, v in found[0].items() if k != "checkpoints"} == {
        k: v for k, v in expected[0].items() if k != "checkpoints"
    }


def test_a_finished_run_returns_at_once(config: PretrainConfig) -> None:
    run = pretrain(config)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    Path(config.data).unlink()
    assert pretrain(replace(config, resume=True)) == run
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()} == before


def test_a_folder_in_use_is_not_overwritten(config: PretrainConfig) -> None:
    pretrain(config)
    with pytest.raises(UserError, match="is not empty; continue it with --resume"):
        pretrain(config)
    for change in ({"seed": 1}, {"objective": replace(RSP, kl_scale=0.5)}, {"steps": 8}):
        with pytest.raises(UserError, match=rf"other settings \({next(iter(change))}\)"):
            pretrain(replace(config, resume=True, **change))
    assert pretrain(replace(config, resume=True, device="auto")) == config.out, "where it runs is no setting"


def test_a_run_that_diverges_is_ended_in_one_line(config: PretrainConfig) -> None:
    with pytest.raises(UserError) as error:
        pretrain(replace(config, base_lr=1e30, steps=20, warmup=0.0))
    said = str(error.value)
    assert "training diverged: 5 steps in a row up to step 6 without a finite loss" in said, said
    assert "loss_future" in said and "lower --base-lr" in said and "\n" not in said
    assert not (config.out / "encoder").exists()
    assert len(list((config.out / "bad").glob("*.npz"))) == 5


def test_a_spoiled_batch_is_skipped_counted_and_kept(
    config: PretrainConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare = Batches.prepare

    def spoiled(self: Batches, objective: Any, shard: Any, at: int) -> Prepared:
        prepared = prepare(self, objective, shard, at)
        return prepared._replace(frames=prepared.frames * (torch.nan if at == 1 else 1))

    monkeypatch.setattr(Batches, "prepare", spoiled)
    run = pretrain(config)
    rows = read_jsonl(run / "metrics.jsonl")
    assert [row["skipped_steps"] for row in rows] == [0, 1, 1, 1]
    assert np.isnan(rows[1]["loss"]) and np.isfinite(rows[3]["loss"])
    said = capsys.readouterr().err
    assert said.count(f"step 2 had no finite loss or gradient and was skipped; its batch is in {run / 'bad'}") == 1
    with np.load(run / "bad" / "step-00000002.npz") as kept:
        assert kept["drawn"].shape == (4, 3)
        assert kept["frames_0"].shape == (4, 2, 16, 16, 3) and kept["frames_0"].dtype == np.uint8
    state = load_newest(run / "checkpoints", CPU)
    assert state is not None and (state["skipped_steps"], state["in_a_row"]) == (1, 0)
    assert {float(moment["step"]) for moment in state["optimizer"]["state"].values()} == {3.0}


def test_a_full_disk_leaves_the_checkpoint_before_it(config: PretrainConfig) -> None:
    class Fixed:
        hex = "0" * 32

    checkpoints, patch = config.out / "checkpoints", pytest.MonkeyPatch()

    def fill() -> None:
        full = checkpoints / f".{checkpoint_path(checkpoints, 4).name}.00000000.tmp"
        full.symlink_to("/dev/full")
        patch.setattr("rsp_robot.files.uuid.uuid4", Fixed)

    with before(3, fill), pytest.raises(OSError, match="No space left on device"):
        pretrain(config)
    patch.undo()
    assert [path.name for path in checkpoints.iterdir()] == ["step-00000002.pt"]
    assert FrozenEncoder.load(pretrain(replace(config, resume=True))).provenance["steps"] == 4


def test_a_place_that_cannot_be_written_is_refused_before_training(config: PretrainConfig) -> None:
    with pytest.raises(OSError, match="/sys/kernel/rsp"):
        pretrain(replace(config, out=Path("/sys/kernel/rsp")))


def test_held_out_videos_are_never_read_by_training(
    config: PretrainConfig, make_videos: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_videos([9, 9, 9, 9, 9], sizes=[(16, 16)] * 5)
    read = []
    counted = source.read
    source.read = lambda video, frames: read.append(video) or counted(video, frames)
    monkeypatch.setattr("rsp_robot.pretrain.loading.open_videos", lambda *spec: source)
    pretrain(replace(config, holdout=0.3))
    assert set(read) == {0, 1, 2}


def test_a_probe_is_logged_from_the_start(config: PretrainConfig) -> None:
    run = pretrain(replace(config, holdout=0.3, probe_every=2))
    rows = [row for row in read_jsonl(run / "metrics.jsonl") if "probe_proprio" in row]
    assert [row["step"] for row in rows] == [0, 2, 4]
    with pytest.raises(UserError, match="a probe needs videos that training does not see; set --holdout"):
        pretrain(replace(config, out=config.out.with_name("b"), probe_every=2))
    assert not config.out.with_name("b").exists()


def test_data_that_does_not_fit_is_refused_before_training(config: PretrainConfig) -> None:
    with pytest.raises(UserError, match=r"no videos to learn from .*frame rate unknown, samples are in seconds"):
        pretrain(replace(config, objective=replace(RSP, min_gap=0.2, max_gap=1.0, gap_unit="seconds")))
    with pytest.raises(UserError, match="does not exist"):
        pretrain(replace(config, data=str(Path(config.data).with_name("nowhere.hdf5")), out=config.out.with_name("b")))
    with pytest.raises(UserError, match="no video has the camera 'back'; there are: front"):
        pretrain(replace(config, cameras=("back",), out=config.out.with_name("c")))


def test_bf16_trains_on_the_processor(config: PretrainConfig, tmp_path: Path) -> None:
    rough = pretrain(replace(config, precision="bf16"))
    exact = pretrain(replace(config, out=tmp_path / "exact"))
    losses = [[row["loss"] for row in read_jsonl(run / "metrics.jsonl")] for run in (rough, exact)]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.1)
    weights = FrozenEncoder.load(rough).backbone.state_dict()
    assert all(value.dtype == torch.float32 and value.isfinite().all() for value in weights.values())


def test_fp16_trains_on_the_processor(config: PretrainConfig, tmp_path: Path) -> None:
    rough = pretrain(replace(config, precision="fp16", checkpoint_every=1))
    exact = pretrain(replace(config, out=tmp_path / "exact"))
    losses = [[row["loss"] for row in read_jsonl(run / "metrics.jsonl")] for run in (rough, exact)]
    assert losses[0] == pytest.approx(losses[1], rel=0.1)


def test_weights_to_start_from(config: PretrainConfig, tmp_path: Path) -> None:
    first = pretrain(config)
    second = pretrain(replace(config, out=tmp_path / "second", init=first, base_lr=0.0))
    encoders = FrozenEncoder.load(first), FrozenEncoder.load(second)
    assert encoders[0].weights_checksum() == encoders[1].weights_checksum()
    assert str(first) in encoders[1].provenance["start"]
    with pytest.raises(UserError, match="nowhere"):
        pretrain(replace(config, out=tmp_path / "third", init=tmp_path / "nowhere"))


def test_the_checkpoint_loads_as_the_model_that_was_exported(config: PretrainConfig, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a run folder"):
        load_objective(config.out, CPU)
    pretrain(replace(config, keep_doublings=True))
    model = load_objective(config.out, CPU)
    assert not model.training
    exported = FrozenEncoder.load(config.out).backbone.state_dict()
    assert all(torch.equal(value, exported[name]) for name, value in model.backbone.state_dict().items())
    assert read_json(config.out / "encoder" / "config.json")["fingerprint"] == model.encoder().fingerprint
    early = load_objective(config.out, CPU, step=1)
    assert not torch.equal(early.state_dict()["mask_token"], model.state_dict()["mask_token"])
    with pytest.raises(UserError, match="has no checkpoint of step 3; it has 1, 2, 4"):
        load_objective(config.out, CPU, step=3)
