"""The whole network of a behaviour cloning policy: eyes, attentive pooling, history, input norm, task, head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rsp_robot.policies.attentive_pooling import AttentivePooling
from rsp_robot.policies.bc_data import Sample
from rsp_robot.policies.heads import Features, Head, HeadEntry, HeadShape
from rsp_robot.policies.history import fuse

TASK_WIDTH = 16
MOMENTUM = 0.1


@dataclass(frozen=True)
class NetworkShape:
    """Sizes that data and encoder decide; with the head's settings they say how to build the network again."""

    actions: int
    """Numbers per action."""
    proprio: int
    """Numbers of proprioception."""
    cameras: int = 0
    """Sets of embeddings per step: cameras, or 1 for the state, or 0 for a blind policy."""
    embedding: tuple[int, ...] = ()
    """Shape of one embedding: ``(D,)``, or ``(K, D)`` for tokens."""
    history: int = 1
    """Embeddings per observation, see :func:`~rsp_robot.policies.history.fuse`."""
    fusion: str = "concat"
    """How they are put together."""
    attentive: bool = False
    """Whether tokens are pooled here."""
    tasks: int = 1
    """Tasks among which an embedding tells."""

    @property
    def tokens(self) -> tuple[int, int] | None:
        """Tokens per observation and their width, where the head reads tokens."""
        if len(self.embedding) < 2 or self.attentive:
            return None
        return self.cameras * self.history * self.embedding[0], self.embedding[1]

    @property
    def vector(self) -> int:
        """Numbers per observation besides tokens."""
        if self.tokens is not None or not self.cameras:
            return self.proprio
        return self.cameras * self.history * self.embedding[-1] + self.proprio


class PolicyNetwork(nn.Module):
    """Everything between an observation and the head's answer.

    The vector of an observation is normalised by ``BatchNorm1d``, as in R3M's evaluation: in training by the
    minibatch, which acts as a regulariser; in evaluation by the statistics of the whole training set where these are
    known (:meth:`set_input_statistics`), by a running average where what is below learns too.
    """

    def __init__(
        self,
        shape: NetworkShape,
        entry: HeadEntry,
        head_config: Any,
        eyes: nn.Module | None = None,
        *,
        generator: torch.Generator,
    ) -> None:
        """Build the network.

        Args:
            shape: sizes.
            entry: the head.
            head_config: its settings.
            eyes: from uint8 frames to embeddings; a frozen encoder among them is used and never stored.
            generator: of the CPU; draws the first weights.

        Raises:
            UserError: the head cannot use what it is given.
        """
        super().__init__()
        self.shape = shape
        self.eyes = eyes
        self.pool = AttentivePooling(shape.embedding[-1], generator=generator) if shape.attentive else None
        self.norm = nn.BatchNorm1d(shape.vector, momentum=MOMENTUM)
        self.task: nn.Embedding | None = None
        if shape.tasks > 1:
            self.task = nn.Embedding(
                shape.tasks, TASK_WIDTH, _weight=torch.randn(shape.tasks, TASK_WIDTH, generator=generator)
            )
        width = shape.vector + (TASK_WIDTH if self.task else 0)
        self.head: Head = entry.head(head_config, HeadShape(width, shape.actions, shape.tokens), generator=generator)

    @property
    def eyes_are_trained(self) -> bool:
        """Whether the eyes' weights are the policy's own."""
        return self.eyes is not None and any(parameter.requires_grad for parameter in self.eyes.parameters())

    @torch.no_grad()
    def set_input_statistics(self, vectors: Tensor) -> None:
        """Fix the statistics used in evaluation to those of ``vectors`` ``(N, V)``, the whole training set."""
        assert self.norm.running_mean is not None and self.norm.running_var is not None
        wide = vectors.double()
        self.norm.running_mean.copy_(wide.mean(dim=0))
        self.norm.running_var.copy_(wide.var(dim=0, correction=0))
        self.norm.momentum = 0.0

    def features(self, sample: Sample) -> Features:
        """Return what the head looks at."""
        vector, tokens = sample.vector, None
        if sample.pictures is not None:
            past = fuse(self._embed(sample.pictures), self.shape.history, self.shape.fusion)
            if self.shape.tokens is None:
                vector = torch.cat([past.flatten(2), vector], dim=2)
            else:
                tokens = past.flatten(2, 4)
        B, T, _ = vector.shape
        vector = self.norm(vector.flatten(0, 1)).unflatten(0, (B, T))
        if self.task is not None:
            vector = torch.cat([vector, self.task(sample.task)[:, None].expand(-1, T, -1)], dim=2)
        return Features(vector, tokens)

    def _embed(self, pictures: Tensor) -> Tensor:
        """Turn frames ``(B, S, C, H, W, 3)`` into embeddings ``(B, S, C, ...)``, and pool tokens where asked to."""
        lead = pictures.shape[:3]
        if pictures.dtype == torch.uint8:
            assert self.eyes is not None
            pictures = self.eyes(pictures.flatten(0, 2)).unflatten(0, lead)
        if self.pool is not None:
            pictures = self.pool(pictures.flatten(0, 2)).unflatten(0, lead)
        return pictures

    def stored_state(self) -> dict[str, Tensor]:
        """Return the tensors that make the policy: all but those of a frozen encoder."""
        state = self.state_dict()
        return state if self.eyes_are_trained else {k: v for k, v in state.items() if not k.startswith("eyes.")}

    def load_stored_state(self, state: dict[str, Tensor]) -> None:
        """Take over what :meth:`stored_state` returned.

        Raises:
            RuntimeError: names or shapes differ.
        """
        wanted = self.stored_state()
        if wanted.keys() != state.keys():
            raise RuntimeError(f"tensors differ: {', '.join(sorted(wanted.keys() ^ state.keys()))[:200]}")
        self.load_state_dict(state, strict=False)
