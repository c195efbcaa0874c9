"""``results.json``: the rows of an experiment, and every number that is computed from them.

Whatever is shown anywhere (terminal table, report, pictures) comes from :attr:`Results.summary`, and that comes from
the rows alone: one row per episode and policy, as :mod:`rsp_robot.experiments.evaluation.evaluate` writes them.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rsp_robot.errors import UserError
from rsp_robot.experiments.comparison.differences import difference
from rsp_robot.experiments.comparison.statistics import (
    Interval,
    PairedComparison,
    holm,
    paired_comparison,
    wilson_interval,
)
from rsp_robot.experiments.comparison.wording import (
    headline,
    p_number,
    percent,
    percent_interval,
    points,
    points_interval,
)
from rsp_robot.files import read_json, write_json

CONFIDENCE = 0.95
ALPHA = 0.05

Row = dict[str, Any]


@dataclass(frozen=True)
class Arm:
    """One of the policies that are compared."""

    name: str
    """The ``policy`` field of its rows, also used in file names: ``rsp``."""
    label: str
    """What a reader sees: ``RSP``."""
    description: str = ""
    """A few words about how this policy was made."""
    phrase: str = ""
    """What stands in the middle of a sentence: ``the random encoder``; the label where it is empty."""


@dataclass(frozen=True)
class ArmSummary:
    """What the rows say about one arm. Episodes that ended in an error have no outcome and are only counted."""

    name: str
    label: str
    phrase: str
    episodes: int
    """Episodes with an outcome."""
    errors: int
    """Episodes without an outcome, left out of everything else."""
    successes: int
    """Episodes in which the task was solved at some step."""
    rate: float
    interval: Interval
    """Wilson 95 % interval of ``rate``."""
    successes_at_end: int
    """Episodes in which the task was still solved at the last step."""
    median_first_success: float | None
    """Median step of the first success, over the successful episodes; None where there is none."""


@dataclass(frozen=True)
class Comparison:
    """Arm ``a`` against arm ``b`` on equal start states."""

    a: str
    b: str
    pairs: PairedComparison
    p_holm: float
    """Exact McNemar p-value after Holm's correction over all comparisons of the summary."""

    @property
    def established(self) -> bool:
        """Whether a difference is established at the family-wise level of 5 %."""
        return self.p_holm < ALPHA


@dataclass(frozen=True)
class Summary:
    """Success per arm and the comparison of every two, in the order of the arms; the first is the one in question."""

    arms: tuple[ArmSummary, ...]
    comparisons: tuple[Comparison, ...]

    def arm(self, name: str) -> ArmSummary:
        """The summary of the arm called ``name``."""
        return next(arm for arm in self.arms if arm.name == name)

    def title(self, comparison: Comparison) -> str:
        """What a table calls a comparison: ``RSP vs random encoder``."""
        return f"{self.arm(comparison.a).label} vs {self.arm(comparison.b).label}"


@dataclass(frozen=True)
class Results:
    """The content of ``results.json``."""

    title: str
    task: str
    arms: tuple[Arm, ...]
    """The arm in question first, the baselines after it."""
    rows: tuple[Row, ...]
    config: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    seeds: dict[str, Any] = field(default_factory=dict)
    command: str = ""
    """The command line that made it."""

    @cached_property
    def summary(self) -> Summary:
        """Computed from ``rows``; see :func:`summarise`."""
        return summarise(self.rows, self.arms)


def save_results(path: str | os.PathLike[str], results: Results) -> Path:
    """Write ``results`` and their summary as JSON, atomically.

    Raises:
        UserError: the rows cannot be summarised; nothing is written.
    """
    document = {
        "title": results.title,
        "task": results.task,
        "headline": {"verdict": headline(results.summary).verdict, "sentence": headline(results.summary).sentence},
        "command": results.command,
        "config": results.config,
        "versions": results.versions,
        "seeds": results.seeds,
        "arms": results.arms,
        "summary": results.summary,
        "rows": results.rows,
    }
    write_json(path, _plain(document))
    return Path(path)


