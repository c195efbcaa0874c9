"""RSP's step formulated in other ways: the same loss, with each optimisation of the fast formulation taken back."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import torch

from rsp_robot.backbones.cross_attention import use_fused_attention
from rsp_robot.backbones.vit import ViTConfig
from rsp_robot.pretrain.latents import balanced_kl, free_bits
from rsp_robot.pretrain.masking import random_mask
from rsp_robot.pretrain.objectives.rsp import RSP, Draws, RSPConfig, Views


@dataclass(frozen=True)
class Formulation:
    """Which optimisations are on; the plain formulation has none."""

    compile: bool = False
    """The objective is one graph of torch.compile."""
    bf16: bool = False
    """The forward pass runs under bfloat16 autocast, else in float32."""
    fused_attention: bool = False
    """Attention by scaled_dot_product_attention, else written out: two products around a softmax."""
    one_pass: bool = False
    """The two whole frames go through the encoder as one batch."""
    lazy_prior: bool = False
    """The prior is decoded only in steps that log it: here in none."""
    fused_optimiser: bool = False
    """One kernel for all of AdamW, else what torch takes by default."""

    @property
    def precision(self) -> str:
        """Arithmetic of the forward pass, as the engine calls it."""
        return "bf16" if self.bf16 else "fp32"


FULL, PLAIN = "full setting", "plain formulation"
LABELS = {
    "compile": ("torch.compile off", "torch.compile on"),
    "bf16": ("bf16 off: fp32", "bf16 on"),
    "fused_attention": ("attention written out", "attention fused"),
    "one_pass": ("a pass for each frame", "one pass for both frames"),
    "lazy_prior": ("prior decoded every step", "prior decoded when logged"),
    "fused_optimiser": ("AdamW not fused", "AdamW fused"),
}
"""What the table calls a formulation that differs from the full setting in one switch: where it is off, where on."""


def formulations(full: Formulation, switches: Collection[str] = tuple(LABELS)) -> dict[str, Formulation]:
    """Return the rows of the table: the full setting, each switch turned over alone, the plain formulation.

    >>> list(formulations(Formulation(bf16=True), ["compile", "bf16"]))
    ['full setting', 'torch.compile on', 'bf16 off: fp32', 'plain formulation']
    """
    rows = {FULL: full}
    for switch, labels in LABELS.items():
        if switch in switches:
            turned = not getattr(full, switch)
            rows[labels[turned]] = replace(full, **{switch: turned})
    return rows | {PLAIN: Formulation()}


class SeparatePasses(RSP):
    """The current frame and the noised future one go through the encoder one after the other."""

    def views(self, current: torch.Tensor, future: torch.Tensor, noise: torch.Tensor) -> Views:
        """Encode each frame ``(B, 3, H, W)`` in a pass of its own."""
        now = self.backbone(current)
        if self.latent is None:
            return Views(now, None, None)
        later = self.backbone(future + self.config.noise_std * noise)
        return Views(now, self.posterior(now[:, 0], later[:, 0]), self.prior(now[:, 0]))


class PriorEveryStep(RSP):
    """The prior's prediction is decoded in every step, without gradient, as a number to log."""

    def forward(self, frames: torch.Tensor, draws: Draws) -> dict[str, torch.Tensor]:
        """Return the losses of :class:`RSP` and ``loss_future_prior``."""
        if self.latent is None:
            return super().forward(frames, draws)
        settings, (current, future) = self.config, frames.unbind(1)
        views, target = self.views(current, future, draws.noise), self.targets(future)
        assert views.posterior is not None and views.prior is not None and draws.latent is not None
        predicted = self.predict_future(views.current, self.latent.sample(views.posterior, draws.latent))
        losses = {"loss_future": (predicted - target).square().mean()}
        with torch.no_grad():
            imagined = self.predict_future(views.current, self.latent.sample(views.prior, draws.latent))
            losses["loss_future_prior"] = (imagined - target).square().mean()
        losses["kl"] = balanced_kl(self.latent, views.posterior, views.prior, settings.kl_balance)
        losses["loss"] = losses["loss_future"] + settings.kl_scale * free_bits(losses["kl"], settings.free_bits)
        if settings.mae_weight:
            losses["loss_mae"] = self.masked_loss(future, target, random_mask(draws.mask, settings.mask_ratio))
            losses["loss"] = losses["loss"] + settings.mae_weight * losses["loss_mae"]
        return losses


class PlainPasses(SeparatePasses, PriorEveryStep):
    """Three encoder passes and three decoder passes."""


CLASSES: dict[tuple[bool, bool], type[RSP]] = {
    (True, True): RSP,
    (False, True): SeparatePasses,
    (True, False): PriorEveryStep,
    (False, False): PlainPasses,
}


def build(
    formulation: Formulation,
    vit: ViTConfig,
    config: RSPConfig,
    device: torch.device,
    weights: Mapping[str, torch.Tensor] | None = None,
) -> RSP:
    """Make the model of a formulation (compilation, precision and optimiser are the engine's), with these weights."""
    model = CLASSES[formulation.one_pass, formulation.lazy_prior](vit, config)
    use_fused_attention(model, formulation.fused_attention)
    if weights is not None:
        model.load_state_dict(weights)
    return model.to(device)
