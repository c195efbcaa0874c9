"""The size at which frames are kept: their short side reduced, their proportions left as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F

from rsp_robot.videos.info import UnreadableVideo, VideoInfo

PIECE_BYTES = 256 * 2**20
"""Frames are decoded in pieces of at most this many bytes (but at least one frame), so that memory stays bounded.

Most demonstrations are one piece: a decoder that can only seek to keyframes starts over with every piece.
"""

Reader = Callable[[np.ndarray], np.ndarray]
"""Frame numbers int64 ``(K,)`` -> uint8 ``(K, H, W, 3)``."""


def reduced_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Return the height and width whose shorter one is ``short_side``; never larger than before, never below a pixel.

    The longer side is rounded to the nearest pixel, halves up.

    Raises:
        ValueError: a size is below 1.

    >>> reduced_size(480, 640, 256)
    (256, 341)
    >>> reduced_size(100, 80, 256)
    (100, 80)
    """
    short = min(height, width)
    if short < 1 or short_side < 1:
        raise ValueError(f"a picture of {height}x{width} cannot have a short side of {short_side}")
    if short <= short_side:
        return height, width
    return (height * short_side * 2 + short) // (2 * short), (width * short_side * 2 + short) // (2 * short)


def reduce(frames: np.ndarray, short_side: int) -> np.ndarray:
    """Resize frames to :func:`reduced_size`, bicubic and antialiased.

    Frames that are small enough are returned as they are, not copied. PyTorch's kernel for bytes agrees with Pillow's
    to a level of 255 (save where the filter overshoots black or white) and is seven times as fast.

    Args:
        frames: uint8 ``(K, H, W, 3)``.
        short_side: pixels.

    Returns:
        uint8 ``(K, h, w, 3)``, contiguous unless it is the argument.
    """
    height, width = frames.shape[1:3]
    size = reduced_size(height, width, short_side)
    if size == (height, width):
        return frames
    if not len(frames):
        return np.empty((0, *size, 3), np.uint8)
    pixels = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)
    resized = F.interpolate(pixels, size, mode="bicubic", antialias=True, align_corners=False)
    return resized.permute(0, 2, 3, 1).contiguous().numpy()


def reduced_pieces(read: Reader, video: VideoInfo, short_side: int) -> Iterator[np.ndarray]:
    """Read a whole video from front to back, a bounded number of frames at a time, and reduce them.

    Yields:
        uint8 ``(k, h, w, 3)``, contiguous; all of them together are the video.

    Raises:
        UnreadableVideo: the frames are not those that were announced.
        OSError: the file is gone.
    """
    step = max(1, PIECE_BYTES // (video.height * video.width * 3))
    for start in range(0, video.frames, step):
        wanted = np.arange(start, min(start + step, video.frames))
        frames = read(wanted)
        expected = (len(wanted), video.height, video.width, 3)
        if frames.shape != expected or frames.dtype != np.uint8:
            raise UnreadableVideo(
                f"{video.name} gave frames {frames.dtype} {frames.shape} where uint8 {expected} was announced; "
                "it changed, run the same command again"
            )
        yield np.ascontiguousarray(reduce(frames, short_side))
