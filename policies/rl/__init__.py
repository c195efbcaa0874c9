"""Reinforcement learning with Stable-Baselines3 on embeddings of a frozen encoder.

Names are resolved on first use, so that importing this package imports neither torch nor Stable-Baselines3.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "EmbeddingEnv": "embedding_env",
    "EmbeddingVecEnv": "embedding_env",
    "EpisodeWrapper": "episodes",
    "FrozenEncoderExtractor": "extractor",
    "RLConfig": "config",
    "RLPolicy": "rl_policy",
    "train_rl": "train",
}
__all__ = [
    "EmbeddingEnv", "EmbeddingVecEnv", "EpisodeWrapper", "FrozenEncoderExtractor", "RLConfig", "RLPolicy", "train_rl",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
