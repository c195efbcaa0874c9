"""Does the written program compute what the encoder computes, and how long does it take?"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rsp_robot.errors import UserError
from rsp_robot.threads import one_thread

Run = Callable[[np.ndarray], np.ndarray]  # uint8 (B, H, W, 3) -> float32 (B, ...)
TOLERANCE = 1e-4
HALF_TOLERANCE = 2e-2
FEWEST_RUNS, MOST_RUNS, TIMING_S = 5, 50, 2.0


@dataclass(frozen=True)
class Parity:
    """How a written program compares with the encoder it was made of."""

    absolute: float
    """Largest difference of a single number of the embeddings."""
    relative: float
    """Largest distance of two embeddings of one frame, over the length of the original's."""
    tolerance: float
    """Largest ``relative`` that is accepted."""


@dataclass(frozen=True)
class Latency:
    """Median milliseconds for one frame alone, on one thread."""

    original: float
    """Through the encoder itself."""
    written: float
    """Through the written program."""


def compare(original: Run, written: Run, frame_size: tuple[int, int], tolerance: float = TOLERANCE) -> Parity:
    """Run both on the same frames, at batch 5 and batch 1.

    Raises:
        UserError: the programs differ by more than ``tolerance``.
    """
    frames = check_frames(*frame_size)
    pairs = [(original(batch), written(batch)) for batch in (frames, frames[:1], frames[2:3])]
    absolute, relative = (max(values) for values in zip(*(difference(*pair) for pair in pairs), strict=True))
    if not relative <= tolerance:  # not `>`: NaN must not pass
        raise UserError(
            f"the exported program differs from the encoder by {relative:.1e} of an embedding's length, more than "
            f"{tolerance:.0e}; nothing was kept, use format folder"
        )
    return Parity(absolute, relative, tolerance)


def difference(expected: np.ndarray, found: np.ndarray) -> tuple[float, float]:
    """Return the largest absolute and the largest relative difference of embeddings ``(B, ...)``; see :class:`Parity`.

    NaN or a result of another shape counts as infinitely far away.
    """
    if expected.shape != found.shape or not (np.isfinite(expected).all() and np.isfinite(found).all()):
        return np.inf, np.inf
    expected, found = (array.reshape(len(array), -1).astype(np.float64) for array in (expected, found))
    distance = np.linalg.norm(found - expected, axis=1)
    length = np.maximum(np.linalg.norm(expected, axis=1), 1e-12)
    return float(np.abs(found - expected).max()), float((distance / length).max())


def check_frames(height: int, width: int) -> np.ndarray:
    """Return frames uint8 ``(5, height, width, 3)``: noise, a wavy ramp, and contrasts that make resizing overshoot."""
    rows, columns, channels = np.ogrid[:height, :width, :3]
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    ramp = (7 * rows + 13 * columns + 61 * channels + rows * columns // 5) % 256
    board = 255 * ((rows // 3 + columns // 3 + channels) % 2)
    halves = np.where(columns < width // 2, 0, 255) + 0 * (rows + channels)
    black = 0 * (rows + columns + channels)
    return np.stack([noise, *(picture.astype(np.uint8) for picture in (ramp, board, halves, black))])


def latencies_ms(runs: list[Run], frames: np.ndarray) -> list[float]:
    """Return the median milliseconds of each of ``runs`` on ``frames``, on one thread.

    They take turns, so that a busy moment of the machine hits them alike.
    """
    taken: list[list[float]] = [[] for _ in runs]
    with one_thread():
        for run in runs:
            run(frames)
        until = time.perf_counter() + TIMING_S
        while len(taken[0]) < FEWEST_RUNS or (len(taken[0]) < MOST_RUNS and time.perf_counter() < until):
            for run, times in zip(runs, taken, strict=True):
                start = time.perf_counter()
                run(frames)
                times.append(1000 * (time.perf_counter() - start))
    return [statistics.median(times) for times in taken]
