"""``rsp-robot tasks``: what can be simulated, in a table, in full, or in pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

from rsp_robot.envs.registry import TaskDescription, describe, list_tasks, load_suite
from rsp_robot.envs.rendering import Quality
from rsp_robot.experiments.verbs.collect import matching_tasks


@dataclass(frozen=True)
class TasksCommand:
    """Which tasks to show."""

    tasks: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[TASK ...]")] = ()
    """Task ids or patterns of them; all by default. A single one is described in full."""
    sheet: Path | None = None
    """Also draw a picture of each into this PNG."""
    size: int = 128
    """Side of a picture on the sheet in pixels."""
    columns: int = 10
    """Pictures side by side."""
    quality: Quality = "full"
    """Look of the pictures: lean or full."""
    workers: int = 2
    """Simulation processes that draw."""


def run_tasks_verb(command: TasksCommand) -> Path | int:
    """Print the tasks; draw the sheet if asked and return it.

    Raises:
        UserError: no task fits, or a picture cannot be drawn.
    """
    tasks = matching_tasks(command.tasks) if command.tasks else list_tasks()
    console = Console()
    if len(tasks) == 1:
        print_description(describe(tasks[0]), console)
    else:
        print_table(tasks, console)
    if command.sheet is None:
        return 0
    from rsp_robot.experiments.contact_sheet import draw_sheet

    return draw_sheet(tasks, command.sheet, command.size, command.columns, command.quality, command.workers)


def print_table(tasks: Sequence[str], console: Console) -> None:
    """Print a line for each task."""
    table = Table(box=None, pad_edge=False)
    table.add_column("task", no_wrap=True)
    for title in ("actions", "horizon"):
        table.add_column(title, justify="right")
    table.add_column("expert")
    table.add_column("what has to be done", overflow="fold")
    for task in tasks:
        found = describe(task)
        name = task if installed(task) else f"{task} (not installed)"
        expert = "yes" if found.expert else "-"
        table.add_row(name, str(len(found.action)), str(found.horizon), expert, found.summary)
    console.print(table, highlight=False, markup=False)


def print_description(found: TaskDescription, console: Console) -> None:
    """Print everything about one task."""
    table = Table(title=found.task, title_justify="left", title_style="bold", show_header=False, box=None)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    cameras = [f"{camera} (default)" if camera == found.default_camera else camera for camera in found.cameras]
    rows = {
        "task": found.summary,
        "cameras": ", ".join(cameras),
        "proprioception": ", ".join(found.proprio),
        "action in [-1, 1]": ", ".join(found.action),
        "horizon": f"{found.horizon} steps at {found.fps:g} per second",
        "success": found.success,
        "expert": found.expert or "nobody",
        "licence": found.licence,
    }
    for name, value in rows.items():
        table.add_row(name, value)
    console.print(table, highlight=False, markup=False)


def installed(task: str) -> bool:
    """Whether the package of the task's suite is there."""
    return find_spec(load_suite(task.partition("/")[0]).package) is not None
