"""The figures of the statistics: success bars, paired differences, every episode.

The SVG is drawn in percent of the width, so that text keeps its size on a narrow screen, and coloured by CSS variables,
so that it follows the colour scheme.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rsp_robot.experiments.comparison.compare import Pair
from rsp_robot.experiments.comparison.statistics import Interval
from rsp_robot.experiments.comparison.wording import percent, percent_interval, points, points_interval
from rsp_robot.experiments.report.markup import arm_class, pct, tag, text

MOST_CELLS = 300
"""Above so many episodes per arm the picture of every episode would no longer be legible."""


@dataclass(frozen=True)
class Bar:
    """One success rate."""

    index: int
    """Place of the arm, for its colour."""
    label: str
    rate: float
    interval: Interval
    count: str
    """``42 of 50``."""
    what: str = ""
    """A few words beside the label."""


def success_plot(bars: Sequence[Bar], caption: str) -> str:
    """Large bars with intervals, one below the other."""
    ticks = "".join(_tick(share, percent(share)) for share in (0, 0.25, 0.5, 0.75, 1))
    axis = tag("svg", ticks, class_="axis", width="100%", height=18, aria_hidden="true")
    legend = tag("figcaption", text(caption))
    return tag("figure", *(_success_row(bar) for bar in bars), axis, legend, class_="success-bars")


def _success_row(bar: Bar) -> str:
    head = tag(
        "div",
        tag("span", class_="dot"),
        tag("strong", text(bar.label)),
        tag("span", text(bar.what), class_="what"),
        tag("span", text(percent(bar.rate)), class_="rate"),
        tag("span", text(bar.count), class_="count"),
        class_="bar-head",
    )
    return tag("div", head, _bar_picture(bar, 30), class_=f"bar-row {arm_class(bar.index)}")


def task_bars(tasks: Mapping[str, Sequence[Bar]], caption: str) -> str:
    """A panel of small bars with Wilson intervals for each task."""
    panels = []
    for task, bars in tasks.items():
        rows = [
            tag(
                "div",
                tag("span", tag("span", class_="dot"), text(bar.label), class_="who"),
                _bar_picture(bar, 18),
                tag("span", text(percent(bar.rate)), class_="count"),
                class_=f"small-bar {arm_class(bar.index)}",
            )
            for bar in bars
        ]
        panels.append(tag("figure", tag("h4", text(task)), *rows, class_="panel"))
    return tag("div", *panels, class_="panels tasks") + tag("p", text(caption), class_="aside below")


def _bar_picture(bar: Bar, height: int) -> str:
    """The bar, and its interval as a line with a halo that sets it off where it lies on the bar."""
    low, high, middle, thick = bar.interval.low, bar.interval.high, height // 2, height - 8
    spoken = f"{bar.label}: {bar.count} episodes, {percent(bar.rate)}, 95 % interval {percent_interval(bar.interval)}"
    end = min(5, thick // 2)
    track = tag("rect", x=0, y=4, width="100%", height=thick, rx=3, class_="track")
    filled = tag("rect", x=0, y=4, width=pct(bar.rate), height=thick, rx=3, class_="bar")
    whisker = "".join(
        tag("line", x1=pct(x1), x2=pct(x2), y1=y1, y2=y2, class_=kind)
        for kind, x1, x2, y1, y2 in (
            ("halo", low, max(low, bar.rate), middle, middle),
            ("halo", low, low, middle - end, middle + end),
            ("whisker", low, high, middle, middle),
            ("whisker", low, low, middle - end, middle + end),
            ("whisker", high, high, middle - end, middle + end),
        )
    )
    return tag("svg", tag("title", text(spoken)), track, filled, whisker, width="100%", height=height, role="img")


def _tick(share: float, label: str) -> str:
    anchor = "start" if share == 0 else "end" if share == 1 else "middle"
    return tag("text", text(label), x=pct(share), y=13, text_anchor=anchor)


def difference_plot(pairs: Sequence[Pair], labels: Mapping[str, str], caption: str) -> str:
    """Differences as points with intervals around a line at zero; grey where no difference is established.

    Args:
        pairs: what is drawn, one below the other.
        labels: of the arms by name, in the order of their colours.
        caption: what is said below.
    """
    widest = max(max(abs(p.difference.interval.low), abs(p.difference.interval.high)) for p in pairs)
    reach = min(1.0, max(0.2, math.ceil(widest * 5) / 5))
    order = list(labels)
    rows = []
    for pair in pairs:
        winner = pair.a if pair.difference.value > 0 else pair.b
        colour = arm_class(order.index(winner)) if pair.established else "undecided"
        rows.append(_difference_row(pair, f"{labels[pair.a]} vs {labels[pair.b]}", reach, colour))
    ticks = "".join(_tick(position, points((2 * position - 1) * reach)) for position in (0, 0.25, 0.5, 0.75, 1))
    axis = tag("svg", ticks, class_="axis", width="100%", height=18, aria_hidden="true")
    return tag("figure", *rows, axis, tag("figcaption", text(caption)), class_="differences")


def _difference_row(pair: Pair, name: str, reach: float, colour: str) -> str:
    found = pair.difference
    low, middle, high = (
        0.5 + max(-1.0, min(1.0, value / reach)) / 2 for value in (found.interval.low, found.value, found.interval.high)
    )
    state = "established" if pair.established else "not established"
    numbers = f"{points(found.value)} {points_interval(found.interval)}"
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


def episode_grid(arms: Sequence[tuple[str, Mapping[int, Mapping[str, Any]]]]) -> str:
    """Every episode of every arm: a column per start state, a filled cell is a success; empty for very many.

    Args:
        arms: label, and rows by seed; the place is the colour.
    """
    starts = sorted({seed for _, rows in arms for seed in rows})
    if len(starts) > MOST_CELLS:
        return ""
    strips = []
    for index, (label, rows) in enumerate(arms):
        cells = [_cell(i / len(starts), 1 / len(starts), seed, rows.get(seed)) for i, seed in enumerate(starts)]
        solved = sum(bool(row.get("success_once")) for row in rows.values())
        spoken = tag("title", text(f"{label}: {solved} successes in {len(rows)} episodes"))
        picture = tag("svg", spoken, *cells, width="100%", height=22, role="img")
        strips.append(tag("div", tag("span", text(label), class_="strip-label"), picture, class_=arm_class(index)))
    caption = tag(
        "figcaption",
        f"All {len(starts)} start states in the order of their seeds, one column each: filled where the task was "
        "solved. The comparisons above count the columns in which two rows differ.",
    )
    return tag("figure", *strips, caption, class_="episodes")


def _cell(x: float, width: float, seed: int, row: Mapping[str, Any] | None) -> str:
    if row is None or row.get("error"):
        kind, outcome = "cell broken", "no outcome"
    elif row["success_once"]:
        step = row.get("first_success")
        kind, outcome = "cell solved", "success" + ("" if step is None else f" at step {step}")
    else:
        kind, outcome = "cell", "failure"
    inner = tag("rect", tag("title", text(f"seed {seed}: {outcome}")), x="8%", y=1, width="84%", height=20, rx=2)
    return tag("svg", inner, x=pct(x), y=0, width=pct(width), height=22, class_=kind)
