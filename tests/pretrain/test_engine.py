"""One optimiser step: the same weights however the batch is cut, none moved by a loss that is not finite."""

from __future__ import annotations

import copy
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rsp_robot.errors import UserError
from rsp_robot.pretrain.batches import Prepared
from rsp_robot.pretrain.checkpoints import build_objective
from rsp_robot.pretrain.config import Pace, PretrainConfig
from rsp_robot.pretrain.distributed import World
from rsp_robot.pretrain.engine import Engine, fuses_attention
from rsp_robot.pretrain.objectives import Objective
from rsp_robot.pretrain.objectives.rsp import RSPConfig

ALONE = World(0, 1, torch.device("cpu"))
# Without free bits: their floor applies to the mean of a micro-batch, which would make the cut matter.
RSP = RSPConfig(decoder_width=16, decoder_depth=1, decoder_heads=2, groups=3, classes=4, free_bits=0.0)
RATE = 1e-2
PACE = Pace(RATE, 0.05)


@pytest.fixture
def config(toy_arch: str) -> PretrainConfig:
    return PretrainConfig("d", Path("o"), arch=toy_arch, image_size=16, patch_size=8, objective=RSP)


def make(config: PretrainConfig, dtype: torch.dtype = torch.float32, **options: Any) -> Engine:
    """Double precision where Adam would blow up the rounding of gradients that are zero in exact arithmetic."""
    return Engine(build_objective(config).to(dtype), config, ALONE, **options)


def batch(engine: Engine, size: int = 4, seed: int = 0) -> Prepared:
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randn(size, 2, 3, 16, 16, generator=generator).to(engine.trained[0].dtype)
    return Prepared(frames, engine.objective.draw(frames, generator))


def halves(whole: Prepared) -> list[Prepared]:
    size = len(whole.frames) // 2
    return [
        Prepared(whole.frames[half], type(whole.draws)(*(part[half] for part in whole.draws)))
        for half in (slice(0, size), slice(size, None))
    ]


def weights(engine: Engine) -> dict[str, torch.Tensor]:
    return copy.deepcopy(engine.objective.state_dict())


def spoiled(whole: Prepared) -> Prepared:
    frames = whole.frames.clone()
    frames[0, 1, 0, 0, 0] = torch.inf
    return Prepared(frames, whole.draws)


