"""The policy that reinforcement learning gives: an actor behind a frozen encoder, kept without anything of SB3's."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from rsp_robot.errors import UserError
from rsp_robot.policies.observations import check_frames, check_vector
from rsp_robot.policies.own_encoder import find_own_encoder
from rsp_robot.policies.rl.actor import run_layers
from rsp_robot.policies.rl.embedder import Embedder, join
from rsp_robot.policies.rl.normaliser import CLIP
from rsp_robot.threads import one_thread

if TYPE_CHECKING:
    from rsp_robot.encoder import FrozenEncoder

KIND = "reinforcement_learning"


class RLPolicy:
    """The deterministic actor of a trained learner; see :class:`~rsp_robot.policies.policy.Policy`.

    Under each id it remembers the pictures that its encoder has to see together, and where it holds each action for
    several steps, that action.

    Attributes:
        cameras: whose pictures it takes, in order.
        state: whether it takes ``observations["state"]``.
        tasks: the one it was trained on.
        image_size, quality: of the pictures it was trained on (None where it sees none).
        fingerprint: hash of everything its actions depend on.
    """

    def __init__(
        self,
        layers: Sequence[str],
        tensors: Mapping[str, Tensor],
        mean: Tensor,
        std: Tensor,
        embedder: Embedder,
        widths: Sequence[int],
        action_repeat: int = 1,
        image_size: int | None = None,
        quality: str | None = None,
        fingerprint: str = "",
        tasks: tuple[str, ...] = (),
    ) -> None:
        self.tasks = tasks
        self.layers, self.tensors, self.mean, self.std = tuple(layers), dict(tensors), mean, std
        self.embedder, self.action_repeat = embedder, action_repeat
        self.cameras, self.state = embedder.cameras, "state" in embedder.vectors
        self.encoder = embedder.encoder
        self.widths = dict(zip(embedder.vectors, widths, strict=True))
        self.image_size, self.quality, self.fingerprint = image_size, quality, fingerprint
        self._held: dict[Hashable, tuple[int, np.ndarray]] = {}

    def reset(self, ids: Sequence[int]) -> None:
        """Begin an episode for each id."""
        self.embedder.forget(ids)
        for key in ids:
            self._held.pop(key, None)

    def act(self, observations: Mapping[str, np.ndarray], ids: Sequence[int] | None = None) -> np.ndarray:
        """Choose actions; each row depends on its own episode alone, to the last bit.

        Args:
            observations: pictures of :attr:`cameras` and the vectors it was trained on, one row per episode.
            ids: the episodes; needed where it remembers anything.

        Returns:
            float32 ``(B, A)`` in [-1, 1].

        Raises:
            UserError: pictures or vectors other than in training, or ids are missing.
        """
        seen = self._check(observations)
        count = len(next(iter(seen.values())))
        if ids is None:
            if self.action_repeat > 1 or (self.cameras and self.embedder.history > 1):
                raise UserError("this policy remembers earlier steps; give act() the ids of the episodes")
            ids = range(count)
            self.reset(ids)
        deciding = [row for row, key in enumerate(ids) if self._held.get(key, (0,))[0] == 0]
        if deciding:
            chosen = [ids[row] for row in deciding]
            embedded = self.embedder.embed({key: value[deciding] for key, value in seen.items()}, chosen)
            for key, action in zip(chosen, self._decide(torch.from_numpy(join(embedded))), strict=True):
                self._held[key] = (self.action_repeat, action)
        actions = []
        for key in ids:
            left, action = self._held[key]
            self._held[key] = (left - 1, action)
            actions.append(action)
        return np.stack(actions)

    def _decide(self, features: Tensor) -> np.ndarray:
        """Map joined features ``(B, F)`` to actions ``(B, A)``, row by row."""
        with one_thread(), torch.inference_mode():
            features = ((features - self.mean) / self.std).clamp(-CLIP, CLIP)
            rows = [run_layers(self.layers, self.tensors, features[i : i + 1].clone()) for i in range(len(features))]
        return np.asarray(torch.cat(rows).numpy())

    def _check(self, observations: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return what is seen of the observations."""
        seen = {camera: check_frames(observations, camera, self.image_size) for camera in self.cameras}
        return seen | {key: check_vector(observations, key, width) for key, width in self.widths.items()}


def _encoder_for(
    folder: Path, recorded: Mapping[str, Any] | None, encoder: FrozenEncoder | None, allow_mismatch: bool
) -> FrozenEncoder | None:
    """Return what the policy looks through, None where it sees no pictures."""
    if recorded is not None:
        pooling, shape = recorded["pooling"] or "", (recorded["dim"],)
        return find_own_encoder(folder, recorded, pooling, shape, encoder, allow_mismatch)
    if encoder is not None:
        raise UserError(f"the policy in {folder} sees no pictures and takes no encoder; load it without one")
    return None


def load_rl(
    folder: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    encoder: FrozenEncoder | None,
    *,
    task: str | None = None,
    allow_mismatch: bool = False,
) -> RLPolicy:
    """Build the policy from the parts of its folder; :func:`~rsp_robot.policies.policy.load_policy` calls this.

    ``task`` is not needed: it has learnt one.

    Raises:
        UserError: another encoder than in training, or it is not found.
    """
    head = config["head"]
    embedder = Embedder(
        _encoder_for(folder, config["encoder"], encoder, allow_mismatch),
        config["cameras"],
        head["vectors"],
        head["history"],
        head["fusion"],
        head["half"],
    )
    return RLPolicy(
        head["layers"],
        {name.removeprefix("actor."): value for name, value in tensors.items() if name.startswith("actor.")},
        tensors["norm.mean"],
        tensors["norm.std"],
        embedder,
        head["widths"],
        head["action_repeat"],
        config["image_size"],
        config["quality"],
        config["fingerprint"],
        (config["task"],),
    )
