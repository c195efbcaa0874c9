"""``rsp-robot compare``: put finished evaluations side by side, and refuse to where that would mean nothing."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from rsp_robot.errors import UserError
from rsp_robot.experiments.compare import compare
from rsp_robot.experiments.compare_files import read_arms
from rsp_robot.experiments.compare_output import print_comparison, to_csv, to_json, to_latex
from rsp_robot.files import write_json, write_text


@dataclass(frozen=True)
class CompareCommand:
    """Which evaluations are compared."""

    policies: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[NAME=]PATH[,PATH...] ...")]
    """Rows files (*.jsonl, their *.plan.json beside), results.json files or run folders that hold one. Several paths of
    one name are training seeds, or other tasks. A single file with several policies compares them with each other;
    PATH:POLICY picks one of them."""
    policy: str | None = None
    """Which policy to take from files that hold several; by default the one that has the arm's NAME."""
    out: Path | None = None
    """JSON file for every number."""
    csv: bool = False
    """Write them beside --out as .csv too."""
    latex: bool = False
    """Write the table of success rates beside --out as .tex too."""
    difference: float = 0.1
    """Difference of success rates for which to say how many more episodes would be needed, in (0, 1]."""
    allow_mismatch: bool = False
    """Compare although simulators, settings or start states differ: unpaired, with a warning."""


def run_compare(command: CompareCommand) -> Path | int:
    """Print the comparison and write it where asked; return the path of the JSON file.

    Raises:
        UserError: a file cannot be used, or the rows cannot be compared.
    """
    if not command.policies:
        raise UserError("nothing to compare; give rows files, for example: rsp-robot compare runs/evaluation.jsonl")
    if not 0 < command.difference <= 1:
        raise UserError(f"--difference {command.difference} is no difference of success rates; choose one up to 1")
    if (command.csv or command.latex) and command.out is None:
        raise UserError("--csv and --latex write beside --out; give it, for example --out runs/table.json")
    out = command.out
    if out is not None and out.suffix != ".json":
        raise UserError(f"--out {out} is a JSON file; call it {out.with_suffix('.json')}")
    notes: list[str] = []
    arms = read_arms(command.policies, command.policy, notes)
    table = compare(arms, wanted=command.difference, allow_mismatch=command.allow_mismatch, notes=notes)
    print_comparison(table)
    if out is None:
        return 0
    write_json(out, to_json(table, shlex.join(["rsp-robot", *sys.argv[1:]])))
    if command.csv:
        write_text(out.with_suffix(".csv"), to_csv(table))
    if command.latex:
        write_text(out.with_suffix(".tex"), to_latex(table))
    return out
