"""Random resized crop, flip and colour jitter of whole batches on the device, the same draw for a sample's frames."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from rsp_robot.preprocessing import Preprocessing
from rsp_robot.pretrain.config import PretrainConfig
from rsp_robot.pretrain.resample import crop_and_resize
from rsp_robot.pretrain.sampling import CropPairSpec

ATTEMPTS = 10
"""Boxes tried before the central crop, as in torchvision."""


@dataclass(frozen=True)
class Augmentation:
    """From stored frames to what an objective sees: crop, resize, mirror, change colours, normalise."""

    image_size: int
    """Side of the result in pixels."""
    min_crop: float = 0.5
    """Smallest area of the crop as a share of the picture; 1 turns cropping off."""
    flip: bool = True
    """Mirror half of the samples."""
    same: bool = True
    """Treat all frames of a sample alike."""
    color_jitter: float = 0.0
    """Strength of the colour jitter, in [0, 1]; 0 turns it off."""
    inner: tuple[float, float] | None = None
    """Where a sample is one frame twice, the second is cropped inside the first: to an area from here to there, as a
    share of the first crop's."""

    @classmethod
    def of(cls, config: PretrainConfig) -> Augmentation:
        """Return the augmentation that a run asks for."""
        spec = config.objective.frames
        inner = (spec.smallest, spec.largest) if isinstance(spec, CropPairSpec) else None
        settings = (config.min_crop, config.flip, config.same_augmentation, config.color_jitter, inner)
        return cls(config.image_size, *settings)

    def __call__(self, frames: torch.Tensor, sizes: torch.Tensor | None, generator: torch.Generator) -> torch.Tensor:
        """Augment a batch on the device it is on.

        Args:
            frames: uint8 ``(B, K, H, W, 3)``; smaller pictures lie in the top left of the canvas.
            sizes: int64 ``(B, 2)`` on the CPU, height and width of each sample's pictures; None where all of them fill
                the canvas.
            generator: on the CPU; the only source of what is drawn.

        Returns:
            float32 ``(B, K, 3, image_size, image_size)``, normalised.
        """
        B, K, H, W, C = frames.shape
        if sizes is None:
            sizes = torch.tensor([[H, W]]).expand(B, 2)
        each = 1 if self.same else K  # flips and colours drawn per sample
        if self.inner is not None:
            outer = self._boxes(sizes, generator)
            boxes = torch.stack([outer, draw_inside(outer, generator, self.inner)], dim=1).flatten(0, 1)
        else:
            boxes = self._boxes(sizes.repeat_interleave(each, dim=0), generator)
        flip = torch.rand(B * each, generator=generator) < (0.5 if self.flip else 0.0)
        cut = len(boxes)
        images = crop_and_resize(
            frames.reshape(cut, -1, H, W, C), boxes, flip.repeat_interleave(cut // len(flip)), self.image_size
        )
        if self.color_jitter > 0:
            factors = draw_jitter(B * each, generator, self.color_jitter)
            images = jitter_colors(images.view(B * each, -1, *images.shape[2:]), factors)
        return Preprocessing(self.image_size).normalise(images).view(B, K, C, self.image_size, self.image_size)

    def _boxes(self, sizes: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        if self.min_crop < 1:
            return draw_boxes(sizes, generator, scale=(self.min_crop, 1.0))
        return whole_pictures(sizes)


def whole_pictures(sizes: torch.Tensor) -> torch.Tensor:
    """Heights and widths ``(B, 2)`` -> boxes ``(B, 4)`` of everything."""
    return torch.cat([torch.zeros_like(sizes), sizes.flip(1)], dim=1).float()


def draw_boxes(
    sizes: torch.Tensor,
    generator: torch.Generator,
    scale: tuple[float, float] = (0.5, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> torch.Tensor:
    """Draw a crop box for each picture from the distribution of torchvision's ``RandomResizedCrop``.

    A share of the area uniform in ``scale`` and an aspect (width by height, in pixels) whose logarithm is uniform in
    ``ratio`` give a box, rounded to whole pixels; the first of ten that fits is put at a uniformly drawn place. If none
    fits, it is the largest central box whose aspect is in ``ratio``. What is drawn for a picture does not depend on the
    sizes of the others.

    Args:
        sizes: int64 ``(B, 2)``, height and width of the pictures in pixels.
        generator: on the CPU, as ``sizes``.
        scale: smallest and largest area as a share of the picture.
        ratio: smallest and largest aspect.

    Returns:
        float32 ``(B, 4)`` left, top, width and height in whole pixels.
    """
    height, width = sizes.double().unbind(1)
    area, aspect = torch.rand(2, ATTEMPTS, len(sizes), generator=generator, dtype=torch.float64)
    place = torch.rand(2, len(sizes), generator=generator, dtype=torch.float64)
    area = height * width * (scale[0] + (scale[1] - scale[0]) * area)
    narrow, broad = math.log(ratio[0]), math.log(ratio[1])
    aspect = torch.exp(narrow + (broad - narrow) * aspect)
    wide, high = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()
    fits = (wide > 0) & (wide <= width) & (high > 0) & (high <= height)
    first = fits.to(torch.uint8).argmax(dim=0, keepdim=True)  # of equal ones argmax takes the first
    found = fits.any(dim=0)

    w = torch.where(found, wide.gather(0, first)[0], torch.minimum(width, (height * ratio[1]).round()))
    h = torch.where(found, high.gather(0, first)[0], torch.minimum(height, (width / ratio[0]).round()))
    left, top = (width - w + 1) * place[0], (height - h + 1) * place[1]
    left = torch.where(found, left, (width - w) / 2).floor()
    top = torch.where(found, top, (height - h) / 2).floor()
    return torch.stack([left, top, w, h], dim=1).float()


def draw_inside(outer: torch.Tensor, generator: torch.Generator, scale: tuple[float, float]) -> torch.Tensor:
    """Draw a box inside each of ``outer`` ``(B, 4)``, as :func:`draw_boxes` does inside whole pictures."""
    boxes = draw_boxes(outer[:, [3, 2]].long(), generator, scale)
    return torch.cat([boxes[:, :2] + outer[:, :2], boxes[:, 2:]], dim=1)


def draw_jitter(batch: int, generator: torch.Generator, strength: float) -> torch.Tensor:
    """Draw the factors of :func:`jitter_colors`.

    Returns:
        ``(4, batch)``: brightness, contrast and saturation uniform in [1 - strength, 1 + strength], and the turn of the
        hue uniform within a quarter of the strength, in full turns.
    """
    shift = strength * (2 * torch.rand(4, batch, generator=generator) - 1)
    return torch.cat([1 + shift[:3], shift[3:] / 4])


def jitter_colors(images: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """Change brightness, contrast, saturation and hue, in this order, as torchvision's ``ColorJitter`` defines them.

    Args:
        images: ``(B, K, 3, H, W)`` in [0, 255].
        factors: ``(4, B)`` from :func:`draw_jitter`, for all K frames of a sample.

    Returns:
        ``(B, K, 3, H, W)`` in [0, 255].
    """
    from kornia import enhance  # takes a third of a second to import, and few runs need it

    B, K = images.shape[:2]
    factors = factors.to(images.device, non_blocking=True).repeat_interleave(K, dim=1)
    brightness, contrast, saturation, hue = factors.unbind(0)
    changed = enhance.adjust_brightness_accumulative(images.flatten(0, 1) / 255, brightness)
    changed = enhance.adjust_contrast_with_mean_subtraction(changed, contrast)
    changed = enhance.adjust_saturation_with_gray_subtraction(changed, saturation)
    changed = enhance.adjust_hue(changed, 2 * math.pi * hue)
    return changed.unflatten(0, (B, K)) * 255
