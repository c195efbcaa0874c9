"""What changes over a run: learning rate, weight decay, and whatever an objective anneals by itself."""

from __future__ import annotations

import math

import torch


def scaled_lr(base_lr: float, effective_batch: int) -> float:
    """Return ``base_lr · effective_batch / 256`` (Goyal et al. 2017; MAE and RSP use it)."""
    return base_lr * effective_batch / 256


def half_cosine(start: float, end: float, share: float) -> float:
    """Go from ``start`` to ``end`` on half a cosine; ``share`` in [0, 1] says how far.

    >>> [round(half_cosine(0.04, 0.4, share), 6) for share in (0, 0.5, 1)]
    [0.04, 0.22, 0.4]
    """
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * share))


def lr_factor(
    step: int,
    steps: int,
    warmup: int,
    *,
    start: float = 0.0,
    end: float = 0.0,
    hold: int = 0,
    linear: bool = False,
) -> float:
    """Share of the peak learning rate at ``step``, counted from 0.

    Linear from ``start`` over ``warmup`` steps, then ``hold`` steps at the peak, then half a cosine (or a straight
    line) that reaches ``end`` after ``steps``.

    >>> lr_factor(5, 110, 10), lr_factor(10, 110, 10), round(lr_factor(60, 110, 10), 6), lr_factor(110, 110, 10)
    (0.5, 1.0, 0.5, 0.0)
    >>> lr_factor(70, 110, 0, hold=80, linear=True), lr_factor(95, 110, 0, hold=80, linear=True)
    (1.0, 0.5)
    """
    if step < warmup:
        return start + (1 - start) * step / warmup
    flat = warmup + hold
    if step < flat:
        return 1.0
    share = (step - flat) / max(1, steps - flat)
    return 1 + (end - 1) * share if linear else half_cosine(1.0, end, share)


def parameter_groups(model: torch.nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Split the trainable parameters: weight decay on matrices and tokens, none on biases and norms (as MAE does)."""
    decayed = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    plain = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
