"""Crop, antialiased bicubic resize and mirroring of a whole batch as two batched matrix products.

Along each axis resizing is linear, so it is a matrix ``(size_out, size_in)``; the same matrix cuts a box out and
mirrors. With a pair of matrices per sample, samples of different boxes (and pictures of different sizes on one canvas)
are resized together by ``Wy @ image @ Wx^T``.

The result is that of torch's ``F.interpolate(crop, mode="bicubic", antialias=True)``, which is Pillow's filter: Keys'
kernel with a = -1/2 (R. G. Keys, "Cubic convolution interpolation for digital image processing", 1981), widened by the
scale where the picture shrinks.

kornia would not do: measured on a photograph, its ``RandomResizedCrop``, which does not antialias, is up to 54 grey
levels off that result, and so is its ``crop_by_indices``, which antialiases by a Gaussian blur and goes through a batch
sample by sample; this is within 0.001 of it.
"""

from __future__ import annotations

import torch


def crop_and_resize(frames: torch.Tensor, boxes: torch.Tensor, flip: torch.Tensor, size: int) -> torch.Tensor:
    """Cut each sample's box out of all of its frames, resize it to a square, mirror it where ``flip`` says so.

    The arithmetic is float32. TF32 products (off in torch unless asked for) would err by up to a quarter of a grey
    level, bfloat16 autocast by two levels: call it outside of autocast.

    Args:
        frames: uint8 ``(B, K, H, W, C)``.
        boxes: ``(B, 4)`` left, top, width and height in pixels, inside the picture and at least one pixel a side.
        flip: ``(B,)`` bool, mirror left to right.
        size: side S of the result in pixels.

    Returns:
        float32 ``(B, K, C, S, S)`` in [0, 255], on the device of the frames, whichever the boxes are on.
    """
    B, K, H, W, C = frames.shape
    # Copies that do not wait for the device: with waiting ones the host could not run ahead of it.
    left, top, width, height = boxes.float().to(frames.device, non_blocking=True).unbind(1)
    across = bicubic_weights(left, width, size, W, flip.to(frames.device, non_blocking=True))
    down = bicubic_weights(top, height, size, H)
    # In this layout both products, in either order, are one bmm over samples without moving a pixel again.
    images = frames.permute(0, 2, 1, 4, 3).to(torch.float32, memory_format=torch.contiguous_format)
    if H <= W:  # the longer axis first: what lies between the products is smaller
        rows = torch.bmm(images.view(B, H * K * C, W), across.mT)
        resized = torch.bmm(down, rows.view(B, H, K * C * size))
    else:
        rows = torch.bmm(down, images.view(B, H, K * C * W))
        resized = torch.bmm(rows.view(B, size * K * C, W), across.mT)
    return resized.view(B, size, K, C, size).permute(0, 2, 3, 1, 4).contiguous().clamp_(0, 255)


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
