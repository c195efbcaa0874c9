"""How numbers are written, and the honest sentence: what the statistics do and do not establish."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rsp_robot.experiments.comparison.results import ArmSummary, Comparison, Summary
    from rsp_robot.experiments.comparison.statistics import Interval

MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True)
class Headline:
    """What an experiment says, short and long."""

    verdict: str
    """One line: which differences are established and which are not."""
    sentence: str
    """The same with its numbers: successes, intervals, differences, p-values."""


def headline(summary: Summary) -> Headline:
    """Say what the first arm is worth against each of the others, and plainly where a difference is not established."""
    subject, others = summary.arms[0], summary.arms[1:]
    against = [comparison for comparison in summary.comparisons if comparison.a == subject.name]
    better = [summary.arm(c.b).phrase for c in against if c.established and c.pairs.difference > 0]
    worse = [summary.arm(c.b).phrase for c in against if c.established and c.pairs.difference < 0]
    undecided = [summary.arm(c.b).phrase for c in against if not c.established]
    counts = [f"{capital(subject.phrase)} succeeded in {_count(subject, ' episodes')}"]
    counts += [f"{arm.phrase} in {_count(arm)}" for arm in others]
    sentences = [join(counts, "and") + "."]
    sentences += [_difference(summary.arm(c.b).phrase, c) for c in against]
    sentences.append("Brackets are 95 % intervals.")
    if against:
        sentences[-1] = "Brackets are 95 % intervals; p is McNemar's exact test after Holm's correction."
    errors = sum(arm.errors for arm in summary.arms)
    if errors:
        ended = "1 episode ended in an error and is" if errors == 1 else f"{errors} episodes ended in errors and are"
        sentences.append(f"{ended} left out.")
    verdict = verdict_line(subject.phrase, join(better, "and"), join(worse, "and"), join(undecided, "or"))
    return Headline(verdict, " ".join(sentences))


def verdict_line(subject: str, better: str, worse: str, undecided: str) -> str:
    """Say whom ``subject`` surpasses, who surpasses it, and from whom it is not told apart; empty for nobody."""
    parts = []
    if better:
        parts.append(f"{subject} succeeds more often than {better}")
    if worse:
        parts.append(f"{'it' if parts else subject} succeeds less often than {worse}")
    if undecided and parts:
        parts.append(f"a difference to {undecided} is not established")
    elif undecided:
        parts.append(f"no difference between {subject} and {undecided} is established")
    return capital("; ".join(parts or [f"{subject} was run alone: there is nothing to compare it with"])) + "."


def _count(arm: ArmSummary, unit: str = "") -> str:
    return f"{arm.successes} of {arm.episodes}{unit} ({percent(arm.rate)} {percent_interval(arm.interval)})"


def _difference(other: str, comparison: Comparison) -> str:
    pairs = comparison.pairs
    numbers = f"{points(pairs.difference)} points {points_interval(pairs.interval)}, {p_text(comparison.p_holm)}"
    verdict = "established" if comparison.established else f"not established by these {pairs.n} pairs of episodes"
    return f"The difference to {other} is {numbers}: {verdict}."


def join(items: Sequence[str], word: str) -> str:
    """A list in prose; empty where nothing is listed.

    >>> join(["one", "two", "three"], "and")
    'one, two and three'
    """
    return f"{', '.join(items[:-1])} {word} {items[-1]}" if len(items) > 1 else "".join(items)


def capital(sentence: str) -> str:
    """``sentence`` with a capital letter at its beginning."""
    return sentence[:1].upper() + sentence[1:]


def percent(rate: float) -> str:
    """A rate in [0, 1] as whole percent.

    >>> percent(0.62)
    '62 %'
    """
    return f"{100 * rate:.0f} %"


def percent_interval(interval: Interval) -> str:
    """An interval of rates as whole percent: ``[48, 74]``."""
    return f"[{100 * interval.low:.0f}, {100 * interval.high:.0f}]"


def points(difference: float) -> str:
    """A difference of rates as signed percentage points.

    >>> points(0.22), points(-0.04), points(0.0)
    ('+22', '−4', '0')
    """
    value = round(100 * difference)
    return "0" if value == 0 else f"{'+' if value > 0 else MINUS}{abs(value)}"


def points_interval(interval: Interval) -> str:
    """An interval of differences as signed percentage points: ``[+4, +40]``."""
    return f"[{points(interval.low)}, {points(interval.high)}]"


def p_number(p: float) -> str:
    """A p-value as it stands in a table.

    >>> p_number(0.0004), p_number(0.0134), p_number(0.25)
    ('< 0.001', '0.013', '0.25')
    """
    if p < 0.001:
        return "< 0.001"
    if round(p, 3) < 0.1:
        return f"{p:.3f}"
    return f"{p:.2f}"


def p_text(p: float) -> str:
    """A p-value as it stands in a sentence.

    >>> p_text(0.0004), p_text(0.25)
    ('p < 0.001', 'p = 0.25')
    """
    number = p_number(p)
    return f"p {number}" if number.startswith("<") else f"p = {number}"
