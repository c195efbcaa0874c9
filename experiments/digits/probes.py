"""What frozen features say of moving digits: how fast they go, which way they went, and how many numbers say it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, NamedTuple, cast

import numpy as np
import torch

from rsp_robot.encoder import FrozenEncoder
from rsp_robot.pretrain.monitors import rank_me
from rsp_robot.pretrain.probe import features_of, ridge_predict
from rsp_robot.videos import MovingDigits

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Ridge strengths to choose from, relative to features of unit variance."""
INNER_SHARE = 0.2
"""Share of the probe's own clips that choose the strength."""
PROBED_FRAMES = 3
"""Frames that a velocity is told from."""
RANK_FOLDS = 8
"""Disjoint sets of frames that give a mean and an interval of RankMe."""

Encode = Callable[[np.ndarray], torch.Tensor]


class Speed(NamedTuple):
    """A velocity probe on clips that nothing has seen."""

    errors: np.ndarray
    """``(N,)`` squared errors of each clip, mean over x and y, in (pixels per frame)² on a canvas of 64."""
    variance: float
    """The same of a constant guess."""


def ridge(inputs: np.ndarray, targets: np.ndarray, unseen: np.ndarray, seed: int = 0) -> np.ndarray:
    """Predict by ridge regression, its strength chosen on a fifth of the inputs.

    Args:
        inputs: ``(N, D)`` to learn from.
        targets: ``(N, K)``.
        unseen: ``(M, D)``.
        seed: chooses the fifth.

    Returns:
        ``(M, K)``.
    """
    order = np.random.default_rng(seed).permutation(len(inputs))
    inner, outer = np.split(order, [max(1, round(INNER_SHARE * len(inputs)))])
    guesses = ridge_predict(inputs[outer], targets[outer], inputs[inner], STRENGTHS)
    errors = [np.square(guess - targets[inner]).mean() for guess in guesses]
    return ridge_predict(inputs, targets, unseen, [STRENGTHS[int(np.argmin(errors))]])[0]


def tell_ways(inputs: np.ndarray, ways: np.ndarray, unseen: np.ndarray, seed: int = 0) -> np.ndarray:
    """Tell classes linearly, by regression on one-hot targets: ``(N, D)``, int ``(N,)``, ``(M, D)`` -> int ``(M,)``."""
    return ridge(inputs, np.eye(int(ways.max()) + 1)[ways], unseen, seed).argmax(axis=1)


def embedder(encoder: FrozenEncoder) -> Encode:
    """Return what an encoder makes of frames: the class token, where there is one, and the mean in each quarter."""
    poolings = (*(["cls"] if encoder.backbone.class_token else []), "grid2" if encoder.backbone.grid > 1 else "mean")
    views = [encoder.with_pooling(pooling) for pooling in poolings]
    return lambda frames: torch.cat([view(frames) for view in views], dim=1)


def probe_speed(encode: Encode, size: int, train: int, test: int, seed: int = 0) -> Speed:
    """Regress the velocity of a digit on the features of a few frames; test on unseen handwriting.

    Args:
        encode: of single frames.
        size: side of the canvas that the encoder knows.
        train: clips that the regression learns from.
        test: clips that it is measured on.
        seed: of the clips.
    """
    told, velocities = {}, {}
    for split, count in (("train", train), ("test", test)):
        digits = MovingDigits("bounce", 3 * count, PROBED_FRAMES, size, 1, seed + 1, cast(Any, split))
        chosen = _straight(digits, count)
        frames = np.concatenate([digits.clip(number) for number in chosen])
        told[split] = features_of(encode, frames).reshape(count, -1)
        velocities[split] = 64 / size * np.stack([digits.truth(number).velocities[0, 0] for number in chosen])
    found = ridge(told["train"], velocities["train"].astype(np.float64), told["test"], seed)
    errors = np.square(found - velocities["test"]).mean(axis=1)
    return Speed(errors, float(velocities["test"].var(axis=0).mean()))


def _straight(digits: MovingDigits, count: int) -> list[int]:
    """The first clips in which no wall is met: there one velocity is all there is to tell."""
    velocities = ((number, digits.truth(number).velocities) for number in range(digits.videos))
    return list(islice((number for number, found in velocities if (found == found[0]).all()), count))


class Spread(NamedTuple):
    """How many numbers the embeddings of single frames use."""

    ranks: list[float]
    """RankMe of disjoint sets of frames."""
    std: float
    """Mean standard deviation of the embedding's numbers over all frames."""


def spread_of(encode: Encode, size: int, frames: int, seed: int = 0) -> Spread:
    """Look at the embeddings of single frames, unseen handwriting all of them.

    Args:
        encode: of single frames.
        size: side of the canvas that the encoder knows.
        frames: in each of the sets that RankMe is taken of.
        seed: of the clips.
    """
    digits = MovingDigits("bounce", RANK_FOLDS * frames, 1, size, 1, seed + 2, "test")
    pictures = np.concatenate([digits.clip(number) for number in range(digits.videos)])
    embedded = torch.from_numpy(features_of(encode, pictures))
    return Spread([rank_me(fold, centre=False) for fold in embedded.split(frames)], float(embedded.std(dim=0).mean()))


def clips_of(digits: MovingDigits, numbers: Sequence[int], frames: Sequence[int]) -> np.ndarray:
    """Frames of some clips: uint8 ``(N, K, S, S, 3)``."""
    return np.stack([digits.clip(number, frames) for number in numbers])
