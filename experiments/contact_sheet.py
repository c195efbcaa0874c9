"""A picture of every task on one sheet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from rsp_robot.envs.registry import make
from rsp_robot.envs.rendering import Quality, find_backend
from rsp_robot.envs.workers import run_tasks
from rsp_robot.files import atomic_path
from rsp_robot.progress import Progress

CAPTION = 14
"""Pixels below each picture for its name."""


def draw_sheet(
    tasks: Sequence[str], path: Path, size: int = 128, columns: int = 10, quality: Quality = "full", workers: int = 2
) -> Path:
    """Draw the first picture of seed 0 of every task through its default camera, with its name below.

    Raises:
        UserError: a suite is not installed, or there is no OpenGL.
    """
    find_backend()
    pictures: dict[str, np.ndarray] = {}
    with Progress("pictures", len(tasks), "tasks") as bar:
        for task, picture in run_tasks(_start_worker, (size, quality), iter(tasks), workers):
            pictures[task] = picture
            bar.update(1)
    rows = -(-len(tasks) // columns)
    sheet = Image.new("RGB", (columns * size, rows * (size + CAPTION)), "white")
    draw = ImageDraw.Draw(sheet)
    for place, task in enumerate(tasks):
        left, top = place % columns * size, place // columns * (size + CAPTION)
        sheet.paste(Image.fromarray(pictures[task]), (left, top))
        draw.text((left + 3, top + size + 1), fitting(task, size - 6, draw), fill="black")
    with atomic_path(path) as temporary:
        sheet.save(temporary, format="PNG", optimize=True)
    return path


def fitting(text: str, width: float, draw: ImageDraw.ImageDraw) -> str:
    """Cut a name's suite, then its end, until it fits."""
    if draw.textlength(text) > width:
        text = text.partition("/")[2]
    while draw.textlength(text) > width:
        text = text[:-1]
    return text


def _start_worker(setup: tuple[int, Quality]) -> Callable[[str], np.ndarray]:
    size, quality = setup

    def picture(task: str) -> np.ndarray:
        env = make(task, image_size=size, quality=quality)
        try:
            observation, _ = env.reset(seed=0)
            shown: np.ndarray = observation[env.cameras[0]]
            return shown
        finally:
            env.close()

    return picture
