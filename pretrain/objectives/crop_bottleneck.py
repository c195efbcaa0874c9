"""Crop bottleneck: the token bottleneck between two crops of one frame (CroBo, Lee et al. 2026, arXiv 2603.13904).

The source is a crop of the frame, the target a smaller crop inside it: to paint it, the source's class token has to
know what is where.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rsp_robot.pretrain.objectives.token_bottleneck import BottleneckConfig
from rsp_robot.pretrain.sampling import CropPairSpec


@dataclass(frozen=True)
class CroBoConfig(BottleneckConfig):
    """Settings of the objective; the defaults are the published ones."""

    name: ClassVar[str] = "crobo"

    siam_weight: float = 0.0
    """Weight of ToBo's auxiliary SiamMAE loss, whose decoder sees all tokens of the source; 0 leaves it out."""
    min_local: float = 0.3
    """Smallest area of the local crop as a share of the global one, whose own range is --min-crop to 1."""
    max_local: float = 0.6
    """Largest area of the local crop as a share of the global one."""

    @property
    def frames(self) -> CropPairSpec:
        """One frame, and a crop inside it."""
        return CropPairSpec(self.min_local, self.max_local)
