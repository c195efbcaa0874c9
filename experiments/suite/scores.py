"""The two scores of a suite, never mixed: the declared checkpoint with intervals, and the best over training.

The first is computed by the code behind ``rsp-robot compare``, from rows files of one training seed each, which that
command and ``rsp-robot report`` read too.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from rsp_robot.experiments.comparison.compare import Table, compare
from rsp_robot.experiments.comparison.files import read_source, runs_of
from rsp_robot.experiments.comparison.output import print_comparison, to_json
from rsp_robot.experiments.comparison.results import Arm, Results, save_results
from rsp_robot.experiments.comparison.wording import percent
from rsp_robot.experiments.evaluation.plan import plan_path
from rsp_robot.experiments.evaluation.rows import Row, in_order, read_rows, write_rows
from rsp_robot.experiments.protocols import Protocol
from rsp_robot.experiments.suite.jobs import Job, Place, SuitePlan
from rsp_robot.experiments.suite.pretraining import pretrained, pretraining_table
from rsp_robot.experiments.suite.work import LAST
from rsp_robot.files import read_json, write_json
from rsp_robot.versions import versions

MAXIMUM = "max over training (as published)"


@dataclass(frozen=True)
class Maximum:
    """What one encoder reached at best: of each training the highest of its scheduled evaluations."""

    encoder: str
    tasks: Mapping[str, float]
    """Mean over training seeds, by task."""
    last: Mapping[str, float]
    """The same of the last checkpoints, from the same evaluations."""
    by_seed: tuple[float, ...]
    """Mean over tasks, by training seed."""

    @property
    def mean(self) -> float:
        """Mean over tasks and seeds."""
        return fmean(self.tasks.values())

    @property
    def deviation(self) -> float | None:
        """Standard deviation of :attr:`by_seed`; None with one seed."""
        return stdev(self.by_seed) if len(self.by_seed) > 1 else None


def policy_jobs(plan: SuitePlan) -> list[Job]:
    """Return the jobs that end in a score."""
    return [job for job in plan.jobs() if job.kind == "policy"]


def write_seeds(place: Place, plan: SuitePlan, command: str) -> list[Path]:
    """Put the rows of the last checkpoints together, a file per training seed with its plan; return the files.

    The policies in them are called like the encoders. A row gains ``score``, its outcome by the protocol; everything
    else in it is as it was played.
    """
    return [_write_seed(place, plan, seed, command) for seed in plan.protocol.seeds]


def _write_seed(place: Place, plan: SuitePlan, seed: int, command: str) -> Path:
    protocol, out = plan.protocol, place.rows(seed)
    joint: dict[str, Any] = {}
    rows: list[Row] = []
    for job in policy_jobs(plan):
        if job.seed != seed:
            continue
        played = place.work(job) / "evaluation.jsonl"
        single = read_json(plan_path(played))
        joint = joint or {**single, "score": protocol.score_in_words, "tasks": {}, "policies": {}}
        joint["tasks"] |= single["tasks"]
        joint["policies"].setdefault(job.encoder, {}).update(single["policies"][LAST])
        found, _ = read_rows(played)
        of_last = [row for (policy, _, _), row in found.items() if policy == LAST]
        rows += [{**row, "policy": job.encoder, "score": protocol.score_of(row)} for row in of_last]
    rows = in_order(rows, list(plan.encoders), [task.task for task in protocol.tasks])
    write_json(plan_path(out), joint)
    write_rows(out, rows)
    save_results(
        out.with_suffix(".results.json"),
        Results(
            title=f"{protocol.label}, training seed {seed}",
            task=", ".join(task.task for task in protocol.tasks),
            arms=tuple(Arm(name, name, encoder.spec) for name, encoder in plan.encoders.items()),
            rows=tuple(rows),
            config={"protocol": protocol.plain()},
            versions=versions(),
            seeds={"training": seed, "evaluation": f"from {protocol.first_start}"},
            command=command,
        ),
    )
    return out


def compare_last(files: Sequence[Path], encoders: Sequence[str], against: Sequence[str] = ()) -> Table:
    """Compare the last checkpoints of all encoders over tasks and training seeds.

    Every two of them, or each with those of ``against`` that are among them.
    """
    notes: list[str] = []
    sources = [read_source(file, notes) for file in files]
    arms = {name: [run for source in sources for run in runs_of(source, name)] for name in encoders}
    return compare(arms, against=[name for name in against if name in arms], notes=notes)


def find_maxima(place: Place, plan: SuitePlan) -> list[Maximum]:
    """Return what each encoder reached at best over training."""
    records = {(job.encoder, job.task, job.seed): read_json(place.score(job)) for job in policy_jobs(plan)}
    tasks, seeds = [task.task for task in plan.protocol.tasks], plan.protocol.seeds
    return [
        Maximum(
            name,
            {task: fmean(records[name, task, seed]["maximum"] for seed in seeds) for task in tasks},
            {task: fmean(records[name, task, seed]["last"] for seed in seeds) for task in tasks},
            tuple(fmean(records[name, task, seed]["maximum"] for task in tasks) for seed in seeds),
        )
        for name in plan.encoders
    ]


def summarise_suite(
    place: Place, plan: SuitePlan, table: Table, maxima: Sequence[Maximum], notes: Sequence[str], command: str
) -> dict[str, Any]:
    """Return everything as plain values; the two scores stand under names of their own."""
    protocol = plan.protocol
    found: dict[str, Any] = {
        "protocol": protocol.label,
        "quick": protocol.quick,
        "score": protocol.score_in_words,
        "headline": "last checkpoint" if protocol.headline == "last" else MAXIMUM,
        "command": command,
        "settings": protocol.plain(),
        "encoders": {name: vars(encoder) for name, encoder in plan.encoders.items()},
        "versions": versions(),
        "rows": [str(place.rows(seed).relative_to(place.folder)) for seed in protocol.seeds],
        "notes": list(notes),
        "last_checkpoint": to_json(table, command),
    }
    if taught := [asdict(one) for one in pretrained(place, plan)]:
        found["pretraining"] = taught
    if protocol.evaluate_every:
        found["max_over_training_as_published"] = {
            "evaluations": protocol.evaluations,
            "caution": caution(protocol),
            "encoders": [
                {"name": one.encoder, "tasks": dict(one.tasks), "mean": one.mean, "deviation_over_seeds": one.deviation}
                for one in maxima
            ],
        }
    return found


def caution(protocol: Protocol) -> str:
    """What has to be said beside a maximum over training."""
    return (
        f"The best of {protocol.evaluations} checkpoints by the very episodes that score it: too high by what luck "
        "adds, and no interval holds for it. Compare it with published maxima, never with the last checkpoints."
    )


def print_suite(
    place: Place, plan: SuitePlan, table: Table, maxima: Sequence[Maximum], console: Console | None = None
) -> None:
    """Print both scores, each under a heading that says which it is."""
    protocol, console = plan.protocol, console or Console(width=None if Console().is_terminal else 120)

    def say(line: str, style: str = "") -> None:
        console.print(line, style=style, highlight=False, markup=False, soft_wrap=True)

    say(f"{protocol.label}: last checkpoint, declared beforehand; outcome: {protocol.score_in_words}", "bold")
    print_comparison(table, console)
    if protocol.evaluate_every:
        console.print()
        say(f"{protocol.label}: {MAXIMUM}", "bold")
        console.print(_maximum_table(protocol, maxima))
        say(caution(protocol))
    if taught := list(pretrained(place, plan)):
        console.print()
        console.print(pretraining_table(taught, protocol))
    if protocol.quick:
        say("QUICK: shrunk to minutes; these numbers say that everything runs, and nothing about the encoders.", "bold")
    folder = shlex.quote(str(place.folder))
    say(f"rsp-robot compare {folder}")
    say(f"rsp-robot report {folder}")


def _maximum_table(protocol: Protocol, maxima: Sequence[Maximum]) -> RichTable:
    title = f"Best of {protocol.evaluations} evaluations, mean over {len(protocol.seeds)} training seeds"
    rich = RichTable(title=title, title_justify="left", title_style="bold")
    rich.add_column("encoder")
    rich.add_column("task")
    for heading in (MAXIMUM, "the same runs' last"):
        rich.add_column(heading, justify="right")
    for one in maxima:
        for number, task in enumerate(one.tasks):
            name = escape(one.encoder) if number == 0 else ""
            rich.add_row(name, escape(task), percent(one.tasks[task]), percent(one.last[task]))
        if len(one.tasks) > 1 or one.deviation is not None:
            spread = "" if one.deviation is None else f", sd over seeds {100 * one.deviation:.1f}"
            rich.add_row("", "mean", f"{percent(one.mean)}{spread}", percent(fmean(one.last.values())))
    return rich
