"""The RSP objective; tests/reference holds its numbers against the published formulation."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rsp_robot.backbones.vit import ViTConfig
from rsp_robot.errors import UserError
from rsp_robot.pretrain.latents import CategoricalLatent, GaussianLatent
from rsp_robot.pretrain.masking import patchify, random_mask
from rsp_robot.pretrain.objectives.rsp import RSP, Draws, RSPConfig
from rsp_robot.pretrain.sampling import PairSpec

VIT = ViTConfig(image_size=16, patch_size=4, width=16, depth=1, heads=2)
TOY = RSPConfig(decoder_width=16, decoder_depth=1, decoder_heads=2, groups=3, classes=4)
REFERENCE = Path(__file__).parents[1] / "reference" / "rsp-a.npz"
LATENTS = ("categorical", "gaussian", "deterministic")
ABLATIONS: dict[str, dict[str, Any]] = {
    "published": {},
    "no masked autoencoding": {"mae_weight": 0.0},
    "gaussian": {"latent": "gaussian"},
    "gaussian, no masked autoencoding": {"latent": "gaussian", "mae_weight": 0.0},
    "deterministic": {"latent": "deterministic"},
    "deterministic, no masked autoencoding": {"latent": "deterministic", "mae_weight": 0.0},
    "no noise": {"noise_std": 0.0},
    "unimix": {"unimix": 0.01},
    "raw targets": {"normalise_targets": False},
    "all of the KL to the prior": {"kl_balance": 0.0},
    "all of the KL to the posterior": {"kl_balance": 1.0},
    "no KL": {"kl_scale": 0.0},
    "free bits never reached": {"free_bits": 1e3},
}
"""Every switch of the paper's ablations, and more; a setting that trains must train under every one."""


def make(vit: ViTConfig = VIT, **settings: Any) -> RSP:
    torch.manual_seed(0)
    return replace(TOY, **settings).build(vit)


def pairs(current: int = 0, future: int = 1, batch: int = 2, size: int = 16) -> torch.Tensor:
    """Two frames of noise, drawn from these seeds."""
    frames = [torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(s)) for s in (current, future)]
    return torch.stack(frames, dim=1)


def drawn(model: RSP, frames: torch.Tensor | None = None, seed: int = 5) -> Draws:
    return model.draw(pairs() if frames is None else frames, torch.Generator().manual_seed(seed))


def row(draws: Draws, i: int) -> Draws:
    return Draws(*(None if part is None else part[i : i + 1] for part in draws))


