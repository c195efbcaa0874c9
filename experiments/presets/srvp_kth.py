"""SRVP as published on KTH: people who walk, wave and box, in grey.

Source:    Franceschi et al., Stochastic Latent Residual Video Prediction, ICML 2020, and its release.
Command:   rsp-robot pretrain --preset srvp-kth --data data/kth --out runs/srvp-kth
Hardware:  one GPU.
Hours:     unknown, not run here: 200 thousand steps.
Expected:  10 frames seen and 30 predicted, best of 100 samples: PSNR 29.69, LPIPS 0.0736; FVD 222 (as published; not
           reproduced here).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rsp_robot.experiments.presets.srvp_bair import CONFIG as SRVP_BAIR
from rsp_robot.pretrain.objectives.srvp import SRVPConfig

CONSTANT, FALLING = 150_000, 50_000
"""Steps at the peak of the learning rate, and those in which it falls to 0."""

CONFIG = replace(
    SRVP_BAIR,
    data="data/kth",
    out=Path("runs/srvp-kth"),
    objective=SRVPConfig(
        architecture="vgg",
        channels=1,
        skip=True,
        state_width=50,
        noise_width=50,
        residual_gain=1.2,
        euler_steps=2,
        length=20,
        observed=3,
        condition=10,
        obs_std=0.2,
    ),
    steps=CONSTANT + FALLING,
    batch_size=100,
    base_lr=7.68e-4,  # peak 3e-4
    hold=CONSTANT / (CONSTANT + FALLING),
)
