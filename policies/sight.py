"""What a policy sees with: nothing, the simulator's state, a frozen encoder, or eyes that are trained with it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from rsp_robot.errors import UserError
from rsp_robot.policies.bc_config import BCConfig
from rsp_robot.policies.embeddings import embedding_shape
from rsp_robot.policies.eyes import ScratchCNN, TrainableEncoder

if TYPE_CHECKING:
    from rsp_robot.encoder import FrozenEncoder

BLIND, STATE, SCRATCH, FROZEN, FINETUNED = "blind", "state", "scratch", "frozen", "finetuned"
ATTENTIVE = "attentive"


@dataclass(frozen=True)
class Sight:
    """What a policy sees with."""

    kind: str
    """blind, state, scratch, frozen or finetuned."""
    encoder: FrozenEncoder | None = None
    """The frozen encoder, or the one a copy of which is fine-tuned, with the pooling that was asked for."""
    attentive: bool = False
    """Whether the policy pools the encoder's tokens itself."""
    augmented: bool = False
    """Whether it is trained on shifted pictures."""

    @property
    def needs_pictures(self) -> bool:
        """Whether there are cameras."""
        return self.kind in (SCRATCH, FROZEN, FINETUNED)

    @property
    def live(self) -> bool:
        """Whether pictures are encoded in every batch: nothing that was encoded before would be right."""
        return self.kind in (SCRATCH, FINETUNED) or self.augmented

    @property
    def label(self) -> str:
        """Identity, for the record of a run."""
        if self.encoder is not None:
            return self.encoder.fingerprint
        return "none (blind)" if self.kind == BLIND else self.kind

    def make_eyes(self, config: BCConfig, generator: torch.Generator) -> nn.Module | None:
        """Return the module that turns frames into embeddings; None where there are no frames."""
        if self.kind == SCRATCH:
            return ScratchCNN(config.scratch, generator=generator)
        if self.kind == FINETUNED:
            assert self.encoder is not None
            return TrainableEncoder(self.encoder)
        return self.encoder

    def embedding(self, eyes: nn.Module | None, state: int | None) -> tuple[int, ...]:
        """Return the shape of one embedding; ``state`` is the width of the state, where it is seen."""
        if eyes is None:
            return () if state is None else (state,)
        return embedding_shape(eyes)  # type: ignore[arg-type]


def choose_sight(
    encoder: FrozenEncoder | str | os.PathLike[str] | None, config: BCConfig, device: torch.device
) -> Sight:
    """Return what a policy sees with.

    Args:
        encoder: see :func:`~rsp_robot.policies.behaviour_cloning.train_bc`.
        config: says whether it is fine-tuned, how it is pooled, whether pictures are shifted.
        device: where to load it.

    Raises:
        UserError: the encoder cannot be read, or settings do not go together.
    """
    word = "none" if encoder is None else encoder
    kind = {"none": BLIND, "state": STATE, "scratch": SCRATCH}.get(word if isinstance(word, str) else "")
    if kind is not None:
        _refuse_settings(kind, config)
        return Sight(kind, augmented=config.augment != "none")
    if isinstance(encoder, (str, os.PathLike)):
        from rsp_robot.encoder import FrozenEncoder

        encoder = FrozenEncoder.load(encoder, device)
    assert encoder is not None
    attentive = config.pooling == ATTENTIVE
    encoder = with_pooling(encoder, config.pooling)
    if not config.proprio and not attentive and encoder.pooling == "tokens":
        raise UserError("pooling tokens leaves the vector to proprioception, which is off; choose pooling attentive")
    return Sight(FINETUNED if config.finetune else FROZEN, encoder, attentive, config.augment != "none")


def with_pooling(encoder: FrozenEncoder, pooling: str) -> FrozenEncoder:
    """Return the encoder with the pooling of a policy's settings: its own if that is empty, tokens if attentive."""
    wanted = "tokens" if pooling == ATTENTIVE else pooling
    return encoder if not wanted or wanted == encoder.pooling else encoder.with_pooling(wanted)


def _refuse_settings(kind: str, config: BCConfig) -> None:
    """Refuse what has no meaning without an encoder."""
    wrong = {"finetune": config.finetune, f"pooling {config.pooling}": bool(config.pooling)}
    if kind in (BLIND, STATE):
        wrong[f"augment {config.augment}"] = config.augment != "none"
    if kind == BLIND:
        wrong[f"history {config.history}"] = config.history > 1
        wrong["proprio off"] = not config.proprio
    for setting, is_set in wrong.items():
        if is_set:
            raise UserError(f"{setting} has no meaning for a policy whose encoder is {kind}; leave it out")
