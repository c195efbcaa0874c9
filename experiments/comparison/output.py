"""The comparison in words and files: terminal tables, JSON, CSV and LaTeX, all with the same numbers."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from rsp_robot.experiments.comparison.aggregates import Estimate, Statistic
from rsp_robot.experiments.comparison.compare import ArmResult, Pair, Table
from rsp_robot.experiments.comparison.wording import p_number, percent, percent_interval, points, points_interval

SHOWN: tuple[Statistic, ...] = ("mean", "iqm", "gap")
HEADINGS: dict[Statistic, str] = {"mean": "mean", "median": "median", "iqm": "IQM", "gap": "optimality gap"}


def print_comparison(table: Table, console: Console | None = None) -> None:
    """Print success per task, the aggregates, the comparisons, and what it would take where none is established."""
    if console is None:
        console = Console()
        if not console.is_terminal:
            console = Console(width=120)  # a file has room for the tables
    console.print(_task_table(table))
    if any(arm.scores.size > 1 for arm in table.arms):
        console.print(_aggregate_table(table))
    if table.pairs:
        console.print(_pair_table(table))
    for line in sentences(table):
        console.print(line, highlight=False, markup=False)


def sentences(table: Table) -> list[str]:
    """What the tables do not say: how far a difference is from being seen, what brackets mean, and remarks."""
    found = [need_sentence(pair) for pair in table.pairs if not pair.established]
    if min(arm.seeds for arm in table.arms) == 1:
        found.append("One training seed says nothing about training again: brackets and p are about these policies.")
    tests = {pair.difference.test for pair in table.pairs}
    named = {
        "McNemar": "McNemar's exact test",
        "Fisher": "Fisher's exact test, unpaired,",
        "t": "Student's t test over training seeds and start states",
    }
    p = f"; p is {' or '.join(named[test] for test in sorted(tests))} after Holm's correction" if tests else ""
    found.append(f"Brackets are 95 % intervals{p}.")
    return found + [f"note: {note}" for note in table.notes]


def need_sentence(pair: Pair) -> str:
    """How many more episodes or seeds would be needed to see the difference that is asked about."""
    need, found = pair.need, pair.difference
    wanted = f"a difference of {100 * pair.wanted:.0f} points"
    head = f"{pair.a} vs {pair.b}: no difference is established"
    if need.episodes and need.episodes <= found.starts:
        return f"{head}; these {found.starts} episodes suffice to see {wanted} (power 80 %), though no smaller one."
    if need.episodes:
        more = need.episodes - found.starts
        return f"{head}; {more} more episodes of each policy would be needed to see {wanted} (power 80 %)."
    if need.seeds:
        return (
            f"{head}; training seeds differ too much for more episodes to help: {need.seeds} seeds of each policy "
            f"would be needed to see {wanted} (power 80 %)."
        )
    return f"{head}; both more training seeds and more episodes would be needed to see {wanted} (power 80 %)."


def to_json(table: Table, command: str) -> dict[str, Any]:
    """Return everything as plain values."""
    return {
        "command": command,
        "settings": table.settings,
        "arms": [
            {
                "name": arm.name,
                "seeds": arm.seeds,
                "files": list(arm.files),
                "tasks": [
                    {
                        "task": task.task, "successes": task.successes, "episodes": task.episodes,
                        "errors": task.errors, "rate": task.rate,
                        "interval": [task.interval.low, task.interval.high],
                    }
                    for task in arm.tasks
                ],
                "aggregates": {name: _estimate(value) for name, value in arm.aggregates.items()},
                "scores": arm.scores.tolist(),
            }
            for arm in table.arms
        ],
        "pairs": [
            {
                "a": pair.a, "b": pair.b, "paired": pair.difference.paired, "starts": pair.difference.starts,
                "a_better": pair.difference.a_better, "b_better": pair.difference.b_better,
                "difference": pair.difference.value,
                "interval": [pair.difference.interval.low, pair.difference.interval.high],
                "test": pair.difference.test, "p": pair.difference.p_value, "p_holm": pair.p_holm,
                "established": pair.established,
                "probability_of_improvement": _estimate(pair.difference.improvement),
                "needed": {
                    "difference": pair.wanted, "power": 0.8, "start_states": pair.need.episodes or None,
                    "seeds": pair.need.seeds or None,
                },
            }
            for pair in table.pairs
        ],
        "notes": list(table.notes),
    }  # fmt: skip


def to_csv(table: Table) -> str:
    """Return one line per number: ``policy, against, task, quantity, value, low, high, p_holm, n, errors``."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["policy", "against", "task", "quantity", "value", "low", "high", "p_holm", "n", "errors"])
    writer.writerows(_lines(table))
    return out.getvalue()


