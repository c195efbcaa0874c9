"""SRVP as published on BAIR: a robot arm that pushes things at random.

Source:    Franceschi et al., Stochastic Latent Residual Video Prediction, ICML 2020, and its release.
Command:   rsp-robot pretrain --preset srvp-bair --data data/bair --out runs/srvp-bair
Hardware:  one GPU.
Hours:     unknown, not run here: 1.5 million steps.
Expected:  2 frames seen and 28 predicted, best of 100 samples: PSNR 19.59, LPIPS 0.0574; FVD 163 (as published; not
           reproduced here).
"""

from __future__ import annotations

from pathlib import Path

from rsp_robot.pretrain.config import PretrainConfig
from rsp_robot.pretrain.objectives.srvp import SRVPConfig

CONSTANT, FALLING = 1_000_000, 500_000
"""Steps at the peak of the learning rate, and those in which it falls to 0."""

CONFIG = PretrainConfig(
    data="data/bair",
    out=Path("runs/srvp-bair"),
    image_size=64,
    objective=SRVPConfig(),  # its defaults are the published ones for these videos
    steps=CONSTANT + FALLING,
    batch_size=192,
    base_lr=4e-4,  # peak 3e-4
    warmup=0.0,
    hold=CONSTANT / (CONSTANT + FALLING),
    lr_decay="linear",
    weight_decay=0.0,
    beta2=0.999,
    min_crop=1.0,
    flip=False,
    log_every=500,
    checkpoint_every=10_000,
)
