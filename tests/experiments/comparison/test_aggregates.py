from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from scipy.stats import norm, trim_mean

from rsp_robot.experiments.comparison.aggregates import (
    STATISTICS,
    aggregate,
    iqm,
    mean,
    median,
    optimality_gap,
    performance_profile,
    probability_of_improvement,
    run_scores,
    task_interval,
)
from rsp_robot.experiments.comparison.differences import difference, needed
from rsp_robot.experiments.comparison.spread import (
    Spread,
    noise_variance,
    resampled_scores,
    stretched_interval,
    two_way_spread,
)
from rsp_robot.experiments.comparison.statistics import Interval, mcnemar_exact, wilson_interval

SPREAD = (0.05, 0.3, 0.5, 0.8, 0.95)
EIGHT = (0.03, 0.1, 0.25, 0.4, 0.6, 0.75, 0.9, 0.97)
BETWEEN_RUNS, BETWEEN_STARTS = 0.3, 0.7  # standard deviations on the probit scale


def covers(interval: Interval, value: float) -> bool:
    return interval.low <= value <= interval.high


def simulate(
    rng: np.random.Generator, rates: tuple[float, ...], seeds: int, episodes: int, shift: float = 0.0
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Two policies on the same start states; runs and start states are better and worse than others.

    The second policy is worse by ``shift`` standard deviations.
    """
    scale = np.sqrt(1 + BETWEEN_STARTS**2)
    arms: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for rate in rates:
        starts = rng.normal(0, BETWEEN_STARTS, (1, episodes))
        for arm, worse in zip(arms, (0.0, shift), strict=True):
            runs = rng.normal(0, BETWEEN_RUNS, (seeds, 1))
            noise = rng.normal(0, 1, (seeds, episodes))
            arm.append(((norm.ppf(rate) - worse) * scale + runs + starts + noise > 0).astype(float))
    return arms


def true_scores(rates: tuple[float, ...], shift: float = 0.0) -> np.ndarray:
    """Success rates of very many runs, over all start states: (40001, M)."""
    runs = np.random.default_rng(1).normal(0, BETWEEN_RUNS, (40_001, 1))
    scale = np.sqrt(1 + BETWEEN_STARTS**2)
    return norm.cdf(((norm.ppf(rates) - shift) * scale + runs) / scale)


# The numbers


def test_aggregates_against_hand_computed_values() -> None:
    scores = np.array([[0.0, 0.2, 0.9, 1.0], [0.1, 0.4, 0.8, 1.0]])
    assert mean(scores) == pytest.approx(4.4 / 8)
    assert median(scores) == pytest.approx((0.3 + 0.85) / 2)  # the middle two of the task means 0.05, 0.3, 0.85, 1
    assert iqm(scores) == pytest.approx((0.2 + 0.4 + 0.8 + 0.9) / 4)  # two of eight runs left out at either end
    assert optimality_gap(scores) == pytest.approx(3.6 / 8)
    assert optimality_gap(scores, target=0.5) == pytest.approx((0.5 + 0.3 + 0.4 + 0.1) / 8)


def test_aggregates_take_many_tables_at_once() -> None:
    scores = np.random.default_rng(0).random((7, 3, 5))
    for function in (mean, median, iqm, optimality_gap):
        assert function(scores) == pytest.approx([function(table) for table in scores])


def test_the_iqm_does_not_mind_one_run_that_failed_altogether() -> None:
    scores = np.full((3, 4), 0.8)
    scores[0, 0] = 0.0
    assert iqm(scores) == pytest.approx(0.8)
    assert mean(scores) < 0.8


def test_run_scores_average_the_episodes_of_each_run() -> None:
    outcomes = [np.array([[1, 0, 1, 1], [0, 0, 0, 1]]), np.array([[1, 1], [1, 0]])]
    assert run_scores(outcomes) == pytest.approx(np.array([[0.75, 1.0], [0.25, 0.5]]))


def test_the_performance_profile_counts_runs_above_each_threshold() -> None:
    profile = performance_profile(np.array([[0.2, 0.6], [0.4, 1.0]]), np.array([0.0, 0.2, 0.5, 1.0]))
    assert profile.share == pytest.approx([1.0, 0.75, 0.5, 0.0])  # above, not at
    assert np.all((profile.low <= profile.share) & (profile.share <= profile.high))
    assert profile.high[-1] > 0.3  # four runs do not rule out that some reach 1


def test_probability_of_improvement_against_hand_computed_values() -> None:
    a = np.array([[0.9, 0.5], [0.7, 0.5]])
    b = np.array([[0.8, 0.5], [0.1, 0.4]])
    # Task 1: 0.9 beats both, 0.7 beats one: 3/4. Task 2: each of A ties once and wins once: 3/4.
    assert probability_of_improvement(a, b).value == pytest.approx(0.75)
    assert probability_of_improvement(b, a).value == pytest.approx(0.25)


def test_probability_of_improvement_is_not_certain_because_every_run_won() -> None:
    found = probability_of_improvement(np.full((3, 2), 0.9), np.full((3, 2), 0.1))
    assert found.value == 1.0
    assert found.interval == wilson_interval(6, 6)


@pytest.mark.parametrize("shape", [(1, 3), (3, 2)])
def test_probability_of_improvement_refuses_too_few_runs_and_other_tasks(shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="need"):
        probability_of_improvement(np.zeros((3, 3)), np.zeros(shape))


# The variance


def test_the_two_way_variance_is_unbiased() -> None:
    rng = np.random.default_rng(4)
    means, variances = [], []
    for _ in range(1500):
        (task,), _ = simulate(rng, (0.4,), 4, 20)
        means.append(task.mean())
        variances.append(two_way_spread([([task.mean(1)], [task])], [task.mean(0)]).variance)
    assert np.mean(variances) == pytest.approx(np.var(means), rel=0.1)


def test_noise_of_single_episodes_is_told_from_runs_and_starts() -> None:
    additive = np.array([[0.1], [0.5]]) + np.array([[0.0, 0.2, 0.4]])
    assert noise_variance(additive) == pytest.approx(0.0)
    assert noise_variance(np.array([[1.0, 0.0], [0.0, 1.0]])) == pytest.approx(1.0 / 4)
    assert noise_variance(np.ones((1, 9))) == 0.0


def test_degrees_of_freedom_are_those_of_satterthwaite() -> None:
    assert Spread((2.0, 0.0), (4.0, 9.0)).degrees_of_freedom == pytest.approx(4.0)
    assert Spread((1.0, 1.0), (4.0, 4.0)).degrees_of_freedom == pytest.approx(8.0)


def test_stretching_gives_the_right_width_and_keeps_the_lean() -> None:
    skewed = np.random.default_rng(0).exponential(size=20_000) - 1 + 0.5
    spread = Spread((0.01,), (1e9,))
    interval = stretched_interval(0.5, skewed, spread, 100, 0.95, (-9.0, 9.0))
    low, high = np.quantile(skewed - 0.5, [0.025, 0.975])
    assert interval.high - 0.5 == pytest.approx(0.1 * high, rel=0.02)  # the replicates have a deviation of 1
    assert 0.5 - interval.low == pytest.approx(-0.1 * low, rel=0.02)


def test_drawing_keeps_the_start_states_of_two_policies_together() -> None:
    task = (np.random.default_rng(2).random((1, 30)) < 0.5).astype(float)
    first, second = resampled_scores([[task], [task]], 50, np.random.default_rng(0))
    assert first.shape == (50, 1, 1)
    assert np.array_equal(first, second)
    assert first.std() > 0.05


# Intervals of aggregates


def test_intervals_hold_the_estimate_and_stay_within_bounds() -> None:
    outcomes, _ = simulate(np.random.default_rng(0), SPREAD, 3, 20)
    found = aggregate(outcomes)
    assert set(found) == set(STATISTICS)
    for estimate in found.values():
        assert 0 <= estimate.interval.low < estimate.value < estimate.interval.high <= 1
    assert found["iqm"].value == pytest.approx(trim_mean(run_scores(outcomes).ravel(), 0.25))
    assert aggregate(outcomes) == found  # repeatable


def test_runs_that_the_iqm_leaves_out_do_not_widen_its_interval() -> None:
    rng = np.random.default_rng(5)
    outcomes = [(rng.random((4, 50)) < rate).astype(float) for rate in (0.2, 0.5, 0.55, 0.9)]
    worse = [outcomes[0].copy(), *outcomes[1:]]
    worse[0][0] = 0.0  # it was among the worst quarter before
    before, after = (aggregate(arm, ("iqm", "mean")) for arm in (outcomes, worse))
    assert after["iqm"].value == pytest.approx(before["iqm"].value)
    widths = {
        name: [found[name].interval.high - found[name].interval.low for found in (before, after)]
        for name in ("iqm", "mean")
    }
    assert widths["iqm"][1] == pytest.approx(widths["iqm"][0], rel=0.1)
    assert widths["mean"][1] > 1.15 * widths["mean"][0]


def test_more_seeds_and_more_episodes_each_narrow_the_interval() -> None:
    def width(seeds: int, episodes: int) -> float:
        outcomes, _ = simulate(np.random.default_rng(0), SPREAD, seeds, episodes)
        interval = aggregate(outcomes, ("mean",))["mean"].interval
        return interval.high - interval.low

    assert width(20, 50) < 0.8 * width(3, 50)
    assert width(3, 400) < 0.8 * width(3, 20)


def test_perfect_scores_are_not_taken_for_certain() -> None:
    found = aggregate([np.ones((3, 20)), np.ones((3, 20))])
    assert found["mean"].interval.high == 1.0
    assert found["mean"].interval.low == pytest.approx(0.025 ** (1 / 40))  # 40 start states, exact bound of 0 in 40
    assert found["gap"].interval.high == pytest.approx(1 - 0.025 ** (1 / 40))


def test_one_run_on_one_task_has_wilsons_interval() -> None:
    outcomes = np.array([[1.0] * 14 + [0.0] * 36])
    expected = wilson_interval(14, 50)
    assert task_interval(outcomes).low == pytest.approx(expected.low)
    assert task_interval(outcomes).high == pytest.approx(expected.high)
    assert aggregate([outcomes])["mean"].interval == task_interval(outcomes)


def test_runs_that_agree_on_every_start_are_no_further_evidence() -> None:
    once = (np.arange(50) % 3 == 0).astype(float)[None]
    thrice = task_interval(np.repeat(once, 3, axis=0))
    single = task_interval(once)
    assert thrice.high - thrice.low == pytest.approx(single.high - single.low, rel=0.05)


@pytest.mark.parametrize(
    "outcomes",
    [[], [np.zeros((2, 0))], [np.zeros(4)], [np.zeros((2, 4)), np.zeros((3, 4))], [np.full((2, 2), np.nan)]],
)
def test_outcomes_of_another_kind_are_refused(outcomes: list[np.ndarray]) -> None:
    with pytest.raises(ValueError, match="need"):
        aggregate(outcomes)


# Differences


def test_with_one_run_each_the_difference_is_mcnemars() -> None:
    a = [np.array([[1, 1, 1, 0, 1.0]]), np.array([[1, 0, 1.0]])]
    b = [np.array([[0, 0, 1, 1, 0.0]]), np.array([[0, 0, 0.0]])]
    found = difference(a, b)
    assert (found.a_better, found.b_better, found.starts, found.test) == (5, 1, 8, "McNemar")
    assert found.p_value == mcnemar_exact(5, 1)
    assert found.value == pytest.approx((2 / 5 + 2 / 3) / 2)  # tasks count alike
    assert found.improvement is None


def test_a_difference_mirrors_when_the_policies_are_swapped() -> None:
    a, b = simulate(np.random.default_rng(8), SPREAD, 3, 30, shift=0.5)
    forth, back = difference(a, b), difference(b, a)
    assert forth.value == pytest.approx(-back.value)
    assert forth.p_value == pytest.approx(back.p_value)
    assert forth.interval.low == pytest.approx(-back.interval.high, abs=0.02)
    assert (forth.p_value < 0.05) == (not covers(forth.interval, 0.0))


def test_pairing_narrows_the_interval_where_start_states_matter() -> None:
    rng = np.random.default_rng(0)
    hard = rng.random((1, 200)) < 0.5
    a, b = [(hard | (rng.random((1, 200)) < 0.2)).astype(float)], [hard.astype(float)]
    paired, unpaired = difference(a, b), difference(a, b, paired=False)
    width = paired.interval.high - paired.interval.low
    assert width < 0.7 * (unpaired.interval.high - unpaired.interval.low)
    assert paired.p_value < unpaired.p_value
    assert (unpaired.test, unpaired.a_better) == ("Fisher", 0)


def test_one_lucky_run_does_not_establish_a_difference() -> None:
    """Pooled over episodes McNemar would be certain; the runs of either policy disagree among themselves."""
    a = [np.repeat([[1.0], [1.0], [0.0]], 50, axis=1)]
    b = [np.repeat([[1.0], [0.0], [0.0]], 50, axis=1)]
    assert difference(a, b).p_value > 0.3


def test_three_lost_episodes_establish_nothing() -> None:
    half = (np.arange(50) < 22).astype(float)[None]
    assert difference([np.zeros((1, 3))], [half], paired=False).p_value > 0.2


def test_differences_refuse_what_does_not_pair_up() -> None:
    with pytest.raises(ValueError, match="start states"):
        difference([np.zeros((1, 3))], [np.zeros((1, 4))])
    with pytest.raises(ValueError, match="tasks"):
        difference([np.zeros((1, 3))], [np.zeros((1, 3))] * 2)


def test_what_is_needed_is_enough_once_it_is_there() -> None:
    rng = np.random.default_rng(3)
    a, b = simulate(rng, (0.5,), 1, 40, shift=0.3)
    found = difference(a, b)
    need = needed(found, 1, 0.5, 0.12)
    assert need.episodes > 40 and need.seeds == 0
    assert needed(found, 1, 0.5, 0.05).episodes > 3 * need.episodes
    assert needed(found, 1, 0.5, 0.9).episodes < 20  # 0.5 - 0.9 is no success rate, and it is answered all the same


def test_seeds_are_asked_for_where_they_differ_too_much() -> None:
    a = [np.repeat([[1.0], [0.0], [1.0]], 50, axis=1)]
    b = [np.repeat([[1.0], [0.0], [0.0]], 50, axis=1)]
    need = needed(difference(a, b), 3, 0.5, 0.1)
    assert need.episodes == 0 and need.seeds > 100
    a, b = simulate(np.random.default_rng(1), SPREAD, 5, 10)
    need = needed(difference(a, b), 5, 0.5, 0.1)
    assert need.episodes > 0 and need.seeds > 0


# Coverage


def experiments(count: int, rates: tuple[float, ...], seeds: int, shift: float) -> Iterator[tuple[list, list]]:
    rng = np.random.default_rng(10)
    for _ in range(count):
        yield simulate(rng, rates, seeds, 50, shift)


def plain_interval(outcomes: list[np.ndarray], rng: np.random.Generator) -> Interval:
    """The usual stratified percentile bootstrap of the mean, of runs alone."""
    scores = run_scores(outcomes)
    S, M = scores.shape
    drawn = scores[rng.integers(S, size=(300, S, M)), np.arange(M)].mean((1, 2))
    return Interval(*np.quantile(drawn, [0.025, 0.975]))


def measure(count: int, rates: tuple[float, ...], seeds: int) -> dict[str, float]:
    rng, shift = np.random.default_rng(0), 0.2
    truth = true_scores(rates)
    rate, middle, apart = truth.mean(), trim_mean(truth.ravel(), 0.25), truth.mean() - true_scores(rates, shift).mean()
    hits: dict[str, list[float]] = {name: [] for name in ("mean", "iqm", "difference", "task", "plain")}
    for a, b in experiments(count, rates, seeds, shift):
        found = aggregate(a, ("mean", "iqm"), resamples=300, generator=rng)
        hits["mean"].append(covers(found["mean"].interval, rate))
        hits["iqm"].append(covers(found["iqm"].interval, middle))
        interval = difference(a, b, resamples=300, generator=rng).interval
        hits["difference"].append(covers(interval, apart))
        inside = [covers(task_interval(task), p) for task, p in zip(a, truth.mean(0), strict=True)]
        hits["task"].append(float(np.mean(inside)))
        hits["plain"].append(covers(plain_interval(a, rng), rate))
    return {name: float(np.mean(values)) for name, values in hits.items()}


@pytest.mark.parametrize(("rates", "seeds"), [(SPREAD, 5), (EIGHT, 3)])
def test_intervals_cover_as_often_as_they_say(rates: tuple[float, ...], seeds: int) -> None:
    coverage = measure(300, rates, seeds)  # a standard error of 0.013
    for name in ("mean", "iqm", "difference", "task"):
        assert 0.92 <= coverage[name] <= 0.98, coverage
    assert coverage["plain"] < 0.9  # why the usual bootstrap is not used


@pytest.mark.slow
@pytest.mark.parametrize(("rates", "seeds"), [(SPREAD, 5), (EIGHT, 3)])
def test_intervals_cover_as_often_as_they_say_to_a_hair(rates: tuple[float, ...], seeds: int) -> None:
    coverage = measure(3000, rates, seeds)  # a standard error of 0.004
    for name in ("mean", "iqm", "difference", "task"):
        assert 0.93 <= coverage[name] <= 0.97, coverage


@pytest.mark.parametrize("tasks", [1, 4])
def test_the_paired_bootstrap_covers_with_one_run_each(tasks: int) -> None:
    rates, rng = (0.4, 0.6, 0.7, 0.3)[:tasks], np.random.default_rng(6)
    # A single run's truth is that run's own: no variance between runs here.
    hits = []
    for _ in range(400):
        a, b = [], []
        for rate in rates:
            starts = rng.random((1, 50))
            a.append((starts + rng.normal(0, 0.2, (1, 50)) < rate).astype(float))
            b.append((starts + rng.normal(0, 0.2, (1, 50)) < rate).astype(float))
        hits.append(covers(difference(a, b, resamples=300, generator=rng).interval, 0.0))
    assert 0.92 <= np.mean(hits) <= 0.98


def test_probability_of_improvement_covers_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    truth = norm.cdf(0.8 / np.sqrt(2))
    hits = [
        covers(
            probability_of_improvement(rng.normal(0.8, 1, (5, 5)), rng.normal(0, 1, (5, 5))).interval,
            truth,
        )
        for _ in range(1000)
    ]
    assert 0.93 <= np.mean(hits) <= 0.98
