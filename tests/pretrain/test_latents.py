from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Categorical, Normal, kl_divergence

from rsp_robot.pretrain.latents import (
    CategoricalLatent,
    GaussianLatent,
    Latent,
    balanced_kl,
    free_bits,
    sample_one_hot,
    straight_through,
)

P, Q = (0.75, 0.25), (0.5, 0.5)
KL_PQ = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)  # 0.1308
KL_QP = 0.5 * math.log(2 / 3) + 0.5 * math.log(2)  # 0.1438
COIN, COINS = CategoricalLatent(1, 2), CategoricalLatent(2, 2)
CPU = torch.device("cpu")
RAW_ONE = math.log(math.e - 1)  # softplus of it is 1, so the standard deviation is 1.1
RAW_TWO = math.log(math.exp(2.1) - 1)  # a standard deviation of 2.2


def logits(*groups: tuple[float, ...], shift: float = 0.0) -> torch.Tensor:
    """Logits ``(1, groups · classes)`` of these probabilities; any shift means the same."""
    return torch.tensor([groups], dtype=torch.float64).flatten(1).log() + shift


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random(latent: Latent, batch: int, seed: int) -> torch.Tensor:
    return 2 * torch.randn(batch, latent.parameters, generator=seeded(seed), dtype=torch.float64)


# -- categorical -------------------------------------------------------------------------------------------------------


def test_kl_of_two_coins_and_its_direction() -> None:
    assert COIN.kl(logits(P), logits(Q)).flatten().tolist() == pytest.approx([KL_PQ])
    assert COIN.kl(logits(Q), logits(P)).flatten().tolist() == pytest.approx([KL_QP])
    assert COIN.kl(logits(P, shift=7.0), logits(P, shift=-2.0)).item() == pytest.approx(0.0, abs=1e-12)


def test_kl_is_told_per_group_and_per_sample() -> None:
    posterior, prior = torch.cat([logits(P, Q), logits(P, P)]), torch.cat([logits(Q, P), logits(Q, Q)])
    found = COINS.kl(posterior, prior)
    assert found.shape == (2, 2)
    assert found.flatten().tolist() == pytest.approx([KL_PQ, KL_QP, KL_PQ, KL_PQ])
    assert balanced_kl(COINS, posterior, prior, 0.2).item() == pytest.approx((KL_PQ + KL_QP + 2 * KL_PQ) / 2)


def test_groups_lie_one_behind_the_other_in_the_parameters() -> None:
    """As in the published heads: the logits of the first group come first."""
    latent = CategoricalLatent(2, 3)
    parameters = torch.tensor([[0.0, 0, 9, 9, 0, 0]])
    assert latent.log_probabilities(parameters).argmax(dim=-1).tolist() == [[2, 0]]
    assert latent.sample(parameters, torch.full((1, 2, 3), 0.5)).round().tolist() == [[0, 0, 1, 1, 0, 0]]
    assert (latent.parameters, latent.width) == (6, 6)


def test_entropy_of_coins() -> None:
    of_p = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert COINS.entropy(logits(P, Q)).flatten().tolist() == pytest.approx([of_p, math.log(2)])
    certain = CategoricalLatent(1, 32).entropy(100 * torch.eye(32)[:1])
    assert certain.item() == pytest.approx(0, abs=1e-6)


def test_unimix_by_hand() -> None:
    """0.8 · (0.75, 0.25) + 0.2 · (0.5, 0.5) = (0.7, 0.3)."""
    mixed, plain = CategoricalLatent(1, 2, unimix=0.2), logits((0.7, 0.3))
    found = mixed.log_probabilities(logits(P, shift=3.0)).exp()
    assert found.flatten().tolist() == pytest.approx([0.7, 0.3])
    assert mixed.entropy(logits(P)).item() == pytest.approx(COIN.entropy(plain).item())
    assert mixed.kl(logits(P), logits(Q)).item() == pytest.approx(COIN.kl(plain, logits(Q)).item())


