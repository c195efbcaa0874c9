"""Rotary positions in three dimensions, as the released weights of V-JEPA 2 were trained with them."""

from __future__ import annotations

import torch


def rotation_3d(times: int, grid: int, head: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Tabulate the rotation of every token of a clip (Assran et al. 2025, section 2.1).

    A third of the head's channels (rounded down to an even number) turns with time, a third with the row, a third with
    the column; what remains does not turn. Channels ``2i`` and ``2i + 1`` form a plane, as in Su et al. 2021, but the
    ``n / 2`` frequencies ``10000^(-2j/n)`` of ``n`` channels are laid out twice in a row, so that the two channels of
    a plane turn by different angles: so it is in the released code, and so the weights want it.

    Args:
        times: temporal positions.
        grid: patches along one side.
        head: channels of one attention head.

    Returns:
        Cosines and sines, each ``(times * grid * grid, head)`` float32.
    """
    channels = 2 * (head // 3 // 2)
    frequencies = 10000.0 ** (-2 * torch.arange(channels // 2, dtype=torch.float64) / max(channels, 1))
    places = torch.cartesian_prod(torch.arange(times), torch.arange(grid), torch.arange(grid)).double()
    angles = places[:, :, None] * frequencies.repeat(2)
    angles = torch.nn.functional.pad(angles.flatten(1), (0, head - 3 * channels))
    return angles.cos().float(), angles.sin().float()


def rotate(vectors: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Turn queries or keys ``(B, heads, N, C)`` by tables ``(N, C)``, or ``(B, 1, N, C)``, of :func:`rotation_3d`."""
    even, odd = vectors.unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack([-odd, even], dim=-1).flatten(-2)
    return vectors * cos.to(vectors.dtype) + turned * sin.to(vectors.dtype)