def to_latex(table: Table) -> str:
    """Return a ``tabular`` (booktabs): a row per policy, a column per task, then mean and IQM, in per cent."""
    columns = [_latex(task) for task in table.tasks]
    shown: tuple[Statistic, ...] = ("mean", "iqm")
    head = " & ".join(["Policy", *columns, *(HEADINGS[name] for name in shown)])
    lines = [f"\\begin{{tabular}}{{l{'c' * (len(columns) + len(shown))}}}", "\\toprule", f"{head} \\\\", "\\midrule"]
    for arm in table.arms:
        cells = [(task.rate, task.interval) for task in arm.tasks]
        cells += [(arm.aggregates[name].value, arm.aggregates[name].interval) for name in shown]
        texts = [f"{100 * rate:.0f} \\tiny{{{percent_interval(interval)}}}" for rate, interval in cells]
        lines.append(f"{' & '.join([_latex(arm.name), *texts])} \\\\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", ""])


def _task_table(table: Table) -> RichTable:
    rich = _rich("Success per task", ["policy", "task", "seeds", "success", "errors", "rate", "95 % interval"], 2)
    for arm in table.arms:
        for number, task in enumerate(arm.tasks):
            rich.add_row(
                escape(arm.name) if number == 0 else "",
                escape(task.task),
                str(task.seeds),
                f"{task.successes:.5g}/{task.episodes}",
                str(task.errors),
                percent(task.rate),
                percent_interval(task.interval),
            )
    return rich


def _aggregate_table(table: Table) -> RichTable:
    count = len(table.tasks)
    title = f"Over {count} task{'s' if count > 1 else ''} and the training seeds"
    rich = _rich(title, ["policy", *(HEADINGS[name] for name in SHOWN)], 1)
    for arm in table.arms:
        rich.add_row(escape(arm.name), *(aggregate_text(arm, name) for name in SHOWN))
    return rich


def _pair_table(table: Table) -> RichTable:
    paired = all(pair.difference.paired for pair in table.pairs)
    several = any(pair.difference.improvement is not None for pair in table.pairs)
    title = "Paired differences, same start states" if paired else "UNPAIRED differences"
    count = "only A : only B" if all(pair.difference.test == "McNemar" for pair in table.pairs) else "A more : B more"
    headings = ["A vs B", *([count] if paired else []), "difference", "p (Holm)", "established"]
    rich = _rich(title, headings + ["P(A > B)"] * several, 1)
    for pair in table.pairs:
        found = pair.difference
        better = found.improvement
        rich.add_row(
            escape(f"{pair.a} vs {pair.b}"),
            *([f"{found.a_better} : {found.b_better}"] if paired else []),
            f"{points(found.value)} {points_interval(found.interval)}",
            p_number(pair.p_holm),
            "yes" if pair.established else "no",
            *([f"{percent(better.value)} {percent_interval(better.interval)}" if better else "-"] * several),
        )
    return rich


def _rich(title: str, headings: list[str], left: int) -> RichTable:
    rich = RichTable(title=title, title_justify="left", title_style="bold")
    for number, heading in enumerate(headings):
        rich.add_column(heading, justify="left" if number < left else "right")
    return rich


def aggregate_text(arm: ArmResult, name: Statistic) -> str:
    """An aggregate and its interval in per cent: ``62 % [48, 74]``."""
    estimate = arm.aggregates[name]
    return f"{percent(estimate.value)} {percent_interval(estimate.interval)}"


def _estimate(estimate: Estimate | None) -> dict[str, Any] | None:
    if estimate is None:
        return None
    return {"value": estimate.value, "interval": [estimate.interval.low, estimate.interval.high]}


def _lines(table: Table) -> Iterator[list[Any]]:
    for arm in table.arms:
        for task in arm.tasks:
            low, high = task.interval.low, task.interval.high
            yield [arm.name, "", task.task, "success", task.rate, low, high, "", task.episodes, task.errors]
        for name, estimate in arm.aggregates.items():
            low, high = estimate.interval.low, estimate.interval.high
            yield [arm.name, "", "", name, estimate.value, low, high, "", "", ""]
    for pair in table.pairs:
        found = pair.difference
        low, high = found.interval.low, found.interval.high
        yield [pair.a, pair.b, "", "difference", found.value, low, high, pair.p_holm, found.starts, ""]
        if found.improvement is not None:
            low, high = found.improvement.interval.low, found.improvement.interval.high
            yield [pair.a, pair.b, "", "probability of improvement", found.improvement.value, low, high, "", "", ""]


def _latex(text: str) -> str:
    escapes = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return "".join(escapes.get(c, f"\\{c}" if c in "&%$#_{}" else c) for c in text)
