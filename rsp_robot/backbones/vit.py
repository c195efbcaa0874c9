"""The plain Vision Transformer that every objective here pretrains: pre-norm, class token, fixed 2-D positions.

Parameter names are those of MAE, RSP and timm, so that published weights load without renaming.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from timm.layers import PatchEmbed
from timm.models.vision_transformer import Block
from torch import nn

from rsp_robot.backbones.base import Backbone
from rsp_robot.backbones.positions import sincos_2d
from rsp_robot.errors import UserError, unknown_name


@dataclass(frozen=True)
class ViTConfig:
    """Sizes of a Vision Transformer."""

    image_size: int = 224
    """Side of the square input in pixels."""
    patch_size: int = 16
    """Side of a patch in pixels; divides ``image_size``."""
    width: int = 384
    """Width of a token; divisible by 4 and by ``heads``."""
    depth: int = 12
    """Number of blocks."""
    heads: int = 6
    """Attention heads per block."""
    mlp_ratio: float = 4.0
    """Hidden width of the MLP over ``width``."""

    def __post_init__(self) -> None:
        for name in ("image_size", "patch_size", "width", "depth", "heads"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} of a Vision Transformer must be at least 1, not {getattr(self, name)}")
        if self.image_size % self.patch_size:
            raise UserError(f"image size {self.image_size} is no multiple of patch size {self.patch_size}; change one")
        if self.width % self.heads or self.width % 4:
            raise UserError(f"width {self.width} must be divisible by 4 and by the {self.heads} heads; change one")

    @property
    def grid(self) -> int:
        """Patches along one side."""
        return self.image_size // self.patch_size

    @property
    def patches(self) -> int:
        """Number of patches of one image."""
        return self.grid**2


VARIANTS: dict[str, dict[str, int]] = {
    "vit-pico": {"width": 64, "depth": 3, "heads": 4},
    "vit-nano": {"width": 128, "depth": 6, "heads": 4},
    "vit-tiny": {"width": 192, "depth": 12, "heads": 3},
    "vit-small": {"width": 384, "depth": 12, "heads": 6},
    "vit-base": {"width": 768, "depth": 12, "heads": 12},
    "vit-large": {"width": 1024, "depth": 24, "heads": 16},
}


def vit_config(variant: str, image_size: int = 224, patch_size: int = 16) -> ViTConfig:
    """Return the sizes of a named variant.

    Raises:
        UserError: the variant is unknown, or the patches do not tile the image.
    """
    if variant not in VARIANTS:
        raise unknown_name("architecture", variant, VARIANTS)
    return ViTConfig(image_size=image_size, patch_size=patch_size, **VARIANTS[variant])


class VisionTransformer(Backbone):
    """Encode normalised images ``(B, 3, H, W)`` into tokens ``(B, 1 + N, D)``, class token first."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        self.width, self.image_size, self.grid, self.class_token = config.width, config.image_size, config.grid, True
        norm: Any = partial(nn.LayerNorm, eps=1e-6)
        self.patch_embed = PatchEmbed(config.image_size, config.patch_size, 3, config.width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.pos_embed = nn.Parameter(sincos_2d(config.width, config.grid), requires_grad=False)
        self.blocks = nn.ModuleList(
            Block(config.width, config.heads, config.mlp_ratio, qkv_bias=True, norm_layer=norm)
            for _ in range(config.depth)
        )
        self.norm = norm(config.width)

    @classmethod
    def build(cls, description: Mapping[str, Any]) -> VisionTransformer:
        """Build what :meth:`describe` tells of, with weights to be loaded."""
        return cls(ViTConfig(**{name: value for name, value in description.items() if name != "kind"}))

    def describe(self) -> dict[str, Any]:
        """Return the sizes."""
        return {"kind": "vit", **asdict(self.config)}

    def initialise(self, generator: torch.Generator | None = None) -> None:
        """Draw fresh weights as MAE and RSP do: see :func:`initialise_transformer`."""
        initialise_transformer(self, generator)

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """``(B, 3, H, W)`` -> patch tokens with positions ``(B, N, D)``, before the class token and the blocks."""
        patches: torch.Tensor = self.patch_embed(images)
        return patches + self.pos_embed[:, 1:]

    def encode(self, patches_BND: torch.Tensor) -> torch.Tensor:
        """Any subset of embedded patches ``(B, n, D)`` -> ``(B, 1 + n, D)``, through all blocks and the final norm."""
        cls = (self.cls_token + self.pos_embed[:, :1]).expand(patches_BND.shape[0], -1, -1)
        tokens = torch.cat([cls.to(patches_BND.dtype), patches_BND], dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        normed: torch.Tensor = self.norm(tokens)
        return normed

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """``(B, 3, H, W)`` -> ``(B, 1 + N, D)``."""
        return self.encode(self.embed(images))


def initialise_transformer(module: nn.Module, generator: torch.Generator | None = None) -> None:
    """Initialise as MAE and RSP do.

    Xavier-uniform for every linear map and for the patch projection seen as one, zero biases, unit norms, and
    N(0, 0.02) for learned tokens. Everything drawn comes from ``generator``.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight, generator=generator)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.Conv2d):
            nn.init.xavier_uniform_(layer.weight.view(layer.weight.shape[0], -1), generator=generator)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.LayerNorm):
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)
    for name, parameter in module.named_parameters():
        if name.endswith(("cls_token", "mask_token")):
            nn.init.normal_(parameter, std=0.02, generator=generator)
