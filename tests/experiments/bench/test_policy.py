"""The bench of policies itself, on an encoder that sees four patches."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from rsp_robot.backbones import vit
from rsp_robot.encoder import FrozenEncoder
from rsp_robot.errors import UserError
from rsp_robot.experiments.bench import policy_learning
from rsp_robot.experiments.bench.policy import Latency, Measured, PolicyBench, Throughput, measure, measure_latency
from rsp_robot.experiments.bench.policy_learning import Cloning, Learning, measure_cloning, measure_learning
from rsp_robot.experiments.bench.policy_report import policy_json, print_policy
from rsp_robot.experiments.cli import main

CPU = torch.device("cpu")
TOY = "random:vit-toy/8@16"


@pytest.fixture(autouse=True)
def toy_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(vit.VARIANTS, "vit-toy", {"width": 16, "depth": 1, "heads": 2})


class CountingEncoder(FrozenEncoder):
    """Counts the pictures it encodes."""

    seen = 0

    def forward(self, frames: np.ndarray | torch.Tensor) -> torch.Tensor:
        self.seen += len(frames)
        return super().forward(frames)


def scene(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 20, 20, 3), np.uint8)


def test_cloning_encodes_once_or_in_every_batch_and_learns_the_same() -> None:
    encoder = CountingEncoder(FrozenEncoder.load(TOY).backbone)
    found = measure_cloning(encoder, scene(96), epochs=5, batch=32, device=CPU)
    assert found.encoded == (96, 480)
    assert encoder.seen == 96 + 480
    assert found.apart < 1e-3 and min(found.cached, found.kept, found.reencoded) > 0


def test_policies_of_other_batches_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    original, seeds = policy_learning.make_network, iter((0, 0, 1))

    def other_batches(*words: object) -> object:
        generator = words[-1]
        assert isinstance(generator, torch.Generator)
        network = original(*words)  # type: ignore[arg-type]
        generator.manual_seed(next(seeds))
        return network

    monkeypatch.setattr(policy_learning, "make_network", other_batches)
    assert measure_cloning(FrozenEncoder.load(TOY), scene(96), 5, 32, CPU).apart > 1e-3


def test_sac_stores_embeddings_or_pictures() -> None:
    encoder = CountingEncoder(FrozenEncoder.load(TOY).backbone)
    found = measure_learning(encoder, picture=20, steps=2, batch=4, device=CPU)
    assert (len(found.pictures), len(found.embeddings)) == (2, 20)
    assert min(*found.pictures, *found.embeddings) > 0
    shared = 2 * 4 * 4 + 4 * 4 + 3 * 4  # proprioception twice, action; reward, end and time limit
    assert found.pictures_bytes == 2 * 20 * 20 * 3 + shared
    assert found.embeddings_bytes == 2 * 16 * 2 + shared
    assert found.share_of_bytes == found.embeddings_bytes / found.pictures_bytes


def test_latencies_are_taken_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    from rsp_robot.experiments.bench import policy as module

    encoder = FrozenEncoder.load(TOY)
    turns = []
    original = module.seconds

    def noted(work: object, device: torch.device) -> float:
        turns.append(type(work.func).__name__)  # type: ignore[attr-defined]
        return original(work, device)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "seconds", noted)
    found = measure_latency(TOY, encoder, scene(3), rounds=4, device=CPU)
    assert turns == ["FrozenEncoder", "VisionTransformer", "Preprocessing"] * (4 + module.WARM_UP)
    assert len(found.encoder) == len(found.backbone) == len(found.preprocessing) == 4
    monkeypatch.setattr(module, "LATENCY_S", 0.0)
    assert len(measure_latency(TOY, encoder, scene(3), rounds=4, device=CPU).encoder) == 1


def test_the_command_prints_targets_and_writes_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--encoder", TOY, "--other-encoders", "random:vit-toy/16@16", "--picture", "20", "--rounds", "3"]
    words += ["--frames", "40", "--epochs", "2", "--batch", "8", "--sac-steps", "1", "--sac-batch", "4"]
    assert main(["bench", "policy", *words, "--device", "cpu", "--out", str(tmp_path / "b.json")]) == 0
    told = capsys.readouterr().out
    assert "latency: bare backbone, encoder" in told and "random:vit-toy/16@16" in told and ">= 10x" in told
    found = json.loads((tmp_path / "b.json").read_text())
    assert [row["name"] for row in found["latency_s"]] == [TOY, "random:vit-toy/16@16"]
    assert found["encoder"]["embedding"] == [16] and found["cloning"]["encoded"] == [40, 80]
    assert set(found["targets_met"]) == {
        f"latency of {TOY}", "latency of random:vit-toy/16@16", "cloning", "sac_steps", "sac_bytes"
    }  # fmt: skip


def test_sac_may_be_left_out() -> None:
    bench = PolicyBench(TOY, (), 20, rounds=1, frames=16, epochs=1, batch=8, sac_steps=0, device="cpu")
    measured = measure(bench, quiet=True)
    assert measured.learning is None and measured.embedding == (16,)
    assert "sac" not in policy_json(measured, bench, CPU)


def test_targets_are_met_or_missed() -> None:
    measured = Measured(
        "f" * 16,
        (128,),
        (Latency("a", (0.0109, 9.0, 0.001), (0.01, 0.01, 0.01), (0.001,) * 3),
         Latency("b", (0.012,), (0.01,), (0.001,))),
        Throughput(1000.0, 250.0, 2),
        Cloning(cached=2.0, kept=1.0, reencoded=19.0, epochs=50, encoded=(10, 500), apart=1e-6),
        Learning((0.1, 0.2, 0.1), (0.31, 0.31, 0.31), 500.0, 10_000.0),
    )  # fmt: skip
    console = Console(width=80, file=StringIO())
    print_policy(measured, PolicyBench(), CPU, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    rows = [" ".join(line.split()) for line in text.splitlines()]
    assert "latency: bare backbone, encoder 10 ms 10.9 ms 1.09x <= 1.10x met" in rows
    assert "b 10 ms 12 ms 1.20x <= 1.10x missed" in rows
    assert "pictures/s: acting, in batches 250 1,000 4x" in rows
    assert "cloning 50 epochs: anew, cache 19 s 2 s 9.5x >= 10x missed" in rows
    assert "SAC steps/s: pictures, embeddings 3.23 10 3.1x >= 3x met" in rows
    assert "replay bytes per transition 10,000 500 1/20 <= 1/20 met" in rows


def test_mistakes() -> None:
    with pytest.raises(UserError, match="rounds must be at least 1, not 0"):
        PolicyBench(rounds=0)
    with pytest.raises(UserError, match="batch must be from 2 to the number of frames \\(16\\), not 32"):
        PolicyBench(frames=16, batch=32)
    with pytest.raises(UserError, match="sac_steps must not be negative, but is -1"):
        PolicyBench(sac_steps=-1)
