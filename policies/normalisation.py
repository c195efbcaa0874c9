"""Scales of proprioception, states and actions: taken from the training data, kept with the policy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SMALLEST_STD = 1e-6
NORMALISATIONS = ("none", "standard", "range")


@dataclass(frozen=True)
class Scaling:
    """The map ``x -> (x - shift) / scale``, number by number."""

    shift: np.ndarray
    """float32 ``(D,)``."""
    scale: np.ndarray
    """float32 ``(D,)``, positive."""

    @property
    def width(self) -> int:
        """Numbers per row, D."""
        return len(self.shift)

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Scale ``(..., D)``; float32."""
        return ((np.asarray(values, np.float32) - self.shift) / self.scale).astype(np.float32)

    def undo(self, values: np.ndarray) -> np.ndarray:
        """Turn scaled ``(..., D)`` back; float32."""
        return (np.asarray(values, np.float32) * self.scale + self.shift).astype(np.float32)


def standard_scaling(values: np.ndarray) -> Scaling:
    """Return the scaling to mean 0 and deviation 1 over the rows of ``(N, D)``; what never varies becomes 0.

    >>> scaling = standard_scaling(np.array([[1.0, 5.0], [5.0, 5.0]]))
    >>> scaling.shift.tolist(), scaling.scale.tolist()
    ([3.0, 5.0], [2.0, 1.0])
    """
    wide = np.asarray(values, np.float64)
    std = wide.std(axis=0)
    return Scaling(wide.mean(axis=0).astype(np.float32), np.where(std < SMALLEST_STD, 1.0, std).astype(np.float32))


def action_scaling(actions: np.ndarray, kind: str) -> Scaling:
    """Return the scaling of actions ``(N, A)``; a number that never varies is left alone.

    Args:
        actions: of the training data.
        kind: ``"none"`` leaves all alone, ``"standard"`` makes mean 0 and deviation 1, ``"range"`` maps the smallest
            to -1 and the largest to 1.

    >>> scaling = action_scaling(np.array([[0.0, 0.3], [0.5, 0.3]]), "range")
    >>> scaling.apply(np.array([[0.0, 0.3], [0.5, 0.7]])).round(4).tolist()
    [[-1.0, 0.30000001192092896], [1.0, 0.699999988079071]]
    """
    wide = np.asarray(actions, np.float64)
    shift, scale = np.zeros(wide.shape[1]), np.ones(wide.shape[1])
    if kind == "standard":
        shift, scale = wide.mean(axis=0), wide.std(axis=0)
    elif kind == "range":
        low, high = wide.min(axis=0), wide.max(axis=0)
        shift, scale = (low + high) / 2, (high - low) / 2
    constant = scale < SMALLEST_STD
    return Scaling(np.where(constant, 0.0, shift).astype(np.float32), np.where(constant, 1.0, scale).astype(np.float32))
