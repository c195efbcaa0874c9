"""The multilayer perceptron: one action from one vector, by regression."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rsp_robot.policies.heads.base import Features, Head, HeadShape
from rsp_robot.policies.heads.layers import check_layers, drawn_from, masked_mean, perceptron


@dataclass(frozen=True)
class MLPConfig:
    """Multilayer perceptron trained on the mean squared error."""

    hidden: tuple[int, ...] = (256, 256)
    """Width of each hidden layer."""
    activation: str = "relu"
    """relu, gelu, silu or tanh."""
    last_layer_scale: float = 1e-2
    """Factor on the first weights of the last layer, so that training starts near the zero action."""

    def __post_init__(self) -> None:
        check_layers(self.hidden, self.activation)


CORTEXBENCH_MLP = MLPConfig(hidden=(256, 256, 256), activation="relu")
"""The head of CortexBench (Majumdar et al. 2023) on Adroit, DMC and MetaWorld."""
R3M_MLP = MLPConfig(hidden=(256, 256), activation="tanh")
"""The head of R3M's evaluation on Franka Kitchen (Nair et al. 2022)."""


class MLPHead(Head):
    """Regresses the action by its mean squared error; where the demonstrations disagree it answers with their mean.

    >>> head = MLPHead(MLPConfig(), HeadShape(vector=6, actions=2), generator=torch.Generator().manual_seed(0))
    >>> tuple(head(torch.zeros(3, 6)).shape)
    (3, 2)
    """

    def __init__(self, config: MLPConfig, shape: HeadShape, *, generator: torch.Generator) -> None:
        super().__init__(config, shape, generator=generator)
        with drawn_from(generator):
            widths = [shape.vector, *config.hidden, shape.actions]
            self.layers = perceptron(widths, config.activation, config.last_layer_scale)

    def forward(self, vector: Tensor) -> Tensor:
        """Map features ``(..., F)`` to actions ``(..., A)``, not clipped."""
        actions: Tensor = self.layers(vector)
        return actions

    def loss(self, features: Features, actions: Tensor, mask: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the mean squared error; nothing is drawn."""
        return {"loss": masked_mean((self(features.vector) - actions).square(), mask)}

    @torch.no_grad()
    def act(self, features: Features, memory: Any | None, generator: torch.Generator) -> tuple[Tensor, Any]:
        """Return the regressed action; there is no memory."""
        return self(features.vector[:, -1]), None
