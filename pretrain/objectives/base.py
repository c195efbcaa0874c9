"""What the engine knows of an objective: what it samples, what it draws, its losses, and the encoder it exports."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from rsp_robot.backbones.base import Backbone
from rsp_robot.backbones.vit import ViTConfig
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

    compiles: ClassVar[bool] = True
    """Whether ``forward`` is one graph to torch.compile; not so where it differentiates inside."""

    config: ObjectiveConfig
    vit: ViTConfig
    """Sizes of the Vision Transformer that a run asks for; an objective with another kind of encoder takes the image
    size from it."""
    backbone: Backbone
    """What is exported. Like everything here it takes pictures normalised with ImageNet's statistics."""

    def draw(self, frames: torch.Tensor, generator: torch.Generator | None = None) -> Any:
        """Draw everything that one forward pass over ``frames`` needs at random: a named tuple of tensors."""
        raise NotImplementedError

    def forward(self, frames: torch.Tensor, draws: Any) -> dict[str, torch.Tensor]:
        """Return scalars by name, ``"loss"`` among them: the one to minimise."""
        raise NotImplementedError

    def diagnose(self, frames: torch.Tensor, draws: Any) -> dict[str, torch.Tensor]:
        """Return what is worth seeing now and then but too dear for every step: scalars, or one row of numbers."""
        return {}

    def after_step(self, share: float, bad: torch.Tensor) -> None:
        """Do what follows an optimiser step, such as moving an average of the weights; nothing by default.

        Args:
            share: of the (stretched) run that was over before the step, in [0, 1).
            bad: scalar on the device, 1 where the step was skipped: then nothing may change.
        """
        return None

    def encoder(self, pooling: str | None = None) -> FrozenEncoder:
        """Return the encoder as it is now, frozen: a copy that later training does not touch.

        Args:
            pooling: by default ``cls`` where there is a class token, else ``mean``.
        """
        return FrozenEncoder(copy.deepcopy(self.backbone), pooling=pooling, provenance={"objective": self.config.name})
