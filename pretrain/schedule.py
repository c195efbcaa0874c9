"""Learning rate: the linear scaling rule, warm-up and a cosine, per iteration."""

from __future__ import annotations

import math

import torch


def scaled_lr(base_lr: float, effective_batch: int) -> float:
    """Return ``base_lr · effective_batch / 256`` (Goyal et al. 2017; MAE and RSP use it)."""
    return base_lr * effective_batch / 256


def lr_factor(step: int, steps: int, warmup: int) -> float:
    """Share of the peak learning rate at ``step``, counted from 0: linear over ``warmup`` steps, then a half cosine.

    >>> lr_factor(5, 110, 10), lr_factor(10, 110, 10), round(lr_factor(60, 110, 10), 6), lr_factor(110, 110, 10)
    (0.5, 1.0, 0.5, 0.0)
    """
    if step < warmup:
        return step / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def parameter_groups(model: torch.nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Split the trainable parameters: weight decay on matrices and tokens, none on biases and norms (as MAE does)."""
    decayed = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    plain = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
