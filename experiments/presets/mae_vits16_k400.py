"""MAE on the frames of Kinetics-400: ViT-S/16, 400 epochs, by RSP's recipe.

Source:    He et al., Masked Autoencoders Are Scalable Vision Learners, CVPR 2022, for the objective; Jang et al., ICML
           2024, for the rest: the recipe that RSP was compared with it under.
Command:   torchrun --nproc-per-node 8 -m rsp_robot.experiments.cli pretrain --preset mae-vits16-k400
           --data data/kinetics400-train --out runs/mae-vits16-k400
Hardware:  GPUs that hold 3072 frames together, a quarter of their patches; --micro-batch accumulates gradients.
Hours:     unknown, not run here. About 39 GFLOP per frame and 96 million frames: some 3.7 EFLOP.
Expected:  DAVIS J&F 53.5, VIP mIoU 32.5, JHMDB PCK@0.1 43.0, Franka Kitchen 26.1 (as published; not reproduced here).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rsp_robot.experiments.presets.rsp_vits16_k400 import CONFIG as RSP
from rsp_robot.pretrain.objectives.mae import MAEConfig

CONFIG = replace(
    RSP,
    out=Path("runs/mae-vits16-k400"),
    objective=MAEConfig(),  # its defaults are the published ones
)
