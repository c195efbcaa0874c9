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

from pathlib import Path

from rsp_robot.pretrain.config import PretrainConfig
from rsp_robot.pretrain.objectives.mae import MAEConfig

CONFIG = PretrainConfig(
    data="data/kinetics400-train",
    out=Path("runs/mae-vits16-k400"),
    arch="vit-small",
    image_size=224,
    patch_size=16,
    objective=MAEConfig(),  # its defaults are the published ones
    epochs=400,
    repeated_sampling=2,  # so 200 visits of every video
    batch_size=1536,
    base_lr=1.5e-4,  # peak 9e-4
    warmup=0.1,  # 40 of the 400 epochs
    weight_decay=0.05,
    min_crop=0.5,
    flip=True,
    same_augmentation=True,
    precision="bf16",
    compile=True,
    log_every=50,
    checkpoint_every=1000,
    keep_last=2,
    keep_every=8000,
)