def gradients(model: RSP) -> dict[str, torch.Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def counted(model: RSP, name: str, monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """Results of a method's calls from now on."""
    results, method = [], getattr(model, name)

    def call(*arguments: Any) -> torch.Tensor:
        results.append(method(*arguments))
        return results[-1]

    monkeypatch.setattr(model, name, call)
    return results


# -- the published objective -------------------------------------------------------------------------------------------


def test_losses_of_the_reference(load_rsp_reference: Callable[[Path], Any]) -> None:
    model, frames, draws, _, expected, _ = load_rsp_reference(REFERENCE)
    losses = model(frames, draws)
    for ours, published in (("loss", "loss"), ("loss_future", "loss_future"), ("loss_mae", "loss_mae")):
        assert losses[ours].item() == pytest.approx(expected[published].item(), rel=1e-6)
    assert losses["kl"].item() == pytest.approx(expected["kl_value"].item(), rel=1e-6)


def test_defaults_are_the_published_settings() -> None:
    published = RSPConfig(
        latent="categorical", decoder_width=512, decoder_depth=8, decoder_heads=16, groups=32, classes=32, unimix=0.0,
        noise_std=0.5, mask_ratio=0.75, mae_weight=1.0, kl_scale=0.01, kl_balance=0.2, free_bits=0.1,
        normalise_targets=True, min_gap=4, max_gap=48,
    )  # fmt: skip
    assert RSPConfig() == published
    assert published.frames == PairSpec(4, 48)
    assert published.make_latent() == CategoricalLatent(32, 32)


def test_names_of_the_published_checkpoint() -> None:
    names = {name.partition(".")[0] for name, _ in make().named_parameters()}
    assert names == {
        "backbone", "to_posterior", "to_prior", "decoder_embed_stoch", "decoder_embed_mae", "decoder_embed_deter",
        "mask_token", "decoder_pos_embed", "decoder_blocks", "decoder_norm", "decoder_pred",
    }  # fmt: skip
    without = dict(make(mae_weight=0.0).named_parameters())
    assert list(without) == [name for name, _ in make().named_parameters()], "the layout stays without the loss"


def test_the_loss_is_the_weighted_sum_of_its_parts() -> None:
    model = make(kl_scale=0.5, free_bits=0.0, mae_weight=3.0)
    losses = model(pairs(), drawn(model))
    assert set(losses) == {"loss", "loss_future", "loss_mae", "kl"}
    assert all(value.shape == () for value in losses.values())
    expected = losses["loss_future"] + 0.5 * losses["kl"] + 3 * losses["loss_mae"]
    torch.testing.assert_close(losses["loss"], expected)
    floored = make(kl_scale=0.5, free_bits=1e3, mae_weight=3.0)(pairs(), drawn(model))
    torch.testing.assert_close(floored["loss"], floored["loss_future"] + 500 + 3 * floored["loss_mae"])
    torch.testing.assert_close(floored["kl"], losses["kl"])


def test_under_the_free_bits_the_kl_moves_nothing() -> None:
    model = make(free_bits=1e3)
    model(pairs(), drawn(model))["loss"].backward()
    assert all(not p.grad.any() for p in model.to_prior.parameters()), "nothing but the KL reaches the prior"


def test_future_loss_is_the_mean_squared_error_over_normalised_patches() -> None:
    model = make()
    torch.nn.init.zeros_(model.decoder_pred.weight)  # predicts zero; normalised patches have variance (P - 1) / P
    losses = model(pairs(), drawn(model))
    assert losses["loss_future"].item() == pytest.approx(47 / 48, rel=1e-4)
    assert losses["loss_mae"].item() == pytest.approx(47 / 48, rel=1e-4)
    raw = make(normalise_targets=False)
    torch.nn.init.zeros_(raw.decoder_pred.weight)
    found = raw(pairs(), drawn(raw))["loss_future"]
    assert found.item() == pytest.approx(pairs()[:, 1].square().mean().item(), rel=1e-5)


def test_masked_loss_counts_hidden_patches_of_the_future_frame_only() -> None:
    model = make(normalise_targets=False)
    torch.nn.init.zeros_(model.decoder_pred.weight)
    draws, future = drawn(model), pairs()[:, 1]
    mask = random_mask(draws.mask, 0.75)
    expected = patchify(future, 4)[mask.hidden.bool()].square().mean()
    assert model(pairs(), draws)["loss_mae"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert model.masked_loss(future, model.targets(future), mask).item() == pytest.approx(expected.item(), rel=1e-5)


def test_only_the_posterior_sees_the_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make()
    monkeypatch.setattr(model, "_sample", lambda parameters, draws: torch.eye(12)[:2])
    draws = drawn(model)
    quiet = model(pairs(), draws._replace(noise=torch.zeros_like(draws.noise)))
    loud = model(pairs(), draws)
    assert quiet["loss_mae"].item() == pytest.approx(loud["loss_mae"].item(), rel=1e-5)
    assert quiet["loss_future"].item() == pytest.approx(loud["loss_future"].item(), rel=1e-5), "the latent is fixed"
    assert abs(quiet["kl"].item() - loud["kl"].item()) > 1e-4
    softer = make(noise_std=0.25)(pairs(), draws._replace(noise=2 * draws.noise))
    assert softer["kl"].item() == pytest.approx(loud["kl"].item(), rel=1e-4)


def test_the_posterior_tells_current_from_future() -> None:
    model = make()
    current, one, two = (model.backbone(pairs(seed)[:, 0])[:, 0] for seed in (0, 1, 2))
    assert model.prior(current).shape == model.posterior(current, current).shape == (2, 12)
    assert not torch.allclose(model.posterior(current, one), model.posterior(current, two))
    assert not torch.allclose(model.posterior(current, one), model.posterior(one, current))


def test_the_pieces_make_the_loss() -> None:
    """As another program would put them together, frame by frame."""
    for latent in LATENTS:
        model = make(latent=latent)
        draws, (current, future) = drawn(model), pairs().unbind(1)
        now, later = model.backbone(current), model.backbone(future + 0.5 * draws.noise)
        z = None
        if model.latent is not None:
            z = model.latent.sample(model.posterior(now[:, 0], later[:, 0]), draws.latent)
        expected = (model.predict_future(now, z) - model.targets(future)).square().mean()
        torch.testing.assert_close(model(pairs(), draws)["loss_future"], expected)


# -- what is drawn -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("latent", LATENTS)
def test_the_generator_decides_everything_that_is_drawn(latent: str) -> None:
    model = make(latent=latent)
    torch.manual_seed(1)
    first = drawn(model)
    torch.manual_seed(2)
    again, other = drawn(model), drawn(model, seed=6)
    assert first.noise.shape == (2, 3, 16, 16) and first.mask.shape == (2, 16)
    assert (first.latent is None) == (latent == "deterministic")
    for one, same, different in zip(first, again, other, strict=True):
        assert one is None or (torch.equal(one, same) and not torch.equal(one, different))
    torch.manual_seed(3)
    losses = model(pairs(), first)
    torch.manual_seed(4)
    for name, value in model(pairs(), again).items():
        assert torch.equal(value, losses[name]), "the forward pass draws nothing of its own"
    assert model(pairs(), other)["loss_mae"] != losses["loss_mae"]


def test_the_samples_of_a_batch_have_noise_masks_and_latents_of_their_own() -> None:
    model = make()
    for part in drawn(model):
        assert not torch.equal(part[0], part[1])
    wide = model.draw(pairs().double(), torch.Generator().manual_seed(0))
    assert wide.noise.dtype == torch.float64


@pytest.mark.parametrize("latent", LATENTS)
def test_samples_of_a_batch_do_not_see_each_other(latent: str) -> None:
    model = make(latent=latent)
    draws = drawn(model)
    both = model(pairs(), draws)
    alone = [model(pairs()[i : i + 1], row(draws, i)) for i in (0, 1)]
    for name in set(both) - {"loss"}:
        assert both[name].item() == pytest.approx(np.mean([one[name].item() for one in alone]), rel=1e-5)


# -- ablations ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", ABLATIONS.values(), ids=ABLATIONS)
def test_every_ablation_trains_every_parameter_it_has(settings: dict[str, Any]) -> None:
    """Several processes wait for each other's gradients: one that never comes would make them wait for ever."""
    model = make(**settings)
    losses = model(pairs(), drawn(model))
    assert all(value.isfinite() for value in losses.values())
    assert ("loss_mae" in losses) == (model.config.mae_weight > 0)
    assert ("kl" in losses) == (model.config.latent != "deterministic")
    losses["loss"].backward()
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == set(gradients(model))
    assert all(gradient.isfinite().all() for gradient in gradients(model).values())
    seen = model.diagnose(pairs(), drawn(model))
    assert all(value.isfinite().all() for value in seen.values())


@pytest.mark.parametrize("latent", LATENTS)
def test_every_parameter_moves_the_loss(latent: str) -> None:
    model = make(latent=latent, free_bits=0.0)
    model(pairs(), drawn(model))["loss"].backward()
    assert [name for name, gradient in gradients(model).items() if not gradient.any()] == []


def test_without_masked_autoencoding_its_pieces_rest() -> None:
    model = make(mae_weight=0.0)
    resting = {name for name, p in model.named_parameters() if not p.requires_grad and "pos_embed" not in name}
    assert resting == {"decoder_embed_mae.weight", "decoder_embed_mae.bias"}
    losses = model(pairs(), drawn(model))
    whole = make()(pairs(), drawn(model))
    assert losses["loss_future"] == whole["loss_future"] and losses["kl"] == whole["kl"], "the rest is as it was"
    expected = losses["loss_future"] + 0.01 * losses["kl"].clamp(min=0.1)
    torch.testing.assert_close(losses["loss"], expected)


def test_the_deterministic_ablation_has_no_latent_at_all() -> None:
    model = make(latent="deterministic")
    assert not [name for name, _ in model.named_parameters() if "stoch" in name or "prior" in name or "post" in name]
    losses = model(pairs(), drawn(model))
    torch.testing.assert_close(losses["loss"], losses["loss_future"] + losses["loss_mae"])
    assert model.diagnose(pairs(), drawn(model)) == {}


def test_only_a_latent_tells_the_decoder_of_the_future(monkeypatch: pytest.MonkeyPatch) -> None:
    blind, informed = make(latent="deterministic"), make(latent="gaussian")
    for model, alike in ((blind, True), (informed, False)):
        predicted, draws = counted(model, "predict_future", monkeypatch), drawn(model)
        for future in (1, 2):
            model(pairs(future=future), draws)
        model(pairs(), draws._replace(noise=-draws.noise))
        assert len(predicted) == 3
        assert torch.equal(predicted[0], predicted[1]) == torch.equal(predicted[0], predicted[2]) == alike


def test_without_noise_the_posterior_sees_the_future_as_it_is() -> None:
    model, noisy = make(noise_std=0.0), make()
    draws = drawn(model)
    silent = draws._replace(noise=torch.zeros_like(draws.noise))
    for name, value in model(pairs(), draws).items():
        assert value == model(pairs(), draws._replace(noise=-draws.noise))[name] == noisy(pairs(), silent)[name]


def test_unimix_reaches_the_kl() -> None:
    latent = make(unimix=0.5).latent
    assert latent == CategoricalLatent(3, 4, 0.5)
    plain, mixed = make(), make(unimix=0.5)
    losses = plain(pairs(), drawn(plain)), mixed(pairs(), drawn(mixed))
    assert losses[1]["kl"] < 0.5 * losses[0]["kl"], "both sides are nearer to the uniform distribution"


def test_a_gaussian_latent_has_a_mean_and_a_deviation_per_group() -> None:
    model = make(latent="gaussian")
    assert model.latent == GaussianLatent(3)
    assert model.to_prior[-1].out_features == model.to_posterior[-1].out_features == 6
    assert model.decoder_embed_stoch.in_features == 3


# -- the prior, on logged steps only -----------------------------------------------------------------------------------


@pytest.mark.parametrize("latent", LATENTS)
def test_a_training_step_decodes_the_future_once(latent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(latent=latent)
    calls = counted(model, "predict_future", monkeypatch)
    model(pairs(), drawn(model))
    assert len(calls) == 1
    model.diagnose(pairs(), drawn(model))
    assert len(calls) == (1 if latent == "deterministic" else 3)


@pytest.mark.parametrize("latent", ["categorical", "gaussian"])
def test_diagnosis_by_hand(latent: str) -> None:
    model = make(latent=latent)
    draws, (current, future) = drawn(model), pairs().unbind(1)
    seen, losses = model.diagnose(pairs(), draws), model(pairs(), draws)
    now, later = model.backbone(current), model.backbone(future + 0.5 * draws.noise)
    posterior, prior = model.posterior(now[:, 0], later[:, 0]), model.prior(now[:, 0])
    from_prior = model.predict_future(now, model.latent.sample(prior, draws.latent)) - model.targets(future)
    expected = {
        "kl_per_group": model.latent.kl(posterior, prior).mean(dim=0),
        "posterior_entropy": model.latent.entropy(posterior).mean(),
        "prior_entropy": model.latent.entropy(prior).mean(),
        "codes_used": model.latent.in_use(posterior),
        "loss_future_prior": from_prior.square().mean(),
        "prior_gap": from_prior.square().mean() - losses["loss_future"],
    }
    assert set(seen) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(seen[name], value.detach(), rtol=1e-5, atol=1e-6)
    assert seen["kl_per_group"].shape == (3,)
    torch.testing.assert_close(seen["kl_per_group"].sum(), losses["kl"].detach(), rtol=1e-4, atol=1e-6)
    assert seen["prior_entropy"] != seen["posterior_entropy"]


def test_diagnosis_leaves_no_gradient_and_changes_nothing() -> None:
    model = make()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    seen = model.diagnose(pairs().requires_grad_(), drawn(model))
    assert not any(value.requires_grad for value in seen.values())
    assert all(p.grad is None for p in model.parameters()) and model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_where_prior_and_posterior_agree_there_is_no_gap() -> None:
    model = make()
    for head in (model.to_prior[-1], model.to_posterior[-1]):
        torch.nn.init.zeros_(head.weight)
    seen = model.diagnose(pairs(), drawn(model))
    assert seen["prior_gap"] == 0 and not seen["kl_per_group"].any()
    assert seen["posterior_entropy"].item() == pytest.approx(np.log(4))


# -- arithmetic and shapes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("latent", LATENTS)
def test_bf16_keeps_latents_and_losses_in_single_precision(latent: str) -> None:
    model = make(latent=latent)
    draws = drawn(model)
    exact = model(pairs(), draws)
    with torch.autocast("cpu", torch.bfloat16):
        rough = model(pairs(), draws)
        views = model.views(*pairs().unbind(1), draws.noise)
    assert latent == "deterministic" or views.prior.dtype == views.posterior.dtype == torch.float32
    for name, value in exact.items():
        assert rough[name].dtype == torch.float32
        assert rough[name].item() == pytest.approx(value.item(), rel=0.1)


@pytest.mark.parametrize("latent", LATENTS)
def test_compiled_as_one_graph_it_is_the_same(latent: str) -> None:
    check_compiled(latent, "eager", torch.float32, 1e-6)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize(
    ("latent", "dtype", "tolerance"),
    [*((latent, torch.float32, 1e-5) for latent in LATENTS), ("categorical", torch.bfloat16, 0.05)],
)
def test_compiled_for_the_machine_it_is_the_same(latent: str, dtype: torch.dtype, tolerance: float) -> None:
    check_compiled(latent, "inductor", dtype, tolerance)


def check_compiled(latent: str, backend: str, dtype: torch.dtype, tolerance: float) -> None:
    torch.compiler.reset()
    model = make(latent=latent, free_bits=0.0)
    draws, found = drawn(model), []
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    for forward in (model, compiled):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            losses = forward(pairs(), draws)
        losses["loss"].backward()
        found.append(({name: value.detach() for name, value in losses.items()}, gradients(model)))
    (losses, eager), (others, ours) = found
    torch.testing.assert_close(others, losses, rtol=tolerance, atol=tolerance)
    largest = max(float(gradient.abs().max()) for gradient in eager.values())
    torch.testing.assert_close(ours, eager, rtol=0, atol=tolerance * largest)


@pytest.mark.parametrize("latent", LATENTS)
@pytest.mark.parametrize(("size", "patch"), [(56, 8), (112, 14), (64, 16)])
def test_odd_sizes(latent: str, size: int, patch: int) -> None:
    model = make(ViTConfig(image_size=size, patch_size=patch, width=16, depth=1, heads=2), latent=latent)
    frames, patches = pairs(size=size), (size // patch) ** 2
    draws = drawn(model, frames)
    assert model.targets(frames[:, 1]).shape == (2, patches, 3 * patch**2)
    assert random_mask(draws.mask, 0.75).hidden.sum() == 2 * (patches - int(patches * 0.25))
    losses = model(frames, draws)
    assert losses["loss_future"].item() == pytest.approx(1, abs=0.3), "an untrained guess at unit variance"
    losses["loss"].backward()
    assert all(gradient.isfinite().all() for gradient in gradients(model).values())


# -- the rest ----------------------------------------------------------------------------------------------------------


def test_exported_encoder_is_a_frozen_copy() -> None:
    model = make()
    encoder = model.encoder("mean")
    pictures = np.random.default_rng(0).integers(0, 255, (2, 16, 16, 3), dtype=np.uint8)
    before = encoder(pictures)
    assert encoder.pooling == "mean" and encoder.provenance == {"objective": "rsp"}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert torch.equal(encoder(pictures), before)
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    trained = [p for name, p in model.backbone.named_parameters() if name != "pos_embed"]
    assert all(parameter.requires_grad for parameter in trained), "and the model goes on learning"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"min_gap": 9, "max_gap": 8}, "gap range 9..8 is empty"),
        ({"min_gap": 0}, "gap range 0..48 is empty; need 1 <= min_gap"),
        ({"mask_ratio": 1.0}, "mask ratio 1.0 must lie in (0, 1)"),
        ({"mask_ratio": 0.0}, "mask ratio 0.0 must lie in (0, 1); 0.75 is published, mae_weight 0 turns it off"),
        ({"unimix": 1.0}, "unimix must lie in [0, 1)"),
        ({"kl_balance": 1.1}, "kl_balance in [0, 1]"),
        ({"groups": 0}, "groups must be at least 1, not 0"),
        ({"decoder_depth": 0}, "decoder_depth must be at least 1, not 0"),
        ({"decoder_heads": 7}, "decoder width 512 must be divisible by 4 and by its 7 heads; change one"),
        ({"decoder_width": 6, "decoder_heads": 2}, "decoder width 6 must be divisible by 4 and by its 2 heads"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as error:
        RSPConfig(**settings)
    assert said in str(error.value) and "\n" not in str(error.value)
