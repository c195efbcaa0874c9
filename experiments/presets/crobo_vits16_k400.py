"""CroBo, the token bottleneck between two crops of a frame: ViT-S/16 on Kinetics-400, 400 epochs.

Source:    Lee et al., arXiv 2603.13904, for crops, mask and epochs; batch and learning rate are ToBo's.
Command:   torchrun --nproc-per-node 8 -m rsp_robot.experiments.cli pretrain --preset crobo-vits16-k400
           --data data/kinetics400-train --out runs/crobo-vits16-k400
Hardware:  GPUs that hold 3072 frames together; published were two H200.
Hours:     about 22 minutes per epoch on those two, as published; not run here. About 63 GFLOP per frame and 96 million
           frames: some 6 EFLOP.
Expected:  Franka Kitchen 71.7 (as published; not reproduced here).
"""

from __future__ import annotations

from pathlib import Path

from rsp_robot.pretrain.config import PretrainConfig
from rsp_robot.pretrain.objectives.crop_bottleneck import CroBoConfig

CONFIG = PretrainConfig(
    data="data/kinetics400-train",
    out=Path("runs/crobo-vits16-k400"),
    arch="vit-small",
    image_size=224,
    patch_size=16,
    objective=CroBoConfig(),  # its defaults are the published ones
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
