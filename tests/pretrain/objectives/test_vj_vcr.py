"""VJ-VCR: what its losses are made of, how its latent is found, and that its features collapse only when they may."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rsp_robot.backbones.vit import ViTConfig
from rsp_robot.errors import UserError
from rsp_robot.pretrain.batches import Prepared
from rsp_robot.pretrain.config import Pace, PretrainConfig
from rsp_robot.pretrain.distributed import World
from rsp_robot.pretrain.engine import Engine
from rsp_robot.pretrain.masking import patchify
from rsp_robot.pretrain.monitors import rank_me
from rsp_robot.pretrain.objectives.vj_vcr import VJVCR, Draws, VJVCRConfig, spread
from rsp_robot.pretrain.sampling import ClipSpec
from rsp_robot.pretrain.sparse_coding import soft_threshold, value_and_slope
from rsp_robot.pretrain.vicreg import covariance_term, covariance_within, variance_term

VIT = ViTConfig(image_size=16, patch_size=8, width=16, depth=1, heads=2)
VIT_32 = replace(VIT, width=32)
TOY = VJVCRConfig(
    past=2,
    future=2,
    stride=1,
    target="features",
    latent_size=3,
    predictor_width=16,
    predictor_depth=1,
    predictor_heads=2,
    decoder_depth=1,
)
LATENTS = ("none", "discrete", "sparse", "continuous")
TARGETS = ("features", "both", "pixels")
ALONE = World(0, 1, torch.device("cpu"))


def make(vit: ViTConfig = VIT, dtype: torch.dtype = torch.float32, **settings: Any) -> VJVCR:
    torch.manual_seed(0)
    return replace(TOY, **settings).build(vit).to(dtype)


def clips(batch: int = 4, count: int = 4, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, count, 3, 16, 16, generator=generator, dtype=dtype)


def drawn(model: VJVCR, frames: torch.Tensor) -> Draws:
    return model.draw(frames, torch.Generator().manual_seed(5))


def greedy(batch: int = 4) -> Draws:
    """No sample learns with a random code."""
    return Draws(torch.ones(batch), torch.linspace(0, 0.99, batch))


def forks(batch: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A bright square that moves down or up after the past frames: ``(B, 4, 3, 16, 16)``, and which way ``(B,)``."""
    generator = torch.Generator().manual_seed(seed)
    column = torch.randint(0, 12, (batch,), generator=generator)
    way = torch.randint(0, 2, (batch,), generator=generator)
    frames = torch.full((batch, 4, 3, 16, 16), -1.0)
    for sample in range(batch):
        for t, moved in enumerate((0, 0, 4, 6)):
            row = 6 + moved * (1 if way[sample] else -1)
            frames[sample, t, :, row : row + 4, column[sample] : column[sample] + 4] = 2.0
    return frames, way


