"""What a frozen encoder asks of its backbone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import nn


class Backbone(nn.Module, ABC):
    """Turns normalised square images into tokens: a class token where there is one, then a square raster of patches.

    Subclasses set the four sizes when they are built.
    """

    width: int
    """Width D of a token."""
    image_size: int
    """Side of the square input in pixels."""
    grid: int
    """Patches along one side of the raster."""
    class_token: bool
    """Whether a class token stands before the patches."""
    config: Any
    """The sizes as a dataclass, where the backbone is one of ours."""

    @abstractmethod
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """``(B, 3, image_size, image_size)`` -> ``(B, [1 +] grid * grid, width)``."""

    @abstractmethod
    def describe(self) -> dict[str, Any] | None:
        """Return plain values with ``kind``, from which ``BACKBONES[kind]`` builds it again; None if nothing can."""

    def identity(self) -> dict[str, Any]:
        """Return plain values that differ where two backbones with the same weights compute different tokens."""
        return self.describe() or {}
