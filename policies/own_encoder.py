"""The encoder that a policy was trained with, found again and recognised."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rsp_robot.errors import UserError
from rsp_robot.policies.embeddings import embedding_shape
from rsp_robot.policies.sight import with_pooling

if TYPE_CHECKING:
    from rsp_robot.encoder import FrozenEncoder


def find_own_encoder(
    folder: Path,
    recorded: Mapping[str, Any],
    pooling: str,
    shape: tuple[int, ...],
    encoder: FrozenEncoder | None,
    allow_mismatch: bool = False,
) -> FrozenEncoder:
    """Return the encoder given, or the one that was there at training time; check that it is the policy's.

    Args:
        folder: of the policy, for messages and for paths relative to it.
        recorded: ``{"fingerprint", "source"}`` of the policy's ``config.json``.
        pooling: that of training; empty for the encoder's own.
        shape: of one embedding in training.
        encoder: None to load it from where it was.
        allow_mismatch: let another encoder by with a warning, if its embeddings have that shape.

    Raises:
        UserError: it is another one, or is nowhere to be found.
    """
    if encoder is None:
        if recorded["source"] is None:
            raise UserError(f"the policy in {folder} does not know where its encoder is; give the encoder")
        from rsp_robot.encoder import FrozenEncoder

        beside = Path(os.path.normpath(folder.resolve() / recorded["source"]))
        try:
            encoder = FrozenEncoder.load(beside if beside.exists() else recorded["source"])
        except UserError as error:
            raise UserError(f"the encoder of the policy in {folder} does not load: {error}") from None
    encoder = with_pooling(encoder, pooling)
    fingerprint = encoder.fingerprint
    if fingerprint != recorded["fingerprint"]:
        differs = f"the policy in {folder} was trained with encoder {recorded['fingerprint']}, this is {fingerprint}"
        if not allow_mismatch:
            raise UserError(f"{differs}; give that encoder, train the policy again, or insist with --allow-mismatch")
        warnings.warn(differs, stacklevel=4)
    if embedding_shape(encoder) != shape:
        raise UserError(
            f"the encoder gives embeddings of shape {embedding_shape(encoder)}, the policy in {folder} takes {shape}; "
            "give another one"
        )
    return encoder


def locate(source: str | os.PathLike[str] | None, policy: Path) -> str | None:
    """Return where an encoder can be loaded from again: relative to the policy's folder, or as it was given."""
    if source is None:
        return None
    if Path(source).exists():
        return os.path.relpath(Path(source).resolve(), policy.resolve())
    return str(source)
