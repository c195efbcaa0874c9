"""Latents that minimise an energy, against what can be worked out by hand or in closed form."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from rsp_robot.pretrain.sparse_coding import (
    descend,
    shrink,
    smooth_prox,
    soft_threshold,
    sparse_prox,
    value_and_slope,
)

PENALTY = 0.3


def quadratic(dictionary: torch.Tensor, data: torch.Tensor):  # type: ignore[no-untyped-def]
    """``1/2 |data - dictionary z|²`` of every row."""
    return lambda latent: 0.5 * (data - latent @ dictionary.T).square().sum(dim=1)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_soft_thresholding_by_hand() -> None:
    values = torch.tensor([[2.5, -2.5, 0.4, -0.4, 1.0, 0.0]])
    assert soft_threshold(values, 1.0).tolist() == [[1.5, -1.5, 0.0, 0.0, 0.0, 0.0]]
    assert soft_threshold(values, 0.0).tolist() == values.tolist()
    per_row = soft_threshold(torch.tensor([[3.0], [3.0]]), torch.tensor([[1.0], [2.0]]))
    assert per_row.tolist() == [[2.0], [1.0]]


def test_thresholding_minimises_what_it_is_the_proximal_map_of() -> None:
    grid = torch.linspace(-4, 4, 80_001, dtype=torch.float64)
    for value in (-2.2, -0.3, 0.1, 1.7):
        sparse = 0.5 * (grid - value).square() + 0.7 * grid.abs()
        assert grid[sparse.argmin()].item() == pytest.approx(soft_threshold(torch.tensor(value), 0.7).item(), abs=2e-4)
        smooth = 0.5 * (grid - value).square() + 0.35 * grid.square()
        assert grid[smooth.argmin()].item() == pytest.approx(shrink(torch.tensor(value), 0.7).item(), abs=2e-4)


def test_one_step_of_ista_by_hand() -> None:
    data = torch.tensor([[1.0, -0.2]], dtype=torch.float64)
    found = descend(quadratic(torch.eye(2).double(), data), sparse_prox(0.5), torch.zeros(1, 2).double(), 1, rate=0.5)
    assert found.latent.tolist() == [[0.25, 0.0]]  # 0 + 0.5 · 1 - 0.25, and 0.1 is below 0.25
    assert found.energy.item() == pytest.approx(0.5 * (0.75**2 + 0.2**2))
    assert found.step.item() == 0.75


def test_the_first_step_has_a_length_of_one() -> None:
    energy = quadratic(0.01 * torch.eye(2).double(), torch.tensor([[3.0, 4.0]], dtype=torch.float64))
    found = descend(energy, sparse_prox(0.0), torch.zeros(1, 2).double(), 1)
    torch.testing.assert_close(found.latent, torch.tensor([[0.6, 0.8]], dtype=torch.float64))


def test_a_step_that_is_too_long_is_halved_and_not_taken() -> None:
    data = torch.tensor([[1.0]], dtype=torch.float64)
    found = descend(quadratic(torch.eye(1).double(), data), sparse_prox(0.0), torch.zeros(1, 1).double(), 1, rate=8.0)
    assert found.latent.item() == 0 and found.step.item() == 4


def test_with_an_orthogonal_dictionary_ista_finds_the_thresholded_projection() -> None:
    dictionary = torch.linalg.qr(random(8, 5)).Q
    data = random(6, 8, seed=1)
    found = descend(quadratic(dictionary, data), sparse_prox(PENALTY), torch.zeros(6, 5).double(), 200, rate=0.1)
    torch.testing.assert_close(found.latent, soft_threshold(data @ dictionary, PENALTY), rtol=0, atol=1e-5)
    assert ((found.latent == 0).sum() > 0) and (found.latent != 0).sum() > 0


def test_with_any_dictionary_the_solution_meets_the_conditions_of_optimality() -> None:
    dictionary, data = random(6, 10), random(4, 6, seed=1)
    energy = quadratic(dictionary, data)
    found = descend(energy, sparse_prox(PENALTY), torch.zeros(4, 10).double(), 5000, rate=1.0)
    slope, zero = value_and_slope(energy, found.latent)[1], found.latent == 0
    torch.testing.assert_close(slope[~zero], -PENALTY * found.latent[~zero].sign(), rtol=0, atol=1e-4)
    assert slope[zero].abs().max() <= PENALTY + 1e-4


def test_the_continuous_latent_is_ridge_regression() -> None:
    dictionary, data = random(6, 4), random(3, 6, seed=1)
    found = descend(quadratic(dictionary, data), smooth_prox(PENALTY), torch.zeros(3, 4).double(), 3000)
    gram = dictionary.T @ dictionary + PENALTY * torch.eye(4).double()
    torch.testing.assert_close(found.latent, torch.linalg.solve(gram, (data @ dictionary).T).T, rtol=0, atol=1e-4)


def test_the_objective_falls_with_every_step_also_where_it_is_not_convex() -> None:
    weight, data = random(5, 3), 2 * random(7, 5, seed=1)

    def energy(latent: torch.Tensor) -> torch.Tensor:
        return (data - torch.tanh(3 * latent @ weight.T)).square().sum(dim=1)

    start = random(7, 3, seed=2)
    totals = []
    for steps in range(30):
        found = descend(energy, sparse_prox(PENALTY), start, steps, rate=1.0)
        torch.testing.assert_close(found.energy, energy(found.latent))
        totals.append(found.energy + PENALTY * found.latent.abs().sum(dim=1))
    assert all((later <= earlier + 1e-9).all() for earlier, later in pairwise(totals))
    assert (totals[-1] < totals[0]).all()


def test_rows_do_not_touch_one_another() -> None:
    dictionary, data = random(6, 10), torch.cat([random(1, 6), 1e3 * random(1, 6, seed=1)])
    start = torch.zeros(2, 10).double()
    both = descend(quadratic(dictionary, data), sparse_prox(PENALTY), start, 40)
    for row in range(2):
        one = slice(row, row + 1)
        alone = descend(quadratic(dictionary, data[one]), sparse_prox(PENALTY), start[one], 40)
        torch.testing.assert_close(both.latent[one], alone.latent)


def test_nothing_else_gets_a_gradient() -> None:
    dictionary = random(6, 10).requires_grad_()
    with torch.no_grad():  # it differentiates all the same
        found = descend(quadratic(dictionary, random(2, 6)), sparse_prox(0.01), torch.zeros(2, 10).double(), 5)
    assert dictionary.grad is None and not any(part.requires_grad for part in found)
    assert found.latent.abs().sum() > 0
