"""Evaluations that run every so many steps of pretraining, each on frames that training never sees."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from rsp_robot.errors import UserError
from rsp_robot.pooling import pool
from rsp_robot.preprocessing import Preprocessing
from rsp_robot.pretrain.config import PretrainConfig
from rsp_robot.pretrain.objectives import Objective
from rsp_robot.pretrain.probe import Probe
from rsp_robot.videos import VideoSource


@dataclass(frozen=True)
class Hook:
    """Something to evaluate every ``every`` steps, at step 0 and at the end."""

    every: int
    evaluate: Callable[[Objective, torch.device], dict[str, float]]
    """Looks at the objective as it is now and names what it sees."""


def make_hooks(config: PretrainConfig, source: VideoSource, training: list[int], held_out: list[int]) -> list[Hook]:
    """Return the evaluations that a run asks for.

    Raises:
        UserError: the videos do not allow one.
    """
    if config.probe_every is None:
        return []
    if not held_out:
        raise UserError("a probe needs videos that training does not see; set --holdout, for example 0.1")
    probe = Probe.of(source, training, held_out)
    if isinstance(probe, str):
        raise UserError(f"no probe is possible: {probe}; leave out --probe-every")

    def evaluate(objective: Objective, device: torch.device) -> dict[str, float]:
        return probe(lambda frames: embed(objective, frames, config.pooling, device))

    return [Hook(config.probe_every, evaluate)]


@torch.no_grad()
def embed(objective: Objective, frames: np.ndarray, pooling: str | None, device: torch.device) -> torch.Tensor:
    """Pooled features of the encoder as it is now: uint8 ``(B, H, W, 3)`` -> ``(B, D)``."""
    backbone = objective.backbone
    tokens = backbone(Preprocessing(backbone.image_size)(frames, device))
    return pool(tokens, pooling, backbone.class_token)
