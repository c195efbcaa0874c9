"""V-JEPA as published: ViT-L/16 on two million videos, 90,000 steps.

Source:    Bardes et al., Revisiting Feature Prediction for Learning Visual Representations from Video, 2024, and the
           configuration vitl16 of its release.
Command:   torchrun --nproc-per-node 8 -m rsp_robot.experiments.cli pretrain --preset vjepa-vitl16
           --data data/kinetics710,data/ssv2,data/howto100m --out runs/vjepa-vitl16
Hardware:  published: 128 GPUs with 24 clips each. With fewer, --micro-batch 24 accumulates gradients.
Hours:     unknown, not run here.
Expected:  K400 80.8, SSv2 69.5, IN1K 74.8, Places205 60.3 by attentive probes on frozen features (as published; not
           reproduced here).

Data:      VideoMix2M: Kinetics-710, Something-Something v2 and HowTo100M. Its lists of videos are not public.
Rate:      2e-4, rising to 6.25e-4 in 40 of the 300 "epochs" of 300 steps, towards 1e-6 on half a cosine. The peak is
           base_lr x batch_size / 256.
Otherwise: the release cuts the gradients of encoder and predictor apart, and only after the warm-up; here they are cut
           together, from the first step. Its crops go up to an aspect of 1.35, ours to 4/3. It scales losses although
           bf16 does not need it. Block sizes are drawn for each micro-batch here, for each batch of a GPU there.
"""

from __future__ import annotations

from pathlib import Path

from rsp_robot.pretrain.config import PretrainConfig
from rsp_robot.pretrain.objectives.vjepa import VideoJEPAConfig

CONFIG = PretrainConfig(
    data="data/kinetics710,data/ssv2,data/howto100m",
    out=Path("runs/vjepa-vitl16"),
    arch="vit-large",
    image_size=224,
    patch_size=16,
    objective=VideoJEPAConfig(rescaled_init=False),  # the other defaults are the published ones
    steps=90_000,
    batch_size=3072,
    base_lr=6.25e-4 * 256 / 3072,  # peak 6.25e-4
    start_lr=2e-4 / 6.25e-4,
    final_lr=1e-6 / 6.25e-4,
    warmup=40 / 300,
    weight_decay=0.04,
    final_weight_decay=0.4,
    stretch=1.25,
    beta2=0.999,
    clip_grad=10.0,
    min_crop=0.3,
    flip=True,
    same_augmentation=True,
    precision="bf16",
    compile=True,
    log_every=50,
    checkpoint_every=1500,
    keep_last=2,
    keep_every=15_000,
)
