"""MAE on demonstrations of fifty-one table-top tasks, with the budget of rsp-tabletop.

Source:    the preset rsp-tabletop, with the objective of mae-small.
Command:   rsp-robot corpus tabletop --out data/tabletop
           rsp-robot pretrain --preset mae-tabletop --out runs/mae-tabletop --data
           data/tabletop/packed/metaworld=0.8,data/tabletop/packed/robosuite=0.15,data/tabletop/packed/fetch=0.05
Hardware:  2 CPU cores.
Hours:     docs/tabletop.md.
Expected:  docs/results.md, "An encoder in the box".
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rsp_robot.experiments.presets.mae_small import CONFIG as MAE_SMALL
from rsp_robot.experiments.presets.rsp_tabletop import CONFIG as RSP_TABLETOP

CONFIG = replace(RSP_TABLETOP, out=Path("runs/mae-tabletop"), objective=MAE_SMALL.objective)
