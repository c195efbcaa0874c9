"""Flow matching over chunks of actions (Lipman et al. 2023) along straight paths (Liu et al. 2023, rectified flow).

Such a head moves noise into a chunk of actions along a learned velocity field, as in pi0 (Black et al. 2024).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rsp_robot.backbones.positions import sincos_1d
from rsp_robot.errors import UserError
from rsp_robot.policies.heads.attention import (
    MemoryTokens,
    check_execution,
    check_transformer,
    decoder_block,
    learned_positions,
)
from rsp_robot.policies.heads.base import Features, Head, HeadShape
from rsp_robot.policies.heads.layers import drawn_from, masked_mean, start_small


@dataclass(frozen=True)
class FlowConfig:
    """Chunk of actions by flow matching; pi0 predicts 50 actions in 10 steps of integration."""

    chunk: int = 10
    """Actions predicted at once."""
    execute: int = 5
    """Actions of a chunk carried out before the next prediction."""
    integration_steps: int = 10
    """Euler steps from noise to actions."""
    width: int = 128
    """Width of a token."""
    heads: int = 4
    """Attention heads."""
    layers: int = 2
    """Transformer blocks."""
    last_layer_scale: float = 1e-2
    """Factor on the first weights of the last layer, so that training starts near the zero velocity."""

    def __post_init__(self) -> None:
        check_transformer(self.width, self.heads, self.layers)
        check_execution(self.chunk, self.execute, least=1)
        if self.integration_steps < 1:
            raise UserError(f"integration_steps must be at least 1, not {self.integration_steps}; correct the settings")


def straight_path(noise: Tensor, actions: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
    """Return the point at ``time`` on the straight path from noise (0) to actions (1), and the velocity along it.

    >>> point, velocity = straight_path(torch.tensor(2.0), torch.tensor(6.0), torch.tensor(0.25))
    >>> point.item(), velocity.item()
    (3.0, 4.0)
    """
    return (1 - time) * noise + time * actions, actions - noise


def integrate(velocity: Callable[[Tensor, float], Tensor], noise: Tensor, steps: int) -> Tensor:
    """Follow ``velocity(point, time)`` from ``noise`` at time 0 to time 1 in Euler steps of equal length.

    >>> integrate(lambda point, time: torch.tensor(3.0), torch.tensor(1.0), steps=4).item()
    4.0
    """
    point = noise
    for step in range(steps):
        point = point + velocity(point, step / steps) / steps
    return point


class FlowHead(Head):
    """Draws a chunk of actions from the distribution of the demonstrated ones, several answers included."""

    reads_tokens = True

    def __init__(self, config: FlowConfig, shape: HeadShape, *, generator: torch.Generator) -> None:
        super().__init__(config, shape, generator=generator)
        self.action_steps = config.chunk
        width = config.width
        with drawn_from(generator):
            self.observed = MemoryTokens(shape, width)
            self.observed_norm = nn.LayerNorm(width)
            self.actions = nn.Linear(shape.actions, width)
            self.positions = learned_positions(config.chunk, width)
            self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
            self.blocks = nn.ModuleList(decoder_block(width, config.heads) for _ in range(config.layers))
            self.norm = nn.LayerNorm(width)
            self.last = start_small(nn.Linear(width, shape.actions), config.last_layer_scale)

    def observe(self, features: Features) -> Tensor:
        """Return the memory tokens ``(B, M, width)`` of features with ``T = 1``."""
        memory: Tensor = self.observed_norm(self.observed(features))
        return memory

    def velocity(self, memory: Tensor, point: Tensor, time: Tensor) -> Tensor:
        """Return the velocity ``(B, H, A)`` at chunks ``point`` ``(B, H, A)``.

        Args:
            memory: of :meth:`observe`.
            point: between noise and actions.
            time: ``(B,)`` in [0, 1], on the CPU.
        """
        embedded = self.time(sincos_1d(self.config.width, 1000 * time).to(point))
        x = self.actions(point) + self.positions + embedded[:, None]
        for block in self.blocks:
            x = block(x, memory)
        velocity: Tensor = self.last(self.norm(x))
        return velocity

    def loss(self, features: Features, actions: Tensor, mask: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the mean squared error of the velocity, at one uniform time per sample (Lipman et al. 2023, eq. 23).

        Actions beyond the end of the episode are seen as context, but do not count.
        """
        time = torch.rand(len(actions), generator=generator)
        noise = torch.randn(actions.shape, generator=generator).to(actions)
        point, target = straight_path(noise, actions, time.to(actions)[:, None, None])
        predicted = self.velocity(self.observe(features), point, time)
        return {"loss": masked_mean((predicted - target).square(), mask)}

    @torch.no_grad()
    def sample(self, features: Features, generator: torch.Generator) -> Tensor:
        """Draw one chunk ``(B, H, A)`` for each row of features with ``T = 1``."""
        memory = self.observe(features)
        noise = torch.randn(len(memory), self.action_steps, self.shape.actions, generator=generator).to(memory)
        return integrate(
            lambda point, time: self.velocity(memory, point, torch.full((len(point),), time)),
            noise,
            self.config.integration_steps,
        )

    @torch.no_grad()
    def act(self, features: Features, memory: Tensor | None, generator: torch.Generator) -> tuple[Tensor, Any]:
        """Carry out ``execute`` actions of a chunk, then draw another; the memory is what is left, ``(n, A)``."""
        if memory is None or not len(memory):
            memory = self.sample(features, generator)[0, : self.config.execute]
        return memory[:1], memory[1:]