def test_unimix_keeps_every_class_possible_and_the_kl_finite() -> None:
    latent = CategoricalLatent(1, 4, unimix=0.2)
    sure = torch.tensor([[0.0, 500.0, 0.0, 0.0]]), torch.tensor([[500.0, 0.0, 0.0, 0.0]])
    assert latent.kl(*sure).item() == pytest.approx((0.85 - 0.05) * math.log(0.85 / 0.05), rel=1e-5)
    draws = 8000
    samples = latent.sample(sure[0].expand(draws, 4), latent.noise(draws, seeded(), CPU))
    assert samples.mean(dim=0).tolist() == pytest.approx([0.05, 0.85, 0.05, 0.05], abs=0.015)
    assert CategoricalLatent(1, 4).sample(sure[0].expand(draws, 4), latent.noise(draws, seeded(), CPU))[:, 1].min() == 1


def test_codes_in_use() -> None:
    """First group: codes 0, 0 and 2 are the likeliest; second: always 1. So 2 and 1."""
    latent = CategoricalLatent(2, 3)
    rows = [[5.0, 0, 0, 0, 1, 0], [2, 1, 1, 0, 9, 0], [0, 0, 3, 1, 2, 0]]
    assert latent.in_use(torch.tensor(rows)).item() == 1.5
    assert latent.in_use(torch.tensor(rows[:1])).item() == 1.0
    everything = CategoricalLatent(1, 5).in_use(torch.eye(5))
    assert everything.item() == 5.0


@pytest.mark.parametrize("unimix", [0.0, 0.1])
def test_categorical_against_torch_distributions(unimix: float) -> None:
    latent = CategoricalLatent(3, 5, unimix)
    parameters = random(latent, 7, 0), random(latent, 7, 1)
    p, q = (Categorical(probs=(1 - unimix) * x.unflatten(1, (3, 5)).softmax(dim=-1) + unimix / 5) for x in parameters)
    torch.testing.assert_close(latent.kl(*parameters), kl_divergence(p, q))
    torch.testing.assert_close(latent.entropy(parameters[0]), p.entropy())


def test_straight_through_is_the_sample_with_the_gradient_of_the_probabilities() -> None:
    """By hand: d(w · p)/d logit_i = p_i (w_i - w · p), here w · p = 0.75 · 2 + 0.25 · (-1) = 1.25."""
    scores, sample = logits(P).requires_grad_(), torch.tensor([[0.0, 1.0]], dtype=torch.float64)
    latent = straight_through(sample, scores.softmax(dim=-1))
    torch.testing.assert_close(latent, sample, rtol=0, atol=1e-15)
    (latent * torch.tensor([2.0, -1.0])).sum().backward()
    assert scores.grad.flatten().tolist() == pytest.approx([0.75 * 0.75, 0.25 * -2.25])


@pytest.mark.parametrize(("unimix", "share"), [(0.0, 1.0), (0.2, 0.8)])
def test_a_categorical_sample_has_that_gradient_whatever_was_drawn(unimix: float, share: float) -> None:
    latent = CategoricalLatent(1, 2, unimix)
    for uniform, drawn in (((0.9, 0.1), [1.0, 0.0]), ((1e-6, 0.999), [0.0, 1.0])):
        parameters = logits(P).requires_grad_()
        sample = latent.sample(parameters, torch.tensor([[uniform]], dtype=torch.float64))
        assert sample.flatten().tolist() == pytest.approx(drawn, abs=1e-12)
        (sample * torch.tensor([2.0, -1.0])).sum().backward()
        expected = [share * 0.75 * 0.75, share * 0.25 * -2.25]
        assert parameters.grad.flatten().tolist() == pytest.approx(expected)


def test_samples_are_one_hot_with_the_frequencies_of_the_softmax() -> None:
    chances = torch.tensor([[0.7, 0.2, 0.1], [0.05, 0.05, 0.9]])
    draws, latent = 20_000, CategoricalLatent(2, 3)
    samples = sample_one_hot(chances.log().expand(draws, 2, 3) + 3.0, latent.noise(draws, seeded(), CPU))
    assert samples.shape == (draws, 2, 3)
    assert set(samples.unique().tolist()) == {0.0, 1.0}
    assert (samples.sum(dim=-1) == 1).all()
    four_sigma = 4 * (chances * (1 - chances) / draws).sqrt()
    assert ((samples.mean(dim=0) - chances).abs() < four_sigma).all()
    together = (samples[:, 0, 0] * samples[:, 1, 2]).mean()
    assert float(together) == pytest.approx(0.7 * 0.9, abs=0.015), "the groups are drawn independently"


