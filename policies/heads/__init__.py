"""The policy heads by name, one file each; other packages add theirs as entry points ``rsp_robot.heads``."""

from __future__ import annotations

from importlib.metadata import entry_points

from rsp_robot.errors import unknown_name
from rsp_robot.policies.heads.base import Features, Head, HeadEntry, HeadShape
from rsp_robot.policies.heads.chunking import ChunkingConfig, ChunkingHead
from rsp_robot.policies.heads.flow import FlowConfig, FlowHead
from rsp_robot.policies.heads.gmm import GMMConfig, GMMHead
from rsp_robot.policies.heads.gru import GRUConfig, GRUHead
from rsp_robot.policies.heads.mlp import CORTEXBENCH_MLP, R3M_MLP, MLPConfig, MLPHead

HEADS: dict[str, HeadEntry] = {
    "mlp": HeadEntry(MLPConfig, MLPHead),
    "mlp-cortexbench": HeadEntry(MLPConfig, MLPHead, preset=CORTEXBENCH_MLP),
    "mlp-r3m": HeadEntry(MLPConfig, MLPHead, preset=R3M_MLP),
    "gmm": HeadEntry(GMMConfig, GMMHead),
    "gru": HeadEntry(GRUConfig, GRUHead),
    "chunking": HeadEntry(ChunkingConfig, ChunkingHead),
    "flow": HeadEntry(FlowConfig, FlowHead),
}
ENTRY_POINTS = "rsp_robot.heads"

__all__ = [
    "HEADS",
    "ChunkingConfig",
    "ChunkingHead",
    "Features",
    "FlowConfig",
    "FlowHead",
    "GMMConfig",
    "GMMHead",
    "GRUConfig",
    "GRUHead",
    "Head",
    "HeadEntry",
    "HeadShape",
    "MLPConfig",
    "MLPHead",
    "find_head",
]


def find_head(name: str) -> HeadEntry:
    """Return a head and its config class.

    An entry point of another package names a :class:`HeadEntry`.

    >>> find_head("mlp").config()
    MLPConfig(hidden=(256, 256), activation='relu', last_layer_scale=0.01)

    Raises:
        UserError: there is none of that name.
    """
    if name in HEADS:
        return HEADS[name]
    others = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
    if name not in others:
        raise unknown_name("head", name, [*HEADS, *others])
    found: HeadEntry = others[name].load()
    return found
