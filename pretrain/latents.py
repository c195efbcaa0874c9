"""Categorical latents: straight-through samples and the balanced KL divergence with free bits.

A latent is ``groups`` independent categorical variables of ``classes`` values each, as in DreamerV2 (Hafner et al.
2021) and RSP (Jang et al. 2024, section 3.2). Logits have the shape ``(B, groups, classes)``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


def sample_one_hot(logits: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
    """Draw one class per group by the Gumbel-max rule.

    Args:
        logits: ``(..., groups, classes)``.
        generator: where the draw comes from.

    Returns:
        One-hot samples of the same shape, without gradient.
    """
    with torch.no_grad():
        uniform = torch.rand(logits.shape, generator=generator, device=logits.device)
        gumbel = -torch.log(-torch.log(uniform.clamp(1e-20, 1 - 1e-7)))
        choice = (logits.float() + gumbel).argmax(dim=-1)
        return F.one_hot(choice, logits.shape[-1]).to(logits.dtype)


def straight_through(one_hot: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Return the sample in the forward pass and the gradient of the class probabilities in the backward pass."""
    probabilities = logits.softmax(dim=-1)
    return one_hot + probabilities - probabilities.detach()


def categorical_kl(p_logits: torch.Tensor, q_logits: torch.Tensor) -> torch.Tensor:
    """KL(p || q) in nats, summed over groups: ``(B, groups, classes)`` twice -> ``(B,)``."""
    p_log, q_log = p_logits.log_softmax(dim=-1), q_logits.log_softmax(dim=-1)
    return (p_log.exp() * (p_log - q_log)).sum(dim=(-2, -1))


def balanced_kl(posterior: torch.Tensor, prior: torch.Tensor, balance: float) -> torch.Tensor:
    """Mean over the batch of ``balance·KL(post || sg(prior)) + (1 - balance)·KL(sg(post) || prior)``.

    The value is that of the plain KL; ``balance`` splits its gradient (DreamerV2, equation 2; RSP uses 0.2, which
    mostly pulls the prior towards the posterior).
    """
    to_posterior = categorical_kl(posterior, prior.detach()).mean()
    to_prior = categorical_kl(posterior.detach(), prior).mean()
    return balance * to_posterior + (1 - balance) * to_prior


def free_bits(kl: torch.Tensor, floor: float) -> torch.Tensor:
    """Clip the KL from below: under ``floor`` nats it gives no gradient."""
    return kl.clamp(min=floor)
