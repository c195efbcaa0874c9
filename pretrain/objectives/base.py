"""What the engine knows of an objective: what it samples, what it draws, its losses, and the encoder it exports."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from rsp_robot.backbones.vit import VisionTransformer, ViTConfig
from rsp_robot.encoder import FrozenEncoder
from rsp_robot.pretrain.sampling import SampleSpec


@dataclass(frozen=True)
class ObjectiveConfig:
    """Settings of an objective; each objective has a subclass beside it."""

    name: ClassVar[str]
    """What the command line and the registry call it."""

    @property
    def frames(self) -> SampleSpec:
        """Which frames one sample holds."""
        raise NotImplementedError

    def build(self, vit: ViTConfig) -> Objective:
        """Make the model; its weights are drawn from torch's global generator."""
        raise NotImplementedError


class Objective(nn.Module):
    """A model that learns from batches of frames ``(B, K, 3, H, W)``, normalised.

    ``forward`` is a pure function of tensors without any drawing of its own: it compiles to one graph, and a test can
    say exactly what was drawn.
    """

    config: ObjectiveConfig
    vit: ViTConfig
    backbone: VisionTransformer

    def draw(self, frames: torch.Tensor, generator: torch.Generator | None = None) -> Any:
        """Draw everything that one forward pass over ``frames`` needs at random: a named tuple of tensors."""
        raise NotImplementedError

    def forward(self, frames: torch.Tensor, draws: Any) -> dict[str, torch.Tensor]:
        """Return scalars by name, ``"loss"`` among them: the one to minimise."""
        raise NotImplementedError

    def diagnose(self, frames: torch.Tensor, draws: Any) -> dict[str, torch.Tensor]:
        """Return what is worth seeing now and then but too dear for every step: scalars, or one row of numbers."""
        return {}

    def encoder(self, pooling: str = "cls") -> FrozenEncoder:
        """Return the encoder as it is now, frozen: a copy that later training does not touch."""
        return FrozenEncoder(copy.deepcopy(self.backbone), pooling=pooling, provenance={"objective": self.config.name})
