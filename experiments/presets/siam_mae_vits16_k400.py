"""SiamMAE: ViT-S/16 on Kinetics-400, 400 epochs.

Source:    Gupta et al., Siamese Masked Autoencoders, NeurIPS 2023, by the settings of CropMAE's re-implementation; no
           official code is known. The warm-up is RSP's.
Command:   torchrun --nproc-per-node 8 -m rsp_robot.experiments.cli pretrain --preset siam-mae-vits16-k400
           --data data/kinetics400-train --out runs/siam-mae-vits16-k400
Hardware:  GPUs that hold 2048 pairs together; with less memory --micro-batch accumulates gradients.
Hours:     unknown, not run here. About 35 GFLOP per pair and 96 million pairs: some 3.4 EFLOP.
Expected:  DAVIS J&F 58.1, VIP mIoU 33.3, JHMDB PCK@0.1 44.7, Franka Kitchen 30.4 (as published; not reproduced here).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rsp_robot.experiments.presets.rsp_vits16_k400 import CONFIG as RSP
from rsp_robot.pretrain.objectives.siam_mae import SiamMAEConfig

CONFIG = replace(
    RSP,
    out=Path("runs/siam-mae-vits16-k400"),
    objective=SiamMAEConfig(),  # its defaults are the published ones
    repeated_sampling=1,
    batch_size=2048,
    base_lr=1e-4,  # peak 8e-4
)
