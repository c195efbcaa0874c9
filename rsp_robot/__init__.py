"""Pretrain a visual encoder on demonstration videos, freeze it, plug it into a policy, and measure what it is worth.

The names below are imported on first use, so that simulation workers and ``--help`` never pay for (or load) torch.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rsp_robot.demonstrations import DemonstrationFile
    from rsp_robot.encoder import FrozenEncoder
    from rsp_robot.errors import UserError
    from rsp_robot.videos import open_videos

try:
    __version__ = version("rsp-robot")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"

_HOMES = {
    "DemonstrationFile": "rsp_robot.demonstrations",
    "FrozenEncoder": "rsp_robot.encoder",
    "UserError": "rsp_robot.errors",
    "open_videos": "rsp_robot.videos",
}
__all__ = ["DemonstrationFile", "FrozenEncoder", "UserError", "__version__", "open_videos"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'rsp_robot' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
