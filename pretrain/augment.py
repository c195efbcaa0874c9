"""Random resized crop and flip of whole batches on the device, the same draw for all frames of a sample."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from rsp_robot.preprocessing import Preprocessing
from rsp_robot.pretrain.config import PretrainConfig


@dataclass(frozen=True)
class Augmentation:
    """From stored frames to what an objective sees: crop, mirror, resize, normalise."""

    image_size: int
    """Side of the result in pixels."""
    min_crop: float = 0.5
    """Smallest area of the crop as a share of the picture; 1 turns cropping off."""
    flip: bool = True
    """Mirror half of the samples."""
    same: bool = True
    """Treat all frames of a sample alike."""

    @classmethod
    def of(cls, config: PretrainConfig) -> Augmentation:
        """Return the augmentation that a run asks for."""
        return cls(config.image_size, config.min_crop, config.flip, config.same_augmentation)

    def __call__(self, frames: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """uint8 ``(B, K, H, W, 3)`` -> normalised ``(B, K, 3, S, S)``; boxes and flips come from a CPU generator."""
        batch, views = frames.shape[:2]
        draws = batch if self.same else batch * views
        whole = torch.tensor([0.0, 0.0, 1.0, 1.0]).repeat(draws, 1)
        boxes = draw_boxes(draws, generator, scale=(self.min_crop, 1.0)) if self.min_crop < 1 else whole
        flip = torch.rand(draws, generator=generator) < (0.5 if self.flip else 0.0)
        if self.same:
            boxes, flip = boxes.repeat_interleave(views, dim=0), flip.repeat_interleave(views)
        images = frames.flatten(0, 1).permute(0, 3, 1, 2).float()
        cropped = crop_and_flip(images, boxes, flip, self.image_size)
        return Preprocessing(self.image_size).normalise(cropped).unflatten(0, (batch, views))


def draw_boxes(
    batch: int,
    generator: torch.Generator,
    scale: tuple[float, float] = (0.5, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> torch.Tensor:
    """Draw crop boxes: area uniform in ``scale``, logarithm of the aspect uniform in ``ratio``, place uniform.

    Sides that would leave the picture are cut to it.

    Returns:
        ``(batch, 4)`` left, top, width and height as fractions of the picture.
    """
    area, aspect, left, top = torch.rand(4, batch, generator=generator)
    area = scale[0] + (scale[1] - scale[0]) * area
    aspect = torch.exp(math.log(ratio[0]) + (math.log(ratio[1]) - math.log(ratio[0])) * aspect)
    width, height = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
    return torch.stack([left * (1 - width), top * (1 - height), width, height], dim=1)


def crop_and_flip(images: torch.Tensor, boxes: torch.Tensor, flip: torch.Tensor, size: int) -> torch.Tensor:
    """Cut every image's box, resize it bicubically to ``size``, mirror it where ``flip`` says so.

    Args:
        images: ``(B, C, H, W)`` in [0, 255].
        boxes: ``(B, 4)`` from :func:`draw_boxes`.
        flip: ``(B,)`` bool.
        size: side of the result in pixels.

    Returns:
        ``(B, C, size, size)`` in [0, 255].
    """
    # Copies that do not wait for the device: with waiting ones the host could not run ahead of it.
    left, top, width, height = boxes.to(images.device, non_blocking=True).unbind(1)
    mirror = torch.where(flip.to(images.device, non_blocking=True), -1.0, 1.0)
    zeros = torch.zeros_like(left)
    affine = torch.stack(
        [
            torch.stack([width * mirror, zeros, 2 * left + width - 1], dim=1),
            torch.stack([zeros, height, 2 * top + height - 1], dim=1),
        ],
        dim=1,
    )
    grid = F.affine_grid(affine, [images.shape[0], images.shape[1], size, size], align_corners=False)
    sampled = F.grid_sample(images, grid, mode="bicubic", padding_mode="border", align_corners=False)
    return sampled.clamp(0, 255)
