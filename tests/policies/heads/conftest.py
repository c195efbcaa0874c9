"""Builds heads and trains them on data made on the spot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from rsp_robot.policies.heads import Features, Head, HeadShape, find_head


def build(name: str, vector: int = 1, actions: int = 1, tokens: Any = None, seed: int = 0, **settings: Any) -> Head:
    entry = find_head(name)
    shape = HeadShape(vector, actions, tokens)
    return entry.head(entry.config(**settings), shape, generator=torch.Generator().manual_seed(seed))


def train(
    head: Head, vector: Tensor, actions: Tensor, tokens: Tensor | None = None, steps: int = 200, lr: float = 1e-2
) -> dict[str, float]:
    """Train on all samples at once, ``(B, T, F)`` and ``(B, H, A)``; return the last losses."""
    generator = torch.Generator().manual_seed(1)
    mask = torch.ones(actions.shape[:2], dtype=torch.bool)
    optimiser = torch.optim.Adam(head.parameters(), lr=lr)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = lr * (1 - step / steps)
        losses = head.loss(Features(vector, tokens), actions, mask, generator)
        optimiser.zero_grad()
        losses["loss"].backward()
        optimiser.step()
    head.eval()
    return {name: value.item() for name, value in losses.items()}


@pytest.fixture
def make_head() -> Callable[..., Head]:
    return build


@pytest.fixture
def fit() -> Callable[..., dict[str, float]]:
    return train
