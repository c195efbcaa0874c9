"""A chart as wide as its column: only the curves are stretched, the labels keep their size on any screen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rsp_robot.experiments.report.markup import tag, text

SIDE = 1000.0
"""Of the square that the curves are drawn in."""


@dataclass(frozen=True)
class Axis:
    """One axis, linear."""

    low: float
    high: float
    ticks: Sequence[tuple[float, str]]
    name: str

    def share(self, value: float) -> float:
        """Where ``value`` lies, from 0 (low) to 1 (high)."""
        return (value - self.low) / (self.high - self.low)


@dataclass(frozen=True)
class Curve:
    """One line with a name."""

    label: str
    css_class: str
    points: Sequence[tuple[float, float]]
    band: Sequence[tuple[float, float, float]] = ()
    """(x, low, high), in the order of x."""
    dots: bool = False
    """Mark the points, and draw the band as a bar at each of them."""
    line: bool = True


def chart(curves: Sequence[Curve], x: Axis, y: Axis, spoken: str) -> str:
    """Draw curves over one pair of axes, with a key below; ``spoken`` says in words what is seen."""
    drawn = [
        tag("line", x1=0, x2=SIDE, y1=_down(y, value), y2=_down(y, value), class_="grid") for value, _ in y.ticks
    ] + [tag("line", x1=_across(x, value), x2=_across(x, value), y1=0, y2=SIDE, class_="grid") for value, _ in x.ticks]
    drawn += [_band(curve, x, y) for curve in curves if curve.band]
    drawn += [_line(curve, x, y) for curve in curves]
    svg = tag(
        "svg", tag("title", text(spoken)), *drawn, viewBox=f"0 0 {SIDE:g} {SIDE:g}", preserveAspectRatio="none",
        role="img",
    )  # fmt: skip
    scale_y = tag("div", *(_label("bottom", y, value, name) for value, name in y.ticks), class_="scale-y")
    scale_x = tag("div", *(_label("left", x, value, name) for value, name in x.ticks), class_="scale-x")
    names = tag("span", text(y.name), class_="name-y") + tag("span", text(x.name), class_="name-x")
    keys = [
        tag("span", tag("i", class_=f"key {curve.css_class}"), text(curve.label))
        for curve in curves
        if len(curves) > 1 and curve.label
    ]
    legend = tag("p", *keys, class_="keys") if keys else ""
    return tag("div", names, scale_y, svg, scale_x, class_="chart") + legend


def _across(axis: Axis, value: float) -> float:
    return SIDE * axis.share(value)


def _down(axis: Axis, value: float) -> float:
    return SIDE * (1 - axis.share(value))


def _line(curve: Curve, x: Axis, y: Axis) -> str:
    corners = [(_across(x, a), _down(y, b)) for a, b in curve.points]
    path = " ".join(f"{a:.1f},{b:.1f}" for a, b in corners)
    line = tag("polyline", points=path, class_=f"line {curve.css_class}") if curve.line else ""
    # A line of no length with round ends is a dot that the stretching leaves round.
    dots = [
        tag("line", x1=f"{a:.1f}", x2=f"{a:.1f}", y1=f"{b:.1f}", y2=f"{b:.1f}", class_=f"dot-mark {curve.css_class}")
        for a, b in corners
    ]
    return line + ("".join(dots) if curve.dots else "")


def _band(curve: Curve, x: Axis, y: Axis) -> str:
    if curve.dots:
        return "".join(
            tag(
                "line", x1=f"{_across(x, at):.1f}", x2=f"{_across(x, at):.1f}", y1=f"{_down(y, low):.1f}",
                y2=f"{_down(y, high):.1f}", class_=f"reach {curve.css_class}",
            )
            for at, low, high in curve.band
        )  # fmt: skip
    there = [f"{_across(x, at):.1f},{_down(y, high):.1f}" for at, _, high in curve.band]
    back = [f"{_across(x, at):.1f},{_down(y, low):.1f}" for at, low, _ in reversed(curve.band)]
    return tag("polygon", points=" ".join(there + back), class_=f"band {curve.css_class}")


def _label(side: str, axis: Axis, value: float, name: str) -> str:
    return tag("span", text(name), style=f"{side}:{100 * axis.share(value):.2f}%")
