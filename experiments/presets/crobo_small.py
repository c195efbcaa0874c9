"""CroBo, the token bottleneck between two crops, for about a hundred demonstrations on one machine without a GPU.

Source:    the preset rsp-small, with another objective.
Command:   rsp-robot pretrain --preset crobo-small --data data/push.hdf5 --out runs/crobo-small
Hardware:  2 CPU cores.
Hours:     docs/results.md, "Objectives", has the minutes of a shorter run.
Expected:  docs/results.md, "Objectives".
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rsp_robot.experiments.presets.rsp_small import CONFIG as RSP_SMALL
from rsp_robot.pretrain.objectives.crop_bottleneck import CroBoConfig

CONFIG = replace(
    RSP_SMALL,
    out=Path("runs/crobo-small"),
    objective=CroBoConfig(decoder_width=128, decoder_depth=2, decoder_heads=4),
)
