"""Numbers that show whether features are healthy; a falling loss alone does not."""

from __future__ import annotations

import math

import torch

MOST_PATCHES = 4096


def rank_me(features: torch.Tensor, eps: float = 1e-7) -> float:
    """Effective rank of features (RankMe, Garrido et al. 2023, equation 1): exp of the entropy of the singular values.

    Features are centred first, so that a constant offset does not count.

    Args:
        features: ``(N, D)``.
        eps: added to the normalised singular values.

    Returns:
        A number between 1 (all features on a line) and ``min(N, D)``; NaN where a feature is not finite.
    """
    centred = features.float() - features.float().mean(dim=0)
    if not centred.isfinite().all():
        return math.nan
    singular = torch.linalg.svdvals(centred)
    shares = singular / singular.sum().clamp(min=eps) + eps
    return float(torch.exp(-(shares * shares.log()).sum()))


def token_ranks(tokens: torch.Tensor) -> dict[str, float]:
    """Effective rank of the class token and of some patch tokens of ``(B, 1 + N, D)``."""
    patches = tokens[:, 1:].flatten(0, 1)
    if len(patches) > MOST_PATCHES:
        chosen = torch.randperm(len(patches), generator=torch.Generator().manual_seed(0))[:MOST_PATCHES]
        patches = patches[chosen.to(patches.device)]
    return {"rank_cls": rank_me(tokens[:, 0]), "rank_patches": rank_me(patches)}
