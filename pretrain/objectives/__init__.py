"""The objectives by name, one file each; other packages add theirs as entry points ``rsp_robot.objectives``."""

from __future__ import annotations

from importlib.metadata import entry_points

from rsp_robot.errors import unknown_name
from rsp_robot.pretrain.objectives.base import Objective, ObjectiveConfig
from rsp_robot.pretrain.objectives.rsp import RSPConfig

OBJECTIVES: dict[str, type[ObjectiveConfig]] = {RSPConfig.name: RSPConfig}
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
