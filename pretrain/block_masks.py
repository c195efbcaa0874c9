"""Which tokens of a clip are hidden: blocks of the picture, through all of time (V-JEPA's multi-block masks).

Bardes et al. 2024, section 3.2. All of this is done on the CPU.
"""

from __future__ import annotations

from math import sqrt
from typing import NamedTuple

import torch

ATTEMPTS = 100
"""Draws for a sample until something of it stays visible; after them only its first block hides anything."""


class TokenSplit(NamedTuple):
    """The tokens of every clip of a batch, in two; indices ascend in each row."""

    context: torch.Tensor
    """int64 ``(B, n)`` visible tokens."""
    target: torch.Tensor
    """int64 ``(B, m)`` hidden tokens."""


def block_size(grid: int, scale: float, aspect: float) -> tuple[int, int]:
    """Return height and width in patches of a block of a picture of ``grid x grid`` patches.

    A block has at least one patch, and never all of them: then it is one column narrower.

    Args:
        grid: patches along one side, at least 2.
        scale: area of the block as a share of the picture's.
        aspect: height over width.

    >>> block_size(14, 0.15, 1.0), block_size(14, 0.7, 1.5), block_size(14, 0.7, 0.75)
    ((5, 5), (14, 10), (10, 14))
    """
    patches = max(1, int(grid**2 * scale))
    height, width = (min(grid, max(1, round(side))) for side in (sqrt(patches * aspect), sqrt(patches / aspect)))
    return (height, width - 1) if height == width == grid else (height, width)


def blocks_at(top: torch.Tensor, left: torch.Tensor, size: tuple[int, int], grid: int) -> torch.Tensor:
    """Mark the patches under any of the blocks.

    Args:
        top: int ``(B, blocks)``, first rows.
        left: int ``(B, blocks)``, first columns.
        size: height and width of the blocks.
        grid: patches along one side.

    Returns:
        bool ``(B, grid, grid)``.
    """
    line = torch.arange(grid)
    rows, columns = line - top[:, :, None], line - left[:, :, None]
    in_rows, in_columns = (rows >= 0) & (rows < size[0]), (columns >= 0) & (columns < size[1])
    return (in_rows[:, :, :, None] & in_columns[:, :, None, :]).any(dim=1)


def split_tokens(hidden: torch.Tensor) -> TokenSplit:
    """Turn marks ``(B, N)`` into index lists, all as long as the shortest of the batch: the last ones are left out."""
    marks = hidden.to(torch.uint8)
    n_hidden = marks.sum(dim=1, dtype=torch.int64)
    n_context, n_target = int((marks.shape[1] - n_hidden).min()), int(n_hidden.min())
    context = marks.argsort(dim=1, stable=True)[:, :n_context]
    return TokenSplit(context, (1 - marks).argsort(dim=1, stable=True)[:, :n_target])


def draw_blocks(
    batch: int,
    grid: int,
    times: int,
    blocks: int,
    scale: float,
    aspect: tuple[float, float],
    generator: torch.Generator,
) -> TokenSplit:
    """Hide blocks of each clip; they may overlap, and reach through all of time.

    The blocks of a batch have one size, each its own place. A sample that they would hide altogether is drawn again.

    Args:
        batch: number of clips.
        grid: patches along one side, at least 2.
        times: temporal positions; token ``t * grid² + row * grid + column``.
        blocks: blocks per clip.
        scale: area of a block as a share of the picture's.
        aspect: smallest and largest height over width, drawn uniformly.
        generator: on the CPU.
    """
    ratio = aspect[0] + (aspect[1] - aspect[0]) * torch.rand((), generator=generator, dtype=torch.float64).item()
    size = block_size(grid, scale, ratio)
    hidden = torch.ones(batch, grid, grid, dtype=torch.bool)
    again = torch.arange(batch)
    for attempt in range(ATTEMPTS + 1):
        top, left = (torch.randint(grid - side + 1, (len(again), blocks), generator=generator) for side in size)
        some = blocks if attempt < ATTEMPTS else 1
        hidden[again] = blocks_at(top[:, :some], left[:, :some], size, grid)
        again = again[hidden[again].flatten(1).all(dim=1)]
        if not len(again):
            break
    return split_tokens(hidden.flatten(1).repeat(1, times))
