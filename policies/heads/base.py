"""What a policy head is: it maps features to actions, and knows its own loss and its own way of acting."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from rsp_robot.errors import UserError


class Features(NamedTuple):
    """What a head looks at."""

    vector: Tensor
    """float32 ``(B, T, F)``: pooled embeddings, proprioception and task, normalised."""
    tokens: Tensor | None = None
    """float32 ``(B, T, K, D)``: patch tokens of all cameras as they leave the encoder; None if pooling made a vector
    of them."""


class HeadShape(NamedTuple):
    """Sizes that the data decide."""

    vector: int
    """Features per observation, F."""
    actions: int
    """Numbers per action, A."""
    tokens: tuple[int, int] | None = None
    """Patch tokens per observation and their width, ``(K, D)``."""


class Head(nn.Module, ABC):
    """Maps features to normalised actions.

    One training sample has :attr:`observation_steps` consecutive observations and :attr:`action_steps` actions, of
    which the first belongs to the first observation. All that is random, the first weights too, is drawn on the CPU
    from the generator that is handed in: the same seed gives the same bits.
    """

    reads_tokens: ClassVar[bool] = False
    """Whether the head attends to patch tokens; if not, they have to be pooled into the vector."""
    observation_steps: int = 1
    """T."""
    action_steps: int = 1
    """H, at least T."""

    def __init__(self, config: Any, shape: HeadShape, *, generator: torch.Generator) -> None:
        """Build the head; every head has this signature.

        Args:
            config: the head's own settings.
            shape: sizes of features and actions.
            generator: of the CPU; draws the first weights.

        Raises:
            UserError: there are patch tokens, and the head does not read them; there is nothing to read at all.
        """
        super().__init__()
        self.config, self.shape = config, shape
        if shape.tokens is not None and not self.reads_tokens:
            raise UserError(
                f"{type(self).__name__} reads a vector, not {shape.tokens[0]} patch tokens; choose pooling attentive, "
                "or a head that attends to tokens (chunking, flow)"
            )
        if shape.vector < 1 and shape.tokens is None:
            raise UserError("the head has nothing to look at: no embeddings, no proprioception; give it one of them")

    @abstractmethod
    def loss(self, features: Features, actions: Tensor, mask: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the training loss of a minibatch.

        Args:
            features: of ``(B, T)`` observations.
            actions: normalised, float32 ``(B, H, A)``.
            mask: bool ``(B, H)``, False for actions beyond the end of the episode.
            generator: of the CPU; draws latents and noise.

        Returns:
            ``"loss"``, the mean over the valid actions, a scalar with a gradient; other entries are metrics.
        """

    @abstractmethod
    def act(self, features: Features, memory: Any | None, generator: torch.Generator) -> tuple[Tensor, Any]:
        """Choose the next action of one episode.

        Args:
            features: of the present observation, ``B = T = 1``.
            memory: what the last call returned; None at the beginning of an episode.
            generator: of the CPU; belongs to the episode.

        Returns:
            the normalised action float32 ``(1, A)``, and the memory for the next call.
        """


@dataclass(frozen=True)
class HeadEntry:
    """A head as it stands in the registry."""

    config: type[Any]
    """Its config dataclass; every field has a default."""
    head: type[Head]
    """The module."""
    preset: Any | None = None
    """Settings that the name stands for (a published head); None where the settings are the user's."""
