"""The objectives by name, one file each; other packages add theirs as entry points ``rsp_robot.objectives``."""

from __future__ import annotations

from importlib.metadata import entry_points

from rsp_robot.errors import unknown_name
from rsp_robot.pretrain.objectives.base import Objective, ObjectiveConfig
from rsp_robot.pretrain.objectives.crop_bottleneck import CroBoConfig
from rsp_robot.pretrain.objectives.mae import MAEConfig
from rsp_robot.pretrain.objectives.rsp import RSPConfig
from rsp_robot.pretrain.objectives.siam_mae import SiamMAEConfig
from rsp_robot.pretrain.objectives.srvp import SRVPConfig
from rsp_robot.pretrain.objectives.token_bottleneck import ToBoConfig
from rsp_robot.pretrain.objectives.vj_vcr import VJVCRConfig
from rsp_robot.pretrain.objectives.vjepa import VideoJEPAConfig

OBJECTIVES: dict[str, type[ObjectiveConfig]] = {
    RSPConfig.name: RSPConfig,
    MAEConfig.name: MAEConfig,
    SiamMAEConfig.name: SiamMAEConfig,
    ToBoConfig.name: ToBoConfig,
    CroBoConfig.name: CroBoConfig,
    SRVPConfig.name: SRVPConfig,
    VideoJEPAConfig.name: VideoJEPAConfig,
    VJVCRConfig.name: VJVCRConfig,
}
ENTRY_POINTS = "rsp_robot.objectives"

__all__ = ["OBJECTIVES", "Objective", "ObjectiveConfig", "find_objective"]


def find_objective(name: str) -> type[ObjectiveConfig]:
    """Return the config class of an objective.

    >>> find_objective("rsp").__name__
    'RSPConfig'

    Raises:
        UserError: there is none of that name.
    """
    if name in OBJECTIVES:
        return OBJECTIVES[name]
    others = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
    if name not in others:
        raise unknown_name("objective", name, [*OBJECTIVES, *others])
    found: type[ObjectiveConfig] = others[name].load()
    return found
