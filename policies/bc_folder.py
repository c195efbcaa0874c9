"""The folder of a behaviour cloning policy: what is written into it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rsp_robot.demonstrations import DemonstrationFile
from rsp_robot.errors import UserError
from rsp_robot.policies.bc_config import BCConfig
from rsp_robot.policies.bc_data import Scalings
from rsp_robot.policies.episodes import Recording
from rsp_robot.policies.eyes import ScratchCNN, TrainableEncoder, describe_eyes
from rsp_robot.policies.frozenness import FrozenGuard
from rsp_robot.policies.network import PolicyNetwork
from rsp_robot.policies.own_encoder import locate
from rsp_robot.policies.policy import save_policy_folder
from rsp_robot.policies.sight import STATE, Sight
from rsp_robot.versions import SIMULATORS


@dataclass(frozen=True)
class PolicyWriter:
    """Writes a network, as it is at that moment, with all that is needed to act with it."""

    network: PolicyNetwork
    scalings: Scalings
    sight: Sight
    guard: FrozenGuard | None
    """Watches over the encoder, where there is one."""
    source: str | os.PathLike[str] | None
    """Where the encoder can be loaded from."""
    description: dict[str, Any]
    """What else goes into ``config.json``."""

    def write(self, folder: Path, kept: str) -> Path:
        """Write the policy folder, whole or not at all.

        Args:
            folder: where.
            kept: which weights these are, in words.

        Raises:
            RuntimeError: the frozen encoder was changed.
        """
        encoder = None
        if self.sight.encoder is not None and self.guard is not None:
            encoder = {
                "fingerprint": self.sight.encoder.fingerprint,
                "dim": int(self.sight.encoder.dim),
                "source": locate(self.source, folder),
                **self.guard.check(),
            }
        tensors = {f"network.{name}": value for name, value in self.network.stored_state().items()}
        return save_policy_folder(
            folder, self.description | {"encoder": encoder, "kept": kept}, tensors | self.scalings.tensors()
        )


def describe_policy(
    files: Sequence[DemonstrationFile],
    recording: Recording,
    sight: Sight,
    cameras: tuple[str, ...],
    network: PolicyNetwork,
    config: BCConfig,
) -> dict[str, Any]:
    """Return what ``config.json`` says of a policy, apart from its encoder and its training.

    Raises:
        UserError: the files come from different versions of a simulator.
    """
    eyes: dict[str, Any] = {"kind": sight.kind}
    if isinstance(network.eyes, (ScratchCNN, TrainableEncoder)):
        eyes = describe_eyes(network.eyes)
    elif sight.encoder is not None:
        eyes["pooling"] = sight.encoder.pooling
    return {
        "kind": "behaviour_cloning",
        "tasks": list(recording.tasks),
        "cameras": list(cameras),
        "state": sight.kind == STATE,
        "image_size": files[0].info.image_size if cameras else None,
        "quality": (files[0].info.quality or None) if cameras else None,
        "simulators": joint_simulators(files),
        "network": asdict(network.shape),
        "head": {"name": config.head, "settings": asdict(config.head_settings()[1])},
        "eyes": eyes,
        "quarantined": len(recording.quarantined),
    }


def joint_simulators(files: Sequence[DemonstrationFile]) -> dict[str, str]:
    """Return the versions of the simulators that made the files.

    Raises:
        UserError: two files come from different versions.
    """
    found: dict[str, tuple[str, Path]] = {}
    for file in files:
        for name, version in relevant_simulators(file.info.task, file.info.versions).items():
            other, path = found.setdefault(name, (version, file.path))
            if version != other:
                raise UserError(
                    f"{file.path} was made with {name} {version}, {path} with {other}; collect both with one version"
                )
    return {name: version for name, (version, _) in found.items()}


def relevant_simulators(task: str, recorded: dict[str, str]) -> dict[str, str]:
    """Return the versions that decide how a task behaves: the physics and its own suite (all, if that is unknown)."""
    suite = task.partition("/")[0]
    relevant = ("mujoco", suite) if suite in SIMULATORS else SIMULATORS
    return {name: recorded[name] for name in relevant if name in recorded}
