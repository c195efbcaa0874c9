"""MAE for about a hundred demonstrations on one machine without a GPU.

Source:    the preset rsp-small, with another objective.
Command:   rsp-robot pretrain --preset mae-small --data data/push.hdf5 --out runs/mae-small
Hardware:  2 CPU cores.
Hours:     docs/results.md, "Objectives", has the minutes of a shorter run.
Expected:  docs/results.md, "Objectives".
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rsp_robot.experiments.presets.rsp_small import CONFIG as RSP_SMALL
from rsp_robot.pretrain.objectives.mae import MAEConfig

CONFIG = replace(
    RSP_SMALL,
    out=Path("runs/mae-small"),
    objective=MAEConfig(decoder_width=128, decoder_depth=2, decoder_heads=4),
)
