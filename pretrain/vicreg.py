"""Variance and covariance terms that keep features from collapsing (VICReg, Bardes et al. 2022, equations 1 to 4)."""

from __future__ import annotations

import torch

EPS = 1e-4
"""Added to the variance before its root, as published: the gradient stays finite where features are constant."""


def covariance_within(features: torch.Tensor) -> torch.Tensor:
    """Covariance over the batch at each place, mean over the places.

    Features are centred at each place by themselves. Otherwise what only tells a place (a patch's position) would count
    as variance, and features that see nothing of the picture would pass for healthy.

    Args:
        features: ``(B, ..., D)``; what lies between are places, such as frames and patches.

    Returns:
        ``(D, D)``, with the unbiased factor ``1 / (B - 1)``; zero for a single sample.
    """
    centred = (features - features.mean(dim=0)).flatten(1, -2)
    return torch.einsum("bpi,bpj->ij", centred, centred) / (max(1, features.shape[0] - 1) * centred.shape[1])


def variance_term(covariance: torch.Tensor, target: float = 1.0) -> torch.Tensor:
    """``mean_i max(0, target - sqrt(C_ii + eps))`` of a covariance matrix ``(D, D)``: a scalar in [0, target]."""
    return (target - (covariance.diagonal() + EPS).sqrt()).relu().mean()


def covariance_term(covariance: torch.Tensor) -> torch.Tensor:
    """Sum of squares off the diagonal over D, of a covariance matrix ``(D, D)``: a scalar, at least 0."""
    return (covariance.square().sum() - covariance.diagonal().square().sum()) / covariance.shape[0]
