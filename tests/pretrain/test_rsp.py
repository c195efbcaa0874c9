"""The RSP objective; tests/reference holds its numbers against the published formulation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rsp_robot.backbones.vit import ViTConfig
from rsp_robot.errors import UserError
from rsp_robot.pretrain.masking import patchify, random_mask
from rsp_robot.pretrain.objectives.rsp import RSP, Draws, RSPConfig

VIT = ViTConfig(image_size=16, patch_size=4, width=16, depth=1, heads=2)
TOY = RSPConfig(decoder_width=16, decoder_depth=1, decoder_heads=2, groups=3, classes=4)
REFERENCE = Path(__file__).parents[1] / "reference" / "rsp-a.npz"


def make(**settings: Any) -> RSP:
    torch.manual_seed(0)
    return RSP(VIT, replace(TOY, **settings))


def frames(seed: int = 0, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def fixed_draws(batch: int = 2) -> Draws:
    generator = torch.Generator().manual_seed(5)
    latent = torch.zeros(batch, 3, 4)
    latent[..., 1] = 1
    return Draws(torch.randn(batch, 3, 16, 16, generator=generator), torch.rand(batch, 16, generator=generator), latent)


def test_losses_of_the_reference(load_rsp_reference: Callable[[Path], Any]) -> None:
    model, current, future, draws, expected, _ = load_rsp_reference(REFERENCE)
    losses = model(current, future, draws)
    for ours, published in (("loss", "loss"), ("loss_future", "loss_future"), ("loss_mae", "loss_mae")):
        assert losses[ours].item() == pytest.approx(expected[published].item(), rel=1e-6)
    assert losses["kl"].item() == pytest.approx(expected["kl_value"].item(), rel=1e-6)


def test_defaults_are_the_published_settings() -> None:
    published = RSPConfig(
        decoder_width=512, decoder_depth=8, decoder_heads=16, groups=32, classes=32, noise_std=0.5, mask_ratio=0.75,
        mae_weight=1.0, kl_scale=0.01, kl_balance=0.2, free_bits=0.1, normalise_targets=True, min_gap=4, max_gap=48,
    )  # fmt: skip
    assert RSPConfig() == published


def test_the_loss_is_the_weighted_sum_of_its_parts() -> None:
    losses = make(kl_scale=0.5, free_bits=0.0, mae_weight=3.0)(frames(0), frames(1), fixed_draws())
    assert set(losses) == {"loss", "loss_future", "loss_mae", "kl"}
    expected = losses["loss_future"] + 0.5 * losses["kl"] + 3 * losses["loss_mae"]
    torch.testing.assert_close(losses["loss"], expected)
    floored = make(kl_scale=0.5, free_bits=1e3, mae_weight=3.0)(frames(0), frames(1), fixed_draws())
    torch.testing.assert_close(floored["loss"], floored["loss_future"] + 500 + 3 * floored["loss_mae"])
    torch.testing.assert_close(floored["kl"], losses["kl"])


def test_under_the_free_bits_the_kl_moves_nothing() -> None:
    model = make(free_bits=1e3)
    model(frames(0), frames(1), fixed_draws())["loss"].backward()
    assert all(not p.grad.any() for p in model.to_prior.parameters()), "nothing but the KL reaches the prior"


def test_without_masked_autoencoding_its_pieces_rest() -> None:
    model = make(mae_weight=0.0)
    losses = model(frames(0), frames(1), fixed_draws())
    assert "loss_mae" not in losses
    losses["loss"].backward()
    assert model.decoder_embed_mae.weight.grad is None


def test_future_loss_is_the_mean_squared_error_over_normalised_patches() -> None:
    model = make()
    torch.nn.init.zeros_(model.decoder_pred.weight)  # predicts zero; normalised patches have variance (P - 1) / P
    losses = model(frames(0), frames(1), fixed_draws())
    assert losses["loss_future"].item() == pytest.approx(47 / 48, rel=1e-4)
    assert losses["loss_mae"].item() == pytest.approx(47 / 48, rel=1e-4)
    raw = make(normalise_targets=False)
    torch.nn.init.zeros_(raw.decoder_pred.weight)
    found = raw(frames(0), frames(1), fixed_draws())["loss_future"]
    assert found.item() == pytest.approx(frames(1).square().mean().item(), rel=1e-5)


def test_masked_loss_counts_hidden_patches_of_the_future_frame_only() -> None:
    model, draws = make(normalise_targets=False), fixed_draws()
    torch.nn.init.zeros_(model.decoder_pred.weight)
    future = frames(1)
    hidden = random_mask(draws.mask, 0.75).hidden.bool()
    expected = patchify(future, 4)[hidden].square().mean()
    assert model(frames(0), future, draws)["loss_mae"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_only_the_posterior_sees_the_noise() -> None:
    model, draws = make(), fixed_draws()
    quiet = model(frames(0), frames(1), draws._replace(noise=torch.zeros_like(draws.noise)))
    loud = model(frames(0), frames(1), draws)
    assert quiet["loss_mae"].item() == pytest.approx(loud["loss_mae"].item(), rel=1e-5)
    assert quiet["loss_future"].item() == pytest.approx(loud["loss_future"].item(), rel=1e-5), "the latent is fixed"
    assert abs(quiet["kl"].item() - loud["kl"].item()) > 1e-4
    softer = make(noise_std=0.25)(frames(0), frames(1), draws._replace(noise=2 * draws.noise))
    assert softer["kl"].item() == pytest.approx(loud["kl"].item(), rel=1e-4)


def test_the_posterior_tells_current_from_future() -> None:
    model = make()
    current = model.backbone(frames(0))[:, 0]
    assert model.prior(current).shape == model.posterior(current, current).shape == (2, 3, 4)
    future_one, future_two = (model.backbone(frames(seed))[:, 0] for seed in (1, 2))
    assert not torch.allclose(model.posterior(current, future_one), model.posterior(current, future_two))
    assert not torch.allclose(model.posterior(current, future_one), model.posterior(future_one, current))


def test_prediction_from_the_prior_is_logged_without_touching_the_loss() -> None:
    model = make()

    def losses(log_prior: bool) -> dict[str, torch.Tensor]:
        return model(frames(0), frames(1), generator=torch.Generator().manual_seed(3), log_prior=log_prior)

    plain, logged = losses(False), losses(True)
    assert set(logged) - set(plain) == {"loss_future_prior"}
    assert not logged["loss_future_prior"].requires_grad
    assert logged["loss_future_prior"] > 0
    assert all(torch.equal(plain[name], logged[name]) for name in plain)


def test_the_generator_decides_everything_that_is_drawn() -> None:
    model = make()

    def loss(seed: int) -> float:
        return model(frames(0), frames(1), generator=torch.Generator().manual_seed(seed))["loss"].item()

    torch.manual_seed(1)
    first = loss(0)
    torch.manual_seed(2)
    assert loss(0) == first
    assert loss(1) != first


def test_samples_of_a_batch_do_not_see_each_other() -> None:
    model, draws = make(), fixed_draws()
    both = model(frames(0), frames(1), draws)
    alone = [
        model(frames(0)[i : i + 1], frames(1)[i : i + 1], Draws(*(part[i : i + 1] for part in draws))) for i in (0, 1)
    ]
    for name in ("loss_future", "loss_mae", "kl"):
        assert both[name].item() == pytest.approx(np.mean([one[name].item() for one in alone]), rel=1e-5)


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


def test_bf16_keeps_latents_and_losses_in_single_precision() -> None:
    model, draws = make(), fixed_draws()
    exact = model(frames(0), frames(1), draws)
    with torch.autocast("cpu", torch.bfloat16):
        rough = model(frames(0), frames(1), draws)
        tokens = model.backbone(frames(0))
        assert model.prior(tokens[:, 0]).dtype == torch.float32
    for name, value in exact.items():
        assert rough[name].dtype == torch.float32
        assert rough[name].item() == pytest.approx(value.item(), rel=0.1)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"min_gap": 9, "max_gap": 8}, "gap range 9..8 is empty"),
        ({"min_gap": 0}, "gap range 0..48 is empty; need 1 <= min_gap"),
        ({"mask_ratio": 1.0}, "mask ratio 1.0 must lie in (0, 1)"),
        ({"mask_ratio": 0.0}, "mask ratio 0.0 must lie in (0, 1)"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as error:
        RSPConfig(**settings)
    assert said in str(error.value)