def test_a_step_is_adamw_of_the_loss(config: PretrainConfig) -> None:
    engine, by_hand = make(config), build_objective(config)
    prepared = batch(engine)
    found = engine.step([prepared], PACE)
    losses = by_hand(prepared.frames, prepared.draws)
    losses["loss"].backward()
    norm = torch.stack([p.grad.norm() for p in by_hand.parameters() if p.grad is not None]).norm()
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in by_hand.parameters() if p.requires_grad and p.ndim > 1], "weight_decay": 0.05},
            {"params": [p for p in by_hand.parameters() if p.requires_grad and p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=RATE,
        betas=(0.9, 0.95),
    )
    optimizer.step()
    torch.testing.assert_close(engine.objective.state_dict(), by_hand.state_dict(), rtol=1e-5, atol=1e-7)
    assert set(found) == {*losses, "grad_norm", "bad"}
    torch.testing.assert_close(found["loss"], losses["loss"].detach())
    torch.testing.assert_close(found["grad_norm"], norm)
    assert found["bad"] == 0 and not any(value.requires_grad for value in found.values())
    assert all(p.grad is None for p in engine.objective.parameters()), "nothing is left for the next step"


def test_weight_decay_follows_the_pace_on_matrices_only(config: PretrainConfig) -> None:
    """A decay of 1 / lr would take a matrix to nothing but for Adam's own step of at most lr."""
    engine = make(config)
    vectors = {name: value for name, value in weights(engine).items() if value.ndim <= 1}
    engine.step([batch(engine)], Pace(RATE, 1 / RATE))
    after = weights(engine)
    trained = {name for name, value in engine.objective.named_parameters() if value.requires_grad}
    assert all(after[name].abs().max() <= 1.01 * RATE for name in trained - set(vectors))
    assert max((after[name] - before).abs().max() for name, before in vectors.items()) <= 1.01 * RATE
    assert engine.optimizer.param_groups[0]["betas"] == (0.9, 0.95)
    assert make(replace(config, beta2=0.999)).optimizer.param_groups[0]["betas"] == (0.9, 0.999)


def test_an_objective_hears_of_every_step_and_whether_it_was_skipped(
    config: PretrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make(config)
    heard: list[tuple[float, float]] = []
    monkeypatch.setattr(engine.objective, "after_step", lambda share, bad: heard.append((share, float(bad))))
    engine.step([batch(engine)], Pace(RATE, 0.05, 0.25))
    engine.step([spoiled(batch(engine))], Pace(RATE, 0.05, 0.5))
    assert heard == [(0.25, 0.0), (0.5, 1.0)]


def test_what_does_not_compile_is_refused(config: PretrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Objective, "compiles", False)
    with pytest.raises(UserError, match="rsp as set up here does not compile; leave out --compile"):
        make(replace(config, compile=True))


@pytest.mark.parametrize("clip", [None, 0.1])
def test_accumulated_micro_batches_are_one_batch(config: PretrainConfig, clip: float | None) -> None:
    config = replace(config, clip_grad=clip)
    whole, cut = make(config, torch.float64), make(config, torch.float64)
    for seed in range(3):
        together = whole.step([batch(whole, seed=seed)], PACE)
        apart = cut.step(halves(batch(cut, seed=seed)), PACE)
        torch.testing.assert_close(together, apart)
    torch.testing.assert_close(weights(whole), weights(cut))


def test_clipping_cuts_the_gradient_to_its_norm(config: PretrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make(replace(config, clip_grad=0.01))
    norms = []
    monkeypatch.setattr(
        engine.optimizer,
        "step",
        lambda: norms.append(torch.nn.utils.get_total_norm([p.grad for p in engine.trained if p.grad is not None])),
    )
    found = engine.step([batch(engine)], PACE)
    assert found["grad_norm"] > 0.1, "the norm before clipping"
    assert norms[0].item() == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("place", [0, 1])
def test_a_loss_that_is_not_finite_moves_nothing(config: PretrainConfig, fused: bool, place: int) -> None:
    engine, undisturbed = make(config, fused=fused), make(config, fused=fused)
    for one in (engine, undisturbed):
        one.step([batch(one)], PACE)
    before = weights(engine), copy.deepcopy(engine.optimizer.state_dict()["state"])
    parts = halves(batch(engine, seed=1))
    parts[place] = spoiled(parts[place])
    assert engine.step(parts, PACE)["bad"] == 1
    torch.testing.assert_close(weights(engine), before[0], rtol=0, atol=0)
    torch.testing.assert_close(engine.optimizer.state_dict()["state"], before[1], rtol=0, atol=0)
    for one in (engine, undisturbed):
        assert one.step([batch(one, seed=2)], PACE)["bad"] == 0
    torch.testing.assert_close(weights(engine), weights(undisturbed), rtol=0, atol=0)


def test_an_infinite_loss_with_finite_gradients_moves_nothing(
    config: PretrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make(config)
    forward = engine.objective.forward

    def shifted(frames: torch.Tensor, draws: Any) -> dict[str, torch.Tensor]:
        losses = forward(frames, draws)
        return losses | {"loss": losses["loss"] + torch.inf}

    monkeypatch.setattr(engine.objective, "forward", shifted)
    before = weights(engine)
    assert engine.step([batch(engine)], PACE)["bad"] == 1
    torch.testing.assert_close(weights(engine), before, rtol=0, atol=0)


def test_fp16_scales_the_loss_and_finds_its_scale(config: PretrainConfig) -> None:
    engine = make(replace(config, precision="fp16"))
    engine.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    before, bad = weights(engine), 1.0
    for _ in range(40):
        bad = engine.step([batch(engine)], PACE)["bad"].item()
        if not bad:
            break
        torch.testing.assert_close(weights(engine), before, rtol=0, atol=0)
    assert bad == 0 and engine.scaler.get_scale() < 2.0**40
    exact = make(config)
    exact.step([batch(exact)], PACE)
    assert engine.step([batch(engine)], PACE)["loss"].item() == pytest.approx(
        exact.step([batch(exact)], PACE)["loss"].item(), rel=0.02
    )
    fresh = make(replace(config, precision="fp16"))
    fresh.load(engine.state())
    assert fresh.scaler.get_scale() == engine.scaler.get_scale()


@pytest.mark.parametrize(
    "backend",
    [
        "aot_eager",
        pytest.param(
            "inductor",
            marks=[
                pytest.mark.slow,
                pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler"),
            ],
        ),
    ],
)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_compiled_and_eager_steps_agree(config: PretrainConfig, precision: Any, backend: str) -> None:
    torch.compiler.reset()
    config = replace(config, precision=precision)
    dtype, tolerance = (torch.float64, 1e-6) if precision == "fp32" else (torch.float32, 0.05)
    eager, compiled = make(config, dtype), make(replace(config, compile=True), dtype, backend=backend)
    for seed in range(3):
        expected, found = (one.step([batch(one, seed=seed)], Pace(1e-3, 0.05)) for one in (eager, compiled))
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(weights(compiled), weights(eager), rtol=0, atol=6e-3 if precision == "bf16" else 1e-6)
    assert list(compiled.state()["model"]) == list(eager.state()["model"]), "checkpoints know nothing of it"


@pytest.mark.parametrize(
    ("device", "precision", "fused"),
    [("cpu", "fp32", True), ("cpu", "bf16", False), ("cpu", "fp16", True), ("cuda", "bf16", True)],
)
def test_attention_is_fused_where_that_is_faster(device: str, precision: str, fused: bool) -> None:
    assert fuses_attention(torch.device(device), precision) == fused


def test_the_engine_chooses_the_attention(config: PretrainConfig) -> None:
    for precision, fused in (("fp32", True), ("bf16", False)):
        objective = make(replace(config, precision=precision)).objective  # type: ignore[arg-type]
        assert objective.backbone.blocks[0].attn.fused_attn == fused
        assert objective.get_submodule("decoder_blocks.0.cattn").fused == fused


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_step_never_waits_for_the_device(config: PretrainConfig) -> None:
    world = World(0, 1, torch.device("cuda"))
    engine = Engine(build_objective(config).to("cuda"), replace(config, precision="bf16"), world)
    on_device = batch(make(config))
    prepared = Prepared(on_device.frames.cuda(), type(on_device.draws)(*(part.cuda() for part in on_device.draws)))
    engine.step([prepared], PACE)
    torch.cuda.set_sync_debug_mode("error")
    try:
        engine.step([prepared], PACE)
    finally:
        torch.cuda.set_sync_debug_mode("default")
