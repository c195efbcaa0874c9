"""Replaying demonstrations: the recorded actions from the recorded state have to end as they did."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rsp_robot.demonstrations import DemonstrationFile, DemonstrationInfo
from rsp_robot.envs.registry import describe, make
from rsp_robot.envs.rendering import find_backend
from rsp_robot.envs.variation import Variation
from rsp_robot.envs.workers import run_tasks
from rsp_robot.errors import UserError
from rsp_robot.films import write_mp4
from rsp_robot.progress import Progress
from rsp_robot.versions import versions


@dataclass(frozen=True)
class ReplayConfig:
    """Which demonstrations to replay."""

    data: Path
    """A demonstration file of `rsp-robot collect`, *.hdf5."""
    demonstrations: int | None = None
    """How many of them, from the first; all by default."""
    film: bool = True
    """Make a film of the first one."""
    out: Path | None = None
    """The film to write, *.mp4; ``<name>-replay.mp4`` in the present folder by default. Not beside the data: a folder
    of data is searched for films."""
    camera: str | None = None
    """Camera of the film; the first recorded one by default."""
    workers: int = 2
    """Simulation processes."""


class Replayed(NamedTuple):
    """How the replay of one demonstration ended."""

    number: int
    recorded: int | None
    """First successful step of the recording."""
    found: int | None
    """First successful step of the replay."""
    drift: float
    """Largest difference of a number of the state from the recorded one, over all steps; 0 is bit for bit."""

    @property
    def same(self) -> bool:
        """Whether the replay succeeded as the recording did: at all, or not at all."""
        return (self.recorded is None) == (self.found is None)


class Replay(NamedTuple):
    """What a replay found."""

    rows: tuple[Replayed, ...]
    film: Path | None
    other_versions: tuple[str, ...]
    """Packages whose version differs from when the file was made, as ``name old -> new``."""

    @property
    def same(self) -> bool:
        """Whether every demonstration ended as recorded."""
        return all(row.same for row in self.rows)


def replay(config: ReplayConfig, quiet: bool = False) -> Replay:
    """Set the simulator to each demonstration's first state, take its actions, and compare what comes of it.

    Raises:
        UserError: the file holds no states, or its task is not known here.
    """
    with DemonstrationFile(config.data) as file:
        info, count = file.info, len(file)
        if file.read(0).states.shape[1] == 0:
            raise UserError(
                f"{config.data} holds no simulator states to start from; collect it with `rsp-robot collect`"
            )
    description = describe(info.task)
    if config.demonstrations is not None:
        count = min(count, config.demonstrations)
    if config.film:
        find_backend()
    found = versions()
    other = [
        f"{name} {info.versions.get(name, 'unknown')} -> {found.get(name, 'missing')}"
        for name in description.packages
        if info.versions.get(name) != found.get(name)
    ]
    rows = []
    with Progress(f"replay {info.task}", count, "demonstrations", quiet=quiet) as bar:
        for _, row in run_tasks(_start_worker, (config, info), iter(range(count)), config.workers):
            rows.append(row)
            bar.update(1)
    film = _film_of(config) if config.film else None
    return Replay(tuple(sorted(rows)), film, tuple(other))


def _start_worker(setup: tuple[ReplayConfig, DemonstrationInfo]) -> Callable[[int], Replayed]:
    config, info = setup
    env = make(info.task, cameras=(), horizon=info.horizon or None, variation=Variation(**info.vary))
    file = DemonstrationFile(config.data)

    def run(number: int) -> Replayed:
        demonstration = file.read(number)
        camera = config.camera or (file.info.cameras[0] if file.info.cameras else None)
        filmed = config.film and number == 0
        frames = []
        env.reset(seed=max(demonstration.seed, 0))
        env.set_state(demonstration.states[0])
        first, drift = None, 0.0
        for step, action in enumerate(demonstration.actions):
            drift = max(drift, largest_difference(env.get_state(), demonstration.states[step]))
            if filmed:
                frames.append(env.render(camera))
            _, _, _, _, outcome = env.step(action)
            if outcome["success"] and first is None:
                first = step
        if filmed:
            frames.append(env.render(camera))
            write_mp4(_film_of(config), np.stack(frames), env.fps)
        return Replayed(number, demonstration.first_success, first, drift)

    return run


def largest_difference(a: np.ndarray, b: np.ndarray) -> float:
    """Return the largest absolute difference; NaN equals NaN and is infinitely far from a number.

    >>> largest_difference(np.array([1.0, np.nan]), np.array([1.5, np.nan]))
    0.5
    """
    apart = np.where(np.isnan(a) & np.isnan(b), 0.0, np.abs(a - b))
    return float(np.nan_to_num(apart, nan=np.inf).max(initial=0.0))


def _film_of(config: ReplayConfig) -> Path:
    return config.out or Path(f"{config.data.stem}-replay.mp4")


def summary(found: Replay) -> list[str]:
    """Say what was found, a line each.

    >>> summary(Replay((Replayed(0, 31, 31, 0.0), Replayed(1, 40, None, 0.2)), None, ("mujoco 3.2.0 -> 3.3.0",)))[0]
    '1 of 2 demonstrations end as recorded, 1 of them bit for bit'
    """
    count, exact = len(found.rows), sum(row.same and row.drift == 0 for row in found.rows)
    same = sum(row.same for row in found.rows)
    lines = [f"{same} of {count} demonstrations end as recorded, {exact} of them bit for bit"]
    lines += [
        f"demonstration {row.number}: recorded {_when(row.recorded)}, replayed {_when(row.found)}, states differ by up "
        f"to {row.drift:.3g}"
        for row in islice((row for row in found.rows if not row.same), 10)
    ]
    if found.other_versions:
        lines.append(f"simulators differ from the recording's: {', '.join(found.other_versions)}")
    return lines


def _when(step: int | None) -> str:
    return "no success" if step is None else f"success at step {step}"
