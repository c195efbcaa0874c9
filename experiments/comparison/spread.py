"""How far an average over training seeds, tasks and episodes may be off: variance by its sources, and intervals.

A policy is trained several times (runs) and each run plays the same start states of a task. An average then moves for
two reasons that cross: other runs would have been trained, other start states drawn. Resampling the runs alone, as is
usual, leaves the start states out, and with three to five runs it is too narrow even for what it counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest, norm, t

from rsp_robot.experiments.comparison.statistics import Interval


@dataclass(frozen=True)
class Spread:
    """The variance of an estimate as a sum of independent terms."""

    variances: tuple[float, ...]
    """One per source, in squared units of the estimate."""
    degrees: tuple[float, ...]
    """Degrees of freedom from which each was estimated."""
    noise: float = 0.0
    """How much of the terms between runs is noise of single episodes, which more episodes would take away."""

    @property
    def variance(self) -> float:
        """The variance of the estimate."""
        return sum(self.variances)

    @property
    def degrees_of_freedom(self) -> float:
        """Those of the sum (Satterthwaite 1946): ``V^2 / sum(V_i^2 / df_i)``; infinite without variance."""
        share = sum(v * v / df for v, df in zip(self.variances, self.degrees, strict=True) if v > 0)
        return self.variance**2 / share if share > 0 else float("inf")

    def quantile(self, confidence: float) -> float:
        """Student's two-sided quantile: an interval reaches so many standard errors to either side."""
        return float(t.ppf((1 + confidence) / 2, self.degrees_of_freedom))


def noise_variance(outcomes: np.ndarray) -> float:
    """Variance of the mean of ``outcomes`` (S, n) that neither runs nor start states explain, each S and n at least 2.

    The interaction of the two-way analysis of variance, ``MS_interaction / (S n)``. With one run there is nothing to
    tell it from, and it is 0 here: it stays in the variance between start states.
    """
    S, n = outcomes.shape
    if S < 2 or n < 2:
        return 0.0
    rest = outcomes - outcomes.mean(0) - outcomes.mean(1, keepdims=True) + outcomes.mean()
    return float((rest**2).sum() / ((S - 1) * (n - 1) * S * n))


def two_way_spread(
    arms: Sequence[tuple[Sequence[np.ndarray], Sequence[np.ndarray]]], starts: Sequence[np.ndarray]
) -> Spread:
    """Variance of a sum over tasks of averages over runs and start states, both of which are samples.

    The variance between runs and that between start states both hold the noise of single episodes, which is therefore
    taken out once (Cameron, Gelbach & Miller 2011, two-way clustering: ``V_runs + V_starts - V_both``; here with the
    unbiased mean squares of the two-way analysis of variance). Runs of different tasks count as independent.

    Args:
        arms: for each policy that takes part ``(runs, outcomes)``, each with one array per task: ``runs`` (S,), what
            each run contributes to the estimate, on a scale where their average is the task's share of it; ``outcomes``
            (S, n), what each episode contributes, on the same scale.
        starts: per task (n,), what each start state contributes on average over the runs, all policies together.

    Returns:
        One term per policy and task with at least two runs, and one for the start states of all tasks.
    """
    variances, degrees, noise = [], [], 0.0
    for runs, outcomes in arms:
        noise += sum(noise_variance(task) for task in outcomes)
        for task in runs:
            if len(task) > 1:
                variances.append(float(task.var(ddof=1)) / len(task))
                degrees.append(float(len(task) - 1))
    between = sum(float(task.var(ddof=1)) / len(task) for task in starts if len(task) > 1)
    variances.append(max(0.0, between - noise))
    degrees.append(float(max(1, sum(len(task) - 1 for task in starts))))
    return Spread(tuple(variances), tuple(degrees), noise)


def stretched_interval(
    value: float, replicates: np.ndarray, spread: Spread, n: int, confidence: float, limits: tuple[float, float]
) -> Interval:
    """Percentile interval of bootstrap ``replicates`` (B,) with their deviations stretched to the right width.

    The bootstrap gives the shape (skewness near 0 and 1), ``spread`` the width: deviations from ``value`` are
    multiplied by ``t sqrt(V) / (z sd)``, with Student's and the normal quantile and ``sd`` that of the replicates.

    Where nothing varies at all the interval allows what ``n`` start states cannot rule out, the exact upper bound of
    0 in ``n``, to either side.
    """
    low, high = limits
    if spread.variance <= 0:
        unseen = float(binomtest(0, n).proportion_ci(confidence_level=confidence, method="exact").high)
        return Interval(max(low, value - unseen), min(high, value + unseen))
    reach = spread.quantile(confidence) * spread.variance**0.5
    deviation = float(replicates.std())
    if deviation > 0:
        tail = (1 - confidence) / 2
        scale = reach / (float(norm.ppf(1 - tail)) * deviation)
        below, above = (np.quantile(replicates, [tail, 1 - tail]) - value) * scale
    else:
        below, above = -reach, reach
    return Interval(max(low, value + min(0.0, float(below))), min(high, value + max(0.0, float(above))))


def resampled_scores(
    arms: Sequence[Sequence[np.ndarray]], resamples: int, generator: np.random.Generator
) -> list[np.ndarray]:
    """Draw runs and start states with replacement within each task (stratified), and average.

    Args:
        arms: per policy, per task the outcomes (S, n) in [0, 1]; S may differ between policies. The columns are the
            same start states for all, and drawn for all alike.
        resamples: B, number of draws.
        generator: source of the draws.

    Returns:
        per policy the scores of its runs, (B, S, M).
    """
    tasks = len(arms[0])
    scores = [np.empty((resamples, outcomes[0].shape[0], tasks)) for outcomes in arms]
    for task in range(tasks):
        n = arms[0][task].shape[1]
        weights = _draw_weights(n, resamples, generator)
        for arm, outcomes in enumerate(arms):
            y = outcomes[task]
            S = len(y)
            drawn = weights @ y.T  # (B, S)
            if S > 1:
                drawn = np.take_along_axis(drawn, generator.integers(S, size=(resamples, S)), axis=1)
            scores[arm][:, :, task] = drawn
    return scores


def _draw_weights(n: int, resamples: int, generator: np.random.Generator) -> np.ndarray:
    """How often each of ``n`` items is drawn in ``n`` draws with replacement, over ``n``: (resamples, n)."""
    drawn = generator.integers(n, size=(resamples, n)) + n * np.arange(resamples)[:, None]
    return np.bincount(drawn.ravel(), minlength=n * resamples).reshape(resamples, n) / n


def check_outcomes(outcomes: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return ``outcomes`` as float64 arrays (S, n), one per task, with S the same for all.

    Raises:
        ValueError: there is no task, no episode, another shape, or a score that is not in [0, 1].
    """
    arrays = [np.asarray(task, np.float64) for task in outcomes]
    if not arrays or any(task.ndim != 2 or task.size == 0 for task in arrays):
        raise ValueError("need one array (runs, episodes) per task, none of them empty")
    if len({len(task) for task in arrays}) != 1:
        raise ValueError(f"need as many runs in every task, got {[len(task) for task in arrays]}")
    if not all(np.all((task >= 0) & (task <= 1)) for task in arrays):
        raise ValueError("need scores in [0, 1] without NaN")
    return arrays
