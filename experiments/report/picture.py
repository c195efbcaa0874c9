"""The picture that sums a comparison up, for a README."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from rsp_robot.experiments.comparison.results import Results
from rsp_robot.experiments.comparison.wording import headline, percent, percent_interval
from rsp_robot.experiments.report.markup import ARM_COLOURS
from rsp_robot.files import atomic_path


def save_summary_picture(results: Results, path_png: str | os.PathLike[str]) -> Path:
    """Draw the success bars with their intervals as a PNG of 1200 pixels width, for a README; written atomically."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    arms = results.summary.arms
    head = headline(results.summary)
    ink, muted, grid = "#1d2430", "#5d6775", "#e3e6ea"
    lines = _wrap(head.verdict, 68)
    height = 1.35 + 0.36 * len(lines) + 0.78 * len(arms)
    with rc_context({"font.family": "sans-serif", "font.size": 13}):
        figure = Figure(figsize=(12, height), dpi=100, facecolor="white")
        FigureCanvasAgg(figure)
        figure.text(0.035, 1 - 0.34 / height, f"{results.title}", color=muted, fontsize=13, va="center")
        for number, line in enumerate(lines):
            y = 1 - (0.74 + 0.36 * number) / height
            figure.text(0.035, y, line, color=ink, fontsize=19, fontweight="bold", va="center")
        bottom = 0.42 / height
        top = 1 - (0.78 + 0.36 * len(lines)) / height
        axes = figure.add_axes((0.225, bottom, 0.55, top - bottom), facecolor="white")
        positions = range(len(arms))
        colours = [ARM_COLOURS[i % len(ARM_COLOURS)][0] for i in positions]
        rates = [arm.rate for arm in arms]
        axes.barh(positions, rates, height=0.56, color=colours, zorder=2)
        below = [arm.rate - arm.interval.low for arm in arms]
        above = [arm.interval.high - arm.rate for arm in arms]
        for colour, width in (("white", 5.0), (ink, 1.8)):
            axes.errorbar(
                rates, positions, xerr=[below, above], fmt="none", ecolor=colour, elinewidth=width, capsize=6,
                capthick=width, zorder=3,
            )  # fmt: skip
        axes.set_yticks(list(positions), [arm.label for arm in arms], fontsize=15, color=ink)
        axes.set_ylim(len(arms) - 0.5, -0.5)
        axes.set_xlim(0, 1)
        axes.xaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
        axes.tick_params(axis="x", colors=muted, length=0)
        axes.tick_params(axis="y", length=0, pad=10)
        axes.grid(axis="x", color=grid, zorder=0)
        for side in ("top", "right", "bottom", "left"):
            axes.spines[side].set_visible(False)
        for y, arm in zip(positions, arms, strict=True):
            axes.text(1.03, y - 0.13, percent(arm.rate), fontsize=18, fontweight="bold", color=ink, va="center")
            counts = f"{arm.successes} of {arm.episodes}, 95 % {percent_interval(arm.interval)}"
            axes.text(1.03, y + 0.24, counts, fontsize=11, color=muted, va="center")
        with atomic_path(path_png) as temporary:
            figure.savefig(temporary, format="png", dpi=100)
    return Path(path_png)


def _wrap(sentence: str, width: int) -> Sequence[str]:
    lines = [""]
    for word in sentence.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines
