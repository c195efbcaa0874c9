"""RSP: Visual Representation Learning with Stochastic Frame Prediction (Jang et al., ICML 2024).

From the current frame the model predicts a future frame through a latent: a posterior sees both frames (the future one
with noise), a prior only the current one. A masked autoencoding loss on the future frame shares the decoder.
Names of the parameters are those of the published checkpoints, the encoder's below ``backbone.``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import nn

from rsp_robot.backbones.cross_attention import CrossSelfBlock
from rsp_robot.backbones.vit import ViTConfig
from rsp_robot.errors import UserError
from rsp_robot.pretrain.latents import CategoricalLatent, GaussianLatent, Latent, balanced_kl, free_bits
from rsp_robot.pretrain.masking import Mask
from rsp_robot.pretrain.objectives.decoders import MaskedConfig, MaskedObjective, masked_error
from rsp_robot.pretrain.sampling import PairSpec, Unit


@dataclass(frozen=True)
class RSPConfig(MaskedConfig):
    """Settings of the objective; the defaults are the published ones."""

    name: ClassVar[str] = "rsp"

    latent: Literal["categorical", "gaussian", "deterministic"] = "categorical"
    """What carries the uncertainty of the future: one-hot groups, normal variables, or nothing."""
    groups: int = 32
    """Number of variables in the latent."""
    classes: int = 32
    """Values that each categorical variable can take."""
    unimix: float = 0.0
    """Share of a uniform distribution mixed into the categorical ones."""
    kl_scale: float = 0.01
    """Weight of the KL divergence."""
    kl_balance: float = 0.2
    """Share of the KL gradient that goes to the posterior."""
    free_bits: float = 0.1
    """The KL is not pushed below this many nats."""
    noise_std: float = 0.5
    """Standard deviation of the noise on the future frame that the posterior sees, in normalised pixels."""
    mae_weight: float = 1.0
    """Weight of the masked autoencoding loss; 0 leaves it out."""
    min_gap: float = 4
    """Smallest distance from the current to the future frame."""
    max_gap: float = 48
    """Largest distance from the current to the future frame."""
    gap_unit: Unit = "frames"
    """frames, as published, or seconds: the same motion in videos of different frame rates."""

    def __post_init__(self) -> None:
        if not 0 < self.mask_ratio < 1:
            raise UserError(
                f"mask ratio {self.mask_ratio} must lie in (0, 1); 0.75 is published, mae_weight 0 turns it off"
            )
        super().__post_init__()
        if not 0 <= self.unimix < 1 or not 0 <= self.kl_balance <= 1:
            raise UserError("unimix must lie in [0, 1) and kl_balance in [0, 1]; the published ones are 0 and 0.2")
        for setting in ("groups", "classes"):
            if getattr(self, setting) < 1:
                raise UserError(f"{setting} must be at least 1, not {getattr(self, setting)}")

    @property
    def frames(self) -> PairSpec:
        """A current and a future frame."""
        return PairSpec(self.min_gap, self.max_gap, self.gap_unit)

    def build(self, vit: ViTConfig) -> RSP:
        """Make the model; its weights are drawn from torch's global generator."""
        return RSP(vit, self)

    def make_latent(self) -> Latent | None:
        """Return the family of latents, or None for the deterministic ablation."""
        if self.latent == "categorical":
            return CategoricalLatent(self.groups, self.classes, self.unimix)
        return GaussianLatent(self.groups) if self.latent == "gaussian" else None


class Draws(NamedTuple):
    """Everything that one pass draws at random."""

    noise: torch.Tensor
    """``(B, 3, H, W)`` standard normal, added to the future frame times ``noise_std``."""
    mask: torch.Tensor
    """``(B, N)`` uniform; its order decides which patches are hidden."""
    latent: torch.Tensor | None
    """What the latent turns into a sample; None where there is no latent."""


class Views(NamedTuple):
    """What the two whole frames become."""

    current: torch.Tensor
    """``(B, 1 + N, D)`` tokens of the current frame."""
    posterior: torch.Tensor | None
    """``(B, parameters)`` of q(z | current, noised future)."""
    prior: torch.Tensor | None
    """``(B, parameters)`` of p(z | current)."""


