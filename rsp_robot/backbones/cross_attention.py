"""The decoder block shared by future prediction and masked autoencoding: cross-attention, self-attention, MLP."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.layers import Mlp
from timm.models.vision_transformer import Attention
from torch import nn


class CrossAttention(nn.Module):
    """Multi-head attention of queries ``(B, Nq, D)`` over keys and values ``(B, Nk, D)``.

    ``fused`` computes it by ``scaled_dot_product_attention``; without it the same is written out, as in timm's
    ``Attention`` without ``fused_attn``.
    """

    def __init__(self, width: int, heads: int, fused: bool = True) -> None:
        super().__init__()
        self.heads, self.fused = heads, fused
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, queries: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
        """Return ``(B, Nq, D)``."""
        batch, n_queries, width = queries.shape
        head = width // self.heads
        q = self.q(queries).reshape(batch, n_queries, self.heads, head).transpose(1, 2)
        k, v = self.kv(memory).reshape(batch, memory.shape[1], 2, self.heads, head).permute(2, 0, 3, 1, 4)
        if self.fused:
            attended = F.scaled_dot_product_attention(q, k, v)
        else:
            attended = (q * head**-0.5 @ k.transpose(-2, -1)).softmax(dim=-1) @ v
        projected: torch.Tensor = self.proj(attended.transpose(1, 2).reshape(batch, n_queries, width))
        return projected


class CrossSelfBlock(nn.Module):
    """Pre-norm residual block: cross-attention to the memory, then self-attention, then an MLP (RSP, appendix A)."""

    def __init__(self, width: int, heads: int, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.norm_kv1 = nn.LayerNorm(width, eps=1e-6)
        self.cattn = CrossAttention(width, heads)
        self.norm3 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads, qkv_bias=True)
        self.norm4 = nn.LayerNorm(width, eps=1e-6)
        self.mlp2 = Mlp(width, int(width * mlp_ratio))

    def forward(self, tokens: torch.Tensor, memory: torch.Tensor | None) -> torch.Tensor:
        """Queries ``(B, Nq, D)`` and memory ``(B, Nk, D)`` -> ``(B, Nq, D)``; without memory the rest of the block."""
        if memory is not None:
            tokens = tokens + self.cattn(self.norm1(tokens), self.norm_kv1(memory))
        tokens = tokens + self.attn(self.norm3(tokens))
        updated: torch.Tensor = tokens + self.mlp2(self.norm4(tokens))
        return updated


def use_fused_attention(model: nn.Module, fused: bool) -> None:
    """Compute all attention of a model by scaled_dot_product_attention, or write it out."""
    for module in model.modules():
        if isinstance(module, Attention):
            module.fused_attn = fused  # type: ignore[misc]  # final for TorchScript only
        elif isinstance(module, CrossAttention):
            module.fused = fused
