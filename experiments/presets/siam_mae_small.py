"""SiamMAE for about a hundred demonstrations on one machine without a GPU.

Source:    the preset rsp-small, with another objective and
           a mask that leaves one of 16 patches visible.
Command:   rsp-robot pretrain --preset siam-mae-small --data data/push.hdf5 --out runs/siam-mae-small
Hardware:  2 CPU cores.
Hours:     docs/results.md, "Objectives", has the minutes of a shorter run.
Expected:  docs/results.md, "Objectives".
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rsp_robot.experiments.presets.rsp_small import CONFIG as RSP_SMALL
from rsp_robot.pretrain.objectives.siam_mae import SiamMAEConfig

CONFIG = replace(
    RSP_SMALL,
    out=Path("runs/siam-mae-small"),
    objective=SiamMAEConfig(mask_ratio=0.9, decoder_width=128, decoder_depth=2, decoder_heads=4, min_gap=4, max_gap=16),
)
