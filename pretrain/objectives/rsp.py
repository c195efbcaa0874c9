"""RSP: Visual Representation Learning with Stochastic Frame Prediction (Jang et al., ICML 2024).

From the current frame the model predicts a future frame through a categorical latent: a posterior sees both frames (the
future one with noise), a prior only the current one. A masked autoencoding loss on the future frame shares the decoder.
Names of the parameters are those of the published checkpoints.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn

from rsp_robot.backbones.cross_attention import CrossSelfBlock
from rsp_robot.backbones.positions import sincos_2d
from rsp_robot.backbones.vit import VisionTransformer, ViTConfig, initialise_transformer
from rsp_robot.encoder import FrozenEncoder
from rsp_robot.errors import UserError
from rsp_robot.pretrain.latents import balanced_kl, free_bits, sample_one_hot, straight_through
from rsp_robot.pretrain.masking import Mask, normalise_patches, patchify, random_mask, take


@dataclass(frozen=True)
class RSPConfig:
    """Settings of the objective; the defaults are the published ones."""

    decoder_width: int = 512
    """Width of the shared decoder."""
    decoder_depth: int = 8
    """Blocks of the shared decoder."""
    decoder_heads: int = 16
    """Attention heads of the shared decoder."""
    groups: int = 32
    """Number of categorical variables in the latent."""
    classes: int = 32
    """Values that each of them can take."""
    noise_std: float = 0.5
    """Standard deviation of the noise on the future frame that the posterior sees, in normalised pixels."""
    mask_ratio: float = 0.75
    """Share of the future frame's patches hidden from the masked autoencoder."""
    mae_weight: float = 1.0
    """Weight of the masked autoencoding loss; 0 leaves it out."""
    kl_scale: float = 0.01
    """Weight of the KL divergence."""
    kl_balance: float = 0.2
    """Share of the KL gradient that goes to the posterior."""
    free_bits: float = 0.1
    """The KL is not pushed below this many nats."""
    normalise_targets: bool = True
    """Predict patches normalised to zero mean and unit variance."""
    min_gap: int = 4
    """Smallest distance from the current to the future frame, in frames."""
    max_gap: int = 48
    """Largest distance from the current to the future frame, in frames."""

    def __post_init__(self) -> None:
        if not 1 <= self.min_gap <= self.max_gap:
            raise UserError(f"gap range {self.min_gap}..{self.max_gap} is empty; need 1 <= min_gap <= max_gap")
        if not 0 < self.mask_ratio < 1:
            raise UserError(
                f"mask ratio {self.mask_ratio} must lie in (0, 1); 0.75 is published, mae_weight 0 turns it off"
            )


class Draws(NamedTuple):
    """Everything that one training step draws at random."""

    noise: torch.Tensor
    """``(B, 3, H, W)`` standard normal, added to the future frame times ``noise_std``."""
    mask: torch.Tensor
    """``(B, N)`` uniform; its order decides which patches are hidden."""
    latent: torch.Tensor | None = None
    """``(B, groups, classes)`` one-hot posterior sample; drawn from ``generator`` if None."""


