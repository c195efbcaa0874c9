"""``rsp-robot experts``: how often the scripted experts succeed, with intervals."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from rsp_robot.envs.registry import describe
from rsp_robot.experiments.experts import ExpertsConfig, measure_experts, table
from rsp_robot.experiments.verbs.collect import matching_tasks


@dataclass(frozen=True)
class ExpertsCommand:
    """Which experts."""

    tasks: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="TASK ...")]
    """Task ids or patterns of them; those that nobody demonstrates are passed by."""
    experts: Annotated[ExpertsConfig, tyro.conf.arg(name="")]
    markdown: bool = False
    """Print the table as Markdown."""


def run_experts(command: ExpertsCommand) -> Path:
    """Measure, print the table, return the file of rows.

    Raises:
        UserError: no such task, or the rows were made with other settings.
    """
    tasks = [task for task in matching_tasks(command.tasks) if describe(task).expert]
    for line in table(measure_experts(tasks, command.experts), "markdown" if command.markdown else "plain"):
        print(line)
    return command.experts.out
