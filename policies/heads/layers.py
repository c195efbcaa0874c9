"""What the heads build with: perceptrons, first weights from a generator, means over valid steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

import torch
from torch import Tensor, nn

from rsp_robot.errors import UserError, unknown_name

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "tanh": nn.Tanh}


def check_layers(hidden: Sequence[int], activation: str) -> None:
    """Check the widths and the activation of hidden layers.

    Raises:
        UserError: a width below one, or an unknown activation.
    """
    if any(width < 1 for width in hidden):
        raise UserError(f"every hidden width must be at least 1, not {min(hidden)}; correct the settings")
    if activation not in ACTIVATIONS:
        raise unknown_name("activation", activation, ACTIVATIONS)


def perceptron(widths: Sequence[int], activation: str, last_layer_scale: float) -> nn.Sequential:
    """Return linear layers from ``widths[0]`` to ``widths[-1]`` with the activation between; the last starts small."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths[:-1]):
        layers += [nn.Linear(before, after), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers, start_small(nn.Linear(widths[-2], widths[-1]), last_layer_scale))


@contextmanager
def drawn_from(generator: torch.Generator) -> Iterator[None]:
    """Let the modules built inside draw their first weights from ``generator``, not from the global generator.

    >>> with drawn_from(torch.Generator().manual_seed(0)):
    ...     first = nn.Linear(2, 2)
    >>> with drawn_from(torch.Generator().manual_seed(0)):
    ...     torch.equal(nn.Linear(2, 2).weight, first.weight)
    True
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.set_state(generator.get_state())
        yield
        generator.set_state(torch.default_generator.get_state())


@torch.no_grad()
def start_small(layer: nn.Linear, scale: float) -> nn.Linear:
    """Multiply the first weights of a last layer by ``scale``, so that training starts near the zero action."""
    layer.weight.mul_(scale)
    layer.bias.mul_(scale)
    return layer


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Average ``values`` ``(B, H)`` or ``(B, H, A)`` over the steps where ``mask`` ``(B, H)`` holds.

    >>> masked_mean(torch.tensor([[1.0, 100.0], [2.0, 3.0]]), torch.tensor([[True, False], [True, True]])).item()
    2.0
    """
    per_step = values.flatten(2).mean(dim=2) if values.ndim > 2 else values
    weights = mask.to(per_step.dtype)
    return (per_step * weights).sum() / weights.sum().clamp(min=1)
