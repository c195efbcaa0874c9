"""SRVP for about a hundred demonstrations on one machine without a GPU.

Source:    the preset rsp-small, with another objective and
           networks of a quarter of the published widths.
Command:   rsp-robot pretrain --preset srvp-small --data data/push.hdf5 --out runs/srvp-small
Hardware:  2 CPU cores.
Hours:     docs/results.md, "Objectives", has the minutes of a shorter run.
Expected:  docs/results.md, "Objectives".
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rsp_robot.experiments.presets.rsp_small import CONFIG as RSP_SMALL
from rsp_robot.pretrain.objectives.srvp import SRVPConfig

CONFIG = replace(
    RSP_SMALL,
    out=Path("runs/srvp-small"),
    objective=SRVPConfig(
        architecture="dcgan",
        filters=16,
        state_width=16,
        noise_width=16,
        inference_width=64,
        residual_width=128,
        length=8,
        stride=2,
    ),
)
