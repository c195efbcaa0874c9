"""Arithmetic of one sample: what a step has to compute, however it is formulated."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from rsp_robot.backbones.cross_attention import use_fused_attention
from rsp_robot.backbones.vit import ViTConfig
from rsp_robot.pretrain.objectives import ObjectiveConfig


class Flops(NamedTuple):
    """Floating-point operations of one sample; a multiplication and an addition are two."""

    forward: int
    """Of the losses."""
    total: int
    """Of the losses and their gradients."""


def count_flops(vit: ViTConfig, config: ObjectiveConfig) -> Flops:
    """Count the matrix products, attention and the patch projection of one sample.

    Without the prior's decoding, which no gradient needs, and without the optimiser. Nothing is computed: the tensors
    have shapes only.
    """
    with torch.device("meta"):
        model = config.build(vit)
        frames = torch.empty(1, config.frames.count, 3, vit.image_size, vit.image_size)
        draws = model.draw(frames)
    use_fused_attention(model, False)  # the counter does not know every kernel of the fused one
    with FlopCounterMode(display=False) as counter:
        loss = model(frames, draws)["loss"]
        forward = counter.get_total_flops()
        loss.backward()
    return Flops(forward, counter.get_total_flops())
