"""A recurrent head: BC-RNN of robomimic (Mandlekar et al. 2021) with a gated recurrent unit (Cho et al. 2014)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rsp_robot.errors import UserError
from rsp_robot.policies.heads.base import Features, Head, HeadShape
from rsp_robot.policies.heads.layers import drawn_from, masked_mean, start_small


@dataclass(frozen=True)
class GRUConfig:
    """Gated recurrent units, trained on windows by the mean squared error; published: LSTM, 2 layers of 400."""

    hidden: int = 256
    """Width of the state."""
    layers: int = 1
    """Recurrent layers."""
    window: int = 10
    """Consecutive steps in a training sample; the state is zero before the first."""
    horizon: int = 10
    """Steps in an episode after which the state starts from zero again, as published; 0 keeps it to the end."""
    last_layer_scale: float = 1e-2
    """Factor on the first weights of the last layer, so that training starts near the zero action."""

    def __post_init__(self) -> None:
        if min(self.hidden, self.layers, self.window) < 1 or self.horizon < 0:
            raise UserError(
                "hidden, layers and window of the recurrent head must be at least 1, horizon at least 0; "
                "correct the settings"
            )


class Recalled(NamedTuple):
    """What the head remembers of an episode."""

    state: Tensor
    """``(layers, 1, hidden)``."""
    age: int
    """Steps since it was zero."""


class GRUHead(Head):
    """Remembers what it has seen since the state was last zero: for tasks where one observation does not say enough."""

    def __init__(self, config: GRUConfig, shape: HeadShape, *, generator: torch.Generator) -> None:
        super().__init__(config, shape, generator=generator)
        self.observation_steps = self.action_steps = config.window
        with drawn_from(generator):
            self.gru = nn.GRU(shape.vector, config.hidden, config.layers, batch_first=True)
            self.last = start_small(nn.Linear(config.hidden, shape.actions), config.last_layer_scale)

    def forward(self, vector: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map features ``(B, T, F)`` to actions ``(B, T, A)`` and the state ``(layers, B, hidden)`` after them."""
        outputs, state = self.gru(vector, state)
        return self.last(outputs), state

    def loss(self, features: Features, actions: Tensor, mask: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the mean squared error over the window; nothing is drawn."""
        predicted, _ = self(features.vector)
        return {"loss": masked_mean((predicted - actions).square(), mask)}

    @torch.no_grad()
    def act(self, features: Features, memory: Recalled | None, generator: torch.Generator) -> tuple[Tensor, Any]:
        """Take one step with the state of the step before."""
        if memory is not None and self.config.horizon and memory.age >= self.config.horizon:
            memory = None
        action, state = self(features.vector[:, -1:], None if memory is None else memory.state)
        return action[:, 0], Recalled(state, 1 if memory is None else memory.age + 1)
