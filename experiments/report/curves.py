"""Curves from ``metrics.jsonl``: small panels, drawn as SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from rsp_robot.experiments.report.markup import line_class, nice_ticks, note, short_number, tag, text
from rsp_robot.files import read_jsonl

WIDTH, HEIGHT = 340, 180
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 10, 26
MOST_POINTS = 240

Limits = tuple[float, float] | None

PRETRAINING_PANELS = (
    ("Loss", (("loss", ""),)),
    ("Prediction of the future", (("loss_future", "posterior"), ("loss_future_prior", "prior"))),
    ("Masked autoencoding", (("loss_mae", ""),)),
    ("KL of posterior and prior", (("kl", ""),)),
    ("Rank of the features", (("rank", "embedding"), ("rank_patches", "patches"))),
    ("Linear probe, held out", (("probe_actions", "actions"), ("probe_actions_blind", "actions, blind"))),
    ("Learning rate", (("lr", ""),)),
)
"""Heading, and per line the metric and its name, the first one in question; a panel without data is left out."""


@dataclass(frozen=True)
class Series:
    """One line of a panel."""

    label: str
    points: list[tuple[float, float]]
    """(step, value), finite, in the order of the steps."""
    css_class: str
    band: list[tuple[float, float, float]] = field(default_factory=list)
    """(step, low, high), in the order of the steps."""


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Rows of ``folder/metrics.jsonl`` that are mappings with a step; none where the file is missing."""
    rows = read_jsonl(folder / "metrics.jsonl")
    return [row for row in rows if isinstance(row, dict) and _finite(row.get("step"))]


def pretraining_curves(folders: Sequence[Path]) -> str:
    """Losses, KL, feature rank, probes and learning rate: all lines of one run, or a line per run of several."""
    rows = [read_metrics(folder) for folder in folders]
    panels = []
    for heading, lines in PRETRAINING_PANELS:
        if len(folders) == 1:
            styles = (line_class(0), f"{line_class(0)} second")
            pairs = zip(lines, styles, strict=False)
            series = [Series(name, column(rows[0], key), style) for (key, name), style in pairs]
        else:
            (key, name), *_ = lines
            heading = f"{heading}: {name}" if name else heading
            runs = zip(names_of(folders), rows, strict=True)
            series = [Series(run, column(own, key), line_class(i)) for i, (run, own) in enumerate(runs)]
        panels.append(panel(heading, series))
    if not any(panels):
        return note("No metrics of pretraining were logged yet.")
    return tag("div", *panels, class_="panels")


def names_of(folders: Sequence[Path]) -> list[str]:
    """Short names of run folders: their own, or their paths where two are called alike."""
    short = [folder.resolve().name for folder in folders]
    return [name if short.count(name) == 1 else str(folder) for name, folder in zip(short, folders, strict=True)]


