"""Eyes that are trained with the policy: a small convolutional network, a fine-tuned encoder; and shifted pictures."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from rsp_robot.errors import UserError
from rsp_robot.policies.heads.layers import drawn_from
from rsp_robot.pooling import pool, spatial_softmax
from rsp_robot.preprocessing import Preprocessing

if TYPE_CHECKING:
    from rsp_robot.encoder import FrozenEncoder

SHIFT_SHARE = 4 / 84
"""Largest random shift as a share of the picture's side, as in DrQ (Kostrikov et al. 2021)."""


@dataclass(frozen=True)
class ScratchConfig:
    """The convolutional network that learns to see together with the policy."""

    channels: tuple[int, ...] = (32, 32, 32)
    """Channels of each convolution (3 x 3, stride 2)."""
    groups: int = 8
    """Groups of each group normalisation; they must divide the channels."""
    dim: int = 128
    """Width of the embedding."""

    def __post_init__(self) -> None:
        if not self.channels or min(*self.channels, self.groups, self.dim, 1) < 1:
            raise UserError("the scratch network needs convolutions, and widths of at least 1; correct the settings")
        if any(width % self.groups for width in self.channels):
            raise UserError(f"{self.groups} groups do not divide channels {self.channels}; correct the settings")


class ScratchCNN(nn.Module):
    """Strided convolutions, then where each channel is strongest (spatial softmax, Levine et al. 2016), then linear.

    >>> eyes = ScratchCNN(ScratchConfig(), generator=torch.Generator().manual_seed(0))
    >>> tuple(eyes(torch.zeros(2, 64, 64, 3, dtype=torch.uint8)).shape)
    (2, 128)
    """

    def __init__(self, config: ScratchConfig, *, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        self.dim = config.dim
        self.embedding_shape = (config.dim,)
        layers: list[nn.Module] = []
        before = 3
        with drawn_from(generator):
            for width in config.channels:
                layers += [
                    nn.Conv2d(before, width, 3, stride=2, padding=1),
                    nn.GroupNorm(config.groups, width),
                    nn.ReLU(),
                ]
                before = width
            self.layers = nn.Sequential(*layers)
            self.to_embedding = nn.Linear(2 * before, config.dim)
        self.log_temperature = nn.Parameter(torch.zeros(1))

    def forward(self, frames: np.ndarray | Tensor) -> Tensor:
        """uint8 ``(B, H, W, 3)`` -> ``(B, dim)``."""
        images = torch.as_tensor(frames).to(self.log_temperature.device).permute(0, 3, 1, 2).float() / 127.5 - 1
        maps = self.layers(images) * self.log_temperature.exp()
        embedding: Tensor = self.to_embedding(spatial_softmax(maps.flatten(2).transpose(1, 2)))
        return embedding


def random_shift(frames: Tensor, generator: torch.Generator) -> Tensor:
    """Shift the pictures of each sample by up to 4/84 of their side; the edge is repeated.

    All pictures of a sample are shifted alike, so that what moves between them still moves by as much.

    Args:
        frames: uint8 ``(B, S, H, W, 3)``.
        generator: of the CPU.
    """
    B, S, H, W, _ = frames.shape
    most = math.ceil(SHIFT_SHARE * max(H, W))
    offsets = torch.randint(-most, most + 1, (2, B), generator=generator).to(frames.device)
    rows = (torch.arange(H, device=frames.device) + offsets[0][:, None]).clamp(0, H - 1)
    columns = (torch.arange(W, device=frames.device) + offsets[1][:, None]).clamp(0, W - 1)
    sample = torch.arange(B, device=frames.device)[:, None, None]
    return frames[sample, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2, 4)


class TrainableEncoder(nn.Module):
    """A copy of a frozen encoder that can be trained; the original is left alone.

    It stays in evaluation mode: batch statistics are those of pretraining, nothing is dropped, and an embedding does
    not depend on the rest of its minibatch.
    """

    def __init__(self, encoder: FrozenEncoder) -> None:
        """Copy the encoder.

        Raises:
            UserError: its backbone cannot be built again from a description, so the policy could not be loaded.
        """
        super().__init__()
        if encoder.backbone.describe() is None:
            raise UserError("an encoder made by FrozenEncoder.wrap cannot be stored in a policy; use it frozen")
        self.backbone = copy.deepcopy(encoder.backbone).float().requires_grad_(True)
        self.preprocessing, self.pooling = encoder.preprocessing, encoder.pooling
        self.embedding_shape, self.dim = tuple(encoder.embedding_shape), int(encoder.dim)
        self.eval()

    def train(self, mode: bool = True) -> TrainableEncoder:
        """Stay in evaluation mode."""
        return super().train(False)

    def forward(self, frames: np.ndarray | Tensor) -> Tensor:
        """uint8 ``(B, H, W, 3)`` -> ``(B, *embedding_shape)``, with gradients."""
        device = next(self.backbone.parameters()).device
        tokens = self.backbone(self.preprocessing(frames, device)).float()
        return pool(tokens, self.pooling, self.backbone.class_token)


def describe_eyes(eyes: ScratchCNN | TrainableEncoder) -> dict[str, Any]:
    """Return, as plain values, what :func:`build_eyes` makes trained eyes from."""
    if isinstance(eyes, ScratchCNN):
        return {"kind": "scratch", "config": asdict(eyes.config)}
    return {
        "kind": "finetuned",
        "backbone": eyes.backbone.describe(),
        "preprocessing": asdict(eyes.preprocessing),
        "pooling": eyes.pooling,
    }


def build_eyes(description: Mapping[str, Any]) -> ScratchCNN | TrainableEncoder:
    """Build trained eyes from their description; their weights are loaded afterwards."""
    if description["kind"] == "scratch":
        config = ScratchConfig(**{**description["config"], "channels": tuple(description["config"]["channels"])})
        return ScratchCNN(config, generator=torch.Generator().manual_seed(0))
    from rsp_robot.backbones.registry import BACKBONES
    from rsp_robot.encoder import FrozenEncoder

    stored = description["preprocessing"]
    preprocessing = Preprocessing(**{**stored, "mean": tuple(stored["mean"]), "std": tuple(stored["std"])})
    backbone = BACKBONES[description["backbone"]["kind"]](description["backbone"])
    return TrainableEncoder(FrozenEncoder(backbone, preprocessing, description["pooling"]))
