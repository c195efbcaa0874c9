"""Targets that follow what is trained as an exponential moving average of its weights."""

from __future__ import annotations

import torch
from torch import nn


def momentum_at(share: float, start: float, end: float) -> float:
    """Go from ``start`` to ``end`` in a straight line; ``share`` in [0, 1] says how far.

    >>> momentum_at(0.0, 0.998, 1.0), round(momentum_at(0.25, 0.998, 1.0), 6)
    (0.998, 0.9985)
    """
    return start + share * (end - start)


@torch.no_grad()
def follow(target: nn.Module, online: nn.Module, momentum: float, bad: torch.Tensor) -> None:
    """Move ``target``'s weights: ``momentum · target + (1 - momentum) · online``.

    What is not trained, such as fixed positions, stays as it is; so does everything where ``bad`` is 1.

    Args:
        target: a copy of ``online``, with weights of its own.
        online: what is trained.
        momentum: in [0, 1].
        bad: scalar on the device, 0 or 1; nothing waits for it.
    """
    step = (1 - momentum) * (1 - bad).to(next(target.parameters()).dtype)
    for average, weight in zip(target.parameters(), online.parameters(), strict=True):
        if weight.requires_grad:
            average.lerp_(weight, step)


@torch.no_grad()
def relative_distance(target: nn.Module, online: nn.Module) -> torch.Tensor:
    """Return the norm of the difference of the trained weights over that of the target's: a scalar."""
    pairs = [
        (average, weight)
        for average, weight in zip(target.parameters(), online.parameters(), strict=True)
        if weight.requires_grad
    ]
    apart = torch.stack([(weight - average).norm() for average, weight in pairs]).norm()
    return apart / torch.stack([average.norm() for average, _ in pairs]).norm()
