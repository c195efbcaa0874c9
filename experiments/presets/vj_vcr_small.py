"""VJ-VCR for about a hundred demonstrations on one machine without a GPU.

Source:    the preset rsp-small, with another objective.
Command:   rsp-robot pretrain --preset vj-vcr-small --data data/push.hdf5 --out runs/vj-vcr-small
Hardware:  2 CPU cores.
Hours:     docs/results.md, "Objectives", has the minutes of a shorter run.
Expected:  docs/results.md, "Objectives".
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rsp_robot.experiments.presets.rsp_small import CONFIG as RSP_SMALL
from rsp_robot.pretrain.objectives.vj_vcr import VJVCRConfig

CONFIG = replace(
    RSP_SMALL,
    out=Path("runs/vj-vcr-small"),
    objective=VJVCRConfig(past=2, future=1, stride=4, predictor_width=128, predictor_depth=2, predictor_heads=4),
)
