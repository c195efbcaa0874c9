from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom, fisher_exact, multinomial, t

from rsp_robot.experiments.comparison.statistics import (
    Interval,
    bootstrap_difference,
    episodes_needed,
    fisher_stratified,
    holm,
    mcnemar_exact,
    mcnemar_power,
    mcnemar_stratified,
    paired_comparison,
    wilson_interval,
    wilson_of_rate,
)

Z2 = 3.841458820694124  # the square of the 97.5 % quantile of the normal distribution


def covers(interval: Interval, value: float) -> bool:
    return interval.low - 1e-12 <= value <= interval.high + 1e-12


# Wilson's interval


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        (0, 10, 0.0, Z2 / (10 + Z2)),  # at 0 successes the formula collapses to z2 / (n + z2)
        (10, 10, 10 / (10 + Z2), 1.0),
        (25, 50, 0.5 - 0.5 * math.sqrt(Z2 / (50 + Z2)), 0.5 + 0.5 * math.sqrt(Z2 / (50 + Z2))),  # at p = 1/2 too
        (8, 10, 0.4901625, 0.9433178),  # published example
    ],
)
def test_wilson_interval_against_hand_computed_values(successes: int, n: int, low: float, high: float) -> None:
    interval = wilson_interval(successes, n)
    assert interval.low == pytest.approx(low, abs=1e-6)
    assert interval.high == pytest.approx(high, abs=1e-6)


def test_wilson_interval_touches_the_ends_exactly() -> None:
    assert all(wilson_interval(0, n).low == 0.0 and wilson_interval(n, n).high == 1.0 for n in (1, 7, 50, 333))


def test_wilson_interval_narrows_with_lower_confidence() -> None:
    wide, narrow = wilson_interval(20, 50, 0.95), wilson_interval(20, 50, 0.8)
    assert wide.low < narrow.low < narrow.high < wide.high


@pytest.mark.parametrize("p", [0.1, 0.3, 0.62])
def test_wilson_interval_covers_as_often_as_it_says(p: float) -> None:
    n = 50
    coverage = sum(binom.pmf(k, n, p) for k in range(n + 1) if covers(wilson_interval(k, n), p))
    assert 0.93 < coverage < 0.98


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (3, 2), (-1, 5)])
def test_wilson_interval_refuses_impossible_counts(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match="successes"):
        wilson_interval(successes, n)


@pytest.mark.parametrize(("n", "p"), [(n, p) for n in (50, 100, 200) for p in (0.3, 0.5, 0.62, 0.8)])
def test_wilson_interval_covers_in_93_to_97_percent_of_experiments(n: int, p: float) -> None:
    coverage = sum(binom.pmf(k, n, p) for k in range(n + 1) if covers(wilson_interval(k, n), p))
    assert 0.93 <= coverage <= 0.97


@pytest.mark.parametrize(("k", "n"), [(0, 9), (3, 10), (44, 50), (7, 7)])
def test_wilson_of_a_rate_is_wilson_of_the_counts(k: int, n: int) -> None:
    ours, theirs = wilson_of_rate(k / n, n), wilson_interval(k, n)
    assert (ours.low, ours.high) == (pytest.approx(theirs.low), pytest.approx(theirs.high))


def test_wilson_of_a_rate_widens_with_students_quantile_and_fewer_episodes() -> None:
    base = wilson_of_rate(0.6, 50)
    for wider in (wilson_of_rate(0.6, 22.5), wilson_of_rate(0.6, 50, quantile=float(t.ppf(0.975, 4)))):
        assert wider.low < base.low and wider.high > base.high
    with pytest.raises(ValueError, match="rate"):
        wilson_of_rate(1.2, 10)


# McNemar's exact test


@pytest.mark.parametrize(
    ("only_a", "only_b", "p"),
    [
        (0, 0, 1.0),
        (1, 0, 1.0),  # 2 * 1/2
        (5, 0, 2 / 32),
        (0, 6, 2 / 64),
        (8, 2, 2 * (1 + 10 + 45) / 1024),  # 2 * P(X <= 2), X ~ Binomial(10, 1/2)
        (4, 4, 1.0),
    ],
)
def test_mcnemar_against_hand_computed_values(only_a: int, only_b: int, p: float) -> None:
    assert mcnemar_exact(only_a, only_b) == pytest.approx(p)


def test_mcnemar_rejects_equal_policies_at_most_as_often_as_it_says() -> None:
    for discordant in (5, 12, 20, 31):
        rate = sum(
            binom.pmf(k, discordant, 0.5)
            for k in range(discordant + 1)
            if mcnemar_exact(k, discordant - k) < 0.05
        )  # fmt: skip
        assert rate <= 0.05


