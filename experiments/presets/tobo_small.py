"""ToBo, the token bottleneck, for about a hundred demonstrations on one machine without a GPU.

Source:    the preset rsp-small, with another objective.
Command:   rsp-robot pretrain --preset tobo-small --data data/push.hdf5 --out runs/tobo-small
Hardware:  2 CPU cores.
Hours:     docs/results.md, "Objectives", has the minutes of a shorter run.
Expected:  docs/results.md, "Objectives".
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rsp_robot.experiments.presets.rsp_small import CONFIG as RSP_SMALL
from rsp_robot.pretrain.objectives.token_bottleneck import ToBoConfig

CONFIG = replace(
    RSP_SMALL,
    out=Path("runs/tobo-small"),
    objective=ToBoConfig(decoder_width=128, decoder_depth=2, decoder_heads=4, min_gap=4, max_gap=16),
)
