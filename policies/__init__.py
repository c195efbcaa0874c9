"""Policies that act on frozen embeddings: what a policy is, behaviour cloning, and the folder it is kept in.

Names are resolved on first use, so that importing this package does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "BCConfig": "behaviour_cloning",
    "BCPolicy": "bc_policy",
    "train_bc": "behaviour_cloning",
    "Policy": "policy",
    "load_policy": "policy",
}
__all__ = ["BCConfig", "BCPolicy", "Policy", "load_policy", "train_bc"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
