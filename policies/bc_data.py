"""What behaviour cloning learns from: one row of features and one action per step of a demonstration file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from rsp_robot.demonstrations import DemonstrationFile
from rsp_robot.errors import UserError
from rsp_robot.policies.embeddings import embed_demonstrations

if TYPE_CHECKING:
    from rsp_robot.encoder import FrozenEncoder

SMALLEST_STD = 1e-6


@dataclass(frozen=True)
class BCData:
    """Features and actions of the training and validation demonstrations, as float32 tensors on the CPU."""

    train_features: Tensor
    """``(N, D)``: the embedding of each camera in order, then the standardised proprioception."""
    train_actions: Tensor
    """``(N, A)`` in [-1, 1]."""
    valid_features: Tensor
    """``(M, D)``; M is 0 where the file has one demonstration only."""
    valid_actions: Tensor
    """``(M, A)``."""
    proprio_mean: Tensor
    """``(P,)``, over the training steps."""
    proprio_std: Tensor
    """``(P,)``; 1 where the proprioception does not vary."""


def standardise(proprio: np.ndarray, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """Return ``(proprio - mean) / std``, float32 ``(B, P)``."""
    return ((np.asarray(proprio, np.float32) - mean) / std).astype(np.float32)


def proprio_statistics(proprio: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation over the rows of ``(N, P)``, float32; the deviation of a constant counts as 1.

    >>> mean, std = proprio_statistics(np.array([[1.0, 5.0], [3.0, 5.0]]))
    >>> mean.tolist(), std.tolist()
    ([2.0, 5.0], [1.0, 1.0])
    """
    wide = np.asarray(proprio, np.float64)
    std = wide.std(axis=0)
    std = np.where(std < SMALLEST_STD, 1.0, std)
    return wide.mean(axis=0).astype(np.float32), std.astype(np.float32)


def choose_cameras(data: DemonstrationFile, cameras: tuple[str, ...], blind: bool) -> tuple[str, ...]:
    """Return the cameras to learn from: none for a blind policy, those asked for, or all of the file.

    Raises:
        UserError: the file has no such camera, or none at all.
    """
    if blind:
        return ()
    if not data.cameras:
        raise UserError(f"{data.path} holds no pictures; collect with a camera, or train without an encoder")
    for camera in cameras:
        if camera not in data.cameras:
            raise UserError(f"{data.path} has no camera {camera!r}; choose one of: {', '.join(data.cameras)}")
    return cameras or data.cameras


def read_vectors(data: DemonstrationFile, labels: str) -> tuple[np.ndarray, np.ndarray]:
    """Read proprioception ``(N, P)`` and actions ``(N, A)``, float32, demonstrations one after the other.

    Args:
        data: the demonstrations.
        labels: ``"executed"`` or ``"expert"`` actions, or ``"auto"``: the expert's where every demonstration has them.
            They are clipped to [-1, 1].

    Raises:
        UserError: a part is missing, of varying width or not finite.
    """
    proprio: list[np.ndarray] = []
    executed: list[np.ndarray] = []
    expert: list[np.ndarray] = []
    for index in range(len(data)):
        demonstration = data.read(index)
        if "proprio" not in demonstration.observations:
            raise UserError(
                f"{data.path} has no obs/proprio in demonstration {index}; collect it with `rsp-robot collect`"
            )
        proprio.append(demonstration.observations["proprio"])
        executed.append(demonstration.actions)
        if demonstration.expert_actions is not None:
            expert.append(demonstration.expert_actions)
    if labels == "expert" and len(expert) < len(data):
        raise UserError(f"{data.path} does not hold the expert's own actions; use labels executed")
    actions = expert if labels != "executed" and len(expert) == len(data) else executed
    for parts in (proprio, actions):
        if len({part.shape[1:] for part in parts}) > 1 or parts[0].ndim != 2:
            raise UserError(f"{data.path} has proprioception or actions of different widths; collect all with one task")
    proprio_all, actions_all = np.concatenate(proprio), np.concatenate(actions)
    if not (np.isfinite(proprio_all).all() and np.isfinite(actions_all).all()):
        raise UserError(f"{data.path} has actions or proprioception that are not finite; collect it again")
    return proprio_all, np.clip(actions_all, -1.0, 1.0)


def load_bc_data(
    data: DemonstrationFile,
    vectors: tuple[np.ndarray, np.ndarray],
    data_hash: str,
    encoder: FrozenEncoder | None,
    cameras: tuple[str, ...],
    cache: Path,
) -> BCData:
    """Assemble features and actions, split by the file's masks.

    Args:
        data: the demonstrations.
        vectors: what :func:`read_vectors` returned for them.
        data_hash: hash of the file's content, for the cache of embeddings.
        encoder: embeds the pictures; None for a blind policy.
        cameras: whose pictures, in order; empty for a blind policy.
        cache: folder of the cache of embeddings.
    """
    proprio, actions = vectors
    of_demonstration = np.repeat(np.arange(len(data)), data.lengths)
    train, valid = np.isin(of_demonstration, data.train), np.isin(of_demonstration, data.valid)
    mean, std = proprio_statistics(proprio[train])
    parts: list[np.ndarray] = []
    if encoder is not None:
        parts += [embed_demonstrations(data, data_hash, encoder, camera, cache) for camera in cameras]
    parts.append(standardise(proprio, mean, std))
    features = np.concatenate(parts, axis=1)
    return BCData(
        train_features=torch.from_numpy(features[train]),
        train_actions=torch.from_numpy(actions[train]),
        valid_features=torch.from_numpy(features[valid]),
        valid_actions=torch.from_numpy(actions[valid]),
        proprio_mean=torch.from_numpy(mean),
        proprio_std=torch.from_numpy(std),
    )
