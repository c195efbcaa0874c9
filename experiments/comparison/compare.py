"""Compare evaluations: which rows may stand side by side, and every number that is computed from those that may."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from rsp_robot.errors import UserError, unknown_name
from rsp_robot.experiments.comparison.aggregates import Estimate, Statistic, aggregate, run_scores, task_interval
from rsp_robot.experiments.comparison.differences import Difference, Need, difference, needed
from rsp_robot.experiments.comparison.files import Row, Run
from rsp_robot.experiments.comparison.statistics import Interval, holm

ALPHA = 0.05


@dataclass(frozen=True)
class TaskResult:
    """What one arm did on one task."""

    task: str
    seeds: int
    """Training seeds."""
    successes: float
    """Sum of the outcomes: a whole number, unless a protocol scores returns."""
    episodes: int
    """Episodes with an outcome, over all seeds."""
    errors: int
    """Episodes without an outcome: in no rate."""
    rate: float
    interval: Interval
    """Wilson's 95 % interval; with several seeds for as many independent episodes as vary as much."""


@dataclass(frozen=True)
class ArmResult:
    """What one arm did."""

    name: str
    seeds: int
    files: tuple[str, ...]
    tasks: tuple[TaskResult, ...]
    aggregates: Mapping[Statistic, Estimate]
    """``mean``, ``median``, ``iqm`` and ``gap`` over seeds and tasks."""
    scores: np.ndarray
    """(S, M) success rate of each run, for performance profiles."""


@dataclass(frozen=True)
class Pair:
    """One arm against another."""

    a: str
    b: str
    difference: Difference
    p_holm: float
    """After Holm's correction over all pairs."""
    need: Need
    wanted: float
    """The difference that :attr:`need` is about."""

    @property
    def established(self) -> bool:
        """Whether a difference is established at the family-wise level of 5 %."""
        return self.p_holm < ALPHA


@dataclass(frozen=True)
class Table:
    """Everything that ``rsp-robot compare`` prints and writes."""

    tasks: tuple[str, ...]
    arms: tuple[ArmResult, ...]
    pairs: tuple[Pair, ...]
    settings: dict[str, dict[str, Any]]
    """By task, what the rows were made with, as far as it is known and agreed on."""
    notes: tuple[str, ...]


def compare(
    arms: Mapping[str, Sequence[Run]],
    *,
    wanted: float = 0.1,
    allow_mismatch: bool = False,
    against: Sequence[str] = (),
    notes: Sequence[str] = (),
    resamples: int = 2000,
) -> Table:
    """Compare every two arms on the tasks they share, or every arm with a few.

    Args:
        arms: the runs of each arm, in the order to show them; several runs on one task are training seeds.
        wanted: difference for which to say how many more episodes it would take, in (0, 1].
        allow_mismatch: compare unpaired where settings or start states differ, instead of refusing.
        against: arms that every arm is compared with, instead of every two with each other: fewer comparisons, chosen
            beforehand, need less of a correction.
        notes: remarks that were made on reading; those made here follow.
        resamples: bootstrap draws per interval.

    Raises:
        UserError: settings, tasks or start states differ (unless ``allow_mismatch``), an arm has more seeds on one task
            than on another, or no finished episode on one; or there is no such arm to compare with.
    """
    for name in against:
        if name not in arms:
            raise unknown_name("policy to compare with", name, arms)
    remarks = list(notes)
    mismatches = _tasks_that_differ(arms) + _settings_that_differ(arms) + _starts_that_differ(arms)
    if mismatches and not allow_mismatch:
        raise UserError(f"{mismatches[0]}; evaluate both alike, or insist with --allow-mismatch (unpaired)")
    remarks += [f"{mismatch}: compared unpaired" for mismatch in mismatches]
    paired = not mismatches
    tasks = [task for task in _tasks(next(iter(arms.values()))) if all(task in _tasks(runs) for runs in arms.values())]
    if not tasks:
        raise UserError("the policies have no task in common; evaluate them on the same one")
    grouped = {name: [[run for run in runs if run.task == task] for task in tasks] for name, runs in arms.items()}
    for name, groups in grouped.items():
        for task, group in zip(tasks, groups, strict=True):
            if len(group) != len(groups[0]):
                raise UserError(
                    f"{name!r} has {len(groups[0])} training seeds of {tasks[0]} and {len(group)} of {task}; "
                    "give as many of each, or compare one task at a time"
                )
    results = tuple(_arm(name, tasks, groups, resamples) for name, groups in grouped.items())
    for arm in results:
        errors = sum(task.errors for task in arm.tasks)
        if errors:
            ended = "1 episode" if errors == 1 else f"{errors} episodes"
            remarks.append(
                f"{arm.name}: {ended} ended in an error, neither success nor failure; their start states are left out "
                "of its aggregates and comparisons"
            )
    return Table(
        tasks=tuple(tasks),
        arms=results,
        pairs=_pairs(grouped, _chosen_pairs(results, against), paired, wanted, resamples),
        settings=_agreed_settings(arms, tasks),
        notes=tuple(remarks),
    )


def outcomes_of(groups: Sequence[Sequence[Sequence[Run]]], paired: bool = True) -> list[list[np.ndarray]]:
    """Return per arm, per task the outcomes (S, n) of the start states that every run finished.

    Args:
        groups: per arm, per task, the runs.
        paired: keep the start states that every run of every arm finished, in the same order; else of its own arm.

    Raises:
        UserError: no such start state is left.
    """
    tables: list[list[np.ndarray]] = [[] for _ in groups]
    for task in range(len(groups[0])):
        finished = [[_finished(run) for run in arm[task]] for arm in groups]
        everyone = [rows for arm in finished for rows in arm]
        for arm, table in zip(finished, tables, strict=True):
            counted = everyone if paired else arm
            seeds = sorted(set.intersection(*(set(rows) for rows in counted)))
            if not seeds:
                raise UserError(f"no start state of {groups[0][task][0].task} was finished by all; evaluate it again")
            table.append(np.array([[rows[seed] for seed in seeds] for rows in arm], np.float64))
    return tables


