"""RSP against numbers of the published formulation: every output and every gradient, in float64."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from rsp_robot.pretrain.latents import free_bits
from rsp_robot.pretrain.masking import random_mask, take

OUTPUT_TOLERANCE = 1e-6
GRADIENT_TOLERANCE = 1e-5


def test_every_output(path: Path, load_rsp_reference: Callable[[Path], Any], wrong_outputs: Any) -> None:
    model, frames, draws, latent, expected, _ = load_rsp_reference(path)
    settings, (current, future) = model.config, frames.unbind(1)
    losses = model(frames, draws)
    src, tgt = model.backbone(current), model.backbone(future + settings.noise_std * draws.noise)
    posterior, prior = model.posterior(src[:, 0], tgt[:, 0]), model.prior(src[:, 0])
    sample = model.latent.sample(posterior, draws.latent)
    assert torch.allclose(sample, latent), "the latent is the one that was drawn"
    mask = random_mask(draws.mask, settings.mask_ratio)
    visible = model.backbone.encode(take(model.backbone.embed(future), mask.keep))
    found = {
        "src_h": src,
        "tgt_h": tgt,
        "post_logits": posterior,
        "prior_logits": prior,
        "pred_future": model.predict_future(src, sample),
        "h_masked": visible,
        "mask": mask.hidden,
        "ids_restore": mask.restore,
        "pred_mae": model.predict_masked(visible, mask),
        "loss_future": losses["loss_future"],
        "loss_mae": losses["loss_mae"],
        "kl_value": losses["kl"],
        "kl_loss": free_bits(losses["kl"], settings.free_bits),
        "loss": losses["loss"],
    }
    assert wrong_outputs(found, expected, OUTPUT_TOLERANCE) == {}


def test_every_gradient(path: Path, load_rsp_reference: Callable[[Path], Any], wrong_gradients: Any) -> None:
    model, frames, draws, _, _, expected = load_rsp_reference(path)
    model(frames, draws)["loss"].backward()
    learned = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert wrong_gradients(learned, expected, GRADIENT_TOLERANCE) == {}