def trained(model: VJVCR, steps: int, lr: float = 3e-3, batch: int = 32) -> VJVCR:
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.95))
    for step in range(steps):
        frames, _ = forks(batch, step)
        model(frames, drawn(model, frames))["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


# -- the losses --------------------------------------------------------------------------------------------------------


def test_a_sample_is_a_clip_of_past_and_future_frames() -> None:
    assert VJVCRConfig().frames == ClipSpec(5, 4, "frames")
    assert replace(TOY, past=3, future=12, stride=0.1, stride_unit="seconds").frames == ClipSpec(15, 0.1, "seconds")


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("latent", LATENTS)
def test_the_loss_is_the_sum_that_the_paper_says(target: Any, latent: Any) -> None:
    model, frames = make(target=target, latent=latent, variance_weight=0.7, pixel_weight=0.3), clips()
    losses = model(frames, drawn(model, frames))
    expected = {"loss", "variance_past", "covariance_past"}
    total = 0.7 * losses["variance_past"] + 0.04 * losses["covariance_past"]
    if target != "pixels":
        expected |= {"loss_features", "variance_future", "covariance_future"}
        total = total + losses["loss_features"] + 0.7 * losses["variance_future"] + 0.04 * losses["covariance_future"]
    if target != "features":
        expected |= {"loss_pixels"}
        total = total + (0.3 if target == "both" else 1.0) * losses["loss_pixels"]
    assert set(losses) == expected
    torch.testing.assert_close(losses["loss"], total)
    losses["loss"].backward()
    missing = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not missing, "nothing is trained in vain"


def test_the_errors_are_those_of_what_is_predicted() -> None:
    model, frames = make(target="both"), clips()
    losses, seen = model(frames, greedy()), model.see(frames)
    predicted = model.predictor(seen.memory, model.infer(seen))
    later = torch.stack([model.backbone(frames[:, t]) for t in (2, 3)], dim=1)
    errors = (predicted - later).square()
    by_hand = (errors[:, :, 0].mean() + errors[:, :, 1:].mean()) / 2
    torch.testing.assert_close(losses["loss_features"], by_hand)
    target = torch.stack([patchify(frames[:, t], 8) for t in (2, 3)], dim=1)
    decoded = torch.stack([model.decoder(predicted[:, t]) for t in (0, 1)], dim=1)
    torch.testing.assert_close(losses["loss_pixels"], (decoded - target).square().mean())
    pictures = model.pictures(predicted)
    assert pictures.shape == (4, 2, 3, 16, 16)
    torch.testing.assert_close(patchify(pictures[:, 1], 8), decoded[:, 1])


def test_class_token_and_patches_are_spread_apart() -> None:
    tokens = torch.randn(6, 2, 5, 8, generator=torch.Generator().manual_seed(0))
    parts = [covariance_within(tokens[:, :, :1]), covariance_within(tokens[:, :, 1:])]
    for found, term in zip(spread(tokens), (variance_term, covariance_term), strict=True):
        torch.testing.assert_close(found, (term(parts[0]) + term(parts[1])) / 2)
    tokens[:, :, 0] = 1.0
    assert spread(tokens)[0] > 0.49, "a class token that always says the same costs half of the term"


def test_without_a_latent_the_future_cannot_reach_the_prediction() -> None:
    model, frames, other = make(latent="none"), clips(), clips(seed=1)
    other[:, :2] = frames[:, :2]
    one, two = (model.see(seen) for seen in (frames, other))
    assert model.infer(one) is None
    torch.testing.assert_close(model.predictor(one.memory, None), model.predictor(two.memory, None))
    assert not torch.allclose(one.future, two.future)  # type: ignore[arg-type]


def test_the_generative_baseline_never_encodes_the_future() -> None:
    model, frames = make(target="pixels"), clips()
    seen = model.see(frames)
    assert seen.future is None and seen.past.shape == (4, 2, 5, 16)
    torch.testing.assert_close(seen.pixels, model.patches(frames))


# -- the latent --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS)
def test_the_discrete_latent_is_the_best_of_all_codes(target: Any) -> None:
    model = make(target=target)
    seen = model.see(clips(16))
    latent, codes = model.infer(seen), torch.eye(3)
    assert latent is not None and not latent.requires_grad
    tried = torch.stack([model.energy(seen, code.expand(16, -1)) for code in codes])
    torch.testing.assert_close(model.energy(seen, latent), tried.amin(dim=0))
    assert torch.equal(latent, codes[tried.argmin(dim=0)]) and len(latent.unique(dim=0)) > 1


def test_a_share_of_the_samples_learns_with_a_random_code() -> None:
    model, best = make(latent_explore=0.3), torch.eye(3)[[0, 0, 0, 0]]
    draws = Draws(torch.tensor([0.1, 0.29, 0.31, 0.9]), torch.tensor([0.99, 0.5, 0.99, 0.0]))
    assert model.explored(best, draws).tolist() == torch.eye(3)[[2, 1, 0, 0]].tolist()  # type: ignore[union-attr]
    assert make(latent="sparse").explored(best, draws) is best and make(latent="none").explored(None, draws) is None


@pytest.mark.parametrize("latent", ["sparse", "continuous"])
def test_a_vector_is_found_by_descent_of_half_the_energy_and_the_penalty(latent: Any) -> None:
    model = make(dtype=torch.float64, latent=latent, latent_penalty=1e-3, latent_steps=400)
    seen = model.see(clips(dtype=torch.float64))
    found = model.infer(seen)
    assert found is not None and not found.requires_grad
    slope = value_and_slope(lambda z: model.energy(seen, z) / 2, found)[1]
    if latent == "continuous":
        torch.testing.assert_close(slope, -1e-3 * found, rtol=0, atol=1e-5)
    else:
        torch.testing.assert_close(found, soft_threshold(found - slope, 1e-3), rtol=0, atol=1e-5)
    assert (model.energy(seen, found) < model.energy(seen, model.unspecific(found))).all()


def test_a_large_penalty_leaves_nothing_of_a_sparse_latent() -> None:
    model, frames = make(latent="sparse", latent_penalty=10.0), clips()
    assert model.infer(model.see(frames)).abs().max() == 0  # type: ignore[union-attr]


@pytest.mark.parametrize("latent", LATENTS[1:])
def test_the_gradient_is_that_of_a_latent_held_fixed(latent: Any) -> None:
    model, frames = make(latent=latent), clips()
    model(frames, greedy())["loss_features"].backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    with torch.no_grad():
        chosen = model.infer(model.see(frames))
    seen = model.see(frames)
    model.distance(model.predictor(seen.memory, chosen), seen.future).mean().backward()
    torch.testing.assert_close(found, {name: p.grad for name, p in model.named_parameters() if p.grad is not None})


@pytest.mark.parametrize("latent", LATENTS)
def test_what_is_measured_of_a_latent(latent: Any) -> None:
    model, frames = make(latent=latent), clips(8)
    seen = model.diagnose(frames, drawn(model, frames))
    assert all(value.isfinite() and value.ndim == 0 for value in seen.values())
    spreads = {"std_past", "std_future"}
    energies = {"energy", "energy_random", "energy_none"}
    of_codes, of_vectors = {"codes_used", "code_perplexity"}, {"latent_active", "latent_norm"}
    if latent == "none":
        assert set(seen) == spreads
        return
    assert set(seen) == spreads | energies | (of_codes if latent == "discrete" else of_vectors)
    assert seen["energy"] <= seen["energy_random"]
    if latent == "discrete":
        assert 1 <= seen["code_perplexity"] <= seen["codes_used"] <= 3
    else:
        assert 0 < seen["latent_active"] <= 1


# -- in the engine -----------------------------------------------------------------------------------------------------


def engine(toy_arch: str, compiled: bool = False, precision: Any = "fp32", **settings: Any) -> Engine:
    config = PretrainConfig(
        "d", Path("o"), arch=toy_arch, image_size=16, patch_size=8, objective=replace(TOY, **settings),
        compile=compiled, precision=precision,
    )  # fmt: skip
    return Engine(make(**settings), config, ALONE, backend="eager")


@pytest.mark.parametrize("latent", LATENTS)
def test_every_weight_learns_in_half_precision(toy_arch: str, latent: Any) -> None:
    learner = engine(toy_arch, precision="bf16", latent=latent, target="both")
    before = {name: p.clone() for name, p in learner.objective.named_parameters() if p.requires_grad}
    frames = clips()
    losses = [
        learner.step([Prepared(frames, learner.objective.draw(frames))], Pace(3e-3, 0.0))["loss"].item()
        for _ in range(10)
    ]
    assert losses[-1] < 0.97 * losses[0]
    still = [name for name, p in learner.objective.named_parameters() if p.requires_grad and p.equal(before[name])]
    assert not still, "autocast's copies of weights made without gradient must not serve the loss"


@pytest.mark.parametrize(
    ("latent", "target", "precision"), [("none", "features", "fp32"), ("discrete", "both", "bf16")]
)
def test_it_compiles_to_one_graph(toy_arch: str, latent: Any, target: Any, precision: Any) -> None:
    torch.compiler.reset()
    frames = clips()
    eager, compiled = (engine(toy_arch, c, precision, latent=latent, target=target) for c in (False, True))
    for _ in range(2):
        expected, found = (one.step([Prepared(frames, greedy())], Pace(1e-3, 0.0)) for one in (eager, compiled))
        torch.testing.assert_close(found, expected, rtol=0.02, atol=1e-3)


@pytest.mark.parametrize("latent", ["sparse", "continuous"])
def test_latents_found_by_descent_do_not_compile(toy_arch: str, latent: Any) -> None:
    with pytest.raises(UserError, match="vj-vcr as set up here does not compile"):
        engine(toy_arch, compiled=True, latent=latent)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"latent": "discreet"}, "unknown latent 'discreet'; did you mean discrete?"),
        ({"target": "pixel"}, "unknown target 'pixel'; did you mean pixels?"),
        ({"past": 0}, "past must be at least 1, not 0"),
        ({"variance_weight": -1.0}, "variance_weight must be at least 0, not -1.0"),
        ({"predictor_width": 18}, "predictor width 18 must be divisible by 4 and by its 2 heads"),
        ({"stride": 0.5}, "clips of 4 frames, 0.5 frames apart"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        replace(TOY, **settings)


def test_a_single_sample_has_no_variance() -> None:
    with pytest.raises(UserError, match="it has 1 sample"):
        make().draw(clips(1))
    model = make(variance_weight=0.0, covariance_weight=0.0)
    assert model(clips(1), model.draw(clips(1)))["loss"].isfinite()


# -- what it is for ----------------------------------------------------------------------------------------------------


def test_features_collapse_without_the_variance_term_and_only_then() -> None:
    frames = forks(128, seed=10_000)[0]
    ranks, stds = {}, {}
    for weight in (0.0, 1.0):
        model = trained(make(latent="none", variance_weight=weight), 120).eval()
        with torch.no_grad():
            cls = model.backbone(frames[:, 0])[:, 0]
        # RankMe as published does not centre; with every feature's opposite there is nothing to centre.
        ranks[weight], stds[weight] = rank_me(torch.cat([cls, -cls])), cls.std(dim=0).mean().item()
    assert ranks[0.0] < 1.5 < 4 < ranks[1.0], ranks
    assert stds[0.0] < 0.05 < 0.7 < stds[1.0], stds


def test_the_code_tells_which_way_it_went() -> None:
    model = trained(make(VIT_32, target="both", latent_size=2, predictor_width=32, latent_explore=0.3), 350).eval()
    frames, way = forks(256, seed=10_000)
    found = model.infer(model.see(frames))
    assert found is not None
    alike = (found.argmax(dim=1) == way).float().mean()
    assert max(alike, 1 - alike) > 0.9
    assert model.diagnose(frames, greedy(256))["codes_used"] == 2
