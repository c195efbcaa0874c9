"""Antialiased bicubic resizing along one axis, as a matrix.

Along each axis resizing is linear, so it is a matrix ``(size_out, size_in)``. These are the matrices of torch's
``F.interpolate(picture, mode="bicubic", antialias=True)``, which is Pillow's filter: Keys' kernel with a = -1/2
(R. G. Keys, "Cubic convolution interpolation for digital image processing", 1981), widened by the scale where the
picture shrinks.
"""

from __future__ import annotations

import torch


def resize_matrix(size_in: int, size_out: int) -> torch.Tensor:
    """Return the matrix ``(size_out, size_in)`` float32 that resizes a whole axis; the unit matrix for equal sizes."""
    # In float32, as torch computes them: float64 would be ten times further from its result (0.004 grey levels).
    return bicubic_weights(torch.zeros(1), torch.tensor([float(size_in)]), size_out, size_in)[0]


def bicubic_weights(
    start: torch.Tensor, length: torch.Tensor, size_out: int, size_in: int, flip: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the matrices that resize a stretch of each sample's axis to ``size_out`` pixels.

    Pixel i covers ``[i, i + 1)``. Pixels outside the stretch weigh nothing, not even at its rim: the filter is cut off
    there and the rest normalised, as if the stretch had been cut out first.

    Args:
        start: ``(B,)`` float, where the stretch begins, in pixels.
        length: ``(B,)`` float, how long it is, in pixels; at least 1.
        size_out: pixels S after resizing.
        size_in: pixels n of the axis.
        flip: ``(B,)`` bool, turn the result round; by default none.

    Returns:
        ``(B, S, n)``; every row sums to 1.
    """
    place = torch.arange(size_out, device=start.device, dtype=start.dtype).expand(len(start), -1)
    if flip is not None:
        place = torch.where(flip[:, None], size_out - 1 - place, place)
    scale = (length / size_out)[:, None]
    centre = scale * (place + 0.5)
    pixel = torch.arange(size_in, device=start.device, dtype=start.dtype) + 0.5 - start[:, None]
    distance = (pixel[:, None, :] - centre[:, :, None]).abs_().div_(scale.clamp(min=1)[:, :, None])
    inside = (pixel >= 0) & (pixel < length[:, None])
    weights = keys_kernel(distance).mul_(inside[:, None, :])
    return weights.div_(weights.sum(dim=2, keepdim=True))


def keys_kernel(distance: torch.Tensor) -> torch.Tensor:
    """Keys' cubic convolution kernel with a = -1/2 of distances (at least 0) in samples; 0 from 2 on."""
    near = ((1.5 * distance - 2.5) * distance) * distance + 1
    d = distance.clamp(max=2)
    far = ((-0.5 * d + 2.5) * d - 4) * d + 2
    return torch.where(distance < 1, near, far)
