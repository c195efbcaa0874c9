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

from dataclasses import replace
from pathlib import Path

from rsp_robot.experiments.presets.rsp_vits16_k400 import CONFIG as RSP
from rsp_robot.pretrain.objectives.crop_bottleneck import CroBoConfig

CONFIG = replace(
    RSP,
    out=Path("runs/crobo-vits16-k400"),
    objective=CroBoConfig(),  # its defaults are the published ones
)
