"""``rsp-robot compare``: put finished evaluations side by side, and refuse to where that would mean nothing."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated

import tyro

from rsp_robot.errors import UserError, unknown_name
from rsp_robot.experiments.comparison.compare import compare
from rsp_robot.experiments.comparison.files import Run, read_arms
from rsp_robot.experiments.comparison.markdown import to_markdown
from rsp_robot.experiments.comparison.output import print_comparison, to_csv, to_json, to_latex
from rsp_robot.files import write_json, write_text


@dataclass(frozen=True)
class CompareCommand:
    """Which evaluations are compared."""

    policies: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[NAME=]PATH[,PATH...] ...")]
    """Rows files (*.jsonl or *.jsonl.gz, their *.plan.json beside), results.json files or folders that hold one, those
    of suites too. Several paths of one name are training seeds, or other tasks. A single file with several policies
    compares them with each other; PATH:POLICY picks one of them."""
    policy: str | None = None
    """Which policy to take from files that hold several; by default the one that has the arm's NAME."""
    tasks: tuple[str, ...] = ()
    """Only these tasks, by name or pattern: aggregates and differences are of them alone. All by default."""
    against: tuple[str, ...] = ()
    """Compare every policy with these alone, for example random, instead of every two with each other."""
    out: Path | None = None
    """JSON file for every number."""
    csv: bool = False
    """Write them beside --out as .csv too."""
    latex: bool = False
    """Write the table of success rates beside --out as .tex too."""
    markdown: bool = False
    """Write the tables of success rates and differences beside --out as .md too."""
    picture: bool = False
    """Draw the success rates beside --out as .png too."""
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
    if command.out is None and (command.csv or command.latex or command.markdown or command.picture):
        raise UserError(
            "--csv, --latex, --markdown and --picture write beside --out; give it, for example --out runs/table.json"
        )
    out = command.out
    if out is not None and out.suffix != ".json":
        raise UserError(f"--out {out} is a JSON file; call it {out.with_suffix('.json')}")
    notes: list[str] = []
    arms = on_tasks(read_arms(command.policies, command.policy, notes), command.tasks)
    table = compare(
        arms,
        wanted=command.difference,
        allow_mismatch=command.allow_mismatch,
        against=command.against,
        notes=notes,
    )
    print_comparison(table)
    if out is None:
        return 0
    write_json(out, to_json(table, shlex.join(["rsp-robot", *sys.argv[1:]])))
    if command.csv:
        write_text(out.with_suffix(".csv"), to_csv(table))
    if command.latex:
        write_text(out.with_suffix(".tex"), to_latex(table))
    if command.markdown:
        write_text(out.with_suffix(".md"), to_markdown(table))
    if command.picture:
        from rsp_robot.experiments.comparison.picture import draw_comparison

        draw_comparison(table, out.with_suffix(".png"))
    return out


def on_tasks(arms: Mapping[str, Sequence[Run]], patterns: Sequence[str]) -> dict[str, list[Run]]:
    """Return the runs of each arm on the tasks that fit one of the patterns; on all without patterns.

    Raises:
        UserError: a pattern fits none.
    """
    tasks = list(dict.fromkeys(run.task for runs in arms.values() for run in runs))
    for pattern in patterns:
        if not any(fnmatchcase(task, pattern) for task in tasks):
            raise unknown_name("task", pattern, tasks)
    wanted = [task for task in tasks if not patterns or any(fnmatchcase(task, pattern) for pattern in patterns)]
    return {name: [run for run in runs if run.task in wanted] for name, runs in arms.items()}
