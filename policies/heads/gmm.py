"""A mixture of Gaussians over actions: the BC-GMM of robomimic.

Mandlekar et al. 2021, "What Matters in Learning from Offline Human Demonstrations for Robot Manipulation", appendix.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rsp_robot.errors import UserError
from rsp_robot.policies.heads.base import Features, Head, HeadShape
from rsp_robot.policies.heads.layers import check_layers, drawn_from, masked_mean, perceptron

LOW_NOISE_STD = 1e-4
"""robomimic's standard deviation of each mode when it acts."""


@dataclass(frozen=True)
class GMMConfig:
    """Mixture of diagonal Gaussians, trained by maximum likelihood; published with hidden layers (1024, 1024)."""

    modes: int = 5
    """Gaussians in the mixture."""
    hidden: tuple[int, ...] = (256, 256)
    """Width of each hidden layer."""
    activation: str = "relu"
    """relu, gelu, silu or tanh."""
    min_std: float = 1e-4
    """Added to every standard deviation, in units of normalised actions."""
    squash: bool = False
    """Squash the means into (-1, 1) by tanh, as published; only where normalised actions stay within."""
    low_noise: bool = True
    """Act by the mean of the drawn mode (with standard deviation 1e-4, as published) rather than by a draw from it."""
    last_layer_scale: float = 1e-2
    """Factor on the first weights of the last layer."""

    def __post_init__(self) -> None:
        check_layers(self.hidden, self.activation)
        if self.modes < 1 or self.min_std <= 0:
            raise UserError(
                f"modes must be at least 1 and min_std positive, not {self.modes} and {self.min_std:g}; "
                "correct the settings"
            )


class Mixture(NamedTuple):
    """Mixtures of M diagonal Gaussians over actions."""

    logits: Tensor
    """Unnormalised log weights ``(..., M)``."""
    means: Tensor
    """``(..., M, A)``."""
    stds: Tensor
    """``(..., M, A)``, positive."""


def log_prob(mixture: Mixture, actions: Tensor) -> Tensor:
    """Return the log density ``(...)`` of ``actions`` ``(..., A)``: log sum over m of w_m N(a; mean_m, std_m).

    >>> one = Mixture(torch.zeros(1), torch.zeros(1, 1), torch.ones(1, 1))
    >>> round(log_prob(one, torch.zeros(1)).exp().item(), 4)  # 1 / sqrt(2 pi)
    0.3989
    """
    z = (actions.unsqueeze(-2) - mixture.means) / mixture.stds
    per_mode = (-0.5 * z.square() - mixture.stds.log() - 0.5 * math.log(2 * math.pi)).sum(dim=-1)
    return torch.logsumexp(F.log_softmax(mixture.logits, dim=-1) + per_mode, dim=-1)


class GMMHead(Head):
    """Gives several answers to one observation, each with its weight; acting draws one of them at every step.

    Where the demonstrations pass an obstacle on the left or on the right, regression goes straight on; a mixture
    chooses.
    """

    def __init__(self, config: GMMConfig, shape: HeadShape, *, generator: torch.Generator) -> None:
        super().__init__(config, shape, generator=generator)
        self.sizes = (config.modes, config.modes * shape.actions, config.modes * shape.actions)
        with drawn_from(generator):
            widths = [shape.vector, *config.hidden, sum(self.sizes)]
            self.layers = perceptron(widths, config.activation, config.last_layer_scale)
            # Modes that start at one point get one gradient and stay together: the means start spread.
            spread = torch.randn(config.modes * shape.actions)
        last = self.layers[-1]
        assert isinstance(last, nn.Linear)
        with torch.no_grad():
            last.bias.split(self.sizes)[1].add_(spread)

    def forward(self, vector: Tensor) -> Mixture:
        """Map features ``(..., F)`` to mixtures."""
        logits, means, stds = self.layers(vector).split(self.sizes, dim=-1)
        shape = (*vector.shape[:-1], self.config.modes, self.shape.actions)
        means, stds = means.reshape(shape), F.softplus(stds.reshape(shape)) + self.config.min_std
        return Mixture(logits, means.tanh() if self.config.squash else means, stds)

    def loss(self, features: Features, actions: Tensor, mask: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the negative log likelihood; nothing is drawn.

        ``error`` is the squared distance from the mean of the likeliest mode.
        """
        mixture = self(features.vector)
        mode = mixture.logits.detach().argmax(dim=-1)[..., None, None]
        likeliest = mixture.means.detach().take_along_dim(mode, dim=-2).squeeze(-2)
        return {
            "loss": -masked_mean(log_prob(mixture, actions), mask),
            "error": masked_mean((likeliest - actions).square(), mask),
        }

    @torch.no_grad()
    def act(self, features: Features, memory: Any | None, generator: torch.Generator) -> tuple[Tensor, Any]:
        """Draw a mode by its weight, then an action near its mean; there is no memory."""
        mixture = self(features.vector[:, -1])
        mode = int(torch.multinomial(mixture.logits[0].softmax(dim=-1).cpu(), 1, generator=generator))
        mean, std = mixture.means[:, mode], mixture.stds[:, mode]
        noise = torch.randn(1, self.shape.actions, generator=generator).to(mean)
        return mean + noise * (LOW_NOISE_STD if self.config.low_noise else std), None
