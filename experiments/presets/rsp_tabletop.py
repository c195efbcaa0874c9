"""RSP on demonstrations of fifty-one table-top tasks: the recipe of the encoder `rsp-robot/small`.

Source:    the preset rsp-small, at 96 px, with four times the steps.
Command:   rsp-robot corpus tabletop --out data/tabletop
           rsp-robot pretrain --preset rsp-tabletop --out runs/rsp-tabletop --data
           data/tabletop/packed/metaworld=0.8,data/tabletop/packed/robosuite=0.15,data/tabletop/packed/fetch=0.05
Hardware:  2 CPU cores.
Hours:     docs/tabletop.md.
Expected:  docs/results.md, "An encoder in the box".
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rsp_robot.experiments.presets.rsp_small import CONFIG as RSP_SMALL

PACKED = "data/tabletop/packed"
CONFIG = replace(
    RSP_SMALL,
    data=f"{PACKED}/metaworld=0.8,{PACKED}/robosuite=0.15,{PACKED}/fetch=0.05",
    out=Path("runs/rsp-tabletop"),
    image_size=96,
    steps=8192,
    holdout=0.0,
    probe_every=None,  # packed frames have no actions
    log_every=64,
    checkpoint_every=512,
    keep_doublings=True,  # how much pretraining is enough?
)
