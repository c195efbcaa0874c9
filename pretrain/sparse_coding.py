"""Latents found by minimising an energy: proximal gradient descent, of which ISTA is the sparse case.

Beck and Teboulle 2009, *A Fast Iterative Shrinkage-Thresholding Algorithm for Linear Inverse Problems*, sections 2 and
3. Everything works on whole batches, every row with a step size of its own, and nothing waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

Energy = Callable[[torch.Tensor], torch.Tensor]
"""Latents ``(B, M)`` -> smooth energies ``(B,)``, each a differentiable function of its own row alone."""
Prox = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Proximal map of the penalty: latents ``(B, M)`` and step sizes ``(B, 1)`` -> ``(B, M)``."""

GROWTH = 1.5
"""A step size that was small enough grows by this for the next step."""


class Found(NamedTuple):
    """Where a descent ended."""

    latent: torch.Tensor
    """``(B, M)``, without gradient."""
    energy: torch.Tensor
    """``(B,)``, the smooth part at that place."""
    step: torch.Tensor
    """``(B, 1)``, the step size that would be tried next."""


def soft_threshold(values: torch.Tensor, threshold: torch.Tensor | float) -> torch.Tensor:
    """``sign(v) · max(|v| - threshold, 0)``: the proximal map of ``threshold · |v|_1``.

    >>> soft_threshold(torch.tensor([3.0, -0.5, -2.0]), 1.0).tolist()
    [2.0, -0.0, -1.0]
    """
    return values.sign() * (values.abs() - threshold).relu()


def shrink(values: torch.Tensor, amount: torch.Tensor | float) -> torch.Tensor:
    """``v / (1 + amount)``: the proximal map of ``amount / 2 · |v|²``."""
    return values / (1 + amount)


def sparse_prox(penalty: float) -> Prox:
    """Return the proximal map of ``penalty · |z|_1``: with it the descent is ISTA."""
    return lambda latent, step: soft_threshold(latent, penalty * step)


def smooth_prox(penalty: float) -> Prox:
    """Return the proximal map of ``penalty / 2 · |z|²``: with it the descent is a regularised gradient descent."""
    return lambda latent, step: shrink(latent, penalty * step)


def descend(energy: Energy, prox: Prox, start: torch.Tensor, steps: int, rate: float | None = None) -> Found:
    """Minimise ``energy(z) + penalty(z)`` row by row with a step size found by backtracking.

    A proposal ``prox(z - s·∇E(z), s)`` is taken where ``E`` lies below its quadratic model (Beck and Teboulle,
    equation 2.6): then the sum falls, and s grows for the next step; elsewhere the row stays and s is halved. Every
    step costs one evaluation of the energy and one of its gradient.

    Args:
        energy: smooth part of what is minimised; its parameters get no gradient.
        prox: proximal map of the penalty.
        start: ``(B, M)``.
        steps: proposals.
        rate: first step size; by default the one that proposes to move every row by a length of 1.

    Returns:
        The last latents that were taken, with their energies.
    """
    latent = start.detach()
    value, slope = value_and_slope(energy, latent)
    length = slope.norm(dim=1, keepdim=True)
    step = 1 / length.clamp(min=1e-6) if rate is None else torch.full_like(length, rate)
    slack = 8 * torch.finfo(value.dtype).eps
    for _ in range(steps):
        proposal = prox(latent - step * slope, step)
        moved = proposal - latent
        new_value, new_slope = value_and_slope(energy, proposal)
        model = value + (slope * moved).sum(dim=1) + moved.square().sum(dim=1) / (2 * step[:, 0])
        # Slack for rounding, or steps would be refused once the energy hardly moves.
        taken = new_value <= model + slack * value.abs()
        latent = torch.where(taken[:, None], proposal, latent)
        slope = torch.where(taken[:, None], new_slope, slope)
        value = torch.where(taken, new_value, value)
        step = torch.where(taken[:, None], GROWTH * step, step / 2)
    return Found(latent, value, step)


def value_and_slope(energy: Energy, latent: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Energies ``(B,)`` and their gradients ``(B, M)`` at ``latent``, both without history."""
    with torch.enable_grad():
        place = latent.detach().requires_grad_()
        value = energy(place)
        (slope,) = torch.autograd.grad(value.sum(), place)
    return value.detach(), slope.detach()
