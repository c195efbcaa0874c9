"""The convolutional encoders and decoders for pictures of 64 px of DCGAN and VGG, as SVG and SRVP use them.

Radford et al. 2016 (DCGAN); Denton and Fergus 2018 (SVG), appendix; Franceschi et al. 2020 (SRVP), appendix C.
Parameter names are those of SRVP's published checkpoints.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from rsp_robot.backbones.base import Backbone
from rsp_robot.errors import UserError, unknown_name
from rsp_robot.preprocessing import IMAGENET_MEAN, IMAGENET_STD

IMAGE_SIZE = 64
SLOPE = 0.2
"""Of the leaky rectifiers."""
Architecture = Literal["dcgan", "vgg"]
ARCHITECTURES: tuple[Architecture, ...] = ("dcgan", "vgg")


@dataclass(frozen=True)
class Conv64Config:
    """Sizes of a convolutional frame encoder."""

    architecture: Architecture = "dcgan"
    """dcgan: four strided convolutions; vgg: ten of 3 x 3 with pooling between."""
    channels: int = 3
    """Colours of a picture; 1 looks at the mean of red, green and blue."""
    filters: int = 64
    """Channels after the first stage; each of the three that follow doubles them."""
    width: int = 128
    """Numbers in the code of a frame."""
    tokens: Literal["code", "map"] = "map"
    """What the backbone gives: the last feature map, 4 x 4 (dcgan) or 8 x 8 (vgg), or the code as its one token."""

    def __post_init__(self) -> None:
        if self.architecture not in ARCHITECTURES:
            raise unknown_name("convolutional architecture", self.architecture, ARCHITECTURES)
        if self.tokens not in ("code", "map"):
            raise unknown_name("kind of tokens", self.tokens, ("code", "map"))
        for name in ("channels", "filters", "width"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} of a convolutional encoder must be at least 1, not {getattr(self, name)}")


class Encoded(NamedTuple):
    """What becomes of pictures."""

    code: torch.Tensor
    """``(B, width)`` in (-1, 1)."""
    stages: list[torch.Tensor]
    """Feature maps of the four stages, the coarsest first: what the decoder's skip connections take."""


class StepwiseBatchNorm(nn.BatchNorm2d):
    """Batch normalisation whose running statistics move when a step is committed, not whenever something is looked at.

    A forward pass in training mode only remembers its batch's statistics; :meth:`commit` takes them over. So a step
    that is skipped leaves no trace, nor does a forward pass without a step. Of several passes the last one counts.
    """

    batch_mean: torch.Tensor
    batch_var: torch.Tensor

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.register_buffer("batch_mean", torch.zeros(channels), persistent=False)
        self.register_buffer("batch_var", torch.ones(channels), persistent=False)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """``(B, C, h, w)`` -> the same, normalised by the batch while training, else by the running statistics."""
        if self.training:  # momentum 1: what the kernel stores are the batch's own mean and (unbiased) variance
            return F.batch_norm(
                maps, self.batch_mean, self.batch_var, self.weight, self.bias, training=True, momentum=1.0, eps=self.eps
            )
        return F.batch_norm(maps, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)

    @torch.no_grad()
    def commit(self, bad: torch.Tensor) -> None:
        """Move the running statistics towards those of the last batch, unless ``bad`` (scalar, 0 or 1) is 1."""
        assert self.momentum is not None and self.running_mean is not None and self.running_var is not None
        skipped = bad.bool()
        for running, seen in ((self.running_mean, self.batch_mean), (self.running_var, self.batch_var)):
            running.copy_(torch.where(skipped, running, torch.lerp(running, seen, self.momentum)))
        if self.num_batches_tracked is not None:
            self.num_batches_tracked += (~skipped).long()


def commit_statistics(module: nn.Module, bad: torch.Tensor) -> None:
    """Let all batch norms within ``module`` take over the statistics of their last batch, unless ``bad`` is 1."""
    for layer in module.modules():
        if isinstance(layer, StepwiseBatchNorm):
            layer.commit(bad)


