"""A linear probe: what frozen features say about the robot, on demonstrations that the regression never saw.

The features of single frames are regressed on what the camera only sees indirectly (the low-dimensional observations)
and, together with those, on the expert's actions. Random weights have a value too, at step 0: that one is to beat.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from rsp_robot.demonstrations import Demonstration, DemonstrationFile
from rsp_robot.errors import UserError
from rsp_robot.videos import VideoSource

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
"""Ridge strengths to choose from, relative to features of unit variance."""
TRAIN_SHARE = 0.75
"""Share of the frames that the regression learns from."""
INNER_SHARE = 0.2
"""Share of the training demonstrations that choose the ridge strength."""
ENCODED_AT_ONCE = 256
SMALLEST_STD = 1e-6
SMALLEST_SHARE = 1e-5
"""A feature that varies by less than this share of its size is rounding; it counts as constant."""

Encode = Callable[[np.ndarray], torch.Tensor | np.ndarray]


@dataclass(frozen=True)
class Rows:
    """Frames and what belongs to them, ``N`` of them."""

    frames: np.ndarray
    """uint8 ``(N, H, W, 3)``."""
    proprio: np.ndarray
    """float64 ``(N, P)``: all low-dimensional observations side by side."""
    actions: np.ndarray
    """float64 ``(N, A)``: the expert's where a demonstration has them, else what was executed."""
    demonstration: np.ndarray
    """int ``(N,)``: which demonstration a row is of."""


class Probe:
    """The same frames of training and held-out demonstrations at every call, read once and kept as uint8."""

    def __init__(self, train: Rows, held_out: Rows, seed: int = 0) -> None:
        """Fit what needs no features: the actions from the low-dimensional observations alone."""
        self.train, self.held_out, self.seed = train, held_out, seed
        self.actions_blind = self._r2(train.proprio, held_out.proprio, train.actions, held_out.actions)

    @classmethod
    def of(
        cls,
        source: VideoSource,
        train_videos: Sequence[int],
        held_out_videos: Sequence[int],
        most_frames: int = 2000,
        seed: int = 0,
    ) -> Probe | str:
        """Read the frames of a probe, or return the reason why there can be none.

        Args:
            source: where the pictures come from.
            train_videos: demonstrations that the regression learns from.
            held_out_videos: demonstrations that it is measured on.
            most_frames: frames in all, spread evenly; three quarters of them are of training demonstrations.
            seed: chooses the demonstrations that choose the ridge strength.

        Raises:
            UserError: the demonstrations are of different tasks.
        """
        chosen = [source.videos[video] for video in (*train_videos, *held_out_videos)]
        if any(video.format != "hdf5" or not video.episode for video in chosen):
            return "videos hold no actions or observations, a demonstration file (.hdf5) does"
        train_episodes = {(source.videos[video].path, source.videos[video].episode) for video in train_videos}
        if len(train_episodes) < 2 or not held_out_videos:
            held_out = len(held_out_videos)
            return f"it needs 2 demonstrations and 1 held out, there are {len(train_episodes)} and {held_out}"
        recorded = Recorded(source)
        keys = _low_dimensional(recorded.demonstration(train_videos[0]))
        if not keys:
            return f"{chosen[0].path} holds no low-dimensional observations such as proprio"
        share = round(TRAIN_SHARE * most_frames)
        train = _read(recorded, train_videos, keys, share)
        return cls(train, _read(recorded, held_out_videos, keys, most_frames - share), seed)

    def __call__(self, encode: Encode) -> dict[str, float]:
        """Measure an encoder.

        Args:
            encode: uint8 frames ``(B, H, W, 3)`` -> features ``(B, D)``.

        Returns:
            R² on the held-out demonstrations, 1 at best and 0 for a constant guess: ``probe_proprio`` (features to
            low-dimensional observations), ``probe_actions`` (features and those to actions), and
            ``probe_actions_blind`` (without features, the same at every call). NaN where a feature is not finite.
        """
        train, held_out = self.train, self.held_out
        features, unseen = features_of(encode, train.frames), features_of(encode, held_out.frames)
        seeing = np.concatenate([features, train.proprio], axis=1)
        seeing_unseen = np.concatenate([unseen, held_out.proprio], axis=1)
        return {
            "probe_proprio": self._r2(features, unseen, train.proprio, held_out.proprio),
            "probe_actions": self._r2(seeing, seeing_unseen, train.actions, held_out.actions),
            "probe_actions_blind": self.actions_blind,
        }

    def _r2(self, inputs: np.ndarray, unseen: np.ndarray, targets: np.ndarray, wanted: np.ndarray) -> float:
        return ridge_r2(inputs, targets, self.train.demonstration, unseen, wanted, self.seed)