def test_one_hot_samples_keep_the_dtype_and_carry_no_gradient() -> None:
    scores = torch.zeros(64, 4, 8, dtype=torch.bfloat16, requires_grad=True)
    sample = sample_one_hot(scores, torch.rand(64, 4, 8, generator=seeded()))
    assert sample.dtype == torch.bfloat16 and not sample.requires_grad


@pytest.mark.parametrize("extreme", [0.0, 1.0 - 2**-24])
def test_extreme_noise_is_still_a_choice(extreme: float) -> None:
    uniform = torch.tensor([[[extreme, 0.5, 0.5]]])
    sample = sample_one_hot(torch.zeros(1, 1, 3), uniform)
    assert sample.sum() == 1 and sample[0, 0, 0] == (extreme > 0.5)


def test_an_impossible_class_is_never_drawn() -> None:
    scores = torch.tensor([0.0, -torch.inf, 0.0]).expand(5000, 1, 3)
    assert sample_one_hot(scores, torch.rand(5000, 1, 3, generator=seeded()))[..., 1].sum() == 0


# -- Gaussian ----------------------------------------------------------------------------------------------------------


def test_gaussian_moments_by_hand() -> None:
    mean, std = GaussianLatent(2).moments(torch.tensor([[3.0, -1.0, RAW_ONE, RAW_TWO]]))
    assert mean.tolist() == [[3.0, -1.0]], "means come first"
    assert std.flatten().tolist() == pytest.approx([1.1, 2.2])
    assert (GaussianLatent(2).parameters, GaussianLatent(2).width) == (4, 2)


def test_a_gaussian_never_gets_narrower_than_a_tenth() -> None:
    latent, parameters = GaussianLatent(1), torch.tensor([[0.0, -1e4], [0.0, -5.0], [0.0, 0.0]])
    assert latent.moments(parameters)[1].min().item() == pytest.approx(0.1)
    assert latent.kl(parameters[2:], parameters[:1]).isfinite().all()
    assert latent.entropy(parameters[:1]).item() == pytest.approx(math.log(0.1) + 0.5 * math.log(2 * math.pi * math.e))


def test_kl_of_two_gaussians_by_hand() -> None:
    """Of N(0, 1.1) and N(2.2, 2.2): ln 2 + (1.21 + 4.84) / (2 · 4.84) - 1/2 = ln 2 + 1/8."""
    p, q = torch.tensor([[0.0, RAW_ONE]]), torch.tensor([[2.2, RAW_TWO]])
    assert GaussianLatent(1).kl(p, q).item() == pytest.approx(math.log(2) + 0.125, rel=1e-5)
    assert GaussianLatent(1).kl(q, p).item() == pytest.approx(-math.log(2) + 4 - 0.5, rel=1e-5)
    assert GaussianLatent(1).kl(p, p).item() == pytest.approx(0, abs=1e-6)


def test_gaussian_against_torch_distributions() -> None:
    latent = GaussianLatent(5)
    parameters = random(latent, 7, 0), random(latent, 7, 1)
    p, q = (Normal(*latent.moments(row)) for row in parameters)
    found = latent.kl(*parameters)
    assert found.shape == (7, 5)
    torch.testing.assert_close(found, kl_divergence(p, q))
    torch.testing.assert_close(latent.entropy(parameters[0]), p.entropy(), rtol=0, atol=1e-6)
    expected = kl_divergence(p, q).sum(dim=1).mean()
    torch.testing.assert_close(balanced_kl(latent, *parameters, balance=0.3), expected)


def test_a_gaussian_sample_is_reparameterised() -> None:
    """z = mean + std · noise: dz/d mean = 1, dz/d raw = noise · sigmoid(raw)."""
    parameters = torch.tensor([[3.0, RAW_ONE]], dtype=torch.float64, requires_grad=True)
    sample = GaussianLatent(1).sample(parameters, torch.tensor([[-2.0]]))
    assert sample.item() == pytest.approx(3 - 2 * 1.1)
    sample.backward()
    assert parameters.grad.flatten().tolist() == pytest.approx([1.0, -2.0 * (1 - 1 / math.e)])


