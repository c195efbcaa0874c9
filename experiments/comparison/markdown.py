"""The comparison as Markdown tables for a README, and nothing in them that is not in the rows."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from rsp_robot.experiments.comparison.aggregates import Statistic
from rsp_robot.experiments.comparison.compare import ArmResult, Table
from rsp_robot.experiments.comparison.output import HEADINGS, aggregate_text
from rsp_robot.experiments.comparison.wording import p_number, percent, percent_interval, points, points_interval

SHOWN: tuple[Statistic, ...] = ("mean", "iqm")


def to_markdown(table: Table) -> str:
    """Return success by policy and task, and below it the differences: rates in per cent, differences in points.

    With one task, and so nothing to average, there is a column for its rate alone.
    """
    lines = [*success_lines(table)]
    if table.pairs:
        lines += ["", *difference_lines(table)]
    return "\n".join([*lines, ""])


def success_lines(table: Table) -> Iterator[str]:
    """Yield the lines of a table with a row per policy and a column per task, mean and IQM last."""
    shown = SHOWN if any(arm.scores.size > 1 for arm in table.arms) else ()
    yield _row(["policy", *map(_cell, short_names(table.tasks)), *(HEADINGS[name] for name in shown)])
    yield _rule(1, len(table.tasks) + len(shown))
    for arm in table.arms:
        yield _row([_cell(arm.name), *_rates(arm), *(aggregate_text(arm, name) for name in shown)])


def difference_lines(table: Table) -> Iterator[str]:
    """Yield the lines of a table with a row per pair."""
    several = any(pair.difference.improvement is not None for pair in table.pairs)
    yield _row(["compared", "difference", "p (Holm)", *["P(better)"] * several])
    yield _rule(1, 2 + several)
    for pair in table.pairs:
        found, better = pair.difference, pair.difference.improvement
        numbers = f"{points(found.value)} {points_interval(found.interval)}"
        yield _row(
            [
                _cell(f"{pair.a} less {pair.b}"),
                f"**{numbers}**" if pair.established else numbers,
                p_number(pair.p_holm),
                *([f"{percent(better.value)} {percent_interval(better.interval)}" if better else ""] * several),
            ]
        )


def _rates(arm: ArmResult) -> list[str]:
    if arm.scores.size == 1:
        return [f"{percent(task.rate)} {percent_interval(task.interval)}" for task in arm.tasks]
    return [f"{100 * task.rate:.0f}" for task in arm.tasks]


def short_names(tasks: Sequence[str]) -> list[str]:
    """Return the tasks without suite and version, or as they are where two would be called the same.

    >>> short_names(["metaworld/push-v3", "robosuite/Lift"]), short_names(["metaworld/push-v3", "fetch/push"])
    (['push', 'Lift'], ['metaworld/push-v3', 'fetch/push'])
    """
    names = [re.sub(r"-v\d+$", "", task.rpartition("/")[2]) for task in tasks]
    return names if len(set(names)) == len(names) else list(tasks)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _rule(left: int, right: int) -> str:
    return f"|{'---|' * left}{'---:|' * right}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
