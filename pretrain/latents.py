"""Latents between a posterior and a prior: categorical or Gaussian, with the balanced KL divergence and free bits.

A network gives the parameters of a distribution as one row ``(B, parameters)``; a latent turns them into a sample
``(B, width)`` by reparameterised noise, and measures divergence and entropy per group in nats.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F

MIN_STD = 0.1


class Latent(Protocol):
    """A family of distributions over ``groups`` independent variables."""

    @property
    def groups(self) -> int:
        """Number of variables."""

    @property
    def parameters(self) -> int:
        """Numbers that describe one distribution."""

    @property
    def width(self) -> int:
        """Numbers in one sample."""

    def noise(self, batch: int, generator: torch.Generator | None, device: torch.device) -> torch.Tensor:
        """Draw what :meth:`sample` turns into a sample."""

    def sample(self, parameters: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """``(B, parameters)`` and noise -> ``(B, width)``, with gradient to the parameters."""

    def kl(self, p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
        """KL(p || q) in nats per group: ``(B, parameters)`` twice -> ``(B, groups)``."""

    def entropy(self, parameters: torch.Tensor) -> torch.Tensor:
        """Entropy in nats per group: ``(B, parameters)`` -> ``(B, groups)``."""

    def in_use(self, parameters: torch.Tensor) -> torch.Tensor:
        """How much of the latent a batch of posteriors uses; 1 code or 0 dimensions is a collapse."""


@dataclass(frozen=True)
class CategoricalLatent:
    """``groups`` categorical variables of ``classes`` values, one-hot, with straight-through gradients.

    As in DreamerV2 (Hafner et al. 2021, section 2) and RSP (section 3.2). ``unimix`` mixes that share of a uniform
    distribution into the probabilities (DreamerV3, Hafner et al. 2023); RSP uses none.
    """

    groups: int
    classes: int
    unimix: float = 0.0

    @property
    def parameters(self) -> int:
        """Logits of all groups."""
        return self.groups * self.classes

    @property
    def width(self) -> int:
        """One-hot vectors of all groups."""
        return self.groups * self.classes

    def log_probabilities(self, parameters: torch.Tensor) -> torch.Tensor:
        """``(B, groups · classes)`` logits -> ``(B, groups, classes)`` normalised, in nats."""
        logits = parameters.unflatten(-1, (self.groups, self.classes)).log_softmax(dim=-1)
        if not self.unimix:
            return logits
        return torch.log((1 - self.unimix) * logits.exp() + self.unimix / self.classes)

    def noise(self, batch: int, generator: torch.Generator | None, device: torch.device) -> torch.Tensor:
        """Uniform ``(B, groups, classes)`` for the Gumbel-max rule."""
        return torch.rand((batch, self.groups, self.classes), generator=generator, device=device)

    def sample(self, parameters: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """One-hot in the forward pass, the gradient of the probabilities in the backward pass: ``(B, width)``."""
        log_probabilities = self.log_probabilities(parameters)
        probabilities = log_probabilities.exp()
        return straight_through(sample_one_hot(log_probabilities, noise), probabilities).flatten(1)

    def kl(self, p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
        """``(B, parameters)`` twice -> ``(B, groups)`` nats."""
        p_log, q_log = self.log_probabilities(p), self.log_probabilities(q)
        return (p_log.exp() * (p_log - q_log)).sum(dim=-1)

    def entropy(self, parameters: torch.Tensor) -> torch.Tensor:
        """``(B, parameters)`` -> ``(B, groups)`` nats, between 0 and ``log(classes)``."""
        log_probabilities = self.log_probabilities(parameters)
        return -(log_probabilities.exp() * log_probabilities).sum(dim=-1)

    def in_use(self, parameters: torch.Tensor) -> torch.Tensor:
        """Distinct most likely codes in the batch, mean over groups: a scalar between 1 and ``min(B, classes)``."""
        chosen = F.one_hot(self.log_probabilities(parameters).argmax(dim=-1), self.classes)
        return (chosen.sum(dim=0) > 0).sum(dim=-1).float().mean()


@dataclass(frozen=True)
class GaussianLatent:
    """``groups`` independent normal variables: mean, and ``softplus(raw) + 0.1`` as standard deviation.

    The parameterisation of DreamerV1's RSSM (Hafner et al. 2020), so that the KL stays finite.
    """

    groups: int

    @property
    def parameters(self) -> int:
        """Means, then raw standard deviations."""
        return 2 * self.groups

    @property
    def width(self) -> int:
        """One number per group."""
        return self.groups

    def moments(self, parameters: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """``(B, 2 · groups)`` -> mean and standard deviation, each ``(B, groups)``."""
        mean, raw = parameters.chunk(2, dim=-1)
        return mean, F.softplus(raw) + MIN_STD

    def noise(self, batch: int, generator: torch.Generator | None, device: torch.device) -> torch.Tensor:
        """Standard normal ``(B, groups)``."""
        return torch.randn((batch, self.groups), generator=generator, device=device)

    def sample(self, parameters: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """``mean + std · noise``: ``(B, groups)`` (Kingma and Welling 2014)."""
        mean, std = self.moments(parameters)
        return mean + std * noise

    def kl(self, p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
        """``log(σq/σp) + (σp² + (μp - μq)²) / 2σq² - 1/2`` nats per group: ``(B, groups)``."""
        (p_mean, p_std), (q_mean, q_std) = self.moments(p), self.moments(q)
        return (q_std / p_std).log() + (p_std.square() + (p_mean - q_mean).square()) / (2 * q_std.square()) - 0.5

    def entropy(self, parameters: torch.Tensor) -> torch.Tensor:
        """Differential entropy ``log(σ √(2πe))`` nats: ``(B, groups)``; negative for narrow ones."""
        return self.moments(parameters)[1].log() + 0.5 * math.log(2 * math.pi * math.e)

    def in_use(self, parameters: torch.Tensor) -> torch.Tensor:
        """Active dimensions: means whose variance over the batch exceeds 0.01 (Burda et al. 2016, section 5.1)."""
        return (self.moments(parameters)[0].var(dim=0, correction=0) > 0.01).float().sum()


def sample_one_hot(log_probabilities: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Choose one class per group by the Gumbel-max rule.

    Args:
        log_probabilities: ``(..., groups, classes)``; logits do as well.
        uniform: the same shape, in [0, 1).

    Returns:
        One-hot samples of the same shape, without gradient.
    """
    with torch.no_grad():
        gumbel = -torch.log(-torch.log(uniform.clamp(1e-20, 1 - 1e-7)))
        choice = (log_probabilities.float() + gumbel).argmax(dim=-1)
        return F.one_hot(choice, log_probabilities.shape[-1]).to(log_probabilities.dtype)


def straight_through(one_hot: torch.Tensor, probabilities: torch.Tensor) -> torch.Tensor:
    """Return the sample in the forward pass and the gradient of the class probabilities in the backward pass."""
    return one_hot + probabilities - probabilities.detach()


def balanced_kl(latent: Latent, posterior: torch.Tensor, prior: torch.Tensor, balance: float) -> torch.Tensor:
    """``balance·KL(post || sg(prior)) + (1 - balance)·KL(sg(post) || prior)``, summed over groups, mean over the batch.

    The value is that of the plain KL; ``balance`` splits its gradient (DreamerV2, equation 2; RSP uses 0.2, which
    mostly pulls the prior towards the posterior).
    """
    to_posterior = latent.kl(posterior, prior.detach()).sum(dim=-1).mean()
    to_prior = latent.kl(posterior.detach(), prior).sum(dim=-1).mean()
    return balance * to_posterior + (1 - balance) * to_prior


def free_bits(kl: torch.Tensor, floor: float) -> torch.Tensor:
    """Clip the KL from below: under ``floor`` nats it gives no gradient."""
    return kl.clamp(min=floor)
