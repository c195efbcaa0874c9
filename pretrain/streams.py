"""Streams of random numbers that never meet: each purpose, seed and position in the run has its own."""

from __future__ import annotations

from typing import Literal

import numpy as np

Purpose = Literal["order", "mixture", "frames", "augmentation", "objective", "layers", "substitutes"]
_NUMBERS: dict[Purpose, int] = {
    "order": 1, "mixture": 2, "frames": 3, "augmentation": 4, "objective": 5, "layers": 6, "substitutes": 7,
}  # fmt: skip


def stream(purpose: Purpose, seed: int, *position: int) -> np.random.Generator:
    """Return the stream of one purpose at one position, the same at every call.

    A position has as many numbers at every call for the same purpose: NumPy pads with zeros, so that (3,) and (3, 0)
    would be one stream.
    """
    return np.random.default_rng([_NUMBERS[purpose], seed, *position])


def torch_seed(rng: np.random.Generator) -> int:
    """Draw a seed for a generator of torch."""
    return int(rng.integers(2**62))
