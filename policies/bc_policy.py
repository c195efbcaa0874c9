"""The policy that behaviour cloning gives: a head behind a frozen encoder, and how it is loaded from its folder."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from rsp_robot.errors import UserError
from rsp_robot.policies.bc_data import standardise
from rsp_robot.policies.embeddings import encode_rows
from rsp_robot.policies.heads import MLPHead
from rsp_robot.policies.threads import one_thread

if TYPE_CHECKING:
    from rsp_robot.encoder import FrozenEncoder


class BCPolicy:
    """A trained head behind its encoder; see :class:`~rsp_robot.policies.policy.Policy`. It has no memory.

    Attributes:
        cameras: whose pictures it takes, in order.
        image_size, quality: of the pictures it was trained on (None for a blind policy).
        fingerprint: hash of everything its actions depend on.
    """

    def __init__(
        self,
        head: MLPHead,
        encoder: FrozenEncoder | None,
        cameras: tuple[str, ...],
        proprio_mean: np.ndarray,
        proprio_std: np.ndarray,
        image_size: int | None = None,
        quality: str | None = None,
        fingerprint: str = "",
    ) -> None:
        self.head = head.eval().requires_grad_(False)
        self.encoder, self.cameras = encoder, cameras
        self.proprio_mean, self.proprio_std = proprio_mean, proprio_std
        self.image_size, self.quality, self.fingerprint = image_size, quality, fingerprint

    def reset(self, ids: Sequence[int]) -> None:
        """Do nothing: there is no memory."""

    def act(self, observations: Mapping[str, np.ndarray], ids: Sequence[int] | None = None) -> np.ndarray:
        """Choose actions; each row depends on its own observation alone, to the last bit.

        Args:
            observations: pictures of :attr:`cameras` and ``"proprio"``, one row per episode.
            ids: not used.

        Returns:
            float32 ``(B, A)`` in [-1, 1].

        Raises:
            UserError: pictures of another size than in training, or proprioception of another width.
        """
        proprio = np.asarray(observations["proprio"], np.float32)
        if proprio.ndim != 2 or proprio.shape[1] != len(self.proprio_mean):
            raise UserError(
                f"the policy was trained with {len(self.proprio_mean)} numbers of proprioception, got shape "
                f"{proprio.shape}; use the task it was trained on"
            )
        parts = []
        for camera in self.cameras:
            frames = observations[camera]
            if self.image_size is not None and frames.shape[1:3] != (self.image_size, self.image_size):
                raise UserError(
                    f"the policy was trained on pictures of {self.image_size} pixels, got {frames.shape[1:3]} from "
                    f"{camera}; set image_size to {self.image_size}"
                )
            assert self.encoder is not None
            parts.append(encode_rows(self.encoder, frames))
        parts.append(standardise(proprio, self.proprio_mean, self.proprio_std))
        features = torch.from_numpy(np.concatenate(parts, axis=1))
        with one_thread(), torch.inference_mode():
            # Row by row, for the reason given at encode_rows.
            rows = [self.head(features[i : i + 1].clone()) for i in range(len(features))]
        return np.asarray(torch.cat(rows).clamp(-1, 1).numpy())


def _encoder_for(folder: Path, config: Mapping[str, Any], encoder: FrozenEncoder | None) -> FrozenEncoder | None:
    """Return the encoder given, or the one that was there at training time; check that it is the policy's.

    Raises:
        UserError: it is not, or is nowhere to be found.
    """
    wanted = config["encoder"]
    if wanted is None:
        if encoder is not None:
            raise UserError(f"the policy in {folder} is blind and takes no encoder; load it without one")
        return None
    if encoder is None:
        if wanted["source"] is None:
            raise UserError(f"the policy in {folder} does not know where its encoder is; give the encoder")
        from rsp_robot.encoder import FrozenEncoder

        beside = Path(os.path.normpath(folder.resolve() / wanted["source"]))
        try:
            encoder = FrozenEncoder.load(beside if beside.exists() else wanted["source"])
        except UserError as error:
            raise UserError(f"the encoder of the policy in {folder} does not load: {error}") from None
    if encoder.fingerprint != wanted["fingerprint"]:
        raise UserError(
            f"the policy in {folder} was trained with encoder {wanted['fingerprint']}, this is {encoder.fingerprint}; "
            "give that encoder, or train the policy again"
        )
    return encoder


def load_bc(
    folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor], encoder: FrozenEncoder | None
) -> BCPolicy:
    """Build the policy from the parts of its folder; :func:`~rsp_robot.policies.policy.load_policy` calls this.

    Raises:
        UserError: another encoder than in training, or it is not found.
    """
    shape = config["head"]
    head = MLPHead(
        shape["inputs"],
        shape["outputs"],
        shape["hidden"],
        shape["activation"],
        generator=torch.Generator().manual_seed(0),
    )
    head.load_state_dict(
        {name.removeprefix("head."): value for name, value in tensors.items() if name.startswith("head.")}
    )
    return BCPolicy(
        head,
        _encoder_for(folder, config, encoder),
        tuple(config["cameras"]),
        tensors["proprio.mean"].numpy(),
        tensors["proprio.std"].numpy(),
        config["image_size"],
        config["quality"],
        config["fingerprint"],
    )
