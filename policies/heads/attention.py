"""The transformer that both chunk heads share: what is observed as memory tokens, and blocks that read them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rsp_robot.errors import UserError
from rsp_robot.policies.heads.base import Features, HeadShape


def check_transformer(width: int, heads: int, *layers: int) -> None:
    """Check the sizes of a transformer.

    Raises:
        UserError: no layers, or a width that the attention heads do not divide.
    """
    if min(width, heads, *layers) < 1 or width % heads or width % 2:
        raise UserError(
            f"width {width} must be even and divisible by the {heads} attention heads, layers at least 1; "
            "correct the settings"
        )


def check_execution(chunk: int, execute: int, least: int) -> None:
    """Check the length of a chunk and how much of it is carried out.

    Raises:
        UserError: an empty chunk, or more executed than predicted.
    """
    if chunk < 1 or not least <= execute <= chunk:
        raise UserError(
            f"execute is {execute}, but a chunk has {chunk} actions; choose chunk at least 1 and execute from {least} "
            "to chunk"
        )


def learned_positions(count: int, width: int) -> nn.Parameter:
    """Return trainable position embeddings ``(1, count, width)``, drawn with standard deviation 0.02."""
    return nn.Parameter(torch.randn(1, count, width) * 0.02)


def encoder_block(width: int, heads: int) -> nn.TransformerEncoderLayer:
    """Return a pre-norm block: self-attention, MLP of four times the width; no dropout."""
    return nn.TransformerEncoderLayer(
        width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )


def decoder_block(width: int, heads: int) -> nn.TransformerDecoderLayer:
    """Return a pre-norm block: self-attention, cross-attention to a memory, MLP of four times the width; no dropout."""
    return nn.TransformerDecoderLayer(
        width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )


class MemoryTokens(nn.Module):
    """Turns the features of one observation into tokens: one for the vector, one for each patch token."""

    def __init__(self, shape: HeadShape, width: int) -> None:
        super().__init__()
        patches, patch_width = shape.tokens or (0, 0)
        self.vector = nn.Linear(shape.vector, width) if shape.vector else None
        self.tokens = nn.Sequential(nn.LayerNorm(patch_width), nn.Linear(patch_width, width)) if patches else None
        self.count = int(shape.vector > 0) + patches
        self.positions = learned_positions(self.count, width)

    def forward(self, features: Features) -> Tensor:
        """Return ``(B, count, width)`` for features with ``T = 1``."""
        found = []
        if self.vector is not None:
            found.append(self.vector(features.vector))
        if self.tokens is not None:
            assert features.tokens is not None
            found.append(self.tokens(features.tokens[:, -1]))
        return torch.cat(found, dim=1) + self.positions
