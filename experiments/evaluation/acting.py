"""Evaluation leaves networks as it found them."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def evaluation_mode(policies: Iterable[Any]) -> Iterator[None]:
    """Put the networks of policies into evaluation mode; restore all modes and ``requires_grad`` afterwards.

    A network is a policy that is a ``torch.nn.Module``, or an attribute of a policy that is one.
    """
    torch = sys.modules.get("torch")
    if torch is None:  # then nobody has a network
        yield
        return
    holders = {id(policy): policy for policy in policies}.values()
    candidates = [part for policy in holders for part in (policy, *getattr(policy, "__dict__", {}).values())]
    networks = [part for part in candidates if isinstance(part, torch.nn.Module)]
    modes = {module: module.training for network in networks for module in network.modules()}
    gradients = {
        id(parameter): (parameter, parameter.requires_grad)
        for network in networks
        for parameter in network.parameters()
    }
    for network in networks:
        network.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        for parameter, wanted in gradients.values():
            parameter.requires_grad_(wanted)
