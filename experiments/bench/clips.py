"""Films to measure loading on: what a camera sees of a moving arm, as ordinary H.264."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rsp_robot.films import write_mp4


def write_clips(folder: Path, clips: int, seconds: float, height: int, width: int, fps: int = 30) -> None:
    """Write ``clips`` films with the encoder's usual settings (crf 23, medium, a key frame every 250 at most)."""
    for number in range(clips):
        frames = moving_scene(round(seconds * fps), height, width, np.random.default_rng([number, height, width]))
        write_mp4(folder / f"{number:03}.mp4", frames, fps)


def moving_scene(length: int, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """A textured table in front of a wall, seen by a camera with some noise, over which two blocks and an arm move.

    Returns:
        uint8 ``(length, height, width, 3)``.
    """
    coarse = rng.uniform(60, 190, (height // 8 + 2, width // 8 + 2, 3))
    table = np.kron(coarse, np.ones((8, 8, 1)))[:height, :width] + rng.normal(0, 6, (height, width, 3))
    y, x = np.mgrid[:height, :width]
    frames = np.empty((length, height, width, 3), np.uint8)
    phases, speeds = rng.uniform(0, 2 * np.pi, 6), rng.uniform(0.02, 0.08, 6)
    for t in range(length):
        picture = table.copy()
        for block in range(2):
            top = (0.5 + 0.3 * np.sin(phases[block] + speeds[block] * t)) * height
            left = (0.5 + 0.4 * np.sin(phases[block + 2] + speeds[block + 2] * t)) * width
            picture[(abs(y - top) < height / 12) & (abs(x - left) < height / 12)] = (200, 40 + 150 * block, 60)
        angle = 0.8 * np.sin(phases[4] + speeds[4] * t)
        elbow = abs((x - width / 2) * np.cos(angle) - y * np.sin(angle))
        picture[(elbow < width / 30) & (y < 0.7 * height)] = (70, 70, 80)
        frames[t] = np.clip(picture + rng.normal(0, 2, (height, width, 1)), 0, 255)
    return frames
