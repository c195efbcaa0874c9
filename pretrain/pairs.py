"""Frame pairs from videos: a current frame and one a random gap later, as a pure function of seed and step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from rsp_robot.errors import UserError
from rsp_robot.pretrain.objectives.base import PairSpec
from rsp_robot.videos import VideoSource

MEMORY_LIMIT = 4 * 2**30
"""Decoded frames up to this many bytes are kept in memory; larger sources are read pair by pair."""


def split_videos(source: VideoSource, holdout: float) -> tuple[list[int], list[int]]:
    """Split videos into those to learn from and the last ones, a share ``holdout``, that training never sees.

    Raises:
        UserError: nothing would be left to learn from.
    """
    held_out = math.ceil(holdout * len(source))
    if held_out >= len(source) > 0:
        raise UserError(f"a holdout of {holdout} leaves none of {len(source)} videos to learn from; lower --holdout")
    videos = list(range(len(source)))
    return videos[: len(videos) - held_out], videos[len(videos) - held_out :]


def draw_pair(length: int, min_gap: int, max_gap: int, rng: np.random.Generator) -> tuple[int, int]:
    """Draw the two frame indices of a pair as RSP does (section 4, and the published data loader).

    The gap is uniform in ``min_gap..max_gap`` and the current frame uniform among those from which even the largest gap
    stays inside the video. A video too short for that gives two different frames in order.
    """
    if length > max_gap:
        current = int(rng.integers(0, length - max_gap))
        return current, current + int(rng.integers(min_gap, max_gap + 1))
    first, second = sorted(rng.choice(length, size=2, replace=False).tolist())
    return first, second


def visit(videos: int, first: int, count: int, seed: int) -> np.ndarray:
    """Positions ``first .. first + count`` of an endless walk that visits every video once before any comes again.

    >>> sorted(visit(5, 10, 5, seed=0).tolist())
    [0, 1, 2, 3, 4]
    """
    walk = np.arange(first, first + count)
    epochs = walk // videos
    return np.array([_order(videos, seed, int(epoch))[i] for epoch, i in zip(epochs, walk % videos, strict=True)])


@lru_cache(maxsize=4)
def _order(videos: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch, videos]).permutation(videos)


class FramePairs:
    """Frame pairs of some videos of a source; the same seed and step give the same pairs, whoever asks."""

    def __init__(self, source: VideoSource, spec: PairSpec, videos: Sequence[int] | None = None) -> None:
        """Check the videos and keep them in memory if they fit.

        Args:
            source: where the videos are.
            spec: range of gaps.
            videos: which of them to use; all by default.

        Raises:
            UserError: there are no videos, one is too short for the smallest gap, or their pictures differ in size.
        """
        self.videos = list(range(len(source)) if videos is None else videos)
        if not self.videos:
            raise UserError("there are no videos to learn from; check --data and --holdout")
        self.source, self.spec = source, spec
        self.lengths = [source.length(video) for video in self.videos]
        shortest = int(np.argmin(self.lengths))
        if self.lengths[shortest] <= spec.min_gap:
            raise UserError(
                f"video {self.videos[shortest]} has {self.lengths[shortest]} frames, a gap of {spec.min_gap} needs "
                f"{spec.min_gap + 1}; lower the smallest gap or leave the video out"
            )
        shapes = {source.read(video, [0]).shape[1:]: video for video in self.videos}
        if len(shapes) > 1:
            (a, b), (i, j) = list(shapes)[:2], list(shapes.values())[:2]
            raise UserError(
                f"pictures differ in size: {a[1]}x{a[0]} in video {i}, {b[1]}x{b[0]} in video {j}; make them equal"
            )
        self._memory: list[np.ndarray] | None = None
        if self.frames * int(np.prod(next(iter(shapes)))) <= MEMORY_LIMIT:
            self._memory = [
                source.read(video, np.arange(length)) for video, length in zip(self.videos, self.lengths, strict=True)
            ]

    def __len__(self) -> int:
        """Number of videos."""
        return len(self.videos)

    @property
    def frames(self) -> int:
        """Frames in all videos together."""
        return sum(self.lengths)

    def draw(self, step: int, batch: int, repeats: int = 1, seed: int = 0) -> np.ndarray:
        """Draw the pairs of one optimiser step: ``repeats`` from each of the next ``batch`` videos of the walk.

        Returns:
            ``(batch · repeats, 3)``: place of the video among :attr:`videos`, current frame, future frame.
        """
        rng = np.random.default_rng([seed, step])
        chosen = np.repeat(visit(len(self.videos), step * batch, batch, seed), repeats)
        gaps = self.spec.min_gap, self.spec.max_gap
        return np.array([(video, *draw_pair(self.lengths[video], *gaps, rng)) for video in chosen.tolist()])

    def read(self, drawn: np.ndarray) -> np.ndarray:
        """Read the frames of some rows of :meth:`draw`: ``(B, 3)`` -> uint8 ``(B, 2, H, W, 3)``."""
        return np.stack([self.read_frames(row[0], row[1:]) for row in drawn.tolist()])

    def read_frames(self, place: int, frames: Sequence[int]) -> np.ndarray:
        """Read frames of the video at a place among :attr:`videos`: uint8 ``(K, H, W, 3)``."""
        if self._memory is not None:
            return self._memory[place][list(frames)]
        return self.source.read(self.videos[place], frames)

    def spread(self, count: int) -> np.ndarray:
        """Return ``count`` frames spread evenly over all videos, uint8 ``(count, H, W, 3)``: the same at every call."""
        places = np.linspace(0, self.frames - 1, count).round().astype(int)
        starts = np.concatenate([[0], np.cumsum(self.lengths)])
        videos = np.searchsorted(starts, places, side="right") - 1
        return np.concatenate(
            [self.read_frames(int(v), (int(p - starts[v]),)) for v, p in zip(videos, places, strict=True)]
        )
