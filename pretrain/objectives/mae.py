"""MAE: single frames, most of whose patches are hidden (He et al. 2022).

Names of the parameters are those of the published checkpoints, the encoder's below ``backbone.``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from timm.models.vision_transformer import Block
from torch import nn

from rsp_robot.backbones.vit import ViTConfig
from rsp_robot.errors import UserError
from rsp_robot.pretrain.objectives.decoders import MaskDraws, MaskedConfig, MaskedObjective, masked_error
from rsp_robot.pretrain.sampling import FrameSpec


@dataclass(frozen=True)
class MAEConfig(MaskedConfig):
    """Settings of the objective; the defaults are the published ones."""

    name: ClassVar[str] = "mae"

    @property
    def frames(self) -> FrameSpec:
        """A single frame."""
        return FrameSpec()

    def build(self, vit: ViTConfig) -> MAE:
        """Make the model; its weights are drawn from torch's global generator.

        Raises:
            UserError: the mask leaves no patch to be seen.
        """
        if int(vit.patches * (1 - self.mask_ratio)) < 1:
            raise UserError(
                f"mask ratio {self.mask_ratio} of {vit.patches} patches leaves none visible; lower --objective."
                "mask-ratio or take smaller patches"
            )
        return MAE(vit, self)


class MAE(MaskedObjective):
    """A Vision Transformer that sees a quarter of a frame, and a decoder of plain blocks that paints the rest."""

    config: MAEConfig

    def __init__(self, vit: ViTConfig, config: MAEConfig) -> None:
        super().__init__(vit, config)
        self.decoder_embed = nn.Linear(vit.width, config.decoder_width)
        self.add_decoder(_block)

    def predict(self, images: torch.Tensor, draws: MaskDraws) -> torch.Tensor:
        """Paint the whole of images ``(B, 3, H, W)`` from their visible patches -> ``(B, N, patch² · 3)``."""
        mask = self.mask(draws)
        return self.decode(self.in_place(self.decoder_embed(self.visible(images, mask)), mask))

    def forward(self, frames: torch.Tensor, draws: MaskDraws) -> dict[str, torch.Tensor]:
        """Return ``loss``: the mean squared error over the hidden patches of frames ``(B, 1, 3, H, W)``."""
        images = frames[:, 0]
        return {"loss": masked_error(self.predict(images, draws), self.targets(images), self.mask(draws))}


def _block(width: int, heads: int, mlp_ratio: float) -> nn.Module:
    norm: Any = partial(nn.LayerNorm, eps=1e-6)
    return Block(width, heads, mlp_ratio, qkv_bias=True, norm_layer=norm)
