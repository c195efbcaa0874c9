"""The settings of behaviour cloning."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from rsp_robot.errors import UserError
from rsp_robot.policies.eyes import ScratchConfig
from rsp_robot.policies.heads import (
    ChunkingConfig,
    FlowConfig,
    GMMConfig,
    GRUConfig,
    HeadEntry,
    MLPConfig,
    find_head,
)  # fmt: skip

GROUPS = ("mlp", "gmm", "gru", "chunking", "flow")
"""The heads whose settings are fields of :class:`BCConfig`."""


@dataclass(frozen=True)
class BCConfig:
    """How a behaviour cloning policy is built and trained."""

    head: str = "mlp"
    """What turns features into actions: mlp, gmm, gru, chunking, flow; mlp-cortexbench and mlp-r3m are published
    settings of mlp."""
    cameras: tuple[str, ...] = ()
    """Cameras whose embeddings are joined, in this order; by default all of the demonstration file."""
    pooling: str = ""
    """How the encoder's tokens become an embedding: cls, mean, cls+mean, grid<k>, spatial-softmax, tokens (for heads
    that attend to them), or attentive (pooled by a query that is trained with the policy); by default the encoder's
    own."""
    history: int = 1
    """Embeddings per observation: the present one and those before it; an episode's first one stands in at its
    start."""
    fusion: Literal["concat", "difference"] = "concat"
    """How they are joined: side by side, or as in CortexBench: differences of consecutive ones, then the last."""
    proprio: bool = True
    """Feel proprioception besides what is seen."""
    finetune: bool = False
    """Train a copy of the encoder with the policy."""
    finetune_factor: float = 0.05
    """Learning rate of the fine-tuned encoder as a share of lr."""
    augment: Literal["none", "shift"] = "none"
    """Shift pictures at random by up to 4/84 of their side, as in DrQ (Kostrikov et al. 2021); every batch is then
    encoded anew."""
    labels: Literal["auto", "executed", "expert"] = "auto"
    """Actions to imitate: those executed, noise and all; those the expert wanted before noise was added (as in DART,
    Laskey et al. 2017); or, by default, the expert's where the file has them."""
    normalise_actions: Literal["none", "standard", "range"] = "standard"
    """What the head learns: actions as they are, with mean 0 and deviation 1, or from -1 (the smallest demonstrated) to
    1 (the largest)."""
    steps: int = 2000
    """Optimiser steps."""
    batch_size: int = 128
    """Samples of demonstrations per minibatch, drawn with replacement."""
    lr: float = 1e-3
    """Learning rate of AdamW at the start."""
    schedule: Literal["constant", "cosine"] = "cosine"
    """Learning rate over time: unchanged, or down to zero along a half cosine."""
    weight_decay: float = 1e-2
    """Weight decay of AdamW, on matrices only; 0 makes it Adam."""
    ema: float = 0.0
    """Decay of an exponential moving average of the weights, which is then what is saved; 0 saves the weights
    themselves."""
    keep: Literal["last", "valid"] = "last"
    """Which weights become the policy: the last ones, or those with the lowest validation loss among the rows of the
    learning curve. The policy says which."""
    checkpoint_every: int = 0
    """Steps between policies that are put aside in checkpoints/; 0 puts none aside."""
    log_every: int = 100
    """Steps between two rows of the learning curve."""
    half_cache: bool = False
    """Keep the cached embeddings in half precision."""
    seed: int = 0
    """Seed of the first weights and of the minibatches."""
    device: str = "cpu"
    """Where to train: cpu, cuda, cuda:<index> or auto. On the CPU the same inputs give the same bits."""
    mlp: MLPConfig = field(default_factory=MLPConfig)
    gmm: GMMConfig = field(default_factory=GMMConfig)
    gru: GRUConfig = field(default_factory=GRUConfig)
    chunking: ChunkingConfig = field(default_factory=ChunkingConfig)
    flow: FlowConfig = field(default_factory=FlowConfig)
    scratch: ScratchConfig = field(default_factory=ScratchConfig)

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 2 or self.log_every < 1:
            raise UserError("steps and log_every must be at least 1, batch_size at least 2; correct the settings")
        if self.history < 1 or self.checkpoint_every < 0:
            raise UserError("history must be at least 1, checkpoint_every not negative; correct the settings")
        if not 0 <= self.ema < 1 or self.lr <= 0 or self.weight_decay < 0 or self.finetune_factor <= 0:
            raise UserError(
                "lr and finetune_factor must be positive, weight_decay not negative, ema in [0, 1); "
                "correct the settings"
            )
        find_head(self.head)

    def head_settings(self) -> tuple[HeadEntry, Any]:
        """Return the head and its settings: those its name stands for, or the group of its name here."""
        entry = find_head(self.head)
        if entry.preset is not None:
            return entry, entry.preset
        return entry, getattr(self, self.head) if self.head in GROUPS else entry.config()

    def relevant(self, scratch: bool) -> dict[str, Any]:
        """Return the settings as plain values, of the groups only those that are used.

        Args:
            scratch: whether the eyes are learned from scratch.
        """
        used = {"scratch": self.scratch} if scratch else {}
        plain = {name: value for name, value in asdict(self).items() if name not in (*GROUPS, "scratch")}
        return plain | {"head_settings": asdict(self.head_settings()[1])} | {n: asdict(v) for n, v in used.items()}
