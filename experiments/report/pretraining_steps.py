"""Success against the steps that the encoder was pretrained, as far as policies and encoders recorded them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rsp_robot.experiments.comparison.aggregates import Estimate
from rsp_robot.experiments.comparison.wording import percent, percent_interval
from rsp_robot.experiments.report.chart import Axis, Curve, chart
from rsp_robot.experiments.report.markup import line_class, nice_ticks, short_number, tag, text
from rsp_robot.experiments.report.material import Material, policy_config
from rsp_robot.files import read_json


@dataclass(frozen=True)
class Pretrained:
    """An arm whose encoder says how long it was pretrained."""

    arm: str
    steps: int
    lineage: tuple[str, str]
    """Objective and data; empty for random weights, with which every lineage begins."""
    success: Estimate
    """Mean over seeds and tasks."""


def pretrained_arms(material: Material) -> list[Pretrained]:
    """The arms of the table by pretraining steps, as far as policies and encoders recorded them.

    A policy folder, found by the fingerprint of the rows' policy or by the name on the command line, says where its
    encoder lies and how it is called; the encoder's folder says how many steps it was pretrained on what. An arm whose
    seeds differ in their steps is left out.
    """
    if material.table is None:
        return []
    encoders = {}
    for run in material.pretraining:
        config = _json(run / "encoder" / "config.json")
        if config.get("fingerprint"):
            encoders[config["fingerprint"]] = config
    found = []
    for arm in material.table.arms:
        folders = [run.folder for run in material.training if run.arm == arm.name]
        histories = {history for folder in folders if (history := _history(folder, encoders))}
        if len(histories) == 1:
            steps, lineage = histories.pop()
            found.append(Pretrained(arm.name, steps, lineage, arm.aggregates["mean"]))
    return found


def _history(folder: Path, encoders: Mapping[str, Mapping[str, Any]]) -> tuple[int, tuple[str, str]] | None:
    """Steps and lineage of the encoder that the policy in ``folder`` looks through; None where it is not recorded."""
    encoder = policy_config(folder).get("encoder")
    if not isinstance(encoder, dict):
        return None
    source = str(encoder.get("source") or "")
    if source.startswith("random:"):
        return 0, ("", "")
    place = folder / "policy" / source
    known = [_json(place / "config.json"), _json(place / "encoder" / "config.json")] if source else []
    known.append(dict(encoders.get(str(encoder.get("fingerprint")), {})))
    for config in known:
        provenance = config.get("provenance")
        if config.get("fingerprint") != encoder.get("fingerprint") or not isinstance(provenance, dict):
            continue
        if provenance.get("source") == "random weights":
            return 0, ("", "")
        if isinstance(provenance.get("steps"), int):
            return provenance["steps"], (str(provenance.get("objective")), Path(str(provenance.get("data"))).name)
    return None


def _json(path: Path) -> dict[str, Any]:
    content = read_json(path) if path.is_file() else {}
    return content if isinstance(content, dict) else {}


def pretraining_plot(material: Material, arms: Sequence[Pretrained]) -> str:
    """Success over the steps of pretraining; empty where not even two lengths are known: bars say that already."""
    if len({arm.steps for arm in arms} - {0}) < 2:
        return ""
    last = max(arm.steps for arm in arms)
    x = Axis(0, last, [(step, short_number(step)) for step in nice_ticks(0, last, 4)], "pretraining steps")
    y = Axis(0, 1, [(share, percent(share)) for share in (0, 0.25, 0.5, 0.75, 1)], "success")
    curves = []
    begun = [arm for arm in arms if arm.lineage == ("", "")]
    lineages = dict.fromkeys(arm.lineage for arm in arms if arm.lineage != ("", ""))
    for place, lineage in enumerate(lineages):
        line = sorted(begun + [arm for arm in arms if arm.lineage == lineage], key=lambda arm: arm.steps)
        own = sorted({arm.steps for arm in line})
        means = [(float(s), float(np.mean([arm.success.value for arm in line if arm.steps == s]))) for s in own]
        reach = [(float(arm.steps), arm.success.interval.low, arm.success.interval.high) for arm in line]
        dots = [(float(arm.steps), arm.success.value) for arm in line]
        curves.append(Curve(" on ".join(lineage), line_class(place), means))
        curves.append(Curve("", line_class(place), dots, reach, dots=True, line=False))
    told = "; ".join(
        f"{arm.steps} steps ({material.arm(arm.arm).label}): {percent(arm.success.value)} "
        f"{percent_interval(arm.success.interval)}"
        for arm in sorted(arms, key=lambda arm: arm.steps)
    )
    caption = "Mean success over tasks and training seeds with its 95 % interval, by the steps that the encoder "
    caption += f"recorded; 0 is random weights. {told}."
    return tag("figure", chart(curves, x, y, told), tag("figcaption", text(caption)), class_="wide")
