"""The sections on success: rates with intervals, performance profiles, and the differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rsp_robot.experiments.comparison.aggregates import performance_profile
from rsp_robot.experiments.comparison.compare import ArmResult, Pair, Table, TaskResult
from rsp_robot.experiments.comparison.files import Row
from rsp_robot.experiments.comparison.output import SHOWN, sentences
from rsp_robot.experiments.comparison.statistics import Interval
from rsp_robot.experiments.comparison.wording import (
    capital,
    p_number,
    percent,
    percent_interval,
    points,
    points_interval,
)
from rsp_robot.experiments.report.chart import Axis, Curve, chart
from rsp_robot.experiments.report.figures import Bar, difference_plot, episode_grid, success_plot, task_bars
from rsp_robot.experiments.report.markup import line_class, note, tag, text
from rsp_robot.experiments.report.material import Material
from rsp_robot.experiments.report.tables import Cell, arm_cell, cell, sortable_table

MOST_BANDS = 3
"""With more arms the bands of their profiles would cover each other."""
MOST_DRAWN = 10
"""Above so many comparisons only those with the first arm are drawn; the table has all."""


def success_section(material: Material, table: Table) -> str:
    """Rates with intervals, per arm and per task."""
    one_task = len(table.tasks) == 1
    bars = [_arm_bar(material, arm, one_task) for arm in table.arms]
    if one_task:
        caption = "Share of episodes in which the task was solved; the line is the Wilson 95 % interval."
        return success_plot(bars, caption) + _task_table(material, table)
    caption = "Success rate, mean over tasks and training seeds; the line is its 95 % interval."
    by_task = {
        task: [_task_bar(material, arm, arm.tasks[number]) for arm in table.arms]
        for number, task in enumerate(table.tasks)
    }
    return "".join(
        [
            success_plot(bars, caption),
            _aggregate_table(material, table),
            tag("h3", "Task by task"),
            task_bars(by_task, "The lines are Wilson 95 % intervals."),
            _task_table(material, table),
        ]
    )


def _arm_bar(material: Material, arm: ArmResult, one_task: bool) -> Bar:
    presented = material.arm(arm.name)
    seeds = f"{arm.seeds} training seeds" if arm.seeds > 1 else ""
    what = ", ".join(part for part in (presented.description, seeds) if part)
    successes, episodes = sum(task.successes for task in arm.tasks), sum(task.episodes for task in arm.tasks)
    rate, interval = arm.aggregates["mean"].value, arm.aggregates["mean"].interval
    if one_task:
        rate, interval = arm.tasks[0].rate, arm.tasks[0].interval
    return Bar(material.index(arm.name), presented.label, rate, interval, f"{successes} of {episodes}", what)


def _task_bar(material: Material, arm: ArmResult, task: TaskResult) -> Bar:
    label = material.arm(arm.name).label
    return Bar(material.index(arm.name), label, task.rate, task.interval, f"{task.successes} of {task.episodes}")


def _interval(interval: Interval) -> Cell:
    return cell(percent_interval(interval), interval.low)


def _aggregate_table(material: Material, table: Table) -> str:
    headings = ["Policy", "Seeds", "Tasks", "Success", "Mean", "95 % interval", "IQM", "95 % interval of the IQM"]
    headings += ["Optimality gap", "95 % interval of the gap"]
    rows = []
    for arm in table.arms:
        successes, episodes = sum(task.successes for task in arm.tasks), sum(task.episodes for task in arm.tasks)
        cells = [arm_cell(material.index(arm.name), material.arm(arm.name).label), cell(arm.seeds)]
        cells += [cell(len(arm.tasks)), _count(successes, episodes)]
        for name in SHOWN:
            found = arm.aggregates[name]
            cells += [cell(percent(found.value), found.value), _interval(found.interval)]
        rows.append(cells)
    return sortable_table("Success over all tasks", headings, rows)


def _count(part: float, whole: int) -> Cell:
    return cell(f"{part:.4g} of {whole}", float(part))


def _task_table(material: Material, table: Table) -> str:
    """A row per arm and task; columns that say nothing are left out."""
    several, seeds = len(table.tasks) > 1, any(arm.seeds > 1 for arm in table.arms)
    errors = any(task.errors for arm in table.arms for task in arm.tasks)
    endings = {
        (arm.name, task.task): _ending(material, arm.name, task.task) for arm in table.arms for task in arm.tasks
    }
    at_end = any(endings[arm.name, task.task][0] != task.successes for arm in table.arms for task in arm.tasks)
    headings = ["Policy"] + ["Task"] * several + ["Seeds"] * seeds + ["Success", "Rate", "95 % interval"]
    headings += ["Solved at the end"] * at_end + ["Median step of first success"] + ["Errors (left out)"] * errors
    rows = []
    for arm in table.arms:
        for task in arm.tasks:
            solved, first = endings[arm.name, task.task]
            cells = [arm_cell(material.index(arm.name), material.arm(arm.name).label)]
            cells += [cell(task.task)] * several + [cell(task.seeds)] * seeds
            cells += [_count(task.successes, task.episodes), cell(percent(task.rate), task.rate)]
            cells += [_interval(task.interval)] + [_count(solved, task.episodes)] * at_end
            cells += [cell("–" if first is None else f"{first:g}", np.inf if first is None else first)]
            rows.append(cells + [cell(task.errors)] * errors)
    return sortable_table("Success task by task", headings, rows, names=1 + several)


def finished_rows(material: Material, arm: str, task: str) -> list[Row]:
    """Rows with an outcome, of every seed."""
    return [row for run in material.runs[arm] if run.task == task for row in run.rows.values() if not row.get("error")]


def _ending(material: Material, arm: str, task: str) -> tuple[int, float | None]:
    """Episodes in which success held at the last step, and the median step of the first success."""
    rows = finished_rows(material, arm, task)
    steps = [row["first_success"] for row in rows if row["success_once"] and row.get("first_success") is not None]
    return sum(bool(row.get("success_at_end")) for row in rows), float(np.median(steps)) if steps else None


def profile_section(material: Material, table: Table) -> str:
    """Share of runs above each success rate; empty where every arm is a single run."""
    if all(arm.scores.size < 2 for arm in table.arms):
        return ""
    banded = len(table.arms) <= MOST_BANDS
    curves, spoken = [], []
    for arm in table.arms:
        label, profile = material.arm(arm.name).label, performance_profile(arm.scores)
        steps, lows, highs = (_steps(profile.thresholds, of) for of in (profile.share, profile.low, profile.high))
        band = [(x, low, high) for (x, low), (_, high) in zip(lows, highs, strict=True)] if banded else []
        curves.append(Curve(label, line_class(material.index(arm.name)), steps, band))
        spoken.append(f"{label}: {percent(float(profile.share[50]))} of {arm.scores.size} runs succeed in over half")
    shares = [(share, percent(share)) for share in (0, 0.25, 0.5, 0.75, 1)]
    x, y = Axis(0, 1, shares, "success rate τ"), Axis(0, 1, shares, "share of runs above τ")
    bands = " The bands are pointwise Wilson 95 % intervals." if banded else ""
    caption = (
        "Performance profile over tasks and training seeds: how large a share of the runs has a success rate above τ. "
        f"A run is one training seed on one task; where one curve lies above another everywhere, it is better.{bands}"
    )
    return tag("figure", chart(curves, x, y, "; ".join(spoken)), tag("figcaption", text(caption)), class_="wide")


def _steps(xs: np.ndarray, ys: np.ndarray) -> list[tuple[float, float]]:
    """Corners of a staircase: a share changes at its threshold, not between two."""
    return [(float(xs[0]), float(ys[0]))] + [
        corner for i in range(1, len(xs)) for corner in ((float(xs[i]), float(ys[i - 1])), (float(xs[i]), float(ys[i])))
    ]


def comparison_section(material: Material, table: Table) -> str:
    """Differences of every two arms, and what is established."""
    grid = _episodes(material)
    if not table.pairs:
        return note("There is one policy only: nothing to compare.") + grid + _reading(table)
    labels = {arm.name: arm.label for arm in material.arms}
    first = table.arms[0].name
    drawn = [pair for pair in table.pairs if pair.a == first] if len(table.pairs) > MOST_DRAWN else table.pairs
    paired = all(pair.difference.paired for pair in table.pairs)
    caption = (
        f"Difference of success in percentage points with its {'paired ' if paired else 'unpaired '}bootstrap 95 % "
        "interval: to the right the first does better. Coloured where p is below 0.05 after Holm’s correction."
    )
    if len(drawn) < len(table.pairs):
        caption += f" Drawn are the comparisons with {labels[first]}; the table has all {len(table.pairs)}."
    plot = difference_plot(drawn, labels, caption)
    return plot + _pair_table(material, table, labels) + grid + _reading(table)


def _pair_table(material: Material, table: Table, labels: Mapping[str, str]) -> str:
    counted = {(c.a, c.b): c.pairs for c in material.summary.comparisons} if material.summary else {}
    paired = all(pair.difference.paired for pair in table.pairs)
    improving = any(pair.difference.improvement for pair in table.pairs)
    tests = sorted({pair.difference.test for pair in table.pairs})
    headings = ["First vs second"]
    if counted:
        headings += ["Both", "Only first", "Only second", "Neither"]
    elif paired:
        headings += ["First more often", "Second more often"]
    headings += ["Difference", "95 % interval", f"p ({' or '.join(tests)})", "p (Holm)", "Difference established"]
    headings += ["P(first > second)"] * improving
    rows = []
    for pair in table.pairs:
        found = pair.difference
        cells = [cell(f"{labels[pair.a]} vs {labels[pair.b]}")]
        if counted:
            counts = counted[pair.a, pair.b]
            cells += [cell(count) for count in (counts.both, counts.only_a, counts.only_b, counts.neither)]
        elif paired:
            cells += [cell(found.a_better), cell(found.b_better)]
        cells += [cell(points(found.value), found.value), cell(points_interval(found.interval), found.interval.low)]
        cells += [cell(p_number(found.p_value), found.p_value), cell(p_number(pair.p_holm), pair.p_holm)]
        cells += [cell("yes" if pair.established else "no")] + [_improvement(pair)] * improving
        rows.append(cells)
    return sortable_table("Comparisons", headings, rows)


def _improvement(pair: Pair) -> Cell:
    better = pair.difference.improvement
    return cell("–", -1.0) if better is None else cell(
        f"{percent(better.value)} {percent_interval(better.interval)}", better.value
    )  # fmt: skip


def _episodes(material: Material) -> str:
    if material.summary is None:
        return ""
    arms: list[tuple[str, Mapping[int, Mapping[str, Any]]]] = [
        (material.arm(name).label, runs[0].rows) for name, runs in material.runs.items()
    ]
    return episode_grid(arms)


def _reading(table: Table) -> str:
    tests = {pair.difference.test for pair in table.pairs}
    paired = all(pair.difference.paired for pair in table.pairs)
    said: list[str] = ["An episode counts as a success if the task was solved at any step of it."]
    if table.pairs and paired:
        said.append(
            "Every policy ran from the same start states, which was checked, so the policies are compared pair by pair."
        )
    if "McNemar" in tests:
        said.append(
            "McNemar’s exact test asks whether the start states that only one of two policies solves favour either "
            "side, and Holm’s correction allows for the number of comparisons. That test decides what is called "
            "established; the bootstrap interval, which is not corrected, says how large the difference may be."
        )
    if "t" in tests:
        said.append(
            "With several training seeds the test is Student’s t over seeds and start states, corrected by Holm for "
            "the number of comparisons: it is about training again, not about these policies alone."
        )
    if min(arm.seeds for arm in table.arms) == 1:
        said.append(
            "One training seed says nothing about training again: the intervals speak of these policies on other "
            "start states; they do not cover what another training seed would have changed."
        )
    more = [line for line in sentences(table) if not line.startswith(("One training seed", "Brackets"))]
    said += [capital(line.removeprefix("note: ")).rstrip(".") + "." for line in more]
    return tag("ul", *(tag("li", text(sentence)) for sentence in _shortened(said)), class_="reading")


def _shortened(said: Sequence[str]) -> list[str]:
    """The first of many sentences about differences that are not established stand for all; the files have the rest."""
    needs = [line for line in said if "no difference is established" in line]
    rest = [line for line in said if line not in needs]
    more = [f"{len(needs) - 3} more comparisons establish nothing; --json lists what each would take."]
    return rest + needs[:3] + (more if len(needs) > 3 else [])