def test_stratified_mcnemar_is_the_exact_test_of_the_sum_over_tasks() -> None:
    counts = [(4, 1), (3, 0)]
    # Given 5 and 3 discordant pairs, by enumeration: every pair falls to either policy alike.
    law = {(a, b): binom.pmf(a, 5, 0.5) * binom.pmf(b, 3, 0.5) for a in range(6) for b in range(4)}
    p = sum(weight for (a, b), weight in law.items() if abs(a + b - 4) >= abs(4 + 3 - 4))
    assert mcnemar_stratified(counts) == pytest.approx(p)


def test_stratified_fisher_against_scipy_and_enumeration() -> None:
    assert fisher_stratified([(8, 10, 1, 6)]) == pytest.approx(fisher_exact([[8, 2], [1, 5]])[1])
    assert fisher_stratified([(0, 5, 0, 5)]) == 1.0
    # Two tasks with one success among 1 + 1 episodes each: A has 0, 1 or 2 of them, with 1/4, 1/2, 1/4.
    assert fisher_stratified([(1, 1, 0, 1), (1, 1, 0, 1)]) == pytest.approx(0.5)


# How many episodes


def test_power_of_mcnemar_is_that_of_simulated_experiments() -> None:
    only_a, only_b, n = 0.25, 0.1, 60
    drawn = np.random.default_rng(1).multinomial(n, [only_a, only_b, 1 - only_a - only_b], size=4000)
    kinds, counts = np.unique(drawn[:, :2], axis=0, return_counts=True)
    rejected = np.average([mcnemar_exact(a, b) <= 0.05 for a, b in kinds], weights=counts)
    assert mcnemar_power(n, only_a, only_b) == pytest.approx(rejected, abs=0.025)


@pytest.mark.parametrize(("p_a", "difference"), [(0.5, 0.2), (0.9, 0.1), (0.3, -0.15), (0.95, -0.3)])
def test_as_many_episodes_as_needed_show_the_difference_four_times_in_five(p_a: float, difference: float) -> None:
    n = episodes_needed(p_a, difference)
    p_b = p_a - difference if p_a - difference <= 1 else p_a + difference
    only_a, only_b = p_a * (1 - p_b), p_b * (1 - p_a)
    assert mcnemar_power(n, only_a, only_b) >= 0.8
    assert mcnemar_power(round(0.85 * n), only_a, only_b) < 0.8


def test_fewer_episodes_are_needed_where_pairs_agree_and_differences_are_large() -> None:
    assert episodes_needed(0.5, 0.2, discordant=0.25) < episodes_needed(0.5, 0.2) < episodes_needed(0.5, 0.1)
    assert episodes_needed(0.5, 0.2, power=0.9) > episodes_needed(0.5, 0.2) < episodes_needed(0.5, 0.2, alpha=0.01)
    assert episodes_needed(1.0, 1.0) == 6  # five pairs of the same kind have a p-value of 1/16, six 1/32


def test_unpaired_needs_agree_with_a_published_table() -> None:
    # Fleiss 1981, table A.3 without continuity correction: 0.5 against 0.3, alpha 0.05, power 0.8.
    assert episodes_needed(0.5, 0.2, paired=False) == 93


@pytest.mark.parametrize("arguments", [(0.5, 0.0), (1.2, 0.1), (0.5, 0.7), (0.5, 0.2, 1.0), (0.5, 0.2, 0.8, 0.0)])
def test_needs_of_impossible_rates_are_refused(arguments: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="need|no success rate"):
        episodes_needed(*arguments)
    with pytest.raises(ValueError, match="discordant"):
        episodes_needed(0.5, 0.2, discordant=0.1)


# The paired comparison


def test_paired_comparison_counts_the_four_kinds_of_pairs() -> None:
    a = [True, True, True, True, False, False, False, True]
    b = [True, False, False, True, True, False, False, False]
    result = paired_comparison(a, b)
    assert (result.n, result.both, result.only_a, result.only_b, result.neither) == (8, 2, 3, 1, 2)
    assert result.difference == pytest.approx(0.25)
    assert result.p_value == pytest.approx(2 * (1 + 4) / 16)


def test_paired_comparison_mirrors_when_the_policies_are_swapped() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.random(60) < 0.7, rng.random(60) < 0.4
    forth, back = paired_comparison(a, b), paired_comparison(b, a)
    assert (forth.only_a, forth.only_b, forth.p_value) == (back.only_b, back.only_a, back.p_value)
    assert forth.difference == -back.difference
    assert forth.interval.low == pytest.approx(-back.interval.high, abs=0.021)  # one pair and Monte Carlo error


