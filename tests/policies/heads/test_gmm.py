from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from rsp_robot.policies.heads import Features
from rsp_robot.policies.heads.gmm import Mixture, log_prob

ONE = Features(torch.ones(1, 1, 1))


def test_log_density_of_two_gaussians_by_hand() -> None:
    mixture = Mixture(torch.tensor([0.75, 0.25]).log(), torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [0.5]]))
    bell = [math.exp(-0.5 * z * z) / (std * math.sqrt(2 * math.pi)) for z, std in ((2.0, 1.0), (0.0, 0.5))]
    assert log_prob(mixture, torch.tensor([2.0])).exp().item() == pytest.approx(0.75 * bell[0] + 0.25 * bell[1])


def test_log_density_agrees_with_pytorch_distributions() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, means, stds = (torch.randn(3, 2, 5, *rest, generator=generator) for rest in ((), (4,), (4,)))
    mixture = Mixture(logits, means, stds.exp())
    theirs = MixtureSameFamily(Categorical(logits=logits), Independent(Normal(means, stds.exp()), 1))
    actions = torch.randn(3, 2, 4, generator=generator)
    assert torch.allclose(log_prob(mixture, actions), theirs.log_prob(actions), atol=1e-5)


def test_it_chooses_between_two_answers(make_head, fit) -> None:
    """Three demonstrations in four go left and then up, the others right and down."""
    head = make_head("gmm", actions=2, hidden=(16,))
    noise = 0.02 * torch.randn(64, 1, 2, generator=torch.Generator().manual_seed(0))
    fit(head, torch.ones(64, 1, 1), torch.tensor([[-1.0, 1.0]] * 3 + [[1.0, -1.0]]).repeat(16, 1)[:, None] + noise)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.cat([head.act(ONE, None, generator)[0] for _ in range(200)])
    left = drawn[:, 0] < 0
    answers = torch.where(left[:, None], torch.tensor([-1.0, 1.0]), torch.tensor([1.0, -1.0]))
    assert ((drawn - answers).abs().amax(dim=1) < 0.1).float().mean() > 0.95
    assert left.float().mean().item() == pytest.approx(0.75, abs=0.1)


def test_it_learns_a_function_that_has_one_answer(make_head, fit) -> None:
    vector = torch.linspace(-1, 1, 64).reshape(-1, 1, 1)
    head = make_head("gmm", hidden=(32, 32))
    losses = fit(head, vector, (3 * vector).sin(), steps=300, lr=3e-3)
    assert losses["error"] < 0.1 and losses["loss"] < -1


def test_low_noise_stays_at_the_mean_and_otherwise_the_learned_deviation_is_drawn(make_head) -> None:
    for low_noise, expected in ((True, 1e-4), (False, math.log(2) + 1e-4)):  # softplus(0) + min_std
        head = make_head("gmm", actions=400, modes=1, hidden=(), last_layer_scale=0.0, low_noise=low_noise)
        mean = head(torch.ones(1)).means[0]
        action, _ = head.act(ONE, None, torch.Generator().manual_seed(0))
        assert (action - mean).std().item() == pytest.approx(expected, rel=0.15)


def test_squashed_means_stay_within_the_range_of_actions(make_head) -> None:
    settings = {"actions": 50, "hidden": ()}
    assert make_head("gmm", **settings)(torch.ones(1)).means.abs().max() > 1
    assert make_head("gmm", squash=True, **settings)(torch.ones(1)).means.abs().max() < 1


def test_modes_start_apart(make_head) -> None:
    means = make_head("gmm", modes=5)(torch.ones(1)).means.flatten()
    assert torch.pdist(means[:, None]).min() > 0.01
