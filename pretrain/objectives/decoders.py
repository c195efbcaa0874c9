"""What the objectives with hidden patches share: an encoder of the visible ones, a decoder that paints the hidden ones.

He et al. 2022, "Masked Autoencoders Are Scalable Vision Learners", section 3; RSP, SiamMAE and the token bottleneck
differ in what their decoders see besides.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

from rsp_robot.backbones.positions import sincos_2d
from rsp_robot.backbones.vit import VisionTransformer, ViTConfig, initialise_transformer
from rsp_robot.errors import UserError
from rsp_robot.pretrain.masking import Mask, normalise_patches, patchify, random_mask, take
from rsp_robot.pretrain.objectives.base import Objective, ObjectiveConfig

MakeBlock = Callable[[int, int, float], nn.Module]
"""Makes a block of a width, with so many heads and so much wider an MLP."""


@dataclass(frozen=True)
class MaskedConfig(ObjectiveConfig):
    """Settings of every objective with hidden patches and a decoder to pixels."""

    mask_ratio: float = 0.75
    """Share of the patches hidden from the masked autoencoder."""
    normalise_targets: bool = True
    """Predict patches normalised to zero mean and unit variance."""
    decoder_width: int = 512
    """Width of the decoder."""
    decoder_depth: int = 8
    """Blocks of the decoder."""
    decoder_heads: int = 16
    """Attention heads of the decoder."""

    def __post_init__(self) -> None:
        _ = self.frames  # refuses gaps that mean nothing
        if not 0 < self.mask_ratio < 1:
            raise UserError(f"mask ratio {self.mask_ratio} must lie in (0, 1); {type(self).mask_ratio} is published")
        for setting in ("decoder_width", "decoder_depth", "decoder_heads"):
            if getattr(self, setting) < 1:
                raise UserError(f"{setting} must be at least 1, not {getattr(self, setting)}")
        if self.decoder_width % self.decoder_heads or self.decoder_width % 4:
            raise UserError(
                f"decoder width {self.decoder_width} must be divisible by 4 and by its {self.decoder_heads} heads; "
                "change one"
            )


class MaskDraws(NamedTuple):
    """What one pass with a random mask draws."""

    mask: torch.Tensor
    """``(B, N)`` uniform; its order decides which patches are hidden."""


class MaskedObjective(Objective):
    """A plain Vision Transformer with a decoder to pixels; names of the parameters are those of MAE and RSP."""

    config: MaskedConfig
    backbone: VisionTransformer

    def __init__(self, vit: ViTConfig, config: MaskedConfig) -> None:
        super().__init__()
        self.vit, self.config = vit, config
        self.backbone = VisionTransformer(vit)

    def add_decoder(self, block: MakeBlock) -> None:
        """Add mask token, positions, blocks and the projection to pixels, and draw all weights; comes last."""
        config, width = self.config, self.config.decoder_width
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.decoder_pos_embed = nn.Parameter(sincos_2d(width, self.vit.grid), requires_grad=False)
        self.decoder_blocks = nn.ModuleList(
            block(width, config.decoder_heads, self.vit.mlp_ratio) for _ in range(config.decoder_depth)
        )
        self.decoder_norm = nn.LayerNorm(width, eps=1e-6)
        self.decoder_pred = nn.Linear(width, self.vit.patch_size**2 * 3)
        initialise_transformer(self)

    def draw(self, frames: torch.Tensor, generator: torch.Generator | None = None) -> Any:
        """Draw the mask of one pass over frames ``(B, K, 3, H, W)``."""
        return MaskDraws(torch.rand((len(frames), self.vit.patches), generator=generator, device=frames.device))

    def mask(self, draws: Any) -> Mask:
        """Turn what was drawn into a mask of the configured ratio."""
        return random_mask(draws.mask, self.config.mask_ratio)

    def targets(self, images: torch.Tensor) -> torch.Tensor:
        """What the decoder has to predict: ``(B, 3, H, W)`` -> ``(B, N, patch² · 3)``."""
        patches = patchify(images, self.vit.patch_size)
        return normalise_patches(patches) if self.config.normalise_targets else patches

    def visible(self, images: torch.Tensor, mask: Mask) -> torch.Tensor:
        """Encode the visible patches alone: ``(B, 3, H, W)`` -> ``(B, 1 + n_keep, D)``."""
        return self.backbone.encode(take(self.backbone.embed(images), mask.keep))

    def in_place(self, embedded: torch.Tensor, mask: Mask) -> torch.Tensor:
        """Put visible tokens into their places among mask tokens, and add the decoder's positions.

        Args:
            embedded: ``(B, 1 + n_keep, W)``, class token first, in the decoder's width W.
            mask: where they belong.

        Returns:
            ``(B, 1 + N, W)``.
        """
        batch, n_hidden = embedded.shape[0], mask.restore.shape[1] + 1 - embedded.shape[1]
        hidden = self.mask_token.to(embedded.dtype).expand(batch, n_hidden, -1)
        patches = take(torch.cat([embedded[:, 1:], hidden], dim=1), mask.restore)
        return torch.cat([embedded[:, :1], patches], dim=1) + self.decoder_pos_embed

    def decode(self, tokens: torch.Tensor, *memory: torch.Tensor | None) -> torch.Tensor:
        """Let tokens ``(B, 1 + N, W)`` look at each other, and at what else the blocks take.

        Returns:
            Patches ``(B, N, patch² · 3)``; what becomes of the first token is dropped.
        """
        for block in self.decoder_blocks:
            tokens = block(tokens, *memory)
        predicted: torch.Tensor = self.decoder_pred(self.decoder_norm(tokens))
        return predicted[:, 1:]


def masked_error(predicted: torch.Tensor, target: torch.Tensor, mask: Mask) -> torch.Tensor:
    """Mean squared error over the hidden patches of ``(B, N, P)``."""
    per_patch = (predicted - target).square().mean(dim=-1)
    return (per_patch * mask.hidden).sum() / mask.hidden.sum()
