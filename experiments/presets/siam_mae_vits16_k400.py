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

from pathlib import Path

from rsp_robot.pretrain.config import PretrainConfig
from rsp_robot.pretrain.objectives.siam_mae import SiamMAEConfig

CONFIG = PretrainConfig(
    data="data/kinetics400-train",
    out=Path("runs/siam-mae-vits16-k400"),
    arch="vit-small",
    image_size=224,
    patch_size=16,
    objective=SiamMAEConfig(),  # its defaults are the published ones
    epochs=400,
    batch_size=2048,
    base_lr=1e-4,  # peak 8e-4
    warmup=0.1,
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
