"""SRVP as published on stochastic Moving MNIST: two digits that leave the walls at random.

Source:    Franceschi et al., Stochastic Latent Residual Video Prediction, ICML 2020, and its release.
Command:   rsp-robot pretrain --preset srvp-smmnist-dcgan --data digits:stochastic:2/60000x15
           --out runs/srvp-smmnist-dcgan
Hardware:  one GPU.
Hours:     unknown, not run here: 1.1 million steps.
Expected:  on Moving MNIST, 5 frames seen and 20 predicted, best of 100 samples: PSNR 16.93, SSIM 0.7799 (as published;
           not reproduced here).

Data:      the digits here are scikit-learn's, not MNIST's: numbers are not comparable with the published ones. Films of
           MNIST's digits are given as --data FOLDER.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rsp_robot.experiments.presets.srvp_bair import CONFIG as SRVP_BAIR
from rsp_robot.pretrain.objectives.srvp import SRVPConfig

CONSTANT, FALLING = 1_000_000, 100_000
"""Steps at the peak of the learning rate, and those in which it falls to 0."""

CONFIG = replace(
    SRVP_BAIR,
    data="digits:stochastic:2/60000x15",
    out=Path("runs/srvp-smmnist-dcgan"),
    objective=SRVPConfig(
        architecture="dcgan",
        channels=1,
        skip=False,
        state_width=20,
        noise_width=20,
        euler_steps=1,
        length=15,
        observed=5,
        condition=5,
        obs_std=1.0,
        beta_z=2.0,
    ),
    steps=CONSTANT + FALLING,
    batch_size=128,
    base_lr=6e-4,  # peak 3e-4
    hold=CONSTANT / (CONSTANT + FALLING),
)