def test_paired_comparison_is_repeatable_and_takes_a_generator() -> None:
    a, b = [True] * 20 + [False] * 30, [False] * 10 + [True] * 15 + [False] * 25
    assert paired_comparison(a, b) == paired_comparison(a, b)
    seeded = [paired_comparison(a, b, resamples=50, generator=np.random.default_rng(s)).interval for s in range(8)]
    assert len({(interval.low, interval.high) for interval in seeded}) > 1


@pytest.mark.parametrize(("a", "b"), [([True], [True, False]), ([], []), ([0.5], [1.0]), ([[True]], [[True]])])
def test_paired_comparison_refuses_what_does_not_pair_up(a: list, b: list) -> None:
    with pytest.raises(ValueError, match=r"need|pair"):
        paired_comparison(a, b)


# The bootstrap


def test_bootstrap_is_that_of_drawing_pairs_with_replacement() -> None:
    contributions = np.array([1] * 15 + [-1] * 5 + [0] * 30)
    rng = np.random.default_rng(11)
    drawn = contributions[rng.integers(50, size=(20_000, 50))].mean(axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    interval = bootstrap_difference(15, 5, 50)
    assert interval.low == pytest.approx(low, abs=0.021)
    assert interval.high == pytest.approx(high, abs=0.021)
    # Normal approximation by hand: 0.2 +- 1.96 sqrt((20/50 - 0.2 ** 2) / 50) = 0.2 +- 0.166
    assert interval.low == pytest.approx(0.034, abs=0.025)
    assert interval.high == pytest.approx(0.366, abs=0.025)


def test_bootstrap_does_not_claim_certainty_where_all_pairs_agree() -> None:
    unseen = 1 - 0.025 ** (1 / 50)  # exact upper bound of 0 in 50
    same = bootstrap_difference(0, 0, 50)
    assert (same.low, same.high) == (pytest.approx(-unseen), pytest.approx(unseen))
    ahead = bootstrap_difference(50, 0, 50)
    assert (ahead.low, ahead.high) == (pytest.approx(1 - 2 * unseen), 1.0)
    behind = bootstrap_difference(0, 50, 50)
    assert (behind.low, behind.high) == (-1.0, pytest.approx(2 * unseen - 1))


def test_bootstrap_covers_about_as_often_as_it_says() -> None:
    n = 50
    counts = [(a, b) for a in range(n + 1) for b in range(n + 1 - a)]  # every outcome that 50 pairs can have
    rng = np.random.default_rng(5)
    intervals = [bootstrap_difference(a, b, n, resamples=500, generator=rng) for a, b in counts]
    outcomes = [(a, b, n - a - b) for a, b in counts]
    for p_a, p_b in ((0.25, 0.1), (0.4, 0.1), (0.1, 0.1), (0.05, 0.02), (0.02, 0.02)):
        weights = multinomial.pmf(outcomes, n, [p_a, p_b, 1 - p_a - p_b])
        covered = [covers(interval, p_a - p_b) for interval in intervals]
        assert 0.92 < np.sum(weights[covered]) < 0.99


@pytest.mark.parametrize(("p_a", "p_b"), [(0.25, 0.1), (0.3, 0.3), (0.15, 0.1), (0.4, 0.05)])
def test_bootstrap_covers_in_93_to_97_percent_of_experiments_with_100_pairs(p_a: float, p_b: float) -> None:
    rng = np.random.default_rng(5)
    outcomes, counts = np.unique(rng.multinomial(100, [p_a, p_b, 1 - p_a - p_b], size=3000), axis=0, return_counts=True)
    intervals = [bootstrap_difference(a, b, 100, resamples=500, generator=rng) for a, b, _ in outcomes]
    covered = sum(count for count, i in zip(counts, intervals, strict=True) if covers(i, p_a - p_b))
    assert 0.93 <= covered / 3000 <= 0.97


def test_bootstrap_refuses_counts_that_do_not_fit() -> None:
    for counts in ((3, 3, 5), (-1, 0, 5), (0, 0, 0)):
        with pytest.raises(ValueError, match="only_a"):
            bootstrap_difference(*counts)


# Holm's correction


@pytest.mark.parametrize(
    ("p_values", "adjusted"),
    [
        ([], []),
        ([0.03], [0.03]),
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),  # 4 x 0.005, 3 x 0.01, 2 x 0.03, then not below 0.06
        ([0.02, 0.02, 0.02], [0.06, 0.06, 0.06]),
        ([0.6, 0.7], [1.0, 1.0]),
    ],
)
def test_holm_against_hand_computed_values(p_values: list[float], adjusted: list[float]) -> None:
    assert holm(p_values) == pytest.approx(adjusted)


def test_holm_keeps_the_family_wise_error() -> None:
    p_values = np.random.default_rng(7).random((4000, 3))
    errors = np.mean([min(holm(list(row))) < 0.05 for row in p_values])
    assert 0.035 < errors < 0.06
