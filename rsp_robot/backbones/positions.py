"""Fixed sine-cosine position embeddings."""

from __future__ import annotations

from math import ceil

import torch


def sincos_1d(dim: int, positions: torch.Tensor) -> torch.Tensor:
    """Embed positions as ``[sin(p·w), cos(p·w)]`` with ``w_i = 10000^(-2i/dim)`` (Vaswani et al. 2017, section 3.5).

    Args:
        dim: width of the embedding, even.
        positions: ``(N,)`` in token units.

    Returns:
        ``(N, dim)`` float64.

    >>> sincos_1d(2, torch.tensor([0.0])).tolist()
    [[0.0, 1.0]]
    """
    frequencies = 10000.0 ** (-torch.arange(dim // 2, dtype=torch.float64) / (dim / 2))
    angles = positions.double()[:, None] * frequencies[None, :]
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def sincos_2d(dim: int, grid: int, class_token: bool = True) -> torch.Tensor:
    """Embed a ``grid x grid`` raster of patches: the first half of the width holds the column, the second the row.

    This is the fixed embedding of MAE and RSP; the class token, where there is one, stands first and is zero.

    Returns:
        ``(1, [1 +] grid*grid, dim)`` float32.

    Raises:
        ValueError: ``dim`` is not divisible by four.
    """
    if dim % 4:
        raise ValueError(f"2-D sine-cosine positions need a width divisible by 4, got {dim}")
    rows, columns = torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")
    table = torch.cat([sincos_1d(dim // 2, columns.reshape(-1)), sincos_1d(dim // 2, rows.reshape(-1))], dim=1)
    if class_token:
        table = torch.cat([torch.zeros(1, dim, dtype=table.dtype), table])
    return table.float()[None]


def sincos_3d(dim: int, grid: int, times: int, uniform: bool = True) -> torch.Tensor:
    """Embed the tokens of a clip, ``times`` rasters one after the other: time, then row, then column.

    This is the fixed embedding of V-JEPA. Where ``dim`` is no multiple of 6 the uniform parts are rounded up to even
    widths, and what is too much of the last one is cut off.

    Args:
        dim: width of the embedding.
        grid: patches along one side.
        times: temporal positions.
        uniform: a third of the width each (published as ``uniform_power``); else half for time and a quarter each for
            row and column.

    Returns:
        ``(1, times * grid * grid, dim)`` float32.

    Raises:
        ValueError: the parts are not uniform and ``dim`` is not divisible by eight.
    """
    if not uniform and dim % 8:
        raise ValueError(f"3-D sine-cosine positions of unequal parts need a width divisible by 8, got {dim}")
    widths = (2 * ceil(dim / 6),) * 3 if uniform else (dim // 2, dim // 4, dim // 4)
    axes = torch.cartesian_prod(torch.arange(times), torch.arange(grid), torch.arange(grid)).unbind(1)
    table = torch.cat([sincos_1d(width, axis) for width, axis in zip(widths, axes, strict=True)], dim=1)
    return table[None, :, :dim].float()
