"""From camera frames to what a network sees: the one place where pictures are resized and normalised."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """Resize to a square, scale to [0, 1], normalise per channel."""

    image_size: int
    """Side of the network's input in pixels."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    """Per-channel mean of the pictures in [0, 1]."""
    std: tuple[float, float, float] = IMAGENET_STD
    """Per-channel standard deviation of the pictures in [0, 1]."""

    def __call__(self, frames: np.ndarray | torch.Tensor, device: torch.device) -> torch.Tensor:
        """uint8 ``(B, H, W, 3)`` in RGB -> float32 ``(B, 3, image_size, image_size)`` on ``device``.

        Raises:
            TypeError: the frames are not uint8.
            ValueError: the frames are not ``(B, H, W, 3)``.
        """
        frames = as_frames(frames).to(device)
        images = frames.permute(0, 3, 1, 2).float()
        if images.shape[-2:] != (self.image_size, self.image_size):
            size = (self.image_size, self.image_size)
            images = F.interpolate(images, size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 255)
        return self.normalise(images)

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        """``(B, 3, H, W)`` in [0, 255] -> zero mean, unit variance by the stored statistics."""
        mean, std = self._statistics(images.device)
        return (images / 255 - mean) / std

    def denormalise(self, images: torch.Tensor) -> torch.Tensor:
        """Undo :meth:`normalise`: ``(B, 3, H, W)`` -> float in [0, 1]."""
        mean, std = self._statistics(images.device)
        return (images * std + mean).clamp(0, 1)

    def _statistics(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation, each ``(3, 1, 1)``."""
        # Not torch.tensor(..., device=device): that waits until the device has caught up.
        both = torch.tensor([self.mean, self.std])[:, :, None, None].to(device, non_blocking=True)
        return both[0], both[1]


def as_frames(frames: np.ndarray | torch.Tensor) -> torch.Tensor:
    """Check that frames are uint8 ``(B, H, W, 3)`` and return them as a tensor."""
    if isinstance(frames, np.ndarray):
        frames = torch.from_numpy(np.ascontiguousarray(frames))
    if frames.dtype != torch.uint8:
        raise TypeError(f"frames must be uint8 in [0, 255], got {frames.dtype}; do not normalise before the encoder")
    if frames.ndim != 4 or frames.shape[-1] != 3:
        raise ValueError(f"frames must be (batch, height, width, 3), got {tuple(frames.shape)}")
    return frames