class RSP(MaskedObjective):
    """A Vision Transformer with RSP's latent heads and shared decoder."""

    config: RSPConfig

    def __init__(self, vit: ViTConfig, config: RSPConfig) -> None:
        super().__init__(vit, config)
        self.latent = config.make_latent()
        width, decoder = vit.width, config.decoder_width
        if self.latent is not None:
            self.to_posterior = _head(2 * width, 2 * width, self.latent.parameters)
            self.to_prior = _head(width, 2 * width, self.latent.parameters)
            self.decoder_embed_stoch = nn.Linear(self.latent.width, decoder)
        self.decoder_embed_mae = nn.Linear(width, decoder)
        self.decoder_embed_deter = nn.Linear(width, decoder)
        self.add_decoder(CrossSelfBlock)
        if not config.mae_weight:  # kept for the layout of published checkpoints, but nothing to train
            self.decoder_embed_mae.requires_grad_(False)

    # -- the pieces, in the paper's order ------------------------------------------------------------------------------

    def posterior(self, current_cls: torch.Tensor, future_cls: torch.Tensor) -> torch.Tensor:
        """q(z | current, noised future): two ``(B, D)`` -> ``(B, parameters)``."""
        return self._single(self.to_posterior(torch.cat([current_cls, future_cls], dim=-1)))

    def prior(self, current_cls: torch.Tensor) -> torch.Tensor:
        """p(z | current): ``(B, D)`` -> ``(B, parameters)``."""
        return self._single(self.to_prior(current_cls))

    def views(self, current: torch.Tensor, future: torch.Tensor, noise: torch.Tensor) -> Views:
        """Encode the current frame and the noised future one, each ``(B, 3, H, W)``, and describe the latent."""
        if self.latent is None:
            return Views(self.backbone(current), None, None)
        # The two whole frames go through the encoder as one batch: the same numbers, larger and faster matrices.
        both = self.backbone(torch.cat([current, future + self.config.noise_std * noise]))
        now, later = both.chunk(2)
        return Views(now, self.posterior(now[:, 0], later[:, 0]), self.prior(now[:, 0]))

    def predict_future(self, current: torch.Tensor, latent: torch.Tensor | None) -> torch.Tensor:
        """Decode the future frame from the current tokens ``(B, 1 + N, D)`` and a latent ``(B, width)``, if any.

        Returns:
            Patches ``(B, N, patch² · 3)``.
        """
        memory = self.decoder_embed_deter(current) + self.decoder_pos_embed
        if latent is not None:
            memory = torch.cat([self.decoder_embed_stoch(latent)[:, None], memory], dim=1)
        return self._decode(memory)

    def predict_masked(self, visible: torch.Tensor, mask: Mask) -> torch.Tensor:
        """Decode a masked frame from its visible tokens ``(B, 1 + n_keep, D)`` -> patches ``(B, N, patch² · 3)``."""
        return self._decode(self.in_place(self.decoder_embed_mae(visible), mask))

    def _single(self, parameters: torch.Tensor) -> torch.Tensor:
        # Softmax and KL in single precision: in bf16 their small differences vanish.
        return parameters.to(self.mask_token.dtype)

    def _decode(self, memory: torch.Tensor) -> torch.Tensor:
        queries = (self.mask_token + self.decoder_pos_embed).expand(memory.shape[0], -1, -1)
        return self.decode(queries, memory)

    # -- the loss ------------------------------------------------------------------------------------------------------

    def draw(self, frames: torch.Tensor, generator: torch.Generator | None = None) -> Draws:
        """Draw noise, mask and latent of one pass over frames ``(B, 2, 3, H, W)``."""
        batch, device = frames.shape[0], frames.device
        noise = torch.randn(frames[:, 1].shape, generator=generator, device=device, dtype=frames.dtype)
        mask = torch.rand((batch, self.vit.patches), generator=generator, device=device)
        return Draws(noise, mask, None if self.latent is None else self.latent.noise(batch, generator, device))

    def forward(self, frames: torch.Tensor, draws: Draws) -> dict[str, torch.Tensor]:
        """Compute the losses of a batch of frame pairs.

        ``loss = MSE(future | posterior z) + kl_scale · max(KL, free_bits) + mae_weight · MSE(masked patches)``

        Args:
            frames: ``(B, 2, 3, H, W)``, normalised: current and future.
            draws: from :meth:`draw`.

        Returns:
            Scalars ``loss``, ``loss_future``, ``loss_mae`` (unless its weight is 0) and ``kl`` (nats, before free
            bits; unless the latent is deterministic).
        """
        settings, (current, future) = self.config, frames.unbind(1)
        views, target = self.views(current, future, draws.noise), self.targets(future)
        predicted = self.predict_future(views.current, self._sample(views.posterior, draws))
        losses = {"loss_future": (predicted - target).square().mean()}
        losses["loss"] = losses["loss_future"]
        if self.latent is not None and views.posterior is not None and views.prior is not None:
            losses["kl"] = balanced_kl(self.latent, views.posterior, views.prior, settings.kl_balance)
            losses["loss"] = losses["loss"] + settings.kl_scale * free_bits(losses["kl"], settings.free_bits)
        if settings.mae_weight:
            losses["loss_mae"] = self.masked_loss(future, target, self.mask(draws))
            losses["loss"] = losses["loss"] + settings.mae_weight * losses["loss_mae"]
        return losses

    def masked_loss(self, future: torch.Tensor, target: torch.Tensor, mask: Mask) -> torch.Tensor:
        """Mean squared error over the hidden patches of the future frame ``(B, 3, H, W)``."""
        return masked_error(self.predict_masked(self.visible(future, mask), mask), target, mask)

    @torch.no_grad()
    def diagnose(self, frames: torch.Tensor, draws: Draws) -> dict[str, torch.Tensor]:
        """Look into the latent of a batch ``(B, 2, 3, H, W)``; nothing is learned from it.

        Returns:
            ``kl_per_group`` ``(groups,)`` and ``posterior_entropy``, ``prior_entropy`` (mean over groups) in nats,
            ``codes_used`` (see the latent's ``in_use``), ``loss_future_prior``: the error of the future decoded from
            the prior, and ``prior_gap``: how much larger that is than the posterior's. Empty without a latent.
        """
        current, future = frames.unbind(1)
        views, target = self.views(current, future, draws.noise), self.targets(future)
        if self.latent is None or views.posterior is None or views.prior is None:
            return {}
        errors = [
            (self.predict_future(views.current, self._sample(parameters, draws)) - target).square().mean()
            for parameters in (views.posterior, views.prior)
        ]
        return {
            "kl_per_group": self.latent.kl(views.posterior, views.prior).mean(dim=0),
            "posterior_entropy": self.latent.entropy(views.posterior).mean(),
            "prior_entropy": self.latent.entropy(views.prior).mean(),
            "codes_used": self.latent.in_use(views.posterior),
            "loss_future_prior": errors[1],
            "prior_gap": errors[1] - errors[0],
        }

    def _sample(self, parameters: torch.Tensor | None, draws: Draws) -> torch.Tensor | None:
        if self.latent is None or parameters is None or draws.latent is None:
            return None
        return self.latent.sample(parameters, draws.latent)


def _head(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))
