from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from rsp_robot.pretrain.state_space import MLP, Recurrence, StateLatent, euler_step, gaussian_nll, integrate


def raw(std: float) -> float:
    """What softplus turns into a standard deviation."""
    return math.log(math.expm1(std))


def test_negative_log_likelihood_by_hand() -> None:
    # N(0, 1) at 0 and at 2; N(1, 0.5) at 2: half of 2 squared, and log of half.
    constant = 0.5 * math.log(2 * math.pi)
    found = gaussian_nll(torch.tensor([0.0, 2.0]), torch.zeros(2), 1.0)
    assert found.tolist() == pytest.approx([constant, 2 + constant])
    assert gaussian_nll(torch.tensor(2.0), torch.tensor(1.0), 0.5).item() == pytest.approx(2 + math.log(0.5) + constant)
    reference = -torch.distributions.Normal(0.3, 0.71).log_prob(torch.tensor(0.9))
    assert gaussian_nll(torch.tensor(0.9), torch.tensor(0.3), 0.71).item() == pytest.approx(float(reference))


def test_divergences_by_hand() -> None:
    latent = StateLatent(2)
    # Means 1 and 0, deviations 1 and 2: to N(0, 1) these are 1/2, and (4 - 1) / 2 - log 2.
    parameters = torch.tensor([[1.0, 0.0, raw(1.0), raw(2.0)]])
    assert latent.kl_to_standard(parameters)[0].tolist() == pytest.approx([0.5, 1.5 - math.log(2)], rel=1e-5)
    standard = torch.tensor([[0.0, 0.0, raw(1.0), raw(1.0)]])
    torch.testing.assert_close(latent.kl(parameters, standard), latent.kl_to_standard(parameters))
    assert latent.kl(parameters, parameters).abs().max() < 1e-6
    narrow = latent.moments(torch.tensor([0.0, 0.0, -50.0, -50.0]))[1]
    assert 0 < float(narrow.max()) < 1.1e-8, "no floor but one that keeps logarithms finite"


def test_an_euler_step_by_hand() -> None:
    state, step = euler_step(lambda y, z: y * z, torch.tensor([[2.0]]), torch.tensor([[3.0]]), 0.5)
    assert (state.item(), step.item()) == (5.0, 3.0)


def test_noise_changes_from_frame_to_frame_and_stays_between() -> None:
    seen: list[tuple[float, float]] = []

    def residual(state: torch.Tensor, noise: torch.Tensor | None) -> torch.Tensor:
        assert noise is not None
        seen.append((state.item(), noise.item()))
        return noise

    asked: list[tuple[int, float]] = []

    def noise_at(t: int, state: torch.Tensor) -> torch.Tensor:
        asked.append((t, state.item()))
        return torch.tensor([[float(10**t)]])

    found = integrate(residual, torch.zeros(1, 1), noise_at, frames=3, euler_steps=2)
    assert found.states.flatten().tolist() == [0, 0.5, 1, 6, 11]
    assert found.steps.flatten().tolist() == [0.5, 0.5, 5, 5]
    assert found.noise is not None and found.noise.flatten().tolist() == [1, 10]
    assert seen == [(0, 1), (0.5, 1), (1, 10), (6, 10)]
    assert asked == [(0, 0), (1, 1)], "the noise of a frame may depend on the state at the frame before, no other"


@pytest.mark.parametrize("steps", [1, 2, 4, 7])
def test_a_constant_velocity_reaches_the_same_states_at_any_step(steps: int) -> None:
    found = integrate(lambda y, z: torch.tensor([[3.0, -1.0]]), torch.zeros(1, 2), lambda t, y: None, 4, steps)
    torch.testing.assert_close(found.states[::steps], torch.arange(4.0)[:, None, None] * torch.tensor([3.0, -1.0]))
    assert found.noise is None and len(found.steps) == 3 * steps


def test_smaller_steps_come_nearer_to_the_flow() -> None:
    # dy/dt = -y from 1: after two frames exp(-2); Euler gives (1 - 1/n)^(2 n).
    errors = []
    for n in (2, 4, 8, 16):
        reached = integrate(lambda y, z: -y, torch.ones(1, 1), lambda t, y: None, 3, n).states[-1].item()
        assert reached == pytest.approx((1 - 1 / n) ** (2 * n), rel=1e-5)
        errors.append(abs(reached - math.exp(-2)))
    assert all(0.4 < finer / coarser < 0.65 for coarser, finer in pairwise(errors)), "first order"


def test_the_recurrence_is_torchs_lstm() -> None:
    torch.manual_seed(0)
    ours, theirs = Recurrence(3, 5), torch.nn.LSTM(3, 5)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    bound = 5**-0.5
    assert all(
        float(p.detach().abs().max()) <= bound and float(p.detach().std()) > bound / 3 for p in ours.parameters()
    )
    theirs.load_state_dict(ours.state_dict())
    values = torch.randn(7, 2, 3)
    torch.testing.assert_close(ours(values), theirs(values)[0])


@pytest.mark.parametrize(("depth", "names"), [(1, ["module.0.0"]), (3, ["module.0.0", "module.1.1", "module.2.1"])])
def test_layers_of_a_network(depth: int, names: list[str]) -> None:
    network = MLP(4, 6, 2, depth)
    assert [name.removesuffix(".weight") for name in network.state_dict() if name.endswith("weight")] == names
    assert network(torch.randn(3, 5, 4)).shape == (3, 5, 2)
    if depth == 1:
        torch.testing.assert_close(network(2 * torch.ones(4)) - network(torch.ones(4)),
                                   network(torch.ones(4)) - network(torch.zeros(4)))  # fmt: skip
