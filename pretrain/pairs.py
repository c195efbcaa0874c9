"""Frame pairs from videos: a current frame and one a random gap later."""

from __future__ import annotations

import numpy as np

from rsp_robot.errors import UserError
from rsp_robot.videos import VideoSource

MEMORY_LIMIT = 4 * 2**30
"""Decoded frames up to this many bytes are kept in memory; larger sources are read pair by pair."""


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


class FramePairs:
    """Draw batches of frame pairs from a video source; the same generator state gives the same batch."""

    def __init__(self, source: VideoSource, min_gap: int, max_gap: int) -> None:
        """Check the videos and keep them in memory if they fit.

        Raises:
            UserError: there are no videos, one is too short for the smallest gap, or their pictures differ in size.
        """
        if len(source) == 0:
            raise UserError("there are no videos to learn from; check --data")
        self.source, self.min_gap, self.max_gap = source, min_gap, max_gap
        self.lengths = [source.length(video) for video in range(len(source))]
        shortest = int(np.argmin(self.lengths))
        if self.lengths[shortest] <= min_gap:
            raise UserError(
                f"video {shortest} has {self.lengths[shortest]} frames, a gap of {min_gap} needs {min_gap + 1}; "
                "lower the smallest gap or leave the video out"
            )
        shapes = {source.read(video, [0]).shape[1:]: video for video in range(len(source))}
        if len(shapes) > 1:
            (a, b), (i, j) = list(shapes)[:2], list(shapes.values())[:2]
            raise UserError(
                f"pictures differ in size: {a[1]}x{a[0]} in video {i}, {b[1]}x{b[0]} in video {j}; make them equal"
            )
        frame_bytes = int(np.prod(next(iter(shapes))))
        self._memory: list[np.ndarray] | None = None
        if sum(self.lengths) * frame_bytes <= MEMORY_LIMIT:
            self._memory = [source.read(video, np.arange(length)) for video, length in enumerate(self.lengths)]

    @property
    def frames(self) -> int:
        """Frames in all videos together."""
        return sum(self.lengths)

    def read(self, video: int, frames: tuple[int, ...]) -> np.ndarray:
        """Return uint8 ``(K, H, W, 3)``."""
        if self._memory is not None:
            return self._memory[video][list(frames)]
        return self.source.read(video, frames)

    def sample(self, batch: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draw ``batch`` pairs, videos uniformly: current and future frames, uint8 ``(batch, H, W, 3)`` each."""
        videos = rng.integers(0, len(self.lengths), size=batch).tolist()
        pairs = [self.read(video, draw_pair(self.lengths[video], self.min_gap, self.max_gap, rng)) for video in videos]
        stacked = np.stack(pairs)
        return np.ascontiguousarray(stacked[:, 0]), np.ascontiguousarray(stacked[:, 1])

    def spread(self, count: int) -> np.ndarray:
        """Return ``count`` frames spread evenly over all videos, uint8 ``(count, H, W, 3)``: the same at every call."""
        places = np.linspace(0, self.frames - 1, count).round().astype(int)
        starts = np.concatenate([[0], np.cumsum(self.lengths)])
        videos = np.searchsorted(starts, places, side="right") - 1
        return np.concatenate([self.read(int(v), (int(p - starts[v]),)) for v, p in zip(videos, places, strict=True)])
