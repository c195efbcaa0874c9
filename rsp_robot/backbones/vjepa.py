"""The video Vision Transformer of V-JEPA (fixed 3-D positions) and V-JEPA 2 (3-D rotary positions).

As every backbone it sees single frames, repeated to a tubelet; ``clip`` takes whole clips. Bardes et al. 2024
("Revisiting Feature Prediction for Learning Visual Representations from Video"); Assran et al. 2025 ("V-JEPA 2"),
section 2.1. Parameter names are those of the published checkpoints.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Attention
from torch import nn

from rsp_robot.backbones.base import Backbone
from rsp_robot.backbones.positions import sincos_3d
from rsp_robot.backbones.rope import rotate, rotation_3d
from rsp_robot.errors import UserError


@dataclass(frozen=True)
class VJEPAConfig:
    """Sizes of a video Vision Transformer."""

    image_size: int
    """Side of the square input in pixels."""
    patch_size: int
    """Side of a patch in pixels; divides ``image_size``."""
    tubelet: int
    """Frames that one token covers."""
    frames: int
    """Frames that the stored positions cover; unused with rotary positions."""
    width: int
    """Width of a token."""
    depth: int
    """Number of blocks."""
    heads: int
    """Attention heads per block."""
    mlp_hidden: int
    """Hidden width of the MLP."""
    rotary: bool
    """Rotary positions in every attention (V-JEPA 2), instead of positions added to the tokens (V-JEPA)."""

    def __post_init__(self) -> None:
        for name in ("image_size", "patch_size", "tubelet", "width", "depth", "heads", "mlp_hidden"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} of a video Vision Transformer must be at least 1, not {getattr(self, name)}")
        if self.image_size % self.patch_size:
            raise UserError(f"image size {self.image_size} is no multiple of patch size {self.patch_size}; change one")
        if self.width % self.heads:
            raise UserError(f"width {self.width} is not divisible by the {self.heads} heads; change one")
        if self.rotary and self.width // self.heads % 2:
            raise UserError(f"rotary positions need heads of even width, not {self.width // self.heads}; change one")

    @property
    def grid(self) -> int:
        """Patches along one side."""
        return self.image_size // self.patch_size


class VideoTransformer(Backbone):
    """Tokens of a clip, or of one frame repeated to a tubelet: a raster of patches, no class token."""

    class_token = False
    pos_embed: torch.Tensor | None
    cos: torch.Tensor
    sin: torch.Tensor

    def __init__(self, config: VJEPAConfig) -> None:
        super().__init__()
        self.config = config
        self.width, self.image_size, self.grid = config.width, config.image_size, config.grid
        self.patch_embed = _PatchEmbed(config)
        if config.rotary:
            self.pos_embed = None
            cos, sin = rotation_3d(1, config.grid, config.width // config.heads)
            self.register_buffer("cos", cos, persistent=False)
            self.register_buffer("sin", sin, persistent=False)
        else:
            positions = sincos_3d(config.width, config.grid, config.frames // config.tubelet)
            self.pos_embed = nn.Parameter(positions, requires_grad=False)
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width, eps=1e-6)

    @classmethod
    def build(cls, description: Mapping[str, Any]) -> VideoTransformer:
        """Build what :meth:`describe` tells of, with weights to be loaded."""
        return cls(VJEPAConfig(**{name: value for name, value in description.items() if name != "kind"}))

    def describe(self) -> dict[str, Any]:
        """Return the sizes."""
        return {"kind": "vjepa", **asdict(self.config)}

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """``(B, 3, S, S)`` -> ``(B, grid * grid, D)``: each picture is a still of one tubelet, at a clip's start."""
        return self.clip(images[:, :, None].expand(-1, -1, self.config.tubelet, -1, -1))

    def clip(self, video: torch.Tensor) -> torch.Tensor:
        """``(B, 3, T, S, S)`` -> ``(B, T / tubelet * grid * grid, D)``, the rasters one after the other."""
        return self.encode(self.embed(video))

    def embed(self, video: torch.Tensor) -> torch.Tensor:
        """``(B, 3, T, S, S)`` -> tokens ``(B, N, D)`` before the blocks, with their positions unless these turn."""
        tokens: torch.Tensor = self.patch_embed(video)
        return tokens if self.pos_embed is None else tokens + self.pos_embed[:, : tokens.shape[1]]

    def encode(self, tokens: torch.Tensor, keep: torch.Tensor | None = None) -> torch.Tensor:
        """Take tokens ``(B, N, D)`` of :meth:`embed` through the blocks: all, or those at ``keep`` ``(B, n)`` only.

        Returns:
            ``(B, n, D)``, which know nothing of the tokens left out.
        """
        rotation = self._rotation(tokens.shape[1]) if self.pos_embed is None else None
        if keep is not None:
            tokens = tokens.gather(1, keep[:, :, None].expand(-1, -1, tokens.shape[-1]))
            if rotation is not None:
                rotation = rotation[0][keep][:, None], rotation[1][keep][:, None]
        for block in self.blocks:
            tokens = block(tokens, rotation)
        normed: torch.Tensor = self.norm(tokens)
        return normed

    def _rotation(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Tables of a clip of so many tokens."""
        if count == len(self.cos):
            return self.cos, self.sin
        cos, sin = rotation_3d(count // self.grid**2, self.grid, self.width // self.config.heads)
        return cos.to(self.cos), sin.to(self.sin)


def initialise_blocks(module: nn.Module, blocks: Iterable[nn.Module], rescale: bool) -> None:
    """Draw fresh weights as V-JEPA does, from torch's global generator.

    N(0, 0.02) for linear maps and the embedding of tubelets, zero biases, unit norms.

    Args:
        module: all of it is drawn but its own parameters, such as positions and mask tokens.
        blocks: its blocks, in order.
        rescale: divide what the l-th block adds to the tokens, the last maps of attention and MLP, by ``sqrt(2 l)``.
    """
    for layer in module.modules():
        if isinstance(layer, (nn.Linear, nn.Conv3d)):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.LayerNorm):
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)
    if not rescale:
        return
    with torch.no_grad():
        for number, block in enumerate(blocks, start=1):
            for name in ("attn.proj", "mlp.fc2"):
                block.get_submodule(name).weight.div_((2 * number) ** 0.5)  # type: ignore[operator]


class _PatchEmbed(nn.Module):
    """Tubelets to tokens, by one linear map."""

    def __init__(self, config: VJEPAConfig) -> None:
        super().__init__()
        size = (config.tubelet, config.patch_size, config.patch_size)
        self.proj = nn.Conv3d(3, config.width, size, stride=size)

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        tokens: torch.Tensor = self.proj(video)
        return tokens.flatten(2).transpose(1, 2)


class _Attention(Attention):
    """Self-attention over all tokens; queries and keys are rotated where there is a rotation."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, heads, qkv_bias=True)

    def forward(  # type: ignore[override]
        self, tokens: torch.Tensor, rotation: tuple[torch.Tensor, torch.Tensor] | None
    ) -> torch.Tensor:
        if rotation is None:
            plain: torch.Tensor = super().forward(tokens)
            return plain
        qkv = self.qkv(tokens).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        queries, keys, values = qkv.unbind(0)
        queries, keys = rotate(queries, *rotation), rotate(keys, *rotation)
        mixed = F.scaled_dot_product_attention(queries, keys, values)
        projected: torch.Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return projected


class _MLP(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        mixed: torch.Tensor = self.fc2(F.gelu(self.fc1(tokens)))
        return mixed


class _Block(nn.Module):
    def __init__(self, config: VJEPAConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, eps=1e-6)
        self.attn = _Attention(config.width, config.heads)
        self.norm2 = nn.LayerNorm(config.width, eps=1e-6)
        self.mlp = _MLP(config.width, config.mlp_hidden)

    def forward(self, tokens: torch.Tensor, rotation: tuple[torch.Tensor, torch.Tensor] | None) -> torch.Tensor:
        tokens = tokens + self.attn(self.norm1(tokens), rotation)
        mixed: torch.Tensor = tokens + self.mlp(self.norm2(tokens))
        return mixed
