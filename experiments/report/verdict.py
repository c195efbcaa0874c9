"""What a table says in one line, and in a few."""

from __future__ import annotations

from collections.abc import Sequence

from rsp_robot.experiments.comparison.compare import ArmResult, Table
from rsp_robot.experiments.comparison.wording import (
    Headline,
    headline,
    join,
    p_text,
    percent,
    percent_interval,
    points,
    points_interval,
    verdict_line,
)
from rsp_robot.experiments.report.material import Material

MOST_NAMED = 4
"""Above so many others the verdict counts them."""


def verdict(material: Material) -> Headline:
    """Say what the first arm is worth against the others, and plainly where a difference is not established."""
    table = material.table
    if table is None:
        runs = [run.name for run in material.pretraining] + [run.folder.name for run in material.training]
        return Headline("What training learned", f"Curves of {join(runs[:8], 'and')}.")
    if material.summary is not None and len(table.arms) <= MOST_NAMED + 1:
        return headline(material.summary)
    return Headline(_line(material, table), _sentence(material, table))


def _line(material: Material, table: Table) -> str:
    subject = table.arms[0]
    against = [pair for pair in table.pairs if pair.a == subject.name]
    better = [pair.b for pair in against if pair.established and pair.difference.value > 0]
    worse = [pair.b for pair in against if pair.established and pair.difference.value < 0]
    rest = [pair.b for pair in against if not pair.established]
    few = len(against) <= MOST_NAMED

    def told(names: Sequence[str], word: str) -> str:
        if few or not names:
            return join([_phrase(material, name) for name in names], word)
        return f"{len(names)} of {len(against)} others"

    undecided = told(rest, "or")
    if rest and not few:
        undecided = f"{len(rest)}" if better or worse else f"any of the {len(rest)} others"
    return verdict_line(_phrase(material, subject), told(better, "and"), told(worse, "and"), undecided)


def _phrase(material: Material, arm: ArmResult | str) -> str:
    found = material.arm(arm if isinstance(arm, str) else arm.name)
    return found.phrase or found.label


def _sentence(material: Material, table: Table) -> str:
    """Successes of the first arms and their differences to the first, with intervals."""
    what = "task" if len(table.tasks) == 1 else f"{len(table.tasks)} tasks"
    over = f"Mean success over {'the ' if what == 'task' else ''}{what}"
    seeds = sorted({arm.seeds for arm in table.arms})
    if seeds != [1]:
        over += f" and {' or '.join(map(str, seeds))} training seeds"
    shown = table.arms[: MOST_NAMED + 1]
    rates = [
        f"{_phrase(material, arm)} {percent(mean.value)} {percent_interval(mean.interval)}"
        for arm, mean in ((arm, arm.aggregates["mean"]) for arm in shown)
    ]
    sentences = [f"{over}: {', '.join(rates)}{', ...' if len(shown) < len(table.arms) else ''}."]
    against = [pair for pair in table.pairs if pair.a == table.arms[0].name]
    if against and len(against) <= MOST_NAMED:
        told = [
            f"{_phrase(material, pair.b)} {points(pair.difference.value)} {points_interval(pair.difference.interval)}, "
            f"{p_text(pair.p_holm)}"
            for pair in against
        ]
        sentences.append(f"Points of difference to {'; to '.join(told)}.")
    return " ".join([*sentences, "Brackets are 95 % intervals."])
