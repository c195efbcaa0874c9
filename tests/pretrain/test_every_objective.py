"""What the engine asks of every objective, each with its preset for small data and a toy encoder."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rsp_robot.encoder import FrozenEncoder
from rsp_robot.experiments.presets import find_preset
from rsp_robot.files import read_jsonl
from rsp_robot.pretrain.batches import Batches, Prepared
from rsp_robot.pretrain.checkpoints import build_objective
from rsp_robot.pretrain.config import Pace, PretrainConfig
from rsp_robot.pretrain.distributed import World
from rsp_robot.pretrain.engine import Engine
from rsp_robot.pretrain.loading import load_data
from rsp_robot.pretrain.objectives import OBJECTIVES, Objective
from rsp_robot.pretrain.train import pretrain

ALONE = World(0, 1, torch.device("cpu"))
PACE = Pace(1e-3, 0.0, 0.5)


@pytest.fixture(params=sorted(OBJECTIVES))
def config(
    request: pytest.FixtureRequest, toy_arch: str, make_demonstrations: Callable[..., Path], tmp_path: Path
) -> PretrainConfig:
    preset = find_preset(f"{request.param}-small")
    return replace(
        preset, data=str(make_demonstrations([70, 75])), out=tmp_path / "run", arch=toy_arch, steps=4, batch_size=4,
        warmup=0.0, holdout=0.0, probe_every=None, checkpoint_every=2, log_every=2, keep_last=9,
    )  # fmt: skip


def first_batch(config: PretrainConfig, objective: Objective) -> Prepared:
    data = load_data(config, ALONE.device, lambda video, reason: None, quiet=True)
    batches = Batches(config, data.samples, ALONE)
    return batches.prepare(objective, batches.read(0)[0], 0)


def state(engine: Engine) -> dict[str, torch.Tensor]:
    return copy.deepcopy(engine.objective.state_dict())


def test_the_loss_of_a_batch_falls(config: PretrainConfig) -> None:
    engine = Engine(build_objective(config), config, ALONE)
    prepared = first_batch(config, engine.objective)
    losses = [engine.step([prepared], PACE)["loss"].item() for _ in range(12)]
    assert losses[-1] < losses[0]
    gradients = [name for name, p in engine.objective.named_parameters() if p.requires_grad]
    engine.forward(*prepared)["loss"].backward()
    idle = [name for name in gradients if engine.objective.get_parameter(name).grad is None]
    assert idle == [], "DistributedDataParallel waits for the gradients of these for ever"


def test_a_batch_that_is_not_finite_changes_nothing(config: PretrainConfig) -> None:
    engine = Engine(build_objective(config), config, ALONE)
    prepared = first_batch(config, engine.objective)
    engine.step([prepared], PACE)
    before = state(engine)
    assert engine.step([Prepared(prepared.frames * torch.inf, prepared.draws)], PACE)["bad"] == 1
    torch.testing.assert_close(state(engine), before, rtol=0, atol=0)
    assert engine.step([prepared], PACE)["bad"] == 0
    assert any(not torch.equal(value, before[name]) for name, value in state(engine).items())


def test_bf16_is_near_single_precision(config: PretrainConfig) -> None:
    exact = build_objective(config)
    prepared = first_batch(config, exact)
    half = Engine(copy.deepcopy(exact), replace(config, precision="bf16"), ALONE)
    expected = exact(*prepared)["loss"].item()
    assert half.step([prepared], PACE)["loss"].item() == pytest.approx(expected, rel=0.05, abs=0.05)


def test_it_compiles_to_one_graph_or_says_that_it_does_not(config: PretrainConfig) -> None:
    eager = build_objective(config)
    if not eager.compiles:
        pytest.skip("differentiates inside")
    compiled = Engine(copy.deepcopy(eager), replace(config, compile=True), ALONE, backend="eager")
    prepared = first_batch(config, eager)
    found, expected = compiled.step([prepared], PACE), Engine(eager, config, ALONE).step([prepared], PACE)
    torch.testing.assert_close(found, expected)


def test_after_a_kill_it_goes_on_to_the_same_weights(config: PretrainConfig, tmp_path: Path) -> None:
    whole = pretrain(config)
    cut = tmp_path / "cut"
    shutil.copytree(whole, cut)
    shutil.rmtree(cut / "encoder")
    (cut / "checkpoints" / "step-00000004.pt").unlink()
    pretrain(replace(config, out=cut, resume=True))
    found, expected = (
        torch.load(run / "checkpoints" / "step-00000004.pt", weights_only=True)["model"] for run in (cut, whole)
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    rows = [row for row in read_jsonl(cut / "metrics.jsonl") if "loss" in row]
    assert [row["step"] for row in rows] == [2, 4]
    assert all({"rank", "rank_patches", "feature_std", "feature_covariance"} <= set(row) for row in rows)


def test_its_encoder_is_exported_as_it_is(config: PretrainConfig) -> None:
    encoder = FrozenEncoder.load(pretrain(config))
    assert encoder.provenance["objective"] == config.objective.name
    frames = torch.randint(0, 256, (2, 40, 52, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    embeddings = encoder(frames.numpy())
    assert embeddings.shape == (2, encoder.dim) and embeddings.isfinite().all()
    assert not torch.equal(embeddings[0], embeddings[1])
    assert encoder.weights_checksum() != build_objective(config).encoder().weights_checksum(), "it has learned"
