"""RSP as published: ViT-S/16 on Kinetics-400, 400 epochs.

Source:    Jang et al., Visual Representation Learning with Stochastic Frame Prediction, ICML 2024, and its release.
Command:   torchrun --nproc-per-node 8 -m rsp_robot.experiments.cli pretrain --preset rsp-vits16-k400
           --data data/kinetics400-train --out runs/rsp-vits16-k400
Hardware:  GPUs that hold 1536 videos x 2 pairs together; with less memory --micro-batch accumulates gradients.
Hours:     unknown, not run here. About 150 GFLOP per pair and 96 million pairs: some 14 EFLOP.
Expected:  DAVIS J&F 60.1, VIP mIoU 33.8, JHMDB PCK@0.1 44.6 (label propagation, as published; not reproduced here).

Data:      the 240 thousand training videos, short side 256. Gaps are in raw frames, whatever the frame rate.
Precision: the published run used fp16 with loss scaling. bf16 has the range of fp32: it needs no scaling and no step is
           lost to it, at the same speed; --precision fp16 is the published arithmetic.
"""

from __future__ import annotations

from pathlib import Path

from rsp_robot.pretrain.config import PretrainConfig
from rsp_robot.pretrain.objectives.rsp import RSPConfig

CONFIG = PretrainConfig(
    data="data/kinetics400-train",
    out=Path("runs/rsp-vits16-k400"),
    arch="vit-small",
    image_size=224,
    patch_size=16,
    objective=RSPConfig(),  # its defaults are the published ones
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
    keep_every=8000,  # about every 50 of the 200 visits
)
