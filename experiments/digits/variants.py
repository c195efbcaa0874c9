"""What is trained on moving digits: the variants by name, each a pretraining run of this project's own engine."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from rsp_robot.pretrain.config import PretrainConfig
from rsp_robot.pretrain.objectives.srvp import SRVPConfig
from rsp_robot.pretrain.objectives.vj_vcr import VJVCRConfig

QUICK_SHARE = 0.1
"""Steps of a quick look, as a share of the whole run's."""


@dataclass(frozen=True)
class Variant:
    """One run, and what it is there for."""

    name: str
    says: str
    """What it is, in a few words for the table."""
    config: PretrainConfig


_SMALL = PretrainConfig(
    data="digits:switch:1/2000x9@32#0",
    out=Path(),
    arch="vit-pico",
    image_size=32,
    patch_size=8,
    steps=1000,
    batch_size=32,
    base_lr=2e-3 * 256 / 32,
    min_crop=1.0,
    flip=False,
    keep_last=1,
    objective=VJVCRConfig(
        past=2,
        future=3,
        stride=2,
        target="both",
        latent="discrete",
        latent_size=2,
        latent_explore=0.1,
        predictor_width=64,
        predictor_depth=2,
        predictor_heads=4,
        decoder_depth=1,
    ),
)
"""VJ-VCR: two frames before the switch, three after it; the latent is one of two codes."""

_SRVP = PretrainConfig(
    data="digits:stochastic:1/2000x15@64#0",
    out=Path(),
    image_size=64,
    steps=1200,
    batch_size=16,
    base_lr=1e-3 * 256 / 16,
    warmup=0.02,
    hold=0.7,
    lr_decay="linear",
    weight_decay=0.0,
    beta2=0.999,
    min_crop=1.0,
    flip=False,
    keep_last=1,
    objective=SRVPConfig(
        architecture="dcgan",
        channels=1,
        filters=16,
        skip=False,
        code_width=64,
        state_width=16,
        noise_width=16,
        inference_width=64,
        residual_width=128,
        residual_depth=3,
        euler_steps=1,
        length=12,
        observed=3,
        condition=4,
        obs_std=0.4,
    ),
)
"""SRVP: a prediction of eight frames from four."""


_FEATURES = replace(_SMALL, steps=300, objective=replace(_SMALL.objective, target="features"))  # type: ignore[call-arg]
"""VJ-VCR without a decoder, which alone would keep features from collapsing; a third of the steps shows it."""


def _changed(name: str, says: str, config: PretrainConfig, **changed: object) -> Variant:
    return Variant(name, says, replace(config, objective=replace(config.objective, **changed)))


VARIANTS = {
    variant.name: variant
    for variant in (
        Variant("vj-vcr", "VJ-VCR, a latent of 2 codes", _SMALL),
        _changed("vj-vcr-no-latent", "VJ-VCR without latent", _SMALL, latent="none"),
        _changed("generative", "pixels only, without latent", _SMALL, target="pixels", latent="none"),
        Variant("vj-vcr-features", "VJ-VCR without decoder", _FEATURES),
        _changed("vj-vcr-no-variance", "the same without variance term", _FEATURES, variance_weight=0.0),
        Variant("srvp", "SRVP", _SRVP),
        _changed("srvp-no-noise", "SRVP without z", _SRVP, latent="none"),
    )
}


def settled(variant: Variant, out: Path, quick: bool, seed: int, device: str) -> PretrainConfig:
    """Return the run of a variant in a folder."""
    steps = max(1, round(variant.config.steps * (QUICK_SHARE if quick else 1)))
    rhythm = {"log_every": max(1, steps // 20), "checkpoint_every": max(1, steps // 5)}
    return replace(variant.config, out=out / variant.name, steps=steps, seed=seed, device=device, **rhythm)  # type: ignore[arg-type]
