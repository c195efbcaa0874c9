"""State-space models with residual updates: Euler steps, Gaussian terms of the evidence bound, and their networks.

Franceschi et al. 2020, Stochastic Latent Residual Video Prediction (SRVP), sections 3 and 4. Sequences are time first,
``(T, B, D)``; a Gaussian is one row ``(..., 2 D)``: means, then raw scales.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from rsp_robot.pretrain.latents import GaussianLatent

LEAST_STD = 1e-8

Residual = Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]
"""f: state ``(B, D)`` and noise variable ``(B, Z)``, if there is one -> velocity ``(B, D)``."""
NoiseAt = Callable[[int, torch.Tensor], torch.Tensor | None]
"""The noise variable ``(B, Z)`` that leads from frame t to t + 1, given t and the state at t."""


@dataclass(frozen=True)
class StateLatent(GaussianLatent):
    """Independent normal variables with standard deviation ``softplus(raw) + 1e-8``, SRVP's."""

    def moments(self, parameters: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """``(..., 2 · groups)`` -> mean and standard deviation, each ``(..., groups)``."""
        mean, raw = parameters.chunk(2, dim=-1)
        return mean, F.softplus(raw) + LEAST_STD

    def kl_to_standard(self, parameters: torch.Tensor) -> torch.Tensor:
        """KL to N(0, 1), ``(μ² + σ² - 1) / 2 - log σ`` nats per group: ``(..., groups)``."""
        mean, std = self.moments(parameters)
        return 0.5 * (mean.square() + std.square() - 1) - std.log()


def gaussian_nll(values: torch.Tensor, mean: torch.Tensor, std: float) -> torch.Tensor:
    """Return ``(x - μ)² / 2σ² + log(σ √(2π))`` nats, number by number."""
    return (values - mean).square() / (2 * std**2) + math.log(std) + 0.5 * math.log(2 * math.pi)


def euler_step(
    residual: Residual, state: torch.Tensor, noise: torch.Tensor | None, size: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Take one step ``y + Δt · f(y, z)`` (SRVP, equation 4).

    Args:
        residual: f.
        state: ``(B, D)``.
        noise: ``(B, Z)``, or None.
        size: Δt in frames.

    Returns:
        The new state, and the step ``Δt · f`` that was added.
    """
    step = size * residual(state, noise)
    return state + step, step


class Trajectory(NamedTuple):
    """States from the first frame to the last."""

    states: torch.Tensor
    """``(1 + (T - 1) n, B, D)`` at every Euler step; those of whole frames are ``states[::n]``."""
    steps: torch.Tensor
    """``((T - 1) n, B, D)``: what each Euler step added."""
    noise: torch.Tensor | None
    """``(T - 1, B, Z)``: the noise variables, one for each frame after the first."""


def integrate(residual: Residual, state: torch.Tensor, noise_at: NoiseAt, frames: int, euler_steps: int) -> Trajectory:
    """Go from the first frame's state through ``frames`` in all, with ``euler_steps`` steps from each to the next.

    The noise variable changes from frame to frame and stays for the steps between (SRVP, section 3.1).

    Args:
        residual: f.
        state: ``(B, D)`` at the first frame.
        noise_at: see :data:`NoiseAt`.
        frames: T, at least 2.
        euler_steps: n.
    """
    states, steps, noises = [state], [], []
    for t in range(frames - 1):
        noise = noise_at(t, state)
        if noise is not None:
            noises.append(noise)
        for _ in range(euler_steps):
            state, step = euler_step(residual, state, noise, 1 / euler_steps)
            states.append(state)
            steps.append(step)
    return Trajectory(torch.stack(states), torch.stack(steps), torch.stack(noises) if noises else None)


class MLP(nn.Module):
    """Linear maps with rectifiers between; the last one is linear."""

    def __init__(self, inputs: int, hidden: int, outputs: int, depth: int) -> None:
        super().__init__()
        sizes = [inputs, *[hidden] * (depth - 1), outputs]
        layers = [nn.Linear(wide, narrow) for wide, narrow in pairwise(sizes)]
        self.module = nn.Sequential(
            *(nn.Sequential(layer) if i == 0 else nn.Sequential(nn.ReLU(), layer) for i, layer in enumerate(layers))
        )

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """``(..., inputs)`` -> ``(..., outputs)``."""
        mapped: torch.Tensor = self.module(values)
        return mapped


class Recurrence(nn.Module):
    """One layer of LSTM (Hochreiter and Schmidhuber 1997), written out: torch's own does not compile to one graph.

    Parameters have the names, shapes and initial distribution of torch's.
    """

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.weight_ih_l0 = nn.Parameter(torch.empty(4 * hidden, inputs))
        self.weight_hh_l0 = nn.Parameter(torch.empty(4 * hidden, hidden))
        self.bias_ih_l0 = nn.Parameter(torch.empty(4 * hidden))
        self.bias_hh_l0 = nn.Parameter(torch.empty(4 * hidden))
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -(hidden**-0.5), hidden**-0.5)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """``(T, B, inputs)`` -> what is known after each of them ``(T, B, hidden)``."""
        driven = F.linear(values, self.weight_ih_l0, self.bias_ih_l0)
        output = cell = driven.new_zeros(values.shape[1], self.hidden)
        outputs = []
        for gates in driven:
            gates = gates + F.linear(output, self.weight_hh_l0, self.bias_hh_l0)
            enter, keep, candidate, leave = gates.chunk(4, dim=-1)
            cell = keep.sigmoid() * cell + enter.sigmoid() * candidate.tanh()
            output = leave.sigmoid() * cell.tanh()
            outputs.append(output)
        return torch.stack(outputs)