def test_gaussian_samples_have_the_moments() -> None:
    latent = GaussianLatent(2)
    noise = latent.noise(20_000, seeded(), CPU)
    samples = latent.sample(torch.tensor([[3.0, -1.0, RAW_ONE, RAW_TWO]]).expand(20_000, 4), noise)
    assert samples.mean(dim=0).tolist() == pytest.approx([3, -1], abs=0.06)
    assert samples.std(dim=0).tolist() == pytest.approx([1.1, 2.2], rel=0.03)
    assert abs(float(torch.corrcoef(samples.T)[0, 1])) < 0.03


def test_active_dimensions() -> None:
    """Variances of the means over a batch of two: 1/2, 0.005 and 0.02; the last numbers are raw deviations."""
    rows = [[0.0, 0.0, 0.0, 0, 0, 0], [1.0, 0.1, 0.2, 9, 9, 9]]
    assert GaussianLatent(3).in_use(torch.tensor(rows)).item() == 2.0


# -- both --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("latent", [CategoricalLatent(3, 4), CategoricalLatent(3, 4, 0.1), GaussianLatent(3)])
def test_noise_follows_the_generator_and_the_sample_the_noise(latent: Latent) -> None:
    first, again, other = (latent.noise(5, seeded(seed), CPU) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    parameters = random(latent, 5, 0).float()
    sample = latent.sample(parameters, first)
    assert sample.shape == (5, latent.width)
    assert torch.equal(sample, latent.sample(parameters, again))
    assert not torch.equal(sample, latent.sample(parameters, other))
    alone = latent.sample(parameters[3:4], first[3:4])
    torch.testing.assert_close(alone, sample[3:4])
    assert latent.kl(parameters, parameters.flip(0)).shape == latent.entropy(parameters).shape == (5, latent.groups)
    assert latent.in_use(parameters).shape == ()


@pytest.mark.parametrize("latent", [CategoricalLatent(3, 4), GaussianLatent(3)])
def test_balanced_kl_has_the_value_of_the_mean_kl_whatever_the_balance(latent: Latent) -> None:
    posterior, prior = random(latent, 4, 0), random(latent, 4, 1)
    expected = latent.kl(posterior, prior).sum(dim=1).mean().item()
    for balance in (0.0, 0.2, 0.8, 1.0):
        assert balanced_kl(latent, posterior, prior, balance).item() == pytest.approx(expected)


@pytest.mark.parametrize("balance", [0.0, 0.2, 1.0])
def test_balance_splits_the_gradient(balance: float) -> None:
    """By hand: dKL/d posterior_i = p_i (ln p_i/q_i - KL), dKL/d prior_i = q_i - p_i."""
    posterior, prior = logits(P).requires_grad_(), logits(Q).requires_grad_()
    balanced_kl(COIN, posterior, prior, balance).backward()
    pull = 0.75 * (math.log(1.5) - KL_PQ)  # 0.2060
    assert posterior.grad.flatten().tolist() == pytest.approx([balance * pull, -balance * pull])
    push = 1 - balance
    assert prior.grad.flatten().tolist() == pytest.approx([-0.25 * push, 0.25 * push])


@pytest.mark.parametrize("balance", [0.0, 0.2, 1.0])
def test_balance_splits_the_gradient_of_gaussians(balance: float) -> None:
    """By hand for the means of N(0, 1.1) and N(2.2, 2.2): dKL/d mean = ±(μp - μq) / σq² = ∓1 / 2.2."""
    posterior = torch.tensor([[0.0, RAW_ONE]], requires_grad=True)
    prior = torch.tensor([[2.2, RAW_TWO]], requires_grad=True)
    balanced_kl(GaussianLatent(1), posterior, prior, balance).backward()
    assert posterior.grad[0, 0].item() == pytest.approx(-balance / 2.2)
    assert prior.grad[0, 0].item() == pytest.approx((1 - balance) / 2.2)


def test_free_bits_stop_the_gradient_below_the_floor_only() -> None:
    for value, clipped, slope in ((0.05, 0.1, 0.0), (0.3, 0.3, 1.0)):
        kl = torch.tensor(value, dtype=torch.float64, requires_grad=True)
        found = free_bits(kl, 0.1)
        found.backward()
        assert found.item() == pytest.approx(clipped)
        assert kl.grad.item() == slope