def column(rows: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    """(step, value) of the metric ``key``, sorted by step; of a step logged twice (a resumed run) the later row."""
    return sorted({float(row["step"]): float(row[key]) for row in rows if _finite(row.get(key))}.items())


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def thin(points: Sequence[tuple[float, float]], most: int = MOST_POINTS) -> list[tuple[float, float]]:
    """At most ``most`` points: the means of equally long stretches. The last point is kept as it is."""
    if len(points) <= most:
        return list(points)
    edges = [round(i * (len(points) - 1) / (most - 1)) for i in range(most)]
    means = []
    for start, stop in pairwise(edges):
        stretch = points[start:stop]
        means.append((sum(x for x, _ in stretch) / len(stretch), sum(y for _, y in stretch) / len(stretch)))
    return [*means, points[-1]]


def panel(heading: str, series: Sequence[Series], limits: Limits = None, *, linear: bool = False) -> str:
    """A heading with the last values, and the lines; an empty string where no series has a point.

    Args:
        heading: what is drawn.
        series: the lines.
        limits: of the vertical axis; by default what the values need.
        linear: never logarithmic; by default that is what values become which fall far.
    """
    series = [line for line in series if line.points]
    if not series:
        return ""
    values = [y for line in series for _, y in line.points] + [y for line in series for c in line.band for y in c[1:]]
    steps = [x for line in series for x, _ in line.points]
    logarithmic = not linear and min(values) > 0 and max(values) > 30 * min(values)
    low, high = limits or _range(values, logarithmic)
    last = max(max(steps), 1.0)

    def place(x: float, y: float) -> tuple[float, float]:
        share = math.log(y / low) / math.log(high / low) if logarithmic else (y - low) / (high - low)
        return LEFT + (WIDTH - LEFT - RIGHT) * x / last, HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share

    drawn = [_grid(place, low, high, last, logarithmic)]
    for line in series:
        edge = [place(x, y) for x, _, y in line.band] + [place(x, y) for x, y, _ in reversed(line.band)]
        if edge:
            shape = " ".join(f"{x:.1f},{y:.1f}" for x, y in edge)
            drawn.append(tag("polygon", points=shape, class_=f"band {line.css_class}"))
    for line in series:
        corners = [place(x, y) for x, y in thin(line.points)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)
        drawn.append(tag("polyline", points=path, class_=f"line {line.css_class}"))
        x, y = corners[-1]
        drawn.append(tag("circle", cx=x, cy=y, r=3, class_=f"end {line.css_class}"))
    spoken = "; ".join(
        f"{line.label or heading}: {short_number(line.points[0][1])} at step {short_number(line.points[0][0])}, "
        f"{short_number(line.points[-1][1])} at step {short_number(line.points[-1][0])}"
        for line in series
    )
    svg = tag("svg", tag("title", text(spoken)), *drawn, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img")
    ends = [
        tag(
            "span",
            tag("i", class_=f"key {line.css_class}") if line.label else "",
            text(f"{line.label} " if line.label else ""),
            tag("b", text(short_number(line.points[-1][1]))),
            class_="last",
        )
        for line in series
    ]
    scale = tag("span", "log scale", class_="scale") if logarithmic else ""
    head = tag("h4", text(heading), scale)
    return tag("figure", head, tag("p", *ends, class_="ends"), svg, class_="panel")


def _range(values: Sequence[float], logarithmic: bool) -> tuple[float, float]:
    low, high = min(values), max(values)
    if logarithmic:
        return low / 1.15, high * 1.15
    # A scale that starts at zero where that costs little room shows how much of a loss is left.
    if 0 <= low < 0.5 * high:
        low = 0.0
    pad = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    return (low if low == 0 and high > 0 else low - pad), high + pad


def _grid(place: Any, low: float, high: float, last: float, logarithmic: bool) -> str:
    ticks = _log_ticks(low, high) if logarithmic else nice_ticks(low, high, 4)
    parts = []
    for value in ticks:
        _, y = place(0, value)
        parts.append(tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y, class_="grid"))
        parts.append(tag("text", text(short_number(value)), x=LEFT - 6, y=y + 4, text_anchor="end"))
    ticks = nice_ticks(0, last, 4)
    ends = place(ticks[-1], high)[0] > WIDTH - RIGHT - 8
    for step in ticks:
        x, _ = place(step, high)
        if ends and step != ticks[-1] and x > WIDTH - RIGHT - 80:
            continue  # the last label, which is longer, would cover it
        anchor = "end" if ends and step == ticks[-1] else "middle"
        label = short_number(step) + (" steps" if anchor == "end" else "")
        parts.append(tag("text", text(label), x=x, y=HEIGHT - 8, text_anchor=anchor))
    return "".join(parts)


def _log_ticks(low: float, high: float) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [10.0**k for k in decades if low <= 10.0**k <= high]
    if len(ticks) >= 2:
        return ticks
    return [m * 10.0**k for k in decades for m in (1, 2, 5) if low <= m * 10.0**k <= high]
