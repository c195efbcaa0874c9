"""A narrow transformer that predicts the tokens of later frames from those of earlier ones and a latent."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import nn

from rsp_robot.backbones.cross_attention import CrossSelfBlock
from rsp_robot.backbones.positions import sincos_1d, sincos_2d
from rsp_robot.backbones.vit import ViTConfig


class TokenPredictor(nn.Module):
    """Queries, one per token of every future frame, look at the tokens of all past frames.

    A query is a learned token plus its place, its time and the latent. The latent's directions have a fixed length, so
    that a penalty on the latent cannot be evaded by longer ones, and being added to the queries, not a token of its
    own that a norm would rescale, its size counts.
    """

    positions: torch.Tensor
    """``(P + F, 1 + N, width)``: place and time of every token."""

    def __init__(self, vit: ViTConfig, past: int, future: int, latent: int, width: int, depth: int, heads: int) -> None:
        """Make the predictor; its weights are drawn by ``initialise_transformer``.

        Args:
            vit: the encoder whose tokens are predicted.
            past: frames to look at.
            future: frames to predict.
            latent: numbers of the latent; 0 for none.
            width: of its own tokens.
            depth: blocks of cross-attention, self-attention and MLP.
            heads: attention heads.
        """
        super().__init__()
        self.past, self.future = past, future
        self.embed = nn.Linear(vit.width, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.directions = nn.Parameter(torch.randn(latent, width)) if latent else None
        places, times = sincos_2d(width, vit.grid), sincos_1d(width, torch.arange(past + future)).float()
        self.register_buffer("positions", places + times[:, None], persistent=False)
        self.blocks = nn.ModuleList(CrossSelfBlock(width, heads, vit.mlp_ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, vit.width)

    def remember(self, past: torch.Tensor) -> torch.Tensor:
        """Tokens of the past frames ``(B, P, 1 + N, D)`` -> what queries look at, ``(B, P · (1 + N), width)``."""
        return (self.embed(past) + self.positions[: self.past]).flatten(1, 2)

    def forward(self, memory: torch.Tensor, latent: torch.Tensor | None) -> torch.Tensor:
        """Predict the tokens of the future frames.

        Args:
            memory: from :meth:`remember`.
            latent: ``(B, M)``; None for none.

        Returns:
            ``(B, F, 1 + N, D)``.
        """
        queries = (self.mask_token + self.positions[self.past :]).flatten(0, 1).expand(memory.shape[0], -1, -1)
        if latent is not None and self.directions is not None:
            lengths = self.directions.shape[1] ** 0.5
            queries = queries + (latent @ (lengths * F.normalize(self.directions, dim=1)))[:, None]
        for block in self.blocks:
            queries = block(queries, memory)
        predicted: torch.Tensor = self.head(self.norm(queries))
        return predicted.unflatten(1, (self.future, -1))


class PictureDecoder(nn.Module):
    """Decode the tokens of a frame into its pixels, every frame by itself."""

    positions: torch.Tensor
    """``(1, 1 + N, width)``."""

    def __init__(self, vit: ViTConfig, width: int, depth: int, heads: int) -> None:
        """Make ``depth`` blocks of self-attention between two linear maps."""
        super().__init__()
        self.embed = nn.Linear(vit.width, width)
        self.register_buffer("positions", sincos_2d(width, vit.grid), persistent=False)
        self.blocks = nn.ModuleList(
            Block(width, heads, vit.mlp_ratio, qkv_bias=True, norm_layer=nn.LayerNorm) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, vit.patch_size**2 * 3)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """``(B, 1 + N, D)`` -> patches ``(B, N, patch² · 3)``."""
        tokens = self.embed(tokens) + self.positions
        for block in self.blocks:
            tokens = block(tokens)
        patches: torch.Tensor = self.head(self.norm(tokens))
        return patches[:, 1:]
