"""ToBo, the token bottleneck, as published: ViT-S/16 on Kinetics-400, 400 epochs.

Source:    Kim et al., Token Bottleneck: One Token to Remember Dynamics, 2025, and its release; RSP's recipe.
Command:   torchrun --nproc-per-node 8 -m rsp_robot.experiments.cli pretrain --preset tobo-vits16-k400
           --data data/kinetics400-train --out runs/tobo-vits16-k400
Hardware:  GPUs that hold 1536 videos x 2 pairs together; with less memory --micro-batch accumulates gradients.
Hours:     unknown, not run here. About 107 GFLOP per pair and 96 million pairs: some 10 EFLOP.
Expected:  Franka Kitchen 68.0, DAVIS J&F 60.6, VIP mIoU 34.0, JHMDB PCK@0.1 47.0 (as published; not reproduced here).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rsp_robot.experiments.presets.rsp_vits16_k400 import CONFIG as RSP
from rsp_robot.pretrain.objectives.token_bottleneck import ToBoConfig

CONFIG = replace(
    RSP,
    out=Path("runs/tobo-vits16-k400"),
    objective=ToBoConfig(),  # its defaults are the published ones
)
