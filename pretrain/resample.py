"""Crop, antialiased bicubic resize and mirroring of a whole batch as two batched matrix products.

Along each axis resizing is linear, so it is a matrix ``(size_out, size_in)``; the same matrix cuts a box out and
mirrors. With a pair of matrices per sample, samples of different boxes (and pictures of different sizes on one canvas)
are resized together by ``Wy @ image @ Wx^T``.

The result is that of torch's ``F.interpolate(crop, mode="bicubic", antialias=True)``; :mod:`rsp_robot.resample` makes
the matrices.

kornia would not do: measured on a photograph, its ``RandomResizedCrop``, which does not antialias, is up to 54 grey
levels off that result, and so is its ``crop_by_indices``, which antialiases by a Gaussian blur and goes through a batch
sample by sample; this is within 0.001 of it.
"""

from __future__ import annotations

import torch

from rsp_robot.resample import bicubic_weights


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
