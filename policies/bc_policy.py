"""The policy that behaviour cloning gives: its network and eyes, what it remembers of an episode, how it is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from rsp_robot.errors import UserError, unknown_name
from rsp_robot.policies.bc_data import Sample, Scalings
from rsp_robot.policies.embeddings import encode_rows
from rsp_robot.policies.eyes import build_eyes
from rsp_robot.policies.heads import find_head
from rsp_robot.policies.history import Past
from rsp_robot.policies.network import NetworkShape, PolicyNetwork
from rsp_robot.policies.observations import check_frames, check_vector
from rsp_robot.policies.own_encoder import find_own_encoder
from rsp_robot.policies.sight import FROZEN
from rsp_robot.threads import one_thread

if TYPE_CHECKING:
    from rsp_robot.encoder import FrozenEncoder


class Memory:
    """What is remembered of one episode."""

    def __init__(self, history: int, seed: int) -> None:
        self.past = Past(history)
        self.head: Any = None
        self.generator = torch.Generator().manual_seed(seed)


class BCPolicy:
    """A trained network behind its eyes; see :class:`~rsp_robot.policies.policy.Policy`.

    Attributes:
        network: features and head; on the CPU.
        eyes: the frozen encoder, or eyes of the policy's own; None where it does not look at pictures.
        cameras: whose pictures it takes, in order.
        state: whether it takes the simulator's state.
        image_size, quality: of the pictures it was trained on (None without pictures).
        tasks: the tasks it was trained on.
        task: the number of the one it acts for.
        fingerprint: hash of everything its actions depend on.
    """

    def __init__(
        self,
        network: PolicyNetwork,
        scalings: Scalings,
        cameras: tuple[str, ...] = (),
        image_size: int | None = None,
        quality: str | None = None,
        tasks: tuple[str, ...] = ("",),
        task: int = 0,
        fingerprint: str = "",
    ) -> None:
        self.network = network.eval().requires_grad_(False)
        self.eyes = network.eyes
        self.scalings, self.cameras, self.state = scalings, cameras, scalings.state is not None
        self.image_size, self.quality = image_size, quality
        self.tasks, self.task, self.fingerprint = tasks, task, fingerprint
        self._memories: dict[int, Memory] = {}

    def reset(self, ids: Sequence[int]) -> None:
        """Begin an episode for each id; what the head draws in it depends on the id alone."""
        for number in ids:
            self._memories[number] = self._new_memory(number)

    def act(self, observations: Mapping[str, np.ndarray], ids: Sequence[int] | None = None) -> np.ndarray:
        """Choose actions; each row depends on its own episode alone, to the last bit.

        Args:
            observations: pictures of :attr:`cameras`, ``"proprio"``, and ``"state"`` where :attr:`state` says so; one
                row per episode.
            ids: which episode each row belongs to; without them each row is the first of an episode.

        Returns:
            float32 ``(B, A)`` in [-1, 1].

        Raises:
            UserError: a part of the observation is missing, or unlike those in training.
        """
        pictures = self._look(observations)
        proprio = self._feel(observations, pictures)
        memories = [self._new_memory(0) for _ in proprio] if ids is None else [self._recall(number) for number in ids]
        if len(memories) != len(proprio) or (pictures is not None and len(pictures) != len(proprio)):
            raise UserError("pictures, proprioception and ids must have one row per episode; give as many of each")
        actions = []
        with one_thread(), torch.inference_mode():
            # Row by row, for the reason given at encode_rows.
            for row, memory in enumerate(memories):
                seen = None if pictures is None else torch.from_numpy(pictures[row].copy())
                actions.append(self._act(torch.from_numpy(proprio[row].copy()), seen, memory))
        width = self.scalings.actions.width
        return np.clip(np.concatenate(actions), -1.0, 1.0) if actions else np.zeros((0, width), np.float32)

    def _act(self, proprio: Tensor, pictures: Tensor | None, memory: Memory) -> np.ndarray:
        """Act on one row: proprioception ``(P,)`` and embeddings ``(C, ...)``; float32 ``(1, A)``, not clipped."""
        past = None if pictures is None else memory.past.add(pictures)
        sample = Sample(proprio[None, None], past, torch.tensor([self.task]))
        action, memory.head = self.network.head.act(self.network.features(sample), memory.head, memory.generator)
        return self.scalings.actions.undo(action.numpy())

    def _look(self, observations: Mapping[str, np.ndarray]) -> np.ndarray | None:
        """Return the embeddings ``(B, C, ...)`` of what is seen; None for a blind policy."""
        if self.scalings.state is not None:
            return self.scalings.state.apply(check_vector(observations, "state", self.scalings.state.width))[:, None]
        frames = [check_frames(observations, camera, self.image_size) for camera in self.cameras]
        if self.eyes is None:
            return None
        return np.stack([encode_rows(self.eyes, each) for each in frames], axis=1)  # type: ignore[arg-type]

    def _feel(self, observations: Mapping[str, np.ndarray], pictures: np.ndarray | None) -> np.ndarray:
        """Return the scaled proprioception ``(B, P)``; P is 0 where the policy was trained without it."""
        width = self.scalings.proprio.width
        if width == 0 and pictures is not None:
            return np.zeros((len(pictures), 0), np.float32)
        return self.scalings.proprio.apply(check_vector(observations, "proprio", width))

    def _new_memory(self, number: int) -> Memory:
        return Memory(self.network.shape.history, number)

    def _recall(self, number: int) -> Memory:
        if number not in self._memories:
            self._memories[number] = self._new_memory(number)
        return self._memories[number]


def _eyes_for(
    folder: Path, config: Mapping[str, Any], encoder: FrozenEncoder | None, allow_mismatch: bool
) -> nn.Module | None:
    """Return what the policy looks with."""
    kind = config["eyes"]["kind"]
    if kind == FROZEN:
        shape = tuple(config["network"]["embedding"])
        pooling = config["eyes"]["pooling"]
        return find_own_encoder(folder, config["encoder"], pooling, shape, encoder, allow_mismatch)
    if encoder is not None:
        reason = {"blind": "is blind", "state": "sees the state"}.get(kind, "has eyes of its own")
        raise UserError(f"the policy in {folder} {reason} and takes no encoder; load it without one")
    return build_eyes(config["eyes"]) if kind in ("scratch", "finetuned") else None


def _choose_task(folder: Path, tasks: Sequence[str], task: str | None) -> int:
    """Return the number of the task to act for.

    Raises:
        UserError: there are several and none of them was named.
    """
    if len(tasks) == 1:
        return 0
    if task is None:
        raise UserError(f"the policy in {folder} knows several tasks; name one of: {', '.join(tasks)}")
    if task not in tasks:
        raise unknown_name("task of this policy", task, tasks)
    return tasks.index(task)


def load_bc(
    folder: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    encoder: FrozenEncoder | None,
    *,
    task: str | None = None,
    allow_mismatch: bool = False,
) -> BCPolicy:
    """Build the policy from the parts of its folder; :func:`~rsp_robot.policies.policy.load_policy` calls this.

    Raises:
        UserError: another encoder than in training, or it is not found; no such task; parts that do not fit.
    """
    number = _choose_task(folder, config["tasks"], task)
    eyes = _eyes_for(folder, config, encoder, allow_mismatch)
    entry = find_head(config["head"]["name"])
    state = {k.removeprefix("network."): v for k, v in tensors.items() if k.startswith("network.")}
    try:
        settings = entry.config(**_as_tuples(config["head"]["settings"]))
        shape = NetworkShape(**_as_tuples(config["network"]))
        network = PolicyNetwork(shape, entry, settings, eyes, generator=torch.Generator().manual_seed(0))
        network.load_stored_state(state)
    except (TypeError, RuntimeError) as error:
        reason = str(error).splitlines()[0][:200]
        raise UserError(f"the policy in {folder} was written by another version ({reason}); train it again") from None
    return BCPolicy(
        network,
        Scalings.from_tensors(tensors),
        tuple(config["cameras"]),
        config["image_size"],
        config["quality"],
        tuple(config["tasks"]),
        number,
        config["fingerprint"],
    )


def _as_tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a dataclass as they were before JSON made lists of its tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
