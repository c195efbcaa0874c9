"""The figures of the statistics: success bars, paired differences, every episode; and the picture for a README.

The SVG is drawn in percent of the width, so that text keeps its size on a narrow screen, and coloured by CSS variables,
so that it follows the colour scheme.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rsp_robot.experiments.report.markup import ARM_COLOURS, arm_class, pct, tag, text
from rsp_robot.experiments.results import ArmSummary, Comparison, Results, Summary
from rsp_robot.experiments.wording import headline, percent, percent_interval, points, points_interval
from rsp_robot.files import atomic_path

MOST_CELLS = 300
"""Above so many episodes per arm the picture of every episode would no longer be legible."""


def success_plot(results: Results) -> str:
    """Success per arm as bars with Wilson intervals."""
    descriptions = {arm.name: arm.description for arm in results.arms}
    rows = [_success_row(i, arm, descriptions[arm.name]) for i, arm in enumerate(results.summary.arms)]
    ticks = "".join(_tick(share, percent(share)) for share in (0, 0.25, 0.5, 0.75, 1))
    axis = tag("svg", ticks, class_="axis", width="100%", height=18, aria_hidden="true")
    caption = tag(
        "figcaption", "Share of episodes in which the task was solved; the line is the Wilson 95&nbsp;% interval."
    )
    return tag("figure", *rows, axis, caption, class_="success")


def _success_row(index: int, arm: ArmSummary, description: str) -> str:
    low, high = arm.interval.low, arm.interval.high
    spoken = f"{arm.label}: {arm.successes} of {arm.episodes} episodes, {percent(arm.rate)}"
    spoken += f", 95 % interval {percent_interval(arm.interval)}"
    track = tag("rect", x=0, y=4, width="100%", height=22, rx=3, class_="track")
    bar = tag("rect", x=0, y=4, width=pct(arm.rate), height=22, rx=3, class_="bar")
    # The halo sets the line off where it lies on the bar.
    whisker = "".join(
        tag("line", x1=pct(x1), x2=pct(x2), y1=y1, y2=y2, class_=kind)
        for kind, x1, x2, y1, y2 in (
            ("halo", low, arm.rate, 15, 15),
            ("halo", low, low, 10, 20),
            ("whisker", low, high, 15, 15),
            ("whisker", low, low, 10, 20),
            ("whisker", high, high, 10, 20),
        )
    )
    head = tag(
        "div",
        tag("span", class_="dot"),
        tag("strong", text(arm.label)),
        tag("span", text(description), class_="what"),
        tag("span", text(percent(arm.rate)), class_="rate"),
        tag("span", text(f"{arm.successes} of {arm.episodes}"), class_="count"),
        class_="bar-head",
    )
    picture = tag("svg", tag("title", text(spoken)), track, bar, whisker, width="100%", height=30, role="img")
    return tag("div", head, picture, class_=f"bar-row {arm_class(index)}")


def _tick(share: float, label: str) -> str:
    anchor = "start" if share == 0 else "end" if share == 1 else "middle"
    return tag("text", text(label), x=pct(share), y=13, text_anchor=anchor)


def difference_plot(summary: Summary) -> str:
    """Paired differences as points with intervals around a line at zero; grey where no difference is established."""
    widest = max(max(abs(c.pairs.interval.low), abs(c.pairs.interval.high)) for c in summary.comparisons)
    reach = min(1.0, max(0.2, math.ceil(widest * 5) / 5))
    order = [arm.name for arm in summary.arms]
    rows = []
    for comparison in summary.comparisons:
        winner = comparison.a if comparison.pairs.difference > 0 else comparison.b
        colour = arm_class(order.index(winner)) if comparison.established else "undecided"
        rows.append(_difference_row(summary, comparison, reach, colour))
    ticks = "".join(_tick(position, points((2 * position - 1) * reach)) for position in (0, 0.25, 0.5, 0.75, 1))
    axis = tag("svg", ticks, class_="axis", width="100%", height=18, aria_hidden="true")
    caption = tag(
        "figcaption",
        "Difference of success in percentage points with its paired bootstrap 95&nbsp;% interval: to the right the "
        "first does better. Coloured where Holm&rsquo;s correction of McNemar&rsquo;s exact test leaves p below 0.05.",
    )
    return tag("figure", *rows, axis, caption, class_="differences")


def _difference_row(summary: Summary, comparison: Comparison, reach: float, colour: str) -> str:
    pairs = comparison.pairs
    low, middle, high = (
        0.5 + max(-1.0, min(1.0, value / reach)) / 2
        for value in (pairs.interval.low, pairs.difference, pairs.interval.high)
    )
    name = summary.title(comparison)
    state = "established" if comparison.established else "not established"
    numbers = f"{points(pairs.difference)} {points_interval(pairs.interval)}"
    head = tag(
        "div",
        tag("strong", text(name)),
        tag("span", text(state), class_="what"),
        tag("span", text(numbers), class_="count"),
        class_="bar-head",
    )
    grid = tag("line", x1=0, x2="100%", y1=12, y2=12, class_="grid")
    grid += tag("line", x1="50%", x2="50%", y1=0, y2="100%", class_="zero")
    mark = "".join(
        tag("line", x1=pct(x1), x2=pct(x2), y1=y1, y2=y2, class_="interval")
        for x1, x2, y1, y2 in ((low, high, 12, 12), (low, low, 7, 17), (high, high, 7, 17))
    ) + tag("circle", cx=pct(middle), cy=12, r=6, class_="point")
    spoken = tag("title", text(f"{name}: {numbers} points, {state}"))
    return tag(
        "div", head, tag("svg", spoken, grid, mark, width="100%", height=24, role="img"), class_=f"bar-row {colour}"
    )


def episode_grid(results: Results) -> str:
    """Every episode of every arm: a column per start state, a filled cell is a success; empty for very many."""
    starts = sorted({(row["task"], row["seed"]) for row in results.rows})
    if len(starts) > MOST_CELLS:
        return ""
    by_key = {(row["policy"], row["task"], row["seed"]): row for row in results.rows}
    strips = []
    for index, arm in enumerate(results.summary.arms):
        cells = [
            _cell(column / len(starts), 1 / len(starts), start, by_key.get((arm.name, *start)))
            for column, start in enumerate(starts)
        ]
        spoken = tag("title", text(f"{arm.label}: {arm.successes} successes in {arm.episodes} episodes"))
        picture = tag("svg", spoken, *cells, width="100%", height=22, role="img")
        strips.append(tag("div", tag("span", text(arm.label), class_="strip-label"), picture, class_=arm_class(index)))
    caption = tag(
        "figcaption",
        f"All {len(starts)} start states in the order of their seeds, one column each: filled where the task was "
        "solved. The comparisons above count the columns in which two rows differ.",
    )
    return tag("figure", *strips, caption, class_="episodes")


def _cell(x: float, width: float, start: tuple[str, int], row: Mapping[str, Any] | None) -> str:
    if row is None or row.get("error"):
        kind, outcome = "cell broken", "no outcome"
    elif row["success_once"]:
        step = row.get("first_success")
        kind, outcome = "cell solved", "success" + ("" if step is None else f" at step {step}")
    else:
        kind, outcome = "cell", "failure"
    inner = tag("rect", tag("title", text(f"seed {start[1]}: {outcome}")), x="8%", y=1, width="84%", height=20, rx=2)
    return tag("svg", inner, x=pct(x), y=0, width=pct(width), height=22, class_=kind)


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
