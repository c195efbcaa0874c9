from __future__ import annotations

import pytest
import torch

from rsp_robot.policies.heads import Features
from rsp_robot.policies.heads.flow import integrate, straight_path

SMALL = {"width": 32, "chunk": 4, "execute": 2, "layers": 1}
ONE = Features(torch.ones(1, 1, 1))


def test_the_path_is_straight_from_noise_to_actions() -> None:
    noise, actions = torch.tensor([[[1.0]], [[2.0]]]), torch.tensor([[[5.0]], [[0.0]]])
    point, velocity = straight_path(noise, actions, torch.tensor([0.5, 0.25])[:, None, None])
    assert point.flatten().tolist() == [3.0, 1.5] and velocity.flatten().tolist() == [4.0, -2.0]


def test_the_true_velocity_carries_noise_to_the_data() -> None:
    """For data N(mean, std²), E[a - noise | point] is known, and the flow takes noise to mean + std * noise."""
    mean, std = 3.0, 0.5

    def velocity(point: torch.Tensor, time: float) -> torch.Tensor:
        variance = (1 - time) ** 2 + (time * std) ** 2
        away = point - time * mean
        return mean + (time * std**2 - (1 - time)) / variance * away

    noise = torch.tensor([-2.0, 0.0, 1.0])
    assert torch.allclose(integrate(velocity, noise, 500), mean + std * noise, atol=0.01)
    assert torch.allclose(integrate(velocity, noise, 10), mean + std * noise, atol=0.25)


def test_euler_steps_begin_at_noise_and_end_before_one() -> None:
    times: list[float] = []
    integrate(lambda point, time: times.append(time) or point, torch.zeros(1), 4)
    assert times == [0.0, 0.25, 0.5, 0.75]


def test_samples_have_the_mean_and_the_deviation_of_the_data(make_head, fit) -> None:
    """The observation gives the mean; the deviation differs along the chunk."""
    generator = torch.Generator().manual_seed(0)
    side = torch.tensor([-1.0, 1.0]).repeat(128)[:, None, None]
    std = torch.tensor([0.4, 0.4, 1.0, 1.0])[None, :, None]
    head = make_head("flow", **SMALL)
    fit(head, side, side + std * torch.randn(256, 4, 1, generator=generator), steps=300, lr=3e-3)
    samples = head.sample(Features(torch.ones(500, 1, 1)), torch.Generator().manual_seed(1))[..., 0]
    assert samples.mean(dim=0).tolist() == pytest.approx([1.0] * 4, abs=0.25)
    assert samples.std(dim=0).tolist() == pytest.approx([0.4, 0.4, 1.0, 1.0], abs=0.25)


def test_it_chooses_between_two_answers_and_keeps_to_it(make_head, fit) -> None:
    head = make_head("flow", **SMALL)
    actions = torch.tensor([-1.0, 1.0]).repeat(64)[:, None, None].expand(-1, 4, -1).clone()
    fit(head, torch.ones(128, 1, 1), actions, steps=300, lr=3e-3)
    chunks = head.sample(Features(torch.ones(200, 1, 1)), torch.Generator().manual_seed(0))[..., 0]
    near = (chunks.abs() - 1).abs() < 0.35
    assert near.all(dim=1).float().mean() > 0.9
    one_way = (chunks > 0).all(dim=1) | (chunks < 0).all(dim=1)
    assert one_way.float().mean() > 0.95, "the actions of a chunk belong together"
    assert 0.3 < (chunks[:, 0] > 0).float().mean() < 0.7


def test_it_reads_the_patch_token_that_matters(make_head, fit) -> None:
    """Three tokens are up or down; the middle one decides, so that they have to be told apart by their place."""
    tokens = torch.zeros(64, 1, 3, 8)
    tokens[..., 0] = torch.randn(64, 1, 3, generator=torch.Generator().manual_seed(0)).sign()
    actions = tokens[:, 0, 1, :1][:, None].expand(-1, 4, -1).clone()
    head = make_head("flow", tokens=(3, 8), **SMALL)
    fit(head, torch.ones(64, 1, 1), actions, tokens, steps=250, lr=3e-3)
    chunks = head.sample(Features(torch.ones(64, 1, 1), tokens), torch.Generator().manual_seed(0))
    assert (chunks.sign() == actions).float().mean() > 0.9


def test_a_part_of_each_chunk_is_carried_out(make_head) -> None:
    head = make_head("flow", actions=2, **SMALL).eval()
    generator = torch.Generator().manual_seed(0)
    memory, actions = None, []
    for _ in range(4):
        action, memory = head.act(ONE, memory, generator)
        actions.append(action)
    same = torch.Generator().manual_seed(0)
    expected = torch.cat([head.sample(ONE, same)[0, :2], head.sample(ONE, same)[0, :2]])
    assert torch.equal(torch.cat(actions), expected)
    assert not torch.equal(expected[:2], expected[2:])


def test_the_seed_of_the_episode_decides_the_draw(make_head) -> None:
    head = make_head("flow", **SMALL).eval()
    first, again, other = (head.act(ONE, None, torch.Generator().manual_seed(seed))[0] for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
