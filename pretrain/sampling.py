"""Which frames of a video make one sample: a pair, a clip, one frame or one twice, as functions of uniform numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from rsp_robot.errors import UserError

Unit = Literal["frames", "seconds"]


class SampleSpec(Protocol):
    """Says which frames one sample holds."""

    @property
    def count(self) -> int:
        """Frames of one sample, K."""

    @property
    def needs_fps(self) -> bool:
        """Whether it means nothing in a video of unknown frame rate."""

    def shortest(self, fps: float) -> int:
        """Return the frames that a video has to have."""

    def draw(self, lengths: np.ndarray, fps: np.ndarray, uniform: np.ndarray) -> np.ndarray:
        """Choose frames, one sample from each video.

        Args:
            lengths: int ``(B,)``, frames of the videos, each at least :meth:`shortest`.
            fps: ``(B,)``, their frames per second.
            uniform: ``(B, 2)``, uniform in [0, 1): all that is random.

        Returns:
            int ``(B, K)``, in each row never descending.
        """

    def describe(self) -> str:
        """Say it to a person."""


@dataclass(frozen=True)
class PairSpec:
    """Two frames of one video: the current one and one a random gap later (RSP, section 4, and its data loader).

    The gap is uniform between the two bounds and the current frame uniform among those from which even the largest gap
    stays inside the video. A video too short for that gives any two different frames in order, as published.
    """

    min_gap: float
    """Smallest gap."""
    max_gap: float
    """Largest gap."""
    unit: Unit = "frames"
    """What gaps are counted in. In seconds, demonstrations at 10 and at 60 frames per second mean the same."""

    count = 2

    def __post_init__(self) -> None:
        least = 1 if self.unit == "frames" else 0
        if not least <= self.min_gap <= self.max_gap or self.max_gap <= 0:
            raise UserError(
                f"gap range {self.min_gap:g}..{self.max_gap:g} is empty; need {least} <= min_gap <= max_gap"
            )
        if self.unit == "frames" and (self.min_gap % 1 or self.max_gap % 1):
            raise UserError(
                f"gaps of {self.min_gap:g} to {self.max_gap:g} frames; give whole ones, or the unit seconds"
            )

    @property
    def needs_fps(self) -> bool:
        """Whether gaps are in seconds."""
        return self.unit == "seconds"

    def shortest(self, fps: float) -> int:
        """Return 2: in a short video any two frames make a pair."""
        return 2

    def at(self, fps: float) -> PairSpec:
        """Return the same pairs in frames, at this frame rate."""
        smallest, largest = self.gaps(np.array([fps], dtype=float))
        return PairSpec(int(smallest[0]), int(largest[0]))

    def gaps(self, fps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the bounds in frames at these frame rates, each int ``(B,)``, at least 1."""
        scale = np.asarray(fps) if self.unit == "seconds" else np.ones_like(fps)
        smallest = np.maximum(1, np.rint(self.min_gap * scale).astype(np.int64))
        return smallest, np.maximum(smallest, np.rint(self.max_gap * scale).astype(np.int64))

    def draw(self, lengths: np.ndarray, fps: np.ndarray, uniform: np.ndarray) -> np.ndarray:
        """Choose current and future frames: int ``(B, 2)``."""
        smallest, largest = self.gaps(fps)
        current = _below(lengths - largest, uniform[:, 0])
        future = current + smallest + _below(largest - smallest + 1, uniform[:, 1])
        one, other = _below(lengths, uniform[:, 0]), _below(lengths - 1, uniform[:, 1])
        other = other + (other >= one)
        short = np.stack([np.minimum(one, other), np.maximum(one, other)], axis=1)
        return np.where((lengths > largest)[:, None], np.stack([current, future], axis=1), short)

    def describe(self) -> str:
        """Say the range of gaps."""
        return f"pairs, {self.min_gap:g} to {self.max_gap:g} {self.unit} apart"


@dataclass(frozen=True)
class ClipSpec:
    """Frames of one video at equal distances, from a start anywhere it fits."""

    length: int
    """Frames of the clip, K."""
    stride: float = 1
    """Distance between neighbours."""
    unit: Unit = "frames"
    """What the stride is counted in."""

    def __post_init__(self) -> None:
        if self.length < 1 or self.stride <= 0 or (self.unit == "frames" and self.stride % 1):
            raise UserError(
                f"clips of {self.length} frames, {self.stride:g} {self.unit} apart; give 1 or more, and whole frames"
            )

    @property
    def count(self) -> int:
        """Frames of the clip."""
        return self.length

    @property
    def needs_fps(self) -> bool:
        """Whether the stride is in seconds."""
        return self.unit == "seconds"

    def offsets(self, fps: np.ndarray) -> np.ndarray:
        """Return the distance of each frame from the first at these frame rates: int ``(B, K)``."""
        scale = np.asarray(fps) if self.unit == "seconds" else np.ones_like(fps)
        apart = np.arange(self.length) * self.stride
        return np.rint(np.maximum(scale[:, None] * apart, np.arange(self.length))).astype(np.int64)

    def shortest(self, fps: float) -> int:
        """Return the frames from the first to the last one."""
        return int(self.offsets(np.array([fps], dtype=float))[0, -1]) + 1

    def draw(self, lengths: np.ndarray, fps: np.ndarray, uniform: np.ndarray) -> np.ndarray:
        """Choose the frames of clips: int ``(B, K)``."""
        offsets = self.offsets(fps)
        return _below(lengths - offsets[:, -1], uniform[:, 0])[:, None] + offsets

    def describe(self) -> str:
        """Say length and stride."""
        return f"clips of {self.length} frames, {self.stride:g} {self.unit} apart"


@dataclass(frozen=True)
class FrameSpec:
    """A single frame, any of the video."""

    count = 1
    needs_fps = False

    def shortest(self, fps: float) -> int:
        """Return 1."""
        return 1

    def draw(self, lengths: np.ndarray, fps: np.ndarray, uniform: np.ndarray) -> np.ndarray:
        """Choose frames: int ``(B, 1)``."""
        return _below(lengths, uniform[:, 0])[:, None]

    def describe(self) -> str:
        """Say it."""
        return "single frames"


@dataclass(frozen=True)
class CropPairSpec:
    """One frame of the video twice: as it is cropped, and a smaller crop inside that one (CropMAE, global to local)."""

    smallest: float
    """Smallest area of the inner crop as a share of the outer one."""
    largest: float
    """Largest area of the inner crop as a share of the outer one."""

    count = 2
    needs_fps = False

    def __post_init__(self) -> None:
        if not 0 < self.smallest <= self.largest <= 1:
            raise UserError(
                f"crops of {self.smallest:g} to {self.largest:g} inside another; need 0 < smallest <= largest <= 1"
            )

    def shortest(self, fps: float) -> int:
        """Return 1."""
        return 1

    def draw(self, lengths: np.ndarray, fps: np.ndarray, uniform: np.ndarray) -> np.ndarray:
        """Choose frames: int ``(B, 2)``, the same twice."""
        return _below(lengths, uniform[:, 0])[:, None].repeat(2, axis=1)

    def describe(self) -> str:
        """Say it."""
        return f"single frames, each with a crop of {self.smallest:g} to {self.largest:g} of it"


def _below(bounds: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """Turn uniform numbers into integers in ``[0, bound)``."""
    return np.minimum((uniform * bounds).astype(np.int64), bounds - 1)
