"""How often the scripted experts succeed: an episode for each of some fresh seeds, with the noise of a collection."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

from rsp_robot.envs.collect import CollectConfig, record_episode
from rsp_robot.envs.registry import describe, make
from rsp_robot.envs.workers import run_tasks
from rsp_robot.errors import UserError
from rsp_robot.experiments.comparison.statistics import Interval, wilson_interval
from rsp_robot.files import append_jsonl, read_jsonl
from rsp_robot.progress import Progress
from rsp_robot.versions import versions

FIRST_SEED = 1_000_000
"""Seeds from here on: no collection of demonstrations comes this far."""


@dataclass(frozen=True)
class ExpertsConfig:
    """Which experts to measure, and how."""

    out: Path
    """The file of rows, *.jsonl, one per episode; the same command again runs only what is missing."""
    episodes: int = 50
    """Episodes per task."""
    action_noise: float = 0.1
    """Standard deviation of the noise added to the expert's actions, as in a collection."""
    horizon: int | None = None
    """Steps after which an episode counts as failed; each task's own by default."""
    seed: int = FIRST_SEED
    """Seed of the first episode."""
    workers: int = 2
    """Simulation processes."""

    def __post_init__(self) -> None:
        if self.episodes < 1 or self.workers < 1 or self.action_noise < 0 or self.seed < 0:
            raise UserError(
                "episodes and workers must be at least 1, noise and seed not negative; correct the settings"
            )


@dataclass(frozen=True)
class Measured:
    """What came of one expert."""

    task: str
    episodes: int
    successes: int
    interval: Interval
    """95 % by Wilson."""
    median_steps: float
    """To the first success, of the episodes that had one."""


def measure_experts(tasks: Sequence[str], config: ExpertsConfig, quiet: bool = False) -> list[Measured]:
    """Run what is missing of every task's episodes and sum up.

    Raises:
        UserError: nobody demonstrates one of the tasks, or the rows were made with other settings.
    """
    for task in tasks:
        if not describe(task).expert:
            raise UserError(f"nobody demonstrates {task}; leave it out")
    done = {(row["task"], row["seed"]): row for row in read_jsonl(config.out)}
    found = versions()
    for task in tasks:
        settings = _settings(task, config, found)
        known = {seed: row for (name, seed), row in done.items() if name == task}
        for row in known.values():
            if row["settings"] != settings:
                raise UserError(f"{config.out} has episodes of {task} with other settings; choose another --out")
        missing = [seed for seed in _seeds(config) if seed not in known]
        with Progress(f"expert of {task}", config.episodes, "episodes", config.episodes - len(missing), quiet) as bar:
            for seed, outcome in run_tasks(_start_worker, (task, config), iter(missing), config.workers):
                row = {"task": task, "seed": seed, **outcome, "settings": settings}
                append_jsonl(config.out, row)
                known[seed] = row
                bar.update(1, success=sum(row["success"] for row in known.values()) / len(known))
        done |= {(task, seed): row for seed, row in known.items()}
    return [_sum_up(task, [done[task, seed] for seed in _seeds(config)]) for task in tasks]


def _seeds(config: ExpertsConfig) -> range:
    return range(config.seed, config.seed + config.episodes)


def _settings(task: str, config: ExpertsConfig, found: dict[str, str]) -> dict[str, Any]:
    description = describe(task)
    packages = {name: found.get(name, "") for name in description.packages}
    return {
        "action_noise": config.action_noise,
        "horizon": config.horizon or description.horizon,
        "versions": packages,
    }


def _sum_up(task: str, rows: Sequence[dict[str, Any]]) -> Measured:
    steps = [row["steps"] for row in rows if row["success"]]
    interval = wilson_interval(len(steps), len(rows))
    return Measured(task, len(rows), len(steps), interval, median(steps) if steps else float("nan"))


def _start_worker(setup: tuple[str, ExpertsConfig]) -> Callable[[int], dict[str, Any]]:
    from rsp_robot.envs.experts import make_expert

    task, config = setup
    env = make(task, cameras=(), horizon=config.horizon)
    expert = make_expert(task, env)
    collection = CollectConfig(task, Path(), action_noise=config.action_noise, steps_after_success=0)

    def attempt(seed: int) -> dict[str, Any]:
        demonstration = record_episode(env, expert, seed, collection)
        return {"success": demonstration.first_success is not None, "steps": len(demonstration)}

    return attempt


def table(measured: Sequence[Measured], style: Literal["plain", "markdown"] = "plain") -> Iterator[str]:
    """Write the table, line by line."""
    if style == "markdown":
        yield "| task | successes | 95 % interval | median steps |"
        yield "|---|---|---|---|"
    for row in measured:
        interval = f"{row.interval.low:.0%} to {row.interval.high:.0%}"
        cells = (row.task, f"{row.successes}/{row.episodes}", interval, f"{row.median_steps:.0f}")
        if style == "markdown":
            yield f"| {' | '.join(cells)} |"
        else:
            yield f"{cells[0]:42} {cells[1]:>8}  {cells[2]:>14}  {cells[3]:>6} steps"
