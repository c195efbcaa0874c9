"""Learning curves of behaviour cloning and reinforcement learning, a line per policy with a band over its seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from rsp_robot.experiments.report.curves import MOST_POINTS, Limits, Series, column, panel, read_metrics, thin
from rsp_robot.experiments.report.markup import line_class, tag
from rsp_robot.experiments.report.material import Material

CLONING: tuple[tuple[str, str, Limits], ...] = (
    ("Training loss", "loss", None),
    ("Validation loss", "valid_loss", None),
)
REINFORCEMENT: tuple[tuple[str, str, Limits], ...] = (
    ("Success on held-out starts", "evaluation_success", (0.0, 1.0)),
    ("Success while learning", "success", (0.0, 1.0)),
    ("Return on held-out starts", "evaluation_return", None),
    ("Return while learning", "return", None),
)
"""Heading, metric and limits of the vertical axis of each panel; one without data is left out."""
LOSSES = ("loss", "valid_loss")


def learning_sections(material: Material) -> str:
    """Panels of cloning and of reinforcement learning, a line per arm; empty where no run logged anything."""
    kinds: dict[bool, dict[str, list[list[dict[str, Any]]]]] = {False: {}, True: {}}
    for run in material.training:
        rows = read_metrics(run.folder)
        if rows:
            kinds[learns_by_reward(run.folder)].setdefault(run.arm, []).append(rows)
    parts = []
    for kind, heading, unit, panels in (
        (False, "Behaviour cloning", "gradient steps", CLONING),
        (True, "Reinforcement learning", "environment steps", REINFORCEMENT),
    ):
        drawn = [_panel(material, title, key, limits, kinds[kind]) for title, key, limits in panels]
        if any(drawn):
            several = max(len(seeds) for seeds in kinds[kind].values())
            band = " Lines are means over training seeds, bands reach from the lowest to the highest." * (several > 1)
            aside = f"Over the {unit}, with the last value above each curve.{band}"
            parts += [tag("h3", heading), tag("p", aside, class_="aside"), tag("div", *drawn, class_="panels")]
    return "".join(parts)


def learns_by_reward(folder: Path) -> bool:
    """Whether a run folder is one of reinforcement learning, by its own account."""
    try:
        settings = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return False
    return isinstance(settings, dict) and "algorithm" in settings


def _panel(
    material: Material, heading: str, key: str, limits: Limits, arms: Mapping[str, Sequence[Sequence[dict[str, Any]]]]
) -> str:
    series = []
    for name in sorted(arms, key=material.index):
        points, band = over_seeds([column(rows, key) for rows in arms[name]])
        label = material.arm(name).label + (f" ({len(arms[name])} seeds)" if len(arms[name]) > 1 else "")
        series.append(Series(label, points, line_class(material.index(name)), band))
    return panel(heading, series, limits, linear=key not in LOSSES)


def over_seeds(
    seeds: Sequence[Sequence[tuple[float, float]]],
) -> tuple[list[tuple[float, float]], list[tuple[float, float, float]]]:
    """Mean of several curves, and the band from the lowest to the highest; no band for a single curve.

    Between its points a curve is a straight line. A step counts the curves that have begun and not ended there.

    >>> over_seeds([[(0.0, 1.0), (10.0, 3.0)], [(0.0, 3.0), (10.0, 5.0)]])
    ([(0.0, 2.0), (10.0, 4.0)], [(0.0, 1.0, 3.0), (10.0, 3.0, 5.0)])
    """
    curves = [thin(points) for points in seeds if points]
    if len(curves) < 2:
        return (curves[0] if curves else []), []
    steps = sorted({x for points in curves for x, _ in points})
    if len(steps) > MOST_POINTS:
        steps = [steps[i] for i in np.linspace(0, len(steps) - 1, MOST_POINTS).round().astype(int)]
    drawn = [np.array(points) for points in curves]
    values = np.array([np.interp(steps, own[:, 0], own[:, 1], left=np.nan, right=np.nan) for own in drawn])
    columns = list(zip(steps, values.T, strict=True))
    there = [(x, column[np.isfinite(column)]) for x, column in columns]
    kept = [(float(x), present) for x, present in there if present.size]
    means = [(x, float(present.mean())) for x, present in kept]
    return means, [(x, float(present.min()), float(present.max())) for x, present in kept]
