"""SiamMAE: a past frame seen whole, a future frame of which almost nothing is seen (Gupta et al. 2023).

One encoder sees both. The decoder paints the future frame's hidden patches: its tokens look at those of the past frame,
then at each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from rsp_robot.backbones.cross_attention import CrossSelfBlock
from rsp_robot.backbones.vit import ViTConfig
from rsp_robot.pretrain.objectives.decoders import MaskDraws, MaskedConfig, MaskedObjective, masked_error
from rsp_robot.pretrain.sampling import PairSpec, Unit


@dataclass(frozen=True)
class SiamMAEConfig(MaskedConfig):
    """Settings of the objective; the defaults are the published ones."""

    name: ClassVar[str] = "siam-mae"

    mask_ratio: float = 0.95
    """Share of the future frame's patches that are hidden."""
    decoder_width: int = 256
    """Width of the decoder."""
    decoder_depth: int = 4
    """Blocks of the decoder."""
    decoder_heads: int = 8
    """Attention heads of the decoder."""
    min_gap: float = 4
    """Smallest distance from the past to the future frame."""
    max_gap: float = 48
    """Largest distance from the past to the future frame."""
    gap_unit: Unit = "frames"
    """frames, as published, or seconds: the same motion in videos of different frame rates."""

    @property
    def frames(self) -> PairSpec:
        """A past and a future frame."""
        return PairSpec(self.min_gap, self.max_gap, self.gap_unit)

    def build(self, vit: ViTConfig) -> SiamMAE:
        """Make the model; its weights are drawn from torch's global generator."""
        return SiamMAE(vit, self)


class SiamMAE(MaskedObjective):
    """A Vision Transformer for both frames, and a decoder of cross-self blocks."""

    config: SiamMAEConfig

    def __init__(self, vit: ViTConfig, config: SiamMAEConfig) -> None:
        super().__init__(vit, config)
        self.decoder_embed = nn.Linear(vit.width, config.decoder_width)
        self.add_decoder(CrossSelfBlock)

    def remember(self, past: torch.Tensor) -> torch.Tensor:
        """Encode the past frames ``(B, 3, H, W)`` whole for the decoder -> ``(B, 1 + N, W)``."""
        remembered: torch.Tensor = self.decoder_embed(self.backbone(past)) + self.decoder_pos_embed
        return remembered

    def predict(self, memory: torch.Tensor, future: torch.Tensor, draws: MaskDraws) -> torch.Tensor:
        """Paint future frames ``(B, 3, H, W)`` from their visible patches and :meth:`remember`'s tokens of the past.

        Returns:
            Patches ``(B, N, patch² · 3)``.
        """
        mask = self.mask(draws)
        return self.decode(self.in_place(self.decoder_embed(self.visible(future, mask)), mask), memory)

    def forward(self, frames: torch.Tensor, draws: MaskDraws) -> dict[str, torch.Tensor]:
        """Return ``loss``: mean squared error over the hidden patches of the second of frames ``(B, 2, 3, H, W)``."""
        past, future = frames.unbind(1)
        predicted = self.predict(self.remember(past), future, draws)
        return {"loss": masked_error(predicted, self.targets(future), self.mask(draws))}

    @torch.no_grad()
    def diagnose(self, frames: torch.Tensor, draws: MaskDraws) -> dict[str, torch.Tensor]:
        """Give every sample of a batch ``(B, 2, 3, H, W)`` the past of its neighbour; nothing is learned from it.

        Returns:
            ``loss_other_past``, and ``past_gap``: how much larger that is than with the right past. Near 0 the
            decoder makes no use of it.
        """
        past, future = frames.unbind(1)
        memory, target, mask = self.remember(past), self.targets(future), self.mask(draws)
        right, wrong = (
            masked_error(self.predict(tokens, future, draws), target, mask) for tokens in (memory, memory.roll(1, 0))
        )
        return {"loss_other_past": wrong, "past_gap": wrong - right}
