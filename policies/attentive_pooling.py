"""Attentive pooling: a learned query chooses what to take from the tokens of a frozen encoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from rsp_robot.policies.heads.layers import drawn_from

HEAD_WIDTH = 64
QUERY_STD = 0.02


def attention_heads(width: int) -> int:
    """Return how many heads share ``width``: about one per 64 channels.

    >>> attention_heads(384), attention_heads(100), attention_heads(24)
    (6, 1, 1)
    """
    return next(heads for heads in range(max(1, width // HEAD_WIDTH), 0, -1) if width % heads == 0)


class AttentivePooling(nn.Module):
    """One learned query, multi-head cross-attention to the tokens, a residual connection and a ``LayerNorm``.

    The attentive probe of V-JEPA (Bardes et al. 2024, section 4.1) without its MLP: a policy head comes after.

    >>> pooling = AttentivePooling(128, generator=torch.Generator().manual_seed(0))
    >>> tuple(pooling(torch.zeros(2, 17, 128)).shape)
    (2, 128)
    """

    def __init__(self, width: int, *, generator: torch.Generator) -> None:
        """Build it for tokens of ``width`` channels; ``generator`` draws the first weights."""
        super().__init__()
        self.heads = attention_heads(width)
        self.token_norm = nn.LayerNorm(width)
        with drawn_from(generator):
            self.query = nn.Parameter(QUERY_STD * torch.randn(width))
            self.to_query = nn.Linear(width, width)
            self.to_key_value = nn.Linear(width, 2 * width)
            self.to_out = nn.Linear(width, width)
        self.out_norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Pool ``(B, K, D)`` to ``(B, D)``."""
        B, K, D = tokens.shape
        keys, values = (
            self.to_key_value(self.token_norm(tokens)).unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        )
        query = self.to_query(self.query).reshape(1, self.heads, 1, -1).expand(B, -1, -1, -1)
        taken = scaled_dot_product_attention(query, keys, values).reshape(B, D)
        pooled: Tensor = self.out_norm(self.query + self.to_out(taken))
        return pooled
