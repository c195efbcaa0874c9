"""Numbers that show whether features are healthy; a falling loss alone does not."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

MOST_PATCHES = 4096

LEAST_RANK = 2.0
"""Embeddings below this effective rank have collapsed."""
LEAST_SPREAD = 0.02
"""Embeddings whose standard deviation falls below this share of its first value have become the same."""
LEAST_CODES = 1.05
"""A latent that uses fewer codes says the same of every pair."""
NEAR_FLOOR = 1.25
"""Free bits give no gradient below the floor, so a KL held by it hovers there: up to so many times the floor counts."""
LEAST_ROWS = 20
"""Rows after the warm-up before a KL at its floor means anything."""
MOST_SKIPPED = 0.01
"""Share of the steps that may be skipped for a loss that is not finite."""
SAME_ERROR = 0.01
"""A prior whose error is larger than the posterior's by less than this share predicts as well."""


def rank_me(features: torch.Tensor, eps: float = 1e-7, centre: bool = True) -> float:
    """Effective rank of features (RankMe, Garrido et al. 2023, equation 1): exp of the entropy of the singular values.

    Features are centred first, so that a constant offset does not count. As published they are not: then a collapse to
    one embedding shows, of which centring would leave the differences, however small.

    >>> round(rank_me(torch.eye(4), centre=False), 3), round(rank_me(torch.ones(4, 3), centre=False), 3)
    (4.0, 1.0)

    Args:
        features: ``(N, D)``.
        eps: added to the normalised singular values.
        centre: subtract the mean of all rows.

    Returns:
        A number between 1 (all features on a line) and ``min(N, D)``; NaN where a feature is not finite.
    """
    precise = features if features.dtype == torch.float64 else features.float()
    if centre:
        precise = precise - precise.mean(dim=0)
    if not precise.isfinite().all():
        return math.nan
    singular = torch.linalg.svdvals(precise)
    shares = singular / singular.sum().clamp(min=eps) + eps
    return float(torch.exp(-(shares * shares.log()).sum()))


def feature_health(embedded: torch.Tensor, patches: torch.Tensor) -> dict[str, float]:
    """What is watched of the features of any objective.

    Args:
        embedded: ``(B, F)``, one vector per frame, as the exported encoder pools them.
        patches: ``(B, N, D)``, patch tokens.

    Returns:
        ``rank``: effective rank of the embeddings; ``rank_patches``: that of some patch tokens; ``feature_std``: mean
        standard deviation of the embedding's numbers over the frames; ``feature_covariance``: mean square of the
        correlations of different numbers, 0 where each says something of its own.
    """
    patches = patches.flatten(0, 1)
    if len(patches) > MOST_PATCHES:
        chosen = torch.randperm(len(patches), generator=torch.Generator().manual_seed(0))[:MOST_PATCHES]
        patches = patches[chosen.to(patches.device)]
    return {
        "rank": rank_me(embedded),
        "rank_patches": rank_me(patches),
        "feature_std": float(embedded.std(dim=0).mean()),
        "feature_covariance": correlation(embedded),
    }


def correlation(features: torch.Tensor, eps: float = 1e-6) -> float:
    """Mean square of the off-diagonal correlations of features ``(N, D)``, in [0, 1]; constant ones count as 0."""
    centred = features.float() - features.float().mean(dim=0)
    standard = centred / (centred.square().mean(dim=0).sqrt() + eps)
    matrix = standard.T @ standard / len(features)
    off_diagonal = matrix.square().sum() - matrix.diagonal().square().sum()
    return float(off_diagonal / max(1, matrix.numel() - len(matrix)))


def health(rows: Sequence[Mapping[str, Any]], free_bits: float | None = None) -> list[str]:
    """Say aloud what has collapsed, one line each with the cause and what to try; an empty list is good news.

    A collapse counts while the latest row shows it, and a line names the step since when. The line stays the same from
    row to row, so that a caller can say every line once. Random weights may look collapsed: rows up to the largest
    learning rate, those of the warm-up, are not judged.

    Args:
        rows: rows of ``metrics.jsonl`` in the order of their steps; a row may lack any metric.
        free_bits: floor of the KL divergence in nats; None where the objective has none.
    """
    settled = _after_warmup(rows)
    said = []
    since = _since(settled, "rank", lambda rank: rank < LEAST_RANK)
    if since is not None:
        said.append(
            f"RankMe of the embeddings below {LEAST_RANK:g} since step {since}: the features of all frames lie on a "
            "line; lower the learning rate or start from the last healthy checkpoint"
        )
    # A rank has no scale: of features that have shrunk to dust it measures the dust.
    spread = next((row["feature_std"] for row in rows if "feature_std" in row), 0.0)
    since = _since(settled, "feature_std", lambda deviation: deviation < LEAST_SPREAD * spread)
    if since is not None:
        said.append(
            f"standard deviation of the embeddings below {LEAST_SPREAD:.0%} of its first value since step {since}: "
            "all frames look the same; raise what keeps features apart (a variance term, a slower target)"
        )
    since = _since(settled, "codes_used", lambda codes: codes < LEAST_CODES)
    if since is not None:
        said.append(
            f"one code of the latent used since step {since}: it says the same of every sample; lower the KL scale, "
            "raise the unimix, or let more samples explore"
        )
    return said + _unused_latent(settled, free_bits or 0.0) + _skipped(settled)


def _after_warmup(rows: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    peak = max(rows, key=lambda row: row.get("lr", 0.0), default={})
    return [row for row in rows if row["step"] > peak["step"]] if "lr" in peak else rows


def _skipped(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    counted = [row for row in rows if "skipped_steps" in row]
    if not counted:
        return []
    first, last = counted[0], counted[-1]
    # fp16 loses a step now and then while it looks for its loss scale.
    if last["skipped_steps"] - first["skipped_steps"] <= MOST_SKIPPED * (last["step"] - first["step"]):
        return []
    return [
        f"more than {MOST_SKIPPED:.0%} of the steps since step {first['step']} skipped without a finite loss: training "
        "is close to diverging; lower the learning rate or clip the gradient"
    ]


def _unused_latent(rows: Sequence[Mapping[str, Any]], free_bits: float) -> list[str]:
    """Judge the KL over the last quarter of the rows."""
    measured = [row for row in rows if "kl" in row]
    last = measured[-max(1, len(measured) // 4) :]
    # Without free bits there is no floor to lie on; a thousandth of a nat carries nothing either.
    ceiling = NEAR_FLOOR * max(free_bits, 1e-3)
    since = _since(measured, "kl", lambda kl: kl <= ceiling)
    if len(measured) < LEAST_ROWS or since is None or since > last[0]["step"]:
        return []
    compared = [row for row in last if "prior_gap" in row and "loss_future" in row]
    alike = bool(compared) and all(row["prior_gap"] <= SAME_ERROR * row["loss_future"] for row in compared)
    prior = ", and the prior predicts as well as the posterior" if alike else ""
    return [
        f"KL at its floor of {free_bits:g} nats since step {since}{prior}: the latent is unused; "
        "lower the learning rate, widen the gap range or train longer"
    ]


def _since(rows: Sequence[Mapping[str, Any]], key: str, ill: Callable[[float], bool]) -> int | None:
    """First step of the unbroken stretch of ill rows that ends with the latest one; None where that one is well."""
    since = None
    for row in reversed([row for row in rows if key in row]):
        if not ill(row[key]):
            break
        since = int(row["step"])
    return since