def ridge_r2(
    inputs: np.ndarray,
    targets: np.ndarray,
    demonstration: np.ndarray,
    unseen: np.ndarray,
    wanted: np.ndarray,
    seed: int = 0,
) -> float:
    """R² of a ridge regression on rows it never saw, the mean over the targets that vary.

    The strength is the one of :data:`STRENGTHS` with which most of the demonstrations predict a fifth of them best:
    rows of one demonstration are alike, so that a split by rows would choose one that remembers demonstrations.

    Args:
        inputs: ``(N, D)`` to learn from, with ``targets`` ``(N, T)``.
        targets: ``(N, T)``.
        demonstration: ``(N,)``, which demonstration a row is of; two or more.
        unseen: ``(M, D)`` to predict from.
        wanted: ``(M, T)`` to predict.
        seed: chooses that fifth.

    Returns:
        At most 1; 0 is as good as the mean of ``wanted``. NaN where an input or target is not finite, or none varies.
    """
    if not all(np.isfinite(array).all() for array in (inputs, targets, unseen, wanted)):
        return math.nan
    spread = targets.std(axis=0)
    varies = (spread > SMALLEST_STD) & (wanted.std(axis=0) > 1e-3 * spread)
    if not varies.any():
        return math.nan
    targets, wanted = targets[:, varies], wanted[:, varies]
    inner = np.isin(demonstration, _inner_fold(np.unique(demonstration), seed))
    guesses = ridge_predict(inputs[~inner], targets[~inner], inputs[inner], STRENGTHS)
    errors = [np.mean(((guess - targets[inner]) / targets.std(axis=0)) ** 2) for guess in guesses]
    (predicted,) = ridge_predict(inputs, targets, unseen, [STRENGTHS[int(np.argmin(errors))]])
    unexplained = ((wanted - predicted) ** 2).mean(axis=0)
    return float(np.mean(1 - unexplained / wanted.var(axis=0)))


def _inner_fold(demonstrations: np.ndarray, seed: int) -> np.ndarray:
    count = max(1, round(INNER_SHARE * len(demonstrations)))
    return np.random.default_rng(seed).permutation(demonstrations)[:count]


def ridge_predict(
    inputs: np.ndarray, targets: np.ndarray, unseen: np.ndarray, strengths: Sequence[float]
) -> list[np.ndarray]:
    """Ridge regression in closed form, by one singular value decomposition for all strengths: ``(M, T)`` for each."""
    mean, std = inputs.mean(axis=0), inputs.std(axis=0)
    constant = std <= SMALLEST_SHARE * np.sqrt(mean**2 + std**2)
    scale = np.where(constant, np.inf, std)  # divided by infinity, a constant feature takes no part
    offset = targets.mean(axis=0)
    left, singular, right = np.linalg.svd((inputs - mean) / scale, full_matrices=False)
    projected, standardised = left.T @ (targets - offset), (unseen - mean) / scale
    predictions = []
    for strength in strengths:
        shrunk = singular / (singular**2 + strength * len(inputs))
        predictions.append(standardised @ (right.T @ (shrunk[:, None] * projected)) + offset)
    return predictions


@torch.no_grad()
def features_of(encode: Encode, frames: np.ndarray) -> np.ndarray:
    """Encode in batches: ``(N, H, W, 3)`` -> float64 ``(N, D)``."""
    parts = []
    for start in range(0, len(frames), ENCODED_AT_ONCE):
        found = encode(frames[start : start + ENCODED_AT_ONCE])
        array = found.detach().float().cpu().numpy() if isinstance(found, torch.Tensor) else np.asarray(found)
        parts.append(array.astype(np.float64))
    return np.concatenate(parts)


def _low_dimensional(demonstration: Demonstration) -> list[str]:
    """Names of the observations that are one number or one row of numbers per step."""
    found = demonstration.observations.items()
    return sorted(key for key, value in found if value.ndim <= 2 and value.dtype != np.uint8 and value.size)


class Recorded:
    """The demonstrations that videos are pictures of."""

    def __init__(self, source: VideoSource) -> None:
        self.source = source
        self.files: dict[str, DemonstrationFile] = {}
        self.numbers: dict[tuple[str, str], int] = {}

    def number(self, video: int) -> int:
        """Return a number that the videos of one demonstration share."""
        info = self.source.videos[video]
        return self.numbers.setdefault((info.path, info.episode), len(self.numbers))

    def demonstration(self, video: int) -> Demonstration:
        """Read the whole demonstration of a video."""
        info = self.source.videos[video]
        if info.path not in self.files:
            self.files[info.path] = DemonstrationFile(info.path)
        file = self.files[info.path]
        return file.read(file.names.index(info.episode))


def _read(recorded: Recorded, videos: Sequence[int], keys: Sequence[str], most: int) -> Rows:
    """Read at most so many frames, spread evenly over the demonstrations, with what belongs to them."""
    source = recorded.source
    ends = np.cumsum([source.videos[video].frames for video in videos])
    places = np.unique(np.linspace(0, ends[-1] - 1, min(most, int(ends[-1]))).round().astype(int))
    of = np.searchsorted(ends, places, side="right")
    frames, proprio, actions = [], [], []
    for index in np.unique(of):
        video = int(videos[index])
        steps = places[of == index] - (int(ends[index]) - source.videos[video].frames)
        demonstration = recorded.demonstration(video)
        frames.append(source.read(video, steps))
        proprio.append(_side_by_side(demonstration, keys)[steps])
        expert = demonstration.expert_actions
        actions.append((demonstration.actions if expert is None else expert)[steps])
    try:
        return Rows(
            np.concatenate(frames),
            np.concatenate(proprio).astype(np.float64),
            np.concatenate(actions).astype(np.float64),
            np.asarray([recorded.number(video) for video in videos])[of],
        )
    except ValueError:
        path = source.videos[videos[0]].path
        raise UserError(f"{path} has pictures, observations or actions of varying width; probe one task") from None


def _side_by_side(demonstration: Demonstration, keys: Sequence[str]) -> np.ndarray:
    """Low-dimensional observations as one array ``(T, P)``; those of the given names that are there."""
    found = [demonstration.observations[key] for key in keys if key in demonstration.observations]
    return np.concatenate([np.zeros((len(demonstration), 0)), *(array.reshape(len(array), -1) for array in found)], 1)
