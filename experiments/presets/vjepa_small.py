"""V-JEPA for about a hundred demonstrations on one machine without a GPU.

Source:    the preset rsp-small, with another objective, clips of 15 frames, and a target that follows faster: a few
           thousand steps are few.
Command:   rsp-robot pretrain --preset vjepa-small --data data/push.hdf5 --out runs/vjepa-small
Hardware:  2 CPU cores.
Hours:     docs/results.md, "Objectives", has the minutes of a shorter run.
Expected:  docs/results.md, "Objectives".
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rsp_robot.experiments.presets.rsp_small import CONFIG as RSP_SMALL
from rsp_robot.pretrain.objectives.vjepa import VideoJEPAConfig

CONFIG = replace(
    RSP_SMALL,
    out=Path("runs/vjepa-small"),
    objective=VideoJEPAConfig(length=8, stride=2, predictor_width=96, predictor_depth=2, momentum=0.99),
)