def load_results(path: str | os.PathLike[str]) -> Results:
    """Read ``results.json`` from a file or from the run folder that holds it.

    The stored summary is for readers of the file; the one of the returned object is computed from the rows again.

    Raises:
        UserError: the file is missing, is not JSON, or does not hold the results of an evaluation.
    """
    file = Path(path)
    file = file / "results.json" if file.is_dir() else file
    if not file.is_file():
        raise UserError(f"{file} does not exist; finish the evaluation first (the same command again continues it)")
    document = read_json(file)
    try:
        results = Results(
            title=_text(document, "title"),
            task=_text(document, "task"),
            arms=tuple(
                Arm(_text(arm, "name"), _text(arm, "label"), arm.get("description") or "", arm.get("phrase") or "")
                for arm in document["arms"]
            ),
            rows=tuple(dict(row) for row in document["rows"]),
            config=dict(document.get("config") or {}),
            versions=dict(document.get("versions") or {}),
            seeds=dict(document.get("seeds") or {}),
            command=str(document.get("command") or ""),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{file} does not hold evaluation results ({_one_line(error)}); write it again") from None
    try:
        results.summary  # noqa: B018 - computed here so that a bad file is refused where it is read
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
    return results


def summarise(rows: Sequence[Mapping[str, Any]], arms: Sequence[Arm] | None = None) -> Summary:
    """Compute success rates with Wilson intervals and the paired comparison of every two arms.

    Args:
        rows: one mapping per episode and policy.
        arms: the order and the labels; without it, the policies in the order of their first row.

    Raises:
        UserError: no rows, a row lacks a field, a policy that is no arm, an arm without a finished episode, or start
            states that differ between arms.
    """
    if not rows:
        raise UserError("there are no evaluation rows; run the evaluation first")
    for number, row in enumerate(rows):
        _check_row(number, row)
    names = dict.fromkeys(row["policy"] for row in rows)
    arms = [Arm(name, name) for name in names] if arms is None else arms
    strangers = [name for name in names if name not in {arm.name for arm in arms}]
    if strangers:
        raise UserError(f"rows of the policy {strangers[0]!r} belong to no arm; list it among the arms")
    by_arm = {arm.name: [row for row in rows if row["policy"] == arm.name] for arm in arms}
    summaries = tuple(_summarise_arm(arm, by_arm[arm.name]) for arm in arms)
    pairs = []
    for a, b in combinations(by_arm, 2):
        first, second = match_rows(by_arm[a], by_arm[b])
        interval = difference([first[None]], [second[None]]).interval  # the one that `rsp-robot compare` gives
        pairs.append((a, b, replace(paired_comparison(first, second), interval=interval)))
    adjusted = holm([comparison.p_value for _, _, comparison in pairs])
    comparisons = tuple(Comparison(a, b, pair, p) for (a, b, pair), p in zip(pairs, adjusted, strict=True))
    return Summary(summaries, comparisons)


def match_rows(a: Iterable[Mapping[str, Any]], b: Iterable[Mapping[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """Pair the episodes of two policies by task, seed and initial state.

    A pair in which either episode ended in an error is left out.

    Returns:
        Two (n,) boolean arrays, ``success_once`` of either policy, in the order of ``a``.

    Raises:
        UserError: an episode is there twice or for one policy only, its initial states differ, or no pair is left.
    """
    first, second = _by_start(a), _by_start(b)
    for task, seed in first.keys() ^ second.keys():
        raise UserError(f"{task} seed {seed} was run for one policy only; evaluate both on the same episodes")
    successes = []
    for (task, seed), row in first.items():
        other = second[task, seed]
        if row.get("error") or other.get("error"):
            continue
        if row["initial_state"] != other["initial_state"]:
            raise UserError(
                f"{task} seed {seed} started from different states for {row['policy']} and {other['policy']}; "
                "evaluate both again with the same versions"
            )
        successes.append((row["success_once"], other["success_once"]))
    if not successes:
        raise UserError("no episode was finished by both policies; run the evaluation again")
    table = np.array(successes, dtype=bool)
    return table[:, 0], table[:, 1]


def print_table(results: Results, console: Console | None = None) -> None:
    """Print success per arm, the paired differences and the headline sentence to the terminal."""
    console = Console() if console is None else console
    summary = results.summary
    table = Table(title=escape(f"{results.title} ({results.task})"), title_justify="left", title_style="bold")
    for heading in ("policy", "success", "rate", "95 % interval", "at the end"):
        table.add_column(heading, justify="left" if heading == "policy" else "right")
    for arm in summary.arms:
        table.add_row(
            escape(arm.label),
            f"{arm.successes}/{arm.episodes}",
            percent(arm.rate),
            percent_interval(arm.interval),
            f"{arm.successes_at_end}/{arm.episodes}",
        )
    console.print(table)
    if summary.comparisons:
        table = Table(title="Paired differences, same start states", title_justify="left", title_style="bold")
        for heading in ("first vs second", "only one", "difference", "p (Holm)", "established"):
            table.add_column(heading, justify="left" if heading.startswith("first") else "right")
        for comparison in summary.comparisons:
            pairs = comparison.pairs
            table.add_row(
                escape(summary.title(comparison)),
                f"{pairs.only_a} : {pairs.only_b}",
                f"{points(pairs.difference)} {points_interval(pairs.interval)}",
                p_number(comparison.p_holm),
                "yes" if comparison.established else "no",
            )
        console.print(table)
    head = headline(summary)
    console.print(head.verdict, style="bold", highlight=False, markup=False)
    console.print(head.sentence, highlight=False, markup=False)


def _summarise_arm(arm: Arm, rows: Sequence[Mapping[str, Any]]) -> ArmSummary:
    done = [row for row in rows if not row.get("error")]
    if not done:
        raise UserError(f"the arm {arm.name!r} has no finished episode; run its evaluation again")
    successes = sum(row["success_once"] for row in done)
    first = [row["first_success"] for row in done if row["success_once"] and row.get("first_success") is not None]
    return ArmSummary(
        name=arm.name,
        label=arm.label,
        phrase=arm.phrase or arm.label,
        episodes=len(done),
        errors=len(rows) - len(done),
        successes=successes,
        rate=successes / len(done),
        interval=wilson_interval(successes, len(done), CONFIDENCE),
        successes_at_end=sum(bool(row.get("success_at_end")) for row in done),
        median_first_success=float(np.median(first)) if first else None,
    )


def _check_row(number: int, row: Mapping[str, Any]) -> None:
    for key in ("policy", "task", "seed", "initial_state", "success_once"):
        if key not in row:
            raise UserError(f"evaluation row {number} has no {key!r}; run the evaluation again")
    if not row.get("error") and not isinstance(row["success_once"], bool):
        raise UserError(f"evaluation row {number} has no true or false in 'success_once'; run the evaluation again")


def _by_start(rows: Iterable[Mapping[str, Any]]) -> dict[tuple[str, int], Mapping[str, Any]]:
    table: dict[tuple[str, int], Mapping[str, Any]] = {}
    for row in rows:
        key = (row["task"], row["seed"])
        if key in table:
            raise UserError(f"{key[0]} seed {key[1]} is there twice for {row['policy']}; remove one of the rows")
        table[key] = row
    return table


def _text(document: Mapping[str, Any], key: str) -> str:
    value = document[key]
    if not isinstance(value, str) or not value:
        raise ValueError(f"{key!r} is not a text")
    return value


def _one_line(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"{error} is missing"
    return " ".join(str(error).split())


def _plain(value: Any) -> Any:
    """What JSON can hold: paths become texts, tuples lists, NumPy scalars numbers, and NaN and infinity null."""
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value
