"""Token bottleneck: whatever a frame tells of another one has to pass through its class token (ToBo, Kim et al. 2025).

The source frame is seen whole, a tenth of the target frame's patches is. A decoder of self-attention over the source's
class token and the target's patches, visible ones and mask tokens, paints the hidden ones. An auxiliary SiamMAE loss
shares its blocks: there the target's tokens look at all tokens of the source first.
Names of the parameters are those of the published checkpoints, the encoder's below ``backbone.``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from rsp_robot.backbones.cross_attention import CrossSelfBlock
from rsp_robot.backbones.vit import ViTConfig
from rsp_robot.errors import UserError
from rsp_robot.pretrain.objectives.decoders import MaskDraws, MaskedConfig, MaskedObjective, masked_error
from rsp_robot.pretrain.sampling import PairSpec, Unit


@dataclass(frozen=True)
class BottleneckConfig(MaskedConfig):
    """Settings of every objective with a token bottleneck; the defaults are the published ones."""

    mask_ratio: float = 0.9
    """Share of the target's patches that are hidden."""
    siam_weight: float = 1.0
    """Weight of the auxiliary SiamMAE loss, whose decoder sees all tokens of the source; 0 leaves it out."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.siam_weight < 0:
            raise UserError(f"siam_weight must be at least 0, not {self.siam_weight}; 0 turns the auxiliary loss off")

    def build(self, vit: ViTConfig) -> TokenBottleneck:
        """Make the model; its weights are drawn from torch's global generator."""
        return TokenBottleneck(vit, self)


@dataclass(frozen=True)
class ToBoConfig(BottleneckConfig):
    """Settings of the objective; the defaults are the published ones."""

    name: ClassVar[str] = "tobo"

    min_gap: float = 4
    """Smallest distance from the source to the target frame."""
    max_gap: float = 96
    """Largest distance from the source to the target frame."""
    gap_unit: Unit = "frames"
    """frames, as published, or seconds: the same motion in videos of different frame rates."""

    @property
    def frames(self) -> PairSpec:
        """A source frame and a target frame later on."""
        return PairSpec(self.min_gap, self.max_gap, self.gap_unit)


class TokenBottleneck(MaskedObjective):
    """A Vision Transformer whose class token has to carry what the decoder needs of the source."""

    config: BottleneckConfig

    def __init__(self, vit: ViTConfig, config: BottleneckConfig) -> None:
        super().__init__(vit, config)
        self.decoder_embed_mae = nn.Linear(vit.width, config.decoder_width)
        self.add_decoder(CrossSelfBlock)
        if not config.siam_weight:  # kept for the layout of published checkpoints, but nothing to train
            for block in self.decoder_blocks:
                for part in ("norm1", "norm_kv1", "cattn"):
                    block.get_submodule(part).requires_grad_(False)

    def embed_source(self, source: torch.Tensor) -> torch.Tensor:
        """Encode source frames ``(B, 3, H, W)`` whole for the decoder -> ``(B, 1 + N, W)``, class token first."""
        embedded: torch.Tensor = self.decoder_embed_mae(self.backbone(source)) + self.decoder_pos_embed
        return embedded

    def embed_target(self, target: torch.Tensor, draws: MaskDraws) -> torch.Tensor:
        """Encode the visible patches of target frames ``(B, 3, H, W)``, with mask tokens -> ``(B, 1 + N, W)``."""
        mask = self.mask(draws)
        return self.in_place(self.decoder_embed_mae(self.visible(target, mask)), mask)

    def predict(self, bottleneck: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Paint the target through the bottleneck.

        Args:
            bottleneck: ``(B, 1, W)``, the embedded class token of the source: all that is known of it.
            target: ``(B, 1 + N, W)``, the embedded target, whose own class token is left out.

        Returns:
            Patches ``(B, N, patch² · 3)``.
        """
        return self.decode(torch.cat([bottleneck, target[:, 1:]], dim=1), None)

    def forward(self, frames: torch.Tensor, draws: MaskDraws) -> dict[str, torch.Tensor]:
        """Compute the losses of a batch of sources and targets ``(B, 2, 3, H, W)``, over the hidden patches.

        Returns:
            ``loss = loss_bottleneck + siam_weight · loss_siam``, and the two.
        """
        source, wanted = self.embed_source(frames[:, 0]), self.targets(frames[:, 1])
        target, mask = self.embed_target(frames[:, 1], draws), self.mask(draws)
        losses = {"loss_bottleneck": masked_error(self.predict(source[:, :1], target), wanted, mask)}
        losses["loss"] = losses["loss_bottleneck"]
        if self.config.siam_weight:
            losses["loss_siam"] = masked_error(self.decode(target, source), wanted, mask)
            losses["loss"] = losses["loss"] + self.config.siam_weight * losses["loss_siam"]
        return losses

    @torch.no_grad()
    def diagnose(self, frames: torch.Tensor, draws: MaskDraws) -> dict[str, torch.Tensor]:
        """Give every sample of a batch ``(B, 2, 3, H, W)`` its neighbour's token; nothing is learned from it.

        Returns:
            ``loss_other_token``, and ``token_gap``: how much larger that is than with the right one. Near 0 the
            class token carries nothing that the decoder needs.
        """
        token, wanted = self.embed_source(frames[:, 0])[:, :1], self.targets(frames[:, 1])
        target, mask = self.embed_target(frames[:, 1], draws), self.mask(draws)
        right, wrong = (masked_error(self.predict(one, target), wanted, mask) for one in (token, token.roll(1, 0)))
        return {"loss_other_token": wrong, "token_gap": wrong - right}
