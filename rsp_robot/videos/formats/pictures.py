"""Arrays of pictures: which shapes are videos, how they become RGB, and what to say of those that do not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CHANNELS = (1, 3, 4)
"""Grey, RGB, RGB with alpha."""
WANTED = "uint8 in [0, 255] of shape (T, H, W, 3)"


@dataclass(frozen=True)
class Layout:
    """How the frames of an array ``(T, ...)`` are laid out."""

    frames: int
    height: int
    width: int
    channels: int
    channels_first: bool

    @property
    def frame(self) -> tuple[int, ...]:
        """Shape of one frame; grey frames have their channel too."""
        if self.channels_first:
            return self.channels, self.height, self.width
        return self.height, self.width, self.channels

    @property
    def frame_bytes(self) -> int:
        """Size of one frame as stored."""
        return self.height * self.width * self.channels

    def to_rgb(self, frames: np.ndarray) -> np.ndarray:
        """Turn frames as stored ``(K, ...)`` into uint8 ``(K, H, W, 3)``: grey is repeated, alpha dropped."""
        frames = frames.reshape(len(frames), *self.frame)
        if self.channels_first:
            frames = frames.transpose(0, 2, 3, 1)
        if self.channels == 1:
            frames = np.broadcast_to(frames, (*frames.shape[:3], 3))
        return np.ascontiguousarray(frames[..., :3])


def layout(shape: Sequence[int], dtype: np.dtype) -> Layout | None:
    """Return how an array is a video, or None if it is none.

    uint8 ``(T, H, W)``, ``(T, H, W, 1 | 3 | 4)``, or ``(T, 1 | 3, H, W)`` where the last axis cannot be the channels.
    Three axes that end in 3 or 4 are one picture with channels, not a video.
    """
    if dtype != np.uint8 or len(shape) not in (3, 4) or min(shape) < 1:
        return None
    T, *rest = (int(size) for size in shape)
    if len(rest) == 2:
        return None if rest[1] in CHANNELS else Layout(T, rest[0], rest[1], 1, False)
    if rest[2] in CHANNELS:
        return Layout(T, rest[0], rest[1], rest[2], False)
    return Layout(T, rest[1], rest[2], rest[0], True) if rest[0] in (1, 3) else None


def why_not(shape: Sequence[int], dtype: np.dtype) -> str:
    """Say why an array is not a video, and what to do."""
    if dtype.hasobject:
        return f"holds Python objects (a pickle), which are never loaded; store {WANTED}"
    if dtype != np.uint8:
        return f"is {dtype}; store {WANTED}"
    if 0 in shape:
        return f"is empty, of shape {tuple(shape)}; remove it"
    if len(shape) == 3:
        return f"is one picture, of shape {tuple(shape)}; store the frames of a video together, {WANTED}"
    return f"has shape {tuple(shape)}, not that of a video; store {WANTED}"


def placed(frames: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Put distinct frames, in order, to where they are wanted; ``where`` is the inverse of :func:`numpy.unique`."""
    return frames if np.array_equal(where, np.arange(len(frames))) else frames[where]


def reason(error: BaseException) -> str:
    """First line of an error's message, short enough for a list."""
    lines = str(error).strip("'\" \n").splitlines()
    return lines[0][:200] if lines else type(error).__name__
