"""Show how much pretraining is enough: a table, a picture, plain values; all with the same numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rsp_robot.experiments.budget import Budget, Point
from rsp_robot.experiments.comparison.aggregates import Estimate
from rsp_robot.experiments.comparison.wording import percent, percent_interval, points, points_interval
from rsp_robot.experiments.report.markup import ARM_COLOURS, short_number
from rsp_robot.experiments.report.pretraining import GRID, INK, MUTED, REFERENCE, STYLES
from rsp_robot.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEFT_OF_FIRST = 1.5
"""How far left of the first checkpoint, in doublings, the weights before training stand."""


def to_plain(budget: Budget, summary: Mapping[str, Any], run: Path) -> dict[str, Any]:
    """Return everything as plain values.

    Args:
        budget: the numbers.
        summary: of the suite that they come from.
        run: the run folder of the pretraining.
    """
    return {
        "protocol": summary["protocol"],
        "quick": summary["quick"],
        "score": summary["score"],
        "command": summary["command"],
        "run": str(run.resolve()),
        "helps_from_samples": budget.helps_from,
        "unsurpassed_samples": budget.unsurpassed,
        "checkpoints": [
            {
                "step": point.step,
                "samples": point.samples,
                "minutes": point.minutes,
                "mean": _plain(point.mean),
                "iqm": _plain(point.iqm),
                "tasks": dict(point.tasks),
                "difference_to_step_0": _plain(point.difference),
            }
            for point in budget.points
        ],
        "versions": summary["versions"],
    }


def _plain(estimate: Estimate | None) -> dict[str, Any] | None:
    if estimate is None:
        return None
    return {"value": estimate.value, "interval": [estimate.interval.low, estimate.interval.high]}


def print_budget(budget: Budget, title: str, quick: bool, console: Console | None = None) -> None:
    """Print what each checkpoint is worth, over all tasks and on each, and what the numbers say together."""
    console = console or Console(width=None if Console().is_terminal else 160)
    console.print()
    console.print(budget_table(budget, title))
    console.print(task_table(budget))
    for line in sentences(budget):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    if quick:
        console.print("QUICK: these numbers say that everything runs, and nothing about pretraining.", style="bold")


def budget_table(budget: Budget, title: str) -> Table:
    """Return a table with a row for each checkpoint."""
    headings = ("samples", "step", "minutes", "mean success", "IQM", "less step 0, points")
    table = _table(f"Success by pretraining: {title}", headings)
    for point in budget.points:
        table.add_row(
            str(point.samples) if point.samples else "none",
            str(point.step),
            "" if point.minutes is None else f"{point.minutes:.1f}",
            *(f"{percent(found.value)} {percent_interval(found.interval)}" for found in (point.mean, point.iqm)),
            f"{points(point.difference.value)} {points_interval(point.difference.interval)}"
            if point.difference
            else "",
        )
    return table


def task_table(budget: Budget) -> Table:
    """Return a table with a row for each task and a column for each checkpoint."""
    table = _table("Success per task, by samples", ("task", *map(_tick, budget.points)))
    table.columns[0].justify = "left"
    for task in budget.points[0].tasks:
        table.add_row(escape(task), *(percent(point.tasks[task]) for point in budget.points))
    return table


def _table(title: str, headings: Sequence[str]) -> Table:
    table = Table(title=escape(title), title_justify="left", title_style="bold")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def sentences(budget: Budget) -> list[str]:
    """What the rows say together, and what they do not."""
    last = budget.points[-1]
    found = []
    if budget.helps_from is not None:
        found.append(f"From {budget.helps_from} samples on, every checkpoint surpasses step 0 by its interval.")
    elif last.difference is not None:
        shown = f"{points(last.difference.value)} points {points_interval(last.difference.interval)}"
        found.append(f"That this pretraining helps is not shown: its last checkpoint less step 0 is {shown}.")
    if budget.unsurpassed == last.samples:
        found.append("Every earlier checkpoint is surpassed by a later one: still more pretraining may help.")
    elif budget.unsurpassed:
        found.append(f"No later checkpoint surpasses that of {budget.unsurpassed} samples by its interval.")
    found.append(
        "Brackets are 95 % intervals over policies and start states, each for itself; the pretraining is one run."
    )
    return found


def places(budget: Budget) -> list[float]:
    """Return where each checkpoint stands on the axis: its doublings, and step 0 a little left of the first."""
    doublings = [float(np.log2(point.samples)) for point in budget.points if point.samples]
    return [doublings[0] - LEFT_OF_FIRST, *doublings]


def draw_budget(budget: Budget, title: str, path: Path) -> Figure:
    """Draw success against samples: a thin line per task, a thick one for their mean with its interval.

    Args:
        budget: the numbers.
        title: what was pretrained, and judged by what.
        path: PNG of 1200 pixels width to write, atomically.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.ticker import PercentFormatter

    with rc_context({"font.family": "sans-serif", "font.size": 11}):
        figure = Figure(figsize=(12, 5.6), dpi=100, facecolor="white", layout=ConstrainedLayoutEngine())
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        x = places(budget)
        for index, task in enumerate(budget.points[0].tasks):
            (colour, _), style = ARM_COLOURS[index % len(ARM_COLOURS)], STYLES[index // len(ARM_COLOURS) % len(STYLES)]
            rates = [point.tasks[task] for point in budget.points]
            axes.plot(x, rates, color=colour, linestyle=style, linewidth=1.1, alpha=0.8, label=_short(task), zorder=2)
        means = [point.mean for point in budget.points]
        low, high = [mean.interval.low for mean in means], [mean.interval.high for mean in means]
        axes.fill_between(x, low, high, color=INK, alpha=0.13, linewidth=0, zorder=1)
        (line,) = axes.plot(
            x, [mean.value for mean in means], color=INK, linewidth=3, marker="o", label="mean, 95 % interval", zorder=4
        )
        start = axes.axhline(
            means[0].value, color=MUTED, linestyle=REFERENCE, linewidth=1, label="mean without pretraining", zorder=3
        )
        axes.set_title(title, loc="left", color=INK, fontsize=13, fontweight="bold")
        axes.set_xlabel("samples seen during pretraining", color=MUTED)
        axes.set_ylabel("success", color=MUTED)
        axes.set_xticks(x, [_tick(point) for point in budget.points])
        axes.set_ylim(-0.02, 1.02)  # a line along 0 is to be seen
        axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
        axes.tick_params(colors=MUTED, length=0)
        axes.grid(color=GRID, zorder=0)
        for side in ("top", "right", "left", "bottom"):
            axes.spines[side].set_visible(False)
        tasks = [drawn for drawn in axes.get_lines() if drawn not in (line, start)]
        figure.legend(handles=[line, start, *tasks], loc="outside right upper", frameon=False, fontsize=10)
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format="png", dpi=100)
    return figure


def _tick(point: Point) -> str:
    return short_number(point.samples) if point.samples else "none"


def _short(task: str) -> str:
    """The task without its suite."""
    return task.partition("/")[2] or task
