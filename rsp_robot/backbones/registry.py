"""The kinds of backbones that an encoder folder can hold, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rsp_robot.backbones.base import Backbone
from rsp_robot.backbones.conv64 import Conv64
from rsp_robot.backbones.timm_models import TimmBackbone
from rsp_robot.backbones.vit import VisionTransformer
from rsp_robot.backbones.vjepa import VideoTransformer

BACKBONES: dict[str, Callable[[Mapping[str, Any]], Backbone]] = {
    "vit": VisionTransformer.build,
    "timm": TimmBackbone.build,
    "vjepa": VideoTransformer.build,
    "conv64": Conv64.build,
}
"""Each takes what :meth:`Backbone.describe` returned and gives the backbone with weights to be loaded."""
