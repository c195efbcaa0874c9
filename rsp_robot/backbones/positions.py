"""Fixed sine-cosine position embeddings."""

from __future__ import annotations

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