class Conv64(Backbone):
    """Encode normalised pictures of 64 px into a code, or into a feature map.

    As a backbone it always uses the running statistics, in training as well: what it gives for a picture does not
    depend on the pictures beside it, and looking changes nothing. :meth:`encode` is the pass that learns.
    """

    class_token = False
    image_size = IMAGE_SIZE
    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, config: Conv64Config) -> None:
        super().__init__()
        self.config = config
        last = 4 if config.architecture == "dcgan" else 8
        self.width, self.grid = (config.width, 1) if config.tokens == "code" else (8 * config.filters, last)
        inputs, filters = config.channels, config.filters
        if config.architecture == "dcgan":
            self.conv = nn.ModuleList([_block(_halving(inputs, filters), norm=False)])
            self.conv.extend(_block(_halving(filters * 2**i, filters * 2 ** (i + 1))) for i in range(3))
            self.last_conv = _block(nn.Conv2d(8 * filters, config.width, 4, bias=False), nn.Tanh())
        else:
            self.conv = nn.ModuleList([_vgg(inputs, filters, filters)])
            self.conv.append(nn.Sequential(nn.MaxPool2d(2), *_vgg(filters, 2 * filters, 2 * filters)))
            for narrow in (2 * filters, 4 * filters):
                self.conv.append(nn.Sequential(nn.MaxPool2d(2), *_vgg(narrow, *[2 * narrow] * 3)))
            code = _block(nn.Conv2d(8 * filters, config.width, 4, bias=False), nn.Tanh())
            self.last_conv = nn.Sequential(nn.MaxPool2d(2), code)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD)[:, None, None], persistent=False)

    @classmethod
    def build(cls, description: Mapping[str, Any]) -> Conv64:
        """Build what :meth:`describe` tells of, with weights to be loaded."""
        return cls(Conv64Config(**{name: value for name, value in description.items() if name != "kind"}))

    def describe(self) -> dict[str, Any]:
        """Return the sizes."""
        return {"kind": "conv64", **asdict(self.config)}

    def pixels(self, images: torch.Tensor) -> torch.Tensor:
        """Undo ImageNet's normalisation: ``(..., 3, 64, 64)`` -> ``(..., channels, 64, 64)`` in [0, 1]."""
        colours = images * self.std + self.mean
        return colours.mean(dim=-3, keepdim=True) if self.config.channels == 1 else colours

    def encode(self, pixels: torch.Tensor) -> Encoded:
        """``(B, channels, 64, 64)`` in [0, 1] -> code and feature maps; normalises by the batch while training."""
        stages = list(self._stages(pixels))
        code: torch.Tensor = self.last_conv(stages[-1])
        return Encoded(code[:, :, 0, 0], stages[::-1])

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """``(B, 3, 64, 64)`` normalised -> ``(B, grid * grid, width)``."""
        training = self.training
        if training:
            self.eval()
        try:
            coded = self.encode(self.pixels(images))
        finally:
            if training:
                self.train()
        if self.config.tokens == "code":
            return coded.code[:, None]
        return coded.stages[0].flatten(2).transpose(1, 2)

    def _stages(self, maps: torch.Tensor) -> Iterator[torch.Tensor]:
        for stage in self.conv:
            maps = stage(maps)
            yield maps


class Conv64Decoder(nn.Module):
    """Decode vectors into pictures of 64 px, the mirror image of :class:`Conv64`."""

    def __init__(self, config: Conv64Config, inputs: int, skip: bool) -> None:
        """Make one for the encoder of ``config``.

        Args:
            config: sizes of the encoder.
            inputs: numbers in the vector to decode.
            skip: whether each stage also takes the encoder's feature map of the same size.
        """
        super().__init__()
        filters, factor, self.skip = config.filters, 2 if skip else 1, skip
        first = _block(nn.ConvTranspose2d(inputs, 8 * filters, 4, bias=False))
        if config.architecture == "dcgan":
            self.first_upconv = first
            sizes = [8 * filters, 4 * filters, 2 * filters, filters]
            self.conv = nn.ModuleList(_block(_doubling(factor * wide, narrow)) for wide, narrow in pairwise(sizes))
            self.conv.append(_doubling(factor * filters, config.channels))
        else:
            self.first_upconv = nn.Sequential(first, nn.Upsample(scale_factor=2))
            self.conv = nn.ModuleList(
                nn.Sequential(*_vgg(factor * wide, *outputs), nn.Upsample(scale_factor=2))
                for wide, outputs in (
                    (8 * filters, (8 * filters, 8 * filters, 4 * filters)),
                    (4 * filters, (4 * filters, 4 * filters, 2 * filters)),
                    (2 * filters, (2 * filters, filters)),
                )
            )
            last = nn.ConvTranspose2d(filters, config.channels, 3, padding=1, bias=False)
            self.conv.append(nn.Sequential(*_vgg(factor * filters, filters), last))

    def forward(self, vectors: torch.Tensor, skips: Sequence[torch.Tensor] | None) -> torch.Tensor:
        """``(B, inputs)``, and the encoder's feature maps, coarsest first -> pictures ``(B, channels, 64, 64)``.

        Returns:
            In (0, 1), in the precision of the weights.
        """
        maps = self.first_upconv(vectors[:, :, None, None])
        for i, stage in enumerate(self.conv):
            if self.skip and skips is not None:
                maps = torch.cat([maps, skips[i].to(maps.dtype)], dim=1)
            maps = stage(maps)
        # Near 0 and 1 half precision would round away what the likelihood measures.
        return torch.sigmoid(maps.to(next(self.parameters()).dtype))


def initialise_convolutions(module: nn.Module) -> None:
    """Initialise as DCGAN: convolutions N(0, 0.02), scales of the norms N(1, 0.02), biases 0."""
    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.normal_(layer.weight, std=0.02)
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.weight, mean=1.0, std=0.02)
            nn.init.zeros_(layer.bias)


def _block(convolution: nn.Module, activation: nn.Module | None = None, norm: bool = True) -> nn.Sequential:
    norms = [StepwiseBatchNorm(int(convolution.out_channels))] if norm else []  # type: ignore[arg-type]
    return nn.Sequential(convolution, *norms, activation or nn.LeakyReLU(SLOPE))


def _halving(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 4, stride=2, padding=1, bias=False)


def _doubling(inputs: int, outputs: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1, bias=False)


def _vgg(*sizes: int) -> nn.Sequential:
    """Convolutions of 3 x 3 from each number of channels to the next."""
    steps = pairwise(sizes)
    return nn.Sequential(*(_block(nn.Conv2d(wide, out, 3, padding=1, bias=False)) for wide, out in steps))
