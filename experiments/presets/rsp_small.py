"""RSP for about a hundred demonstrations on one machine without a GPU.

Source:    a sweep (docs/results.md, "A preset for small data").
Command:   rsp-robot pretrain --preset rsp-small --data data/push.hdf5 --out runs/rsp-small
Hardware:  2 CPU cores.
Hours:     0.1.
Expected:  with --holdout 0.2, probe of the actions 0.72 (random weights 0.50, proprioception alone 0.41); 44 of 50
           episodes of push after cloning.
"""

from __future__ import annotations

from pathlib import Path

from rsp_robot.pretrain.config import PretrainConfig
from rsp_robot.pretrain.objectives.rsp import RSPConfig

CONFIG = PretrainConfig(
    data="data/push.hdf5",
    out=Path("runs/rsp-small"),
    arch="vit-nano",
    image_size=64,
    patch_size=16,
    objective=RSPConfig(decoder_width=128, decoder_depth=2, decoder_heads=4, min_gap=4, max_gap=16),
    steps=2000,
    batch_size=32,
    base_lr=6.4e-3,  # peak 8e-4
    min_crop=0.7,
    flip=False,  # a mirrored robot is another robot
    holdout=0.1,
    probe_every=200,
    log_every=40,
    checkpoint_every=200,
)
