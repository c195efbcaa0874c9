"""ToBo, the token bottleneck, on demonstrations of fifty-one table-top tasks, with the budget of rsp-tabletop.

Source:    the preset rsp-tabletop, with the objective of tobo-small.
Command:   rsp-robot corpus tabletop --out data/tabletop
           rsp-robot pretrain --preset tobo-tabletop --out runs/tobo-tabletop --data
           data/tabletop/packed/metaworld=0.8,data/tabletop/packed/robosuite=0.15,data/tabletop/packed/fetch=0.05
Hardware:  2 CPU cores.
Hours:     docs/tabletop.md.
Expected:  docs/results.md, "An encoder in the box".
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rsp_robot.experiments.presets.rsp_tabletop import CONFIG as RSP_TABLETOP
from rsp_robot.experiments.presets.tobo_small import CONFIG as TOBO_SMALL

CONFIG = replace(RSP_TABLETOP, out=Path("runs/tobo-tabletop"), objective=TOBO_SMALL.objective)
