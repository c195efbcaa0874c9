"""The comparison as a picture for a README: rates by policy and task, and their means with intervals."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rsp_robot.experiments.comparison.compare import Table
from rsp_robot.experiments.comparison.markdown import short_names
from rsp_robot.experiments.comparison.output import aggregate_text
from rsp_robot.experiments.report.pretraining import GRID, INK, MUTED
from rsp_robot.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = "Blues"
"""Of the rates, from 0 to 1; one hue, so that light and dark tell them apart for everybody."""
DARK = 0.55
"""Rates from here on are written in white."""
ROW_INCHES = 0.42


def draw_comparison(table: Table, path: Path) -> Figure:
    """Draw a cell per policy and task, and beside it a point with its 95 % interval per policy.

    Args:
        table: the comparison.
        path: PNG of 1200 pixels width to write, atomically.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    arms = len(table.arms)
    with rc_context({"font.family": "sans-serif", "font.size": 11}):
        size = (12, 1.9 + ROW_INCHES * arms)
        figure = Figure(figsize=size, dpi=100, facecolor="white", layout=ConstrainedLayoutEngine())
        FigureCanvasAgg(figure)
        cells, means = figure.subplots(1, 2, width_ratios=(len(table.tasks), 5))
        _draw_cells(cells, table)
        _draw_means(means, table)
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format="png", dpi=100)
    return figure


def _draw_cells(axes: Axes, table: Table) -> None:
    rates = [[task.rate for task in arm.tasks] for arm in table.arms]
    axes.imshow(rates, cmap=COLOURS, vmin=0, vmax=1, aspect="auto")
    for row, arm in enumerate(rates):
        for column, rate in enumerate(arm):
            colour = "white" if rate > DARK else INK
            axes.text(column, row, f"{100 * rate:.0f}", ha="center", va="center", color=colour)
    axes.set_xticks(range(len(table.tasks)), short_names(table.tasks), rotation=35, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(table.arms)), [arm.name for arm in table.arms], fontsize=12)
    axes.set_xticks([edge - 0.5 for edge in range(1, len(table.tasks))], minor=True)
    axes.set_yticks([edge - 0.5 for edge in range(1, len(table.arms))], minor=True)
    axes.grid(which="minor", color="white", linewidth=2)
    axes.tick_params(which="both", length=0, colors=INK)
    axes.set_title("success by task, per cent", loc="left", color=MUTED, fontsize=11)
    for side in axes.spines.values():
        side.set_visible(False)


def _draw_means(axes: Axes, table: Table) -> None:
    from matplotlib.ticker import PercentFormatter

    for row, arm in enumerate(table.arms):
        mean = arm.aggregates["mean"]
        axes.plot([mean.interval.low, mean.interval.high], [row, row], color=INK, linewidth=2, zorder=2)
        axes.plot(mean.value, row, marker="o", markersize=8, color=INK, zorder=3)
        text = aggregate_text(arm, "mean")
        axes.text(1.03, row, text, transform=axes.get_yaxis_transform(), va="center", color=INK)
    axes.set_ylim(len(table.arms) - 0.5, -0.5)
    axes.set_xlim(0, 1)
    axes.set_yticks([])
    axes.set_xticks((0, 0.25, 0.5, 0.75, 1))
    axes.xaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    axes.tick_params(length=0, colors=MUTED)
    axes.grid(axis="x", color=GRID, zorder=0)
    axes.set_title("mean, 95 % interval", loc="left", color=MUTED, fontsize=11)
    for side in axes.spines.values():
        side.set_visible(False)
