"""A kind of policy on disk for the toy suite: walks to the goal, to the origin, or nowhere, as its tensor says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rsp_robot.policies.policy import save_policy_folder


class ToyPolicy:
    """Sees the goal in its tasks, except with gain 0."""

    def __init__(self, gain: float, cameras: Sequence[str], tasks: Sequence[str], number: int, mark: str) -> None:
        self.gain, self.cameras, self.tasks, self.task = gain, tuple(cameras), tuple(tasks), number
        self.fingerprint = mark

    def reset(self, ids: Sequence[int]) -> None:
        pass

    def act(self, observations: Mapping[str, np.ndarray], ids: Sequence[int] | None = None) -> np.ndarray:
        goal = np.zeros((len(observations["proprio"]), 2), np.float32)
        if self.cameras:
            goal = (observations["front"][:, 0, 0, :2].astype(np.float32) - 128) / 60
        return np.float32(self.gain) * (goal - observations["proprio"])


def load(folder: Path, config: dict[str, Any], tensors: dict[str, torch.Tensor], encoder: Any, **options: Any) -> Any:
    """Load a toy policy; ``rsp_robot.policies.policy.load_policy`` calls this."""
    task, tasks = options["task"], config["tasks"]
    assert task is None or task in tasks
    number = tasks.index(task) if task else 0
    return ToyPolicy(float(tensors["gain"]), config["cameras"], tasks, number, config["fingerprint"])


def save(folder: Path, gain: float, *tasks: str, cameras: Sequence[str] = ("front",)) -> Path:
    """Write a toy policy trained on ``tasks``."""
    config = {"kind": "toy", "tasks": list(tasks), "cameras": list(cameras), "encoder": None}
    return save_policy_folder(folder, config, {"gain": torch.tensor(gain)})