class RSP(nn.Module):
    """A Vision Transformer with RSP's latent heads and shared decoder."""

    def __init__(self, vit: ViTConfig, config: RSPConfig) -> None:
        super().__init__()
        self.vit, self.config = vit, config
        self.backbone = VisionTransformer(vit)
        width, decoder, latent = vit.width, config.decoder_width, config.groups * config.classes
        self.to_posterior = nn.Sequential(nn.Linear(2 * width, 2 * width), nn.ReLU(), nn.Linear(2 * width, latent))
        self.to_prior = nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, latent))
        self.decoder_embed_mae = nn.Linear(width, decoder)
        self.decoder_embed_deter = nn.Linear(width, decoder)
        self.decoder_embed_stoch = nn.Linear(latent, decoder)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder))
        self.decoder_pos_embed = nn.Parameter(sincos_2d(decoder, vit.grid), requires_grad=False)
        self.decoder_blocks = nn.ModuleList(
            CrossSelfBlock(decoder, config.decoder_heads, vit.mlp_ratio) for _ in range(config.decoder_depth)
        )
        self.decoder_norm = nn.LayerNorm(decoder, eps=1e-6)
        self.decoder_pred = nn.Linear(decoder, vit.patch_size**2 * 3)
        initialise_transformer(self)

    # -- the pieces, in the paper's order ------------------------------------------------------------------------------

    def posterior(self, current_cls: torch.Tensor, future_cls: torch.Tensor) -> torch.Tensor:
        """q(z | current, noised future): two ``(B, D)`` -> logits ``(B, groups, classes)``."""
        return self._grouped(self.to_posterior(torch.cat([current_cls, future_cls], dim=-1)))

    def prior(self, current_cls: torch.Tensor) -> torch.Tensor:
        """p(z | current): ``(B, D)`` -> logits ``(B, groups, classes)``."""
        return self._grouped(self.to_prior(current_cls))

    def predict_future(self, current: torch.Tensor, latent: torch.Tensor) -> torch.Tensor:
        """Decode the future frame from the current tokens ``(B, 1 + N, D)`` and a latent ``(B, groups, classes)``.

        Returns:
            Patches ``(B, N, patch² · 3)``.
        """
        stochastic = self.decoder_embed_stoch(latent.flatten(1))[:, None]
        deterministic = self.decoder_embed_deter(current) + self.decoder_pos_embed
        return self._decode(torch.cat([stochastic, deterministic], dim=1))

    def predict_masked(self, visible: torch.Tensor, mask: Mask) -> torch.Tensor:
        """Decode a masked frame from its visible tokens ``(B, 1 + n_keep, D)`` -> patches ``(B, N, patch² · 3)``."""
        embedded = self.decoder_embed_mae(visible)
        batch, n_hidden = embedded.shape[0], mask.restore.shape[1] + 1 - embedded.shape[1]
        hidden = self.mask_token.to(embedded.dtype).expand(batch, n_hidden, -1)
        patches = take(torch.cat([embedded[:, 1:], hidden], dim=1), mask.restore)
        return self._decode(torch.cat([embedded[:, :1], patches], dim=1) + self.decoder_pos_embed)

    def targets(self, images: torch.Tensor) -> torch.Tensor:
        """What the decoder has to predict: ``(B, 3, H, W)`` -> ``(B, N, patch² · 3)``."""
        patches = patchify(images, self.vit.patch_size)
        return normalise_patches(patches) if self.config.normalise_targets else patches

    def _grouped(self, logits: torch.Tensor) -> torch.Tensor:
        # Softmax and KL in single precision: in bf16 their small differences vanish.
        return logits.unflatten(-1, (self.config.groups, self.config.classes)).to(self.mask_token.dtype)

    def _decode(self, memory: torch.Tensor) -> torch.Tensor:
        queries = (self.mask_token + self.decoder_pos_embed).expand(memory.shape[0], -1, -1)
        for block in self.decoder_blocks:
            queries = block(queries, memory)
        predicted: torch.Tensor = self.decoder_pred(self.decoder_norm(queries))
        return predicted[:, 1:]

    # -- the loss ------------------------------------------------------------------------------------------------------

    def draw(self, current: torch.Tensor, generator: torch.Generator | None = None) -> Draws:
        """Draw the noise and the mask of one step for frames ``(B, 3, H, W)``."""
        noise = torch.randn(current.shape, generator=generator, device=current.device, dtype=current.dtype)
        mask = torch.rand((current.shape[0], self.vit.patches), generator=generator, device=current.device)
        return Draws(noise, mask)

    def encoder(self, pooling: str = "cls") -> FrozenEncoder:
        """Return the encoder as it is now, frozen: a copy that later training does not touch."""
        return FrozenEncoder(copy.deepcopy(self.backbone), pooling=pooling, provenance={"objective": "rsp"})

    def forward(
        self,
        current: torch.Tensor,
        future: torch.Tensor,
        draws: Draws | None = None,
        generator: torch.Generator | None = None,
        log_prior: bool = False,
    ) -> dict[str, torch.Tensor]:
        """Compute the losses of a batch of frame pairs.

        ``loss = MSE(future | posterior z) + kl_scale · max(KL, free_bits) + mae_weight · MSE(masked patches)``

        Args:
            current: ``(B, 3, H, W)``, normalised.
            future: ``(B, 3, H, W)``, normalised.
            draws: what is random, if it is to be fixed.
            generator: where the rest of the randomness comes from.
            log_prior: also decode from the prior (without gradient) and report ``loss_future_prior``.

        Returns:
            Scalars ``loss``, ``loss_future``, ``loss_mae``, ``kl`` (nats, before free bits) and, with ``log_prior``,
            ``loss_future_prior``.
        """
        settings = self.config
        draws = draws or self.draw(current, generator)
        # The two whole frames go through the encoder as one batch: the same numbers, larger and faster matrices.
        both = self.backbone(torch.cat([current, future + settings.noise_std * draws.noise]))
        current_tokens, noised_tokens = both.chunk(2)
        posterior = self.posterior(current_tokens[:, 0], noised_tokens[:, 0])
        prior = self.prior(current_tokens[:, 0])
        sample = sample_one_hot(posterior, generator) if draws.latent is None else draws.latent
        latent = straight_through(sample, posterior)

        target = self.targets(future)
        losses = {"loss_future": (self.predict_future(current_tokens, latent) - target).square().mean()}
        losses["kl"] = balanced_kl(posterior, prior, settings.kl_balance)
        losses["loss"] = losses["loss_future"] + settings.kl_scale * free_bits(losses["kl"], settings.free_bits)
        if settings.mae_weight:
            mask = random_mask(draws.mask, settings.mask_ratio)
            predicted = self.predict_masked(self.backbone.encode(take(self.backbone.embed(future), mask.keep)), mask)
            per_patch = (predicted - target).square().mean(dim=-1)
            losses["loss_mae"] = (per_patch * mask.hidden).sum() / mask.hidden.sum()
            losses["loss"] = losses["loss"] + settings.mae_weight * losses["loss_mae"]
        if log_prior:
            with torch.no_grad():
                imagined = self.predict_future(current_tokens, sample_one_hot(prior, generator))
                losses["loss_future_prior"] = (imagined - target).square().mean()
        return losses
