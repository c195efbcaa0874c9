from __future__ import annotations

import math

import pytest
import torch

from rsp_robot.pretrain.latents import balanced_kl, categorical_kl, free_bits, sample_one_hot, straight_through

P, Q = (0.75, 0.25), (0.5, 0.5)
KL_PQ = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)  # 0.1308
KL_QP = 0.5 * math.log(2 / 3) + 0.5 * math.log(2)  # 0.1438


def logits(*groups: tuple[float, ...], shift: float = 0.0) -> torch.Tensor:
    """Logits ``(1, groups, classes)`` of these probabilities; any shift of a group means the same."""
    return torch.tensor([groups], dtype=torch.float64).log() + shift


def test_kl_of_two_coins_and_its_direction() -> None:
    assert categorical_kl(logits(P), logits(Q)).tolist() == pytest.approx([KL_PQ])
    assert categorical_kl(logits(Q), logits(P)).tolist() == pytest.approx([KL_QP])
    assert categorical_kl(logits(P, shift=7.0), logits(P, shift=-2.0)).tolist() == pytest.approx([0.0], abs=1e-12)


def test_kl_adds_up_over_groups_and_not_over_the_batch() -> None:
    posterior = torch.cat([logits(P, Q), logits(P, P)])
    prior = torch.cat([logits(Q, P), logits(Q, Q)])
    assert categorical_kl(posterior, prior).tolist() == pytest.approx([KL_PQ + KL_QP, 2 * KL_PQ])


def test_balanced_kl_has_the_value_of_the_mean_kl_whatever_the_balance() -> None:
    posterior, prior = torch.cat([logits(P), logits(Q)]), torch.cat([logits(Q), logits(P)])
    for balance in (0.0, 0.2, 0.8, 1.0):
        assert float(balanced_kl(posterior, prior, balance)) == pytest.approx((KL_PQ + KL_QP) / 2)


@pytest.mark.parametrize("balance", [0.0, 0.2, 1.0])
def test_balance_splits_the_gradient(balance: float) -> None:
    """By hand: dKL/d posterior_i = p_i (ln p_i/q_i - KL), dKL/d prior_i = q_i - p_i."""
    posterior, prior = logits(P).requires_grad_(), logits(Q).requires_grad_()
    balanced_kl(posterior, prior, balance).backward()
    pull = 0.75 * (math.log(1.5) - KL_PQ)  # 0.2060
    assert posterior.grad.flatten().tolist() == pytest.approx([balance * pull, -balance * pull])
    push = 1 - balance
    assert prior.grad.flatten().tolist() == pytest.approx([-0.25 * push, 0.25 * push])


def test_free_bits_stop_the_gradient_below_the_floor_only() -> None:
    for value, clipped, slope in ((0.05, 0.1, 0.0), (0.3, 0.3, 1.0)):
        kl = torch.tensor(value, dtype=torch.float64, requires_grad=True)
        found = free_bits(kl, 0.1)
        found.backward()
        assert found.item() == pytest.approx(clipped)
        assert kl.grad.item() == slope


def test_straight_through_is_the_sample_with_the_gradient_of_the_probabilities() -> None:
    """By hand: d(w · p)/d logit_i = p_i (w_i - w · p), here w · p = 0.75 · 2 + 0.25 · (-1) = 1.25."""
    scores, sample = logits(P).requires_grad_(), torch.tensor([[[0.0, 1.0]]], dtype=torch.float64)
    latent = straight_through(sample, scores)
    torch.testing.assert_close(latent, sample, rtol=0, atol=1e-15)
    (latent * torch.tensor([2.0, -1.0])).sum().backward()
    assert scores.grad.flatten().tolist() == pytest.approx([0.75 * 0.75, 0.25 * -2.25])


def test_samples_are_one_hot_with_the_frequencies_of_the_softmax() -> None:
    chances = torch.tensor([[0.7, 0.2, 0.1], [0.05, 0.05, 0.9]])
    draws = 20_000
    samples = sample_one_hot(chances.log().expand(draws, 2, 3) + 3.0, torch.Generator().manual_seed(0))
    assert samples.shape == (draws, 2, 3)
    assert set(samples.unique().tolist()) == {0.0, 1.0}
    assert (samples.sum(dim=-1) == 1).all()
    four_sigma = 4 * (chances * (1 - chances) / draws).sqrt()
    assert ((samples.mean(dim=0) - chances).abs() < four_sigma).all()
    together = (samples[:, 0, 0] * samples[:, 1, 2]).mean()
    assert float(together) == pytest.approx(0.7 * 0.9, abs=0.015), "the groups are drawn independently"


def test_samples_follow_the_generator_keep_the_dtype_and_carry_no_gradient() -> None:
    scores = torch.zeros(64, 4, 8, dtype=torch.bfloat16, requires_grad=True)
    first, again, other = (sample_one_hot(scores, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.dtype == torch.bfloat16
    assert not first.requires_grad


def test_an_impossible_class_is_never_drawn() -> None:
    scores = torch.tensor([0.0, -torch.inf, 0.0]).expand(5000, 1, 3)
    assert sample_one_hot(scores, torch.Generator().manual_seed(0))[..., 1].sum() == 0
