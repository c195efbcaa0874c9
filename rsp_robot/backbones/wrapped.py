"""Any module of the user's as a backbone."""

from __future__ import annotations

from math import isqrt
from typing import Any

import torch
from torch import nn

from rsp_robot.backbones.base import Backbone
from rsp_robot.errors import UserError


class WrappedBackbone(Backbone):
    """Tokens of a module that gives a vector ``(B, D)``, tokens ``(B, N, D)`` or a feature map ``(B, C, h, w)``.

    A vector counts as one patch. Of tokens, the first is the class token where the others form a square.
    """

    def __init__(self, module: nn.Module, image_size: int) -> None:
        """Look at what ``module`` makes of one black picture; its weights and statistics stay as they are.

        Raises:
            UserError: it does not take pictures of that size, or gives something else.
        """
        super().__init__()
        self.module = module
        self.image_size = image_size
        name, features = type(module).__name__, _probe(module, image_size)
        self._dimensions = features.ndim
        if features.ndim == 4:
            self.width, rows, columns = features.shape[1:]
        elif features.ndim in (2, 3):
            count = features.shape[1] if features.ndim == 3 else 1
            self.width = features.shape[-1]
            rows = columns = isqrt(count)
            if rows**2 != count:
                rows = columns = isqrt(count - 1)
            self.class_token = rows**2 != count
            if rows**2 + int(self.class_token) != count:
                raise UserError(
                    f"{name} gives {count} tokens; needed is a square of patches, with or without a class token before "
                    "it: return those only"
                )
        else:
            raise UserError(f"{name} gives {tuple(features.shape)}; needed is (B, D), (B, N, D) or (B, C, h, w)")
        if features.ndim == 4:
            self.class_token = False
        if rows != columns:
            raise UserError(f"{name} gives a feature map of {rows} x {columns}; needed is a square one")
        self.grid = rows

    def describe(self) -> None:
        """Return None: nothing but the user's program can build the module again."""

    def identity(self) -> dict[str, Any]:
        """Return the names of the classes within, and what comes out."""
        return {
            "kind": "wrapped",
            "classes": [type(module).__name__ for module in self.module.modules()],
            "image_size": self.image_size,
            "output": [self.width, self.grid, self.class_token],
        }

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """``(B, 3, S, S)`` -> ``(B, [1 +] grid * grid, D)``."""
        features: torch.Tensor = self.module(images)
        if self._dimensions == 2:
            return features[:, None]
        return features if self._dimensions == 3 else features.flatten(2).transpose(1, 2)


def _probe(module: nn.Module, image_size: int) -> torch.Tensor:
    """Return the features of one black picture."""
    training = {child: child.training for child in module.modules()}
    module.eval()
    like = next((tensor for tensor in module.parameters()), torch.zeros(0))
    try:
        with torch.no_grad():
            features = module(torch.zeros(1, 3, image_size, image_size, device=like.device, dtype=like.dtype))
    except (RuntimeError, ValueError, AssertionError, TypeError) as error:
        raise UserError(
            f"{type(module).__name__} does not take pictures (1, 3, {image_size}, {image_size}) "
            f"({str(error).splitlines()[0] if str(error) else type(error).__name__}); give another image_size"
        ) from None
    finally:
        for child, was in training.items():
            child.training = was
    if not isinstance(features, torch.Tensor):
        raise UserError(
            f"{type(module).__name__} gives a {type(features).__name__}; wrap it in a module that returns one tensor"
        )
    return features
