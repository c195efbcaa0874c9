"""The numbers of the page as files: JSON, CSV, LaTeX."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from rsp_robot.errors import UserError
from rsp_robot.experiments.comparison.aggregates import performance_profile
from rsp_robot.experiments.comparison.compare import Table
from rsp_robot.experiments.comparison.output import to_csv, to_json, to_latex
from rsp_robot.experiments.report.made import versions_of
from rsp_robot.experiments.report.material import Material
from rsp_robot.experiments.report.pretraining_steps import pretrained_arms
from rsp_robot.files import write_json, write_text


def save_numbers(
    material: Material,
    command: str,
    *,
    csv_file: Path | None = None,
    json_file: Path | None = None,
    latex_file: Path | None = None,
) -> None:
    """Write the files that are asked for.

    Raises:
        UserError: there are no results, hence no numbers.
    """
    if csv_file is json_file is latex_file is None:
        return
    table = material.table
    if table is None:
        raise UserError(
            "no results among these runs, so no numbers for --csv, --json or --latex; give rows or a results.json too"
        )
    if csv_file is not None:
        write_text(csv_file, to_csv(table) + _more_lines(material))
    if json_file is not None:
        write_json(json_file, to_json(table, command) | _more(material, table))
    if latex_file is not None:
        write_text(latex_file, to_latex(table))


def _more(material: Material, table: Table) -> dict[str, Any]:
    """What the page shows beyond the comparison."""
    profiles = {}
    for arm in table.arms:
        profile = performance_profile(arm.scores)
        names = ("thresholds", "share", "low", "high")
        profiles[arm.name] = {name: getattr(profile, name).round(6).tolist() for name in names}
    steps = [
        {"policy": arm.arm, "steps": arm.steps, "success": arm.success.value,
         "interval": [arm.success.interval.low, arm.success.interval.high]}
        for arm in pretrained_arms(material)
    ]  # fmt: skip
    return {"profiles": profiles, "pretraining_steps": steps, "versions": versions_of(material)}


def _more_lines(material: Material) -> str:
    out = io.StringIO()
    lines = csv.writer(out, lineterminator="\n")
    for arm in pretrained_arms(material):
        lines.writerow([arm.arm, "", "", "pretraining steps", arm.steps, "", "", "", "", ""])
    return out.getvalue()
