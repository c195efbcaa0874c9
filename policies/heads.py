"""The policy head: a batch-normalised multilayer perceptron from features to actions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from rsp_robot.errors import unknown_name

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "tanh": nn.Tanh}


def _linear(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    """Return a linear layer drawn from ``generator`` with the usual uniform law, within 1 / sqrt(inputs) of zero."""
    layer: nn.Linear = nn.utils.skip_init(nn.Linear, inputs, outputs)
    bound = 1 / math.sqrt(inputs)
    with torch.no_grad():
        layer.weight.uniform_(-bound, bound, generator=generator)
        layer.bias.uniform_(-bound, bound, generator=generator)
    return layer


class MLPHead(nn.Module):
    """``BatchNorm1d`` at the input, hidden layers, a linear layer to the actions (the head of R3M's evaluation).

    In training the features are normalised by their minibatch, which acts as a regulariser. In evaluation they are
    normalised by the statistics of the whole training set, set once by :meth:`set_input_statistics`: a running average
    of the last minibatches would only be a noisy estimate of them.

    >>> head = MLPHead(6, 2, generator=torch.Generator().manual_seed(0)).eval()
    >>> tuple(head(torch.zeros(3, 6)).shape)
    (3, 2)
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        hidden: Sequence[int] = (256, 256),
        activation: str = "relu",
        last_layer_scale: float = 1e-2,
        *,
        generator: torch.Generator,
    ) -> None:
        """Build the head.

        Args:
            inputs: features per row, D.
            outputs: actions per row, A.
            hidden: width of each hidden layer.
            activation: one of :data:`ACTIVATIONS`.
            last_layer_scale: factor on the first weights of the last layer; small, so that it starts near the zero
                action.
            generator: draws the weights.

        Raises:
            UserError: the activation is unknown.
        """
        super().__init__()
        if activation not in ACTIVATIONS:
            raise unknown_name("activation", activation, ACTIVATIONS)
        self.norm = nn.BatchNorm1d(inputs, momentum=0.0)
        widths = [inputs, *hidden]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [_linear(before, after, generator), ACTIVATIONS[activation]()]
        last = _linear(widths[-1], outputs, generator)
        with torch.no_grad():
            last.weight.mul_(last_layer_scale)
            last.bias.mul_(last_layer_scale)
        self.layers = nn.Sequential(*layers, last)

    @torch.no_grad()
    def set_input_statistics(self, features: Tensor) -> None:
        """Fix the statistics used in evaluation to those of ``features`` ``(N, D)``, the whole training set."""
        assert self.norm.running_mean is not None and self.norm.running_var is not None
        wide = features.double()
        self.norm.running_mean.copy_(wide.mean(dim=0))
        self.norm.running_var.copy_(wide.var(dim=0, correction=0))

    def forward(self, features: Tensor) -> Tensor:
        """Map features ``(B, D)`` to actions ``(B, A)``, not clipped."""
        actions: Tensor = self.layers(self.norm(features))
        return actions
