"""What a corpus is: demonstrations of many tasks, collected in parts that differ in cameras, look and rendering."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rsp_robot.envs.collect import CollectConfig
from rsp_robot.envs.registry import find_task
from rsp_robot.envs.rendering import Quality
from rsp_robot.envs.variation import Variation


@dataclass(frozen=True)
class Part:
    """Demonstrations that were made alike."""

    name: str
    """Names the folder of its files."""
    tasks: tuple[str, ...]
    """Task ids."""
    cameras: tuple[str, ...]
    """Cameras that film every episode."""
    demonstrations: int
    """Successful episodes of each task."""
    seed: int
    """First seed."""
    horizon: int | None = None
    """Steps after which an attempt is given up; None for the task's own."""
    quality: Quality = "lean"
    """Rendering quality."""
    vary: Variation = field(default_factory=Variation)
    """How much the look differs from episode to episode."""
    action_noise: float = 0.1
    """Standard deviation of the noise on the expert's actions."""


@dataclass(frozen=True)
class Corpus:
    """A recipe for demonstrations to pretrain on."""

    name: str
    """What it is called."""
    image_size: int
    """Side of the pictures in pixels."""
    parts: tuple[Part, ...]
    """What it consists of."""
    held_out: tuple[str, ...] = ()
    """Tasks that are no part of it, for evaluating on what pretraining never saw."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """All tasks, each once."""
        return tuple(dict.fromkeys(task for part in self.parts for task in part.tasks))

    @property
    def suites(self) -> tuple[str, ...]:
        """The suites of the tasks, in order."""
        return tuple(dict.fromkeys(suite_of(task) for task in self.tasks))

    def collections(self, folder: Path, workers: int) -> Iterator[CollectConfig]:
        """Yield what has to be collected; a suite's files lie together, ``<folder>/<suite>/<part>/<task>.hdf5``."""
        for part in self.parts:
            for task in part.tasks:
                suite, name = task.split("/")
                yield CollectConfig(
                    task=task,
                    out=folder / suite / part.name / f"{name}.hdf5",
                    demonstrations=part.demonstrations,
                    cameras=part.cameras,
                    image_size=self.image_size,
                    quality=part.quality,
                    vary=part.vary,
                    action_noise=part.action_noise,
                    horizon=part.horizon,
                    seed=part.seed,
                    workers=workers,
                )


def suite_of(task: str) -> str:
    """Return the suite of a task id.

    >>> suite_of("metaworld/push-v3")
    'metaworld'

    Raises:
        UserError: there is no such task.
    """
    return find_task(task)[0].name
