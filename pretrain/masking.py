"""Patches, their targets, and random masks (He et al. 2022, *Masked Autoencoders Are Scalable Vision Learners*)."""

from __future__ import annotations

from typing import NamedTuple

import torch


class Mask(NamedTuple):
    """A random split of the patches of every image of a batch."""

    keep: torch.Tensor
    """``(B, n_keep)`` indices of the visible patches, in shuffled order."""
    restore: torch.Tensor
    """``(B, N)`` place of every patch in the shuffled order (visible ones first)."""
    hidden: torch.Tensor
    """``(B, N)`` float, 1 where the patch is hidden."""


def patchify(images: torch.Tensor, patch_size: int) -> torch.Tensor:
    """``(B, C, H, W)`` -> ``(B, N, patch_size² · C)``, pixels in row, column, channel order."""
    batch, channels, height, width = images.shape
    rows, columns = height // patch_size, width // patch_size
    grid = images.reshape(batch, channels, rows, patch_size, columns, patch_size)
    return grid.permute(0, 2, 4, 3, 5, 1).reshape(batch, rows * columns, patch_size**2 * channels)


def unpatchify(patches: torch.Tensor, patch_size: int) -> torch.Tensor:
    """Undo :func:`patchify` for square images: ``(B, N, patch_size² · C)`` -> ``(B, C, H, W)``."""
    batch, count, size = patches.shape
    side, channels = round(count**0.5), size // patch_size**2
    grid = patches.reshape(batch, side, side, patch_size, patch_size, channels)
    return grid.permute(0, 5, 1, 3, 2, 4).reshape(batch, channels, side * patch_size, side * patch_size)


def normalise_patches(patches: torch.Tensor) -> torch.Tensor:
    """Subtract each patch's mean and divide by its standard deviation (unbiased variance, eps 1e-6)."""
    variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
    return (patches - mean) / (variance + 1e-6).sqrt()


def random_mask(noise: torch.Tensor, ratio: float) -> Mask:
    """Hide a share ``ratio`` of the patches: those of the largest ``noise`` ``(B, N)``; ``int(N·(1 - ratio))`` stay."""
    batch, patches = noise.shape
    n_keep = int(patches * (1 - ratio))
    shuffle = noise.argsort(dim=1)
    restore = shuffle.argsort(dim=1)
    return Mask(shuffle[:, :n_keep], restore, (restore >= n_keep).float())


def take(tokens: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """Gather tokens: ``(B, N, D)`` by ``(B, n)`` -> ``(B, n, D)``."""
    return tokens.gather(1, indices[:, :, None].expand(-1, -1, tokens.shape[-1]))
