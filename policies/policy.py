"""What a policy is, and the folder it is kept in: ``config.json`` + ``model.safetensors``.

A new kind of policy is one file with a loader ``(folder, config, tensors, encoder, *, task, allow_mismatch) -> Policy``
and one line in :data:`KINDS`; another package adds its own through the entry-point group ``rsp_robot.policies``.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from rsp_robot.errors import UserError, unknown_name
from rsp_robot.files import atomic_path, read_json, write_json
from rsp_robot.versions import simulator_versions

if TYPE_CHECKING:
    import torch

    from rsp_robot.encoder import FrozenEncoder

KINDS = {
    "behaviour_cloning": "rsp_robot.policies.bc_policy:load_bc",
    "reinforcement_learning": "rsp_robot.policies.rl.rl_policy:load_rl",
}
FORMAT = 2
ACTS = ("kind", "cameras", "image_size", "tasks", "network", "head", "eyes")
"""Entries of ``config.json`` that actions depend on."""


class Policy(Protocol):
    """Turns observations into actions, for several episodes at a time.

    A policy may also have the attributes ``image_size`` (pixels), ``quality`` (of the rendering) and ``fingerprint``
    (str): evaluation then refuses pictures other than those it was trained on, and rows of another policy of the same
    name. With an attribute ``state`` that is True it is shown the simulator's state as well.
    """

    cameras: tuple[str, ...]
    """The cameras it looks through, in order; ``()`` for a blind policy, for which nothing is rendered."""

    def reset(self, ids: Sequence[int]) -> None:
        """Begin an episode for each id, forgetting what was remembered under it.

        Evaluation uses the episode's seed as its id: a policy that draws random numbers takes them from a generator
        seeded with the id, and then an episode does not depend on the others.
        """

    def act(self, observations: Mapping[str, np.ndarray], ids: Sequence[int] | None = None) -> np.ndarray:
        """Choose one action per row; a row's action must not depend on the other rows of the batch, to the last bit.

        Args:
            observations: ``"<camera>"`` uint8 ``(B, H, W, 3)`` for each of :attr:`cameras`, ``"proprio"`` float32 ``(B,
                P)``, and ``"state"`` float32 ``(B, S)`` where the policy asks for it.
            ids: which episode each row belongs to, ``B`` of them. A policy without memory ignores it.

        Returns:
            float32 ``(B, A)`` in [-1, 1].
        """
        ...


def policy_fingerprint(config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> str:
    """Return a hash (16 hex digits) of everything the actions depend on: the tensors and the encoder's fingerprint.

    Paths, versions and training curves do not count: the same policy trained twice has the same fingerprint.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        array = tensors[name].detach().cpu().contiguous().numpy()
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode() + array.tobytes())
    relevant = {key: config.get(key) for key in ACTS}
    relevant["encoder"] = (config.get("encoder") or {}).get("fingerprint")
    digest.update(json.dumps(relevant, sort_keys=True, default=str).encode())
    return digest.hexdigest()[:16]


def save_policy_folder(
    folder: str | os.PathLike[str], config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]
) -> Path:
    """Write a policy folder atomically: after a kill it is whole or absent.

    Args:
        folder: where; an older policy there is replaced.
        config: plain values, with ``"kind"`` one of :data:`KINDS` or of the entry-point group.
        tensors: named tensors; stored on the CPU.
    """
    from rsp_robot.tensor_files import write_tensors

    with atomic_path(folder) as temporary:
        temporary.mkdir(parents=True)
        stored = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        write_tensors(temporary / "model.safetensors", stored)
        fingerprint = policy_fingerprint(config, tensors)
        write_json(temporary / "config.json", {"format": FORMAT, **config, "fingerprint": fingerprint})
    return Path(folder)


def find_policy_folder(folder: str | os.PathLike[str]) -> Path:
    """Return the policy folder at ``folder``, which may also be the run folder around it.

    Raises:
        UserError: there is no policy.
    """
    path = Path(folder)
    for candidate in (path, path / "policy"):
        if (candidate / "config.json").is_file():
            return candidate
    raise UserError(
        f"{path} holds no policy (no config.json); give a policy folder or a finished run folder of `rsp-robot bc`"
    )


def read_policy_folder(folder: str | os.PathLike[str]) -> tuple[Path, dict[str, Any], dict[str, torch.Tensor]]:
    """Read a policy folder (or the run folder around it) and check that its parts belong together.

    Returns:
        the policy folder, its configuration, its tensors.

    Raises:
        UserError: no policy there, a damaged file, or a format written by a newer version.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = find_policy_folder(folder)
    config = read_json(path / "config.json")
    if not isinstance(config, dict) or "kind" not in config or "fingerprint" not in config:
        raise UserError(f"{path / 'config.json'} does not describe a policy; give a folder written by `rsp-robot bc`")
    if config.get("format") != FORMAT:
        raise UserError(f"{path} has policy format {config.get('format')}, this version reads {FORMAT}; train it again")
    try:
        tensors = load_file(path / "model.safetensors")
    except FileNotFoundError:
        raise UserError(f"{path} has no model.safetensors; train the policy again") from None
    except (SafetensorError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path / 'model.safetensors'} cannot be read ({reason}); train the policy again") from None
    if policy_fingerprint(config, tensors) != config["fingerprint"]:
        raise UserError(f"{path}: model.safetensors and config.json do not belong together; train the policy again")
    return path, config, tensors


def check_simulators(
    folder: Path,
    recorded: Mapping[str, str],
    installed: Mapping[str, str] | None = None,
    *,
    allow_mismatch: bool = False,
) -> None:
    """Refuse a policy whose demonstrations come from another version of its simulator.

    Args:
        folder: named in the message.
        recorded: ``{package: version}`` at collection; other packages than simulators are ignored.
        installed: the same for now; by default what is installed.
        allow_mismatch: only warn.

    Raises:
        UserError: a simulator is installed in another version, or not at all.
    """
    now = simulator_versions() if installed is None else installed
    for name, number in recorded.items():
        if number != now.get(name):
            differs = (
                f"the policy in {folder} was trained on demonstrations from {name} {number}, but "
                f"{now.get(name, 'none')} is installed"
            )
            if not allow_mismatch:
                raise UserError(
                    f"{differs}; install {name}=={number}, collect and train again, or insist with --allow-mismatch"
                )
            warnings.warn(differs, stacklevel=3)


def load_policy(
    folder: str | os.PathLike[str],
    encoder: FrozenEncoder | None = None,
    *,
    task: str | None = None,
    allow_mismatch: bool = False,
) -> Policy:
    """Load a policy from its folder or from the run folder around it.

    Args:
        folder: written by training.
        encoder: the frozen encoder it looks through. By default it is loaded from where it was at training time.
        task: the task that a policy of several tasks is to act for; one of a single task needs none.
        allow_mismatch: load it although the encoder is another one or another simulator version is installed, with a
            warning.

    Raises:
        UserError: no policy there, a damaged one, another encoder, another simulator version, no such task.
    """
    path, config, tensors = read_policy_folder(folder)
    check_simulators(path, config.get("simulators", {}), allow_mismatch=allow_mismatch)
    homes = KINDS | {point.name: point.value for point in entry_points(group="rsp_robot.policies")}
    if config["kind"] not in homes:
        raise unknown_name("kind of policy", config["kind"], homes)
    module, _, attribute = homes[config["kind"]].partition(":")
    loader = getattr(import_module(module), attribute)
    policy: Policy = loader(path, config, tensors, encoder, task=task, allow_mismatch=allow_mismatch)
    return policy
