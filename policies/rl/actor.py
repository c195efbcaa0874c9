"""The actor of a learner as a plain list of layers: what is cloned from demonstrations, and what a policy keeps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu, "tanh": torch.tanh, "elu": functional.elu, "silu": functional.silu,
}  # fmt: skip
_NAMES = {nn.ReLU: "relu", nn.Tanh: "tanh", nn.ELU: "elu", nn.SiLU: "silu"}


def actor_modules(model: Any) -> nn.Sequential:
    """Return the layers from features to the deterministic action; the learner's own modules, not copies.

    Methods whose actions are Gaussian and not squashed (ppo, a2c, trpo) end in the mean, which is cut to [-1, 1].
    """
    policy = model.policy
    if hasattr(policy, "mlp_extractor"):
        return nn.Sequential(*_flat([policy.mlp_extractor.policy_net, policy.action_net]))
    actor = policy.actor
    if hasattr(actor, "latent_pi"):
        return nn.Sequential(*_flat([actor.latent_pi, actor.mu]), nn.Tanh())
    return nn.Sequential(*_flat([actor.mu]))


def _flat(modules: Iterable[nn.Module]) -> list[nn.Module]:
    found: list[nn.Module] = []
    for module in modules:
        found += _flat(module) if isinstance(module, nn.Sequential) else [module]
    return found


def export_layers(modules: nn.Sequential) -> tuple[list[str], dict[str, Tensor]]:
    """Return the kind of each layer, and tensors ``<index>.<name>``.

    ``linear`` has ``weight`` ``(O, I)`` and ``bias`` ``(O,)``; ``affine``, a normalisation as it is in evaluation, has
    ``scale`` and ``shift`` ``(F,)``; all other kinds are functions without tensors.

    Raises:
        NotImplementedError: a layer of another kind.
    """
    kinds: list[str] = []
    tensors: dict[str, Tensor] = {}
    for index, module in enumerate(modules):
        if isinstance(module, nn.Linear):
            kinds.append("linear")
            tensors |= {f"{index}.weight": module.weight.detach(), f"{index}.bias": module.bias.detach()}
        elif type(module) in _NAMES:
            kinds.append(_NAMES[type(module)])
        elif hasattr(module, "ra_mean") and hasattr(module, "ra_var"):  # sb3-contrib's batch renormalisation
            renorm: Any = module
            scale = (renorm.scale / (renorm.ra_var + renorm.eps).sqrt()).detach()
            kinds.append("affine")
            tensors |= {f"{index}.scale": scale, f"{index}.shift": (renorm.bias - renorm.ra_mean * scale).detach()}
        else:
            raise NotImplementedError(f"an actor with a layer {type(module).__name__} cannot be kept as a policy")
    return kinds, {name: value.clone() for name, value in tensors.items()}


def run_layers(kinds: Sequence[str], tensors: Mapping[str, Tensor], features: Tensor) -> Tensor:
    """Map features ``(B, F)`` to actions ``(B, A)`` cut to [-1, 1]."""
    values = features
    for index, kind in enumerate(kinds):
        if kind == "linear":
            values = functional.linear(values, tensors[f"{index}.weight"], tensors[f"{index}.bias"])
        elif kind == "affine":
            values = values * tensors[f"{index}.scale"] + tensors[f"{index}.shift"]
        else:
            values = FUNCTIONS[kind](values)
    return values.clamp(-1, 1)
