"""SRVP on demonstrations of fifty-one table-top tasks, with the budget of rsp-tabletop.

Source:    the preset rsp-tabletop, with the objective of srvp-small, at the 64 px that its networks take, in bfloat16.
Command:   rsp-robot corpus tabletop --out data/tabletop
           rsp-robot pretrain --preset srvp-tabletop --out runs/srvp-tabletop --data
           data/tabletop/packed/metaworld=0.8,data/tabletop/packed/robosuite=0.15,data/tabletop/packed/fetch=0.05
Hardware:  2 CPU cores.
Hours:     docs/tabletop.md.
Expected:  docs/results.md, "An encoder in the box".
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rsp_robot.experiments.presets.rsp_tabletop import CONFIG as RSP_TABLETOP
from rsp_robot.experiments.presets.srvp_small import CONFIG as SRVP_SMALL

CONFIG = replace(
    RSP_TABLETOP,
    out=Path("runs/srvp-tabletop"),
    objective=SRVP_SMALL.objective,
    image_size=SRVP_SMALL.image_size,
    precision="bf16",
)
