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
        images = as_frames(frames).to(device).permute(0, 3, 1, 2)
        # Channels last would make resizing and everything after it up to three times as slow.
        images = images.to(torch.float32, memory_format=torch.contiguous_format)
        if images.shape[-2:] != (self.image_size, self.image_size):
            size = (self.image_size, self.image_size)
            images = F.interpolate(images, size, mode="bicubic", antialias=True, align_corners=False).clamp_(0, 255)
        mean, std = self._statistics(images.device)
        return images.div_(255).sub_(mean).div_(std)

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
    """Check that frames are uint8 ``(B, H, W, 3)`` and return them as a tensor.

    Raises:
        TypeError: they are no array or tensor, or not uint8.
        ValueError: they are not ``(B, H, W, 3)``.
    """
    if not isinstance(frames, (np.ndarray, torch.Tensor)):
        raise TypeError(
            f"frames must be an array or a tensor, got {type(frames).__name__}; stack them with numpy.stack"
        )
    if frames.dtype not in (np.uint8, torch.uint8):
        raise TypeError(_not_uint8(frames))
    if frames.ndim != 4 or frames.shape[-1] != 3:
        raise ValueError(
            f"frames must be (batch, height, width, 3), got {tuple(frames.shape)}; {_remedy(tuple(frames.shape))}"
        )
    return torch.from_numpy(np.ascontiguousarray(frames)) if isinstance(frames, np.ndarray) else frames


def _not_uint8(frames: np.ndarray | torch.Tensor) -> str:
    """Say what frames of another type hold, and what to do about it."""
    values = np.asarray(frames.detach().float().cpu() if isinstance(frames, torch.Tensor) else frames)
    remedy = "do not normalise before the encoder"
    if values.dtype.kind == "f" and values.size:
        if not np.isfinite(values).all():
            remedy += ": these hold NaN or infinity, look at where they come from"
        elif values.min() >= 0 and values.max() <= 1:
            remedy += ": these are in [0, 1], give (frames * 255).round() as uint8"
        elif values.min() >= 0 and values.max() <= 255:
            remedy += ": give frames.round() as uint8"
        else:
            remedy += f": these reach from {values.min():.3g} to {values.max():.3g}, give the pictures as they were"
    return f"frames must be uint8 in [0, 255], got {frames.dtype}; {remedy}"


def _remedy(shape: tuple[int, ...]) -> str:
    """What to do about frames of a shape that is not ``(B, H, W, 3)``."""
    if len(shape) in (3, 4) and shape[-3] == 3 and shape[-1] != 3:
        batch = "" if len(shape) == 4 else "[None]"
        return (
            f"channels come first here: give numpy.moveaxis(frames, -3, -1){batch}, "
            f"or frames.movedim(-3, -1){batch} of a tensor"
        )
    if len(shape) == 3 and shape[-1] == 3:
        return "this is a single picture: give frames[None]"
    if len(shape) == 5 and shape[-1] == 3:
        return "this is a batch of clips: give frames.reshape(-1, *frames.shape[2:])"
    if len(shape) == 4 and shape[-1] == 4:
        return "these have a fourth channel: give frames[..., :3]"
    return "give a batch of RGB pictures, channels last"