def _finished(run: Run) -> dict[int, float]:
    return {seed: row["success_once"] for seed, row in run.rows.items() if not row.get("error")}


def _arm(name: str, tasks: Sequence[str], groups: Sequence[Sequence[Run]], resamples: int) -> ArmResult:
    (outcomes,) = outcomes_of([groups])
    found = aggregate(outcomes, resamples=resamples)
    results = []
    for task, runs, table in zip(tasks, groups, outcomes, strict=True):
        finished = [outcome for run in runs for outcome in _finished(run).values()]
        errors = sum(len(run.rows) for run in runs) - len(finished)
        results.append(
            TaskResult(
                task=task,
                seeds=len(runs),
                successes=sum(finished),
                episodes=len(finished),
                errors=errors,
                rate=sum(finished) / len(finished),
                interval=task_interval(table),
            )
        )
    files = dict.fromkeys(str(run.source.path) for runs in groups for run in runs)
    return ArmResult(name, len(groups[0]), tuple(files), tuple(results), found, run_scores(outcomes))


def _chosen_pairs(arms: Sequence[ArmResult], against: Sequence[str]) -> list[tuple[ArmResult, ArmResult]]:
    """Return the pairs, an arm that others are compared with second."""
    if not against:
        return list(combinations(arms, 2))
    by_name = {arm.name: arm for arm in arms}
    done: list[tuple[ArmResult, ArmResult]] = []
    for name in dict.fromkeys(against):
        done += [(arm, by_name[name]) for arm in arms if arm.name != name and (by_name[name], arm) not in done]
    return done


def _pairs(
    grouped: Mapping[str, Sequence[Sequence[Run]]],
    pairs: Sequence[tuple[ArmResult, ArmResult]],
    paired: bool,
    wanted: float,
    resamples: int,
) -> tuple[Pair, ...]:
    found = []
    for a, b in pairs:
        first, second = outcomes_of([grouped[a.name], grouped[b.name]], paired)
        found.append((a, b, difference(first, second, paired=paired, resamples=resamples)))
    adjusted = holm([result.p_value for _, _, result in found])
    alpha = ALPHA / max(1, len(found))
    return tuple(
        Pair(a.name, b.name, result, p, needed(result, min(a.seeds, b.seeds), _rate(a), wanted, alpha=alpha), wanted)
        for (a, b, result), p in zip(found, adjusted, strict=True)
    )


def _rate(arm: ArmResult) -> float:
    return arm.aggregates["mean"].value


def _tasks(runs: Sequence[Run]) -> list[str]:
    return list(dict.fromkeys(run.task for run in runs))


def _tasks_that_differ(arms: Mapping[str, Sequence[Run]]) -> list[str]:
    first, *others = arms.items()
    return [
        f"{first[0]!r} was evaluated on {', '.join(_tasks(first[1]))}, {name!r} on {', '.join(_tasks(runs))}"
        for name, runs in others
        if set(_tasks(runs)) != set(_tasks(first[1]))
    ]


def _settings_that_differ(arms: Mapping[str, Sequence[Run]]) -> list[str]:
    """Sentences about settings that two runs of one task do not share, the first of each setting and task."""
    seen: dict[tuple[str, str], Run] = {}
    found: dict[tuple[str, str], str] = {}
    for run in (run for runs in arms.values() for run in runs):
        for key, value in run.source.settings.items():
            first = seen.setdefault((run.task, key), run)
            known = first.source.settings[key]
            if known != value:
                sentence = f"{run.task}: {key} is {known} in {first.source.path}, {value} in {run.source.path}"
                found.setdefault((run.task, key), sentence)
    return list(found.values())


def _starts_that_differ(arms: Mapping[str, Sequence[Run]]) -> list[str]:
    """Sentences about start states that two runs of one task do not share, the first of each task."""
    first: dict[str, Run] = {}
    found: dict[str, str] = {}
    for run in (run for runs in arms.values() for run in runs):
        one = first.setdefault(run.task, run)
        for seed in sorted(one.rows.keys() | run.rows.keys()):
            states = [_state(rows.rows.get(seed)) for rows in (one, run)]
            if states[0] != states[1] and "" not in states:
                found.setdefault(
                    run.task,
                    f"{run.task} seed {seed}: the start state is {states[0]} in {one.source.path}, {states[1]} in "
                    f"{run.source.path}",
                )
                break
    return list(found.values())


def _state(row: Row | None) -> str:
    """The start state of a row as a sentence names it; empty for an episode that ended in an error."""
    if row is None:
        return "missing"
    return str(row["initial_state"] or "")


def _agreed_settings(arms: Mapping[str, Sequence[Run]], tasks: Sequence[str]) -> dict[str, dict[str, Any]]:
    agreed: dict[str, dict[str, Any]] = {}
    for task in tasks:
        runs = [run for group in arms.values() for run in group if run.task == task]
        settings: dict[str, Any] = {}
        for run in runs:
            settings |= run.source.settings
        agreed[task] = {
            key: value
            for key, value in settings.items()
            if all(run.source.settings.get(key, value) == value for run in runs)
        }
    return agreed
