"""Judge one model on moving digits that it has not seen: rows of numbers with intervals, and films to look at."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, cast

import numpy as np
import torch
from scipy.stats import t

from rsp_robot.experiments.comparison.statistics import wilson_interval
from rsp_robot.experiments.digits.probes import clips_of, embedder, probe_speed, spread_of, tell_ways
from rsp_robot.pooling import pool
from rsp_robot.preprocessing import Preprocessing
from rsp_robot.pretrain.config import PretrainConfig
from rsp_robot.pretrain.objectives import Objective
from rsp_robot.pretrain.objectives.srvp import SRVP
from rsp_robot.pretrain.objectives.vj_vcr import VJVCR
from rsp_robot.video_metrics import best_scores, estimate
from rsp_robot.videos import MovingDigits

WAY, PSNR, SSIM, RANK, SPEED = "way", "psnr", "ssim", "rank", "speed"
AT_ONCE = 64
SHOWN = 3
"""Clips in the picture."""


@dataclass(frozen=True)
class Effort:
    """How much is looked at."""

    probe_clips: int = 1000
    """Clips that the probe of ways learns from."""
    speed_clips: int = 4000
    """Clips that the probe of velocities learns from: features are many."""
    test_clips: int = 500
    """Clips that they are measured on."""
    predicted_clips: int = 128
    """Clips that are predicted."""
    samples: int = 20
    """Futures of each; the best counts."""
    rank_frames: int = 256
    """Frames in each of the sets that RankMe is taken of."""


@dataclass(frozen=True)
class Row:
    """One number about one variant."""

    question: str
    """way, psnr, ssim, rank or speed."""
    variant: str
    value: float
    low: float
    """Of the 95 % interval, as ``high``."""
    high: float
    n: int
    """Clips, or sets of frames, that it is the mean of."""
    of: str = ""
    """What was looked at."""
    each: list[float] = field(default_factory=list)
    """The value of every clip, where variants are compared clip by clip."""


@dataclass(frozen=True)
class Film:
    """A row of the picture."""

    label: str
    frames: np.ndarray
    """uint8 ``(T, S, S, 3)``."""
    predicted_from: int
    """First frame that is a prediction; T where none is."""


@torch.no_grad()
def judge(name: str, config: PretrainConfig, model: Objective, effort: Effort, trained: bool = True) -> list[Row]:
    """Answer every question that can be asked of a model.

    Args:
        name: of the variant.
        config: what it was trained with.
        model: in evaluation mode.
        effort: how much is looked at.
        trained: whether its predictions mean anything.
    """
    size, encode = config.image_size, embedder(model.encoder())
    speed = probe_speed(encode, size, effort.speed_clips, effort.test_clips, config.seed)
    error = estimate(speed.errors)
    told, half = 1 - error.mean / speed.variance, error.half_width / speed.variance
    rows = [Row(SPEED, name, told, told - half, told + half, error.clips, f"MSE {error.mean:.2f}")]
    spread = spread_of(model.encoder(), size, effort.rank_frames, config.seed)
    mean, count = float(np.mean(spread.ranks)), len(spread.ranks)
    half = float(t.ppf(0.975, count - 1)) * float(np.std(spread.ranks, ddof=1)) / math.sqrt(count)
    rows.append(Row(RANK, name, mean, mean - half, mean + half, count, f"std {spread.std:.2g}"))
    if isinstance(model, VJVCR):
        rows.append(judge_way(name, config, model, effort))
    if isinstance(model, SRVP) and trained:
        rows += judge_prediction(name, config, model, effort)
    return rows


# -- VJ-VCR: which way? ------------------------------------------------------------------------------------------------


def judge_way(name: str, config: PretrainConfig, model: VJVCR, effort: Effort) -> Row:
    """Ask which way a digit went at the switch: the latent where there is one, else the prediction itself.

    The latent was found with the future in sight, the prediction without one saw the past only; in both cases a linear
    probe learns from other clips what means which way.
    """
    digits = {split: switch_digits(config, count, split) for split, count in _splits(effort).items()}
    told = {split: _evidence(config, model, clips) for split, clips in digits.items()}
    ways = {split: np.array([clips.truth(n).switched for n in range(clips.videos)]) for split, clips in digits.items()}
    right = tell_ways(told["train"], ways["train"], told["test"], config.seed) == ways["test"]
    bounds = wilson_interval(int(right.sum()), len(right))
    of = "the prediction" if model.config.latent == "none" else "the latent"
    return Row(WAY, name, float(right.mean()), bounds.low, bounds.high, len(right), of)


def _splits(effort: Effort) -> dict[str, int]:
    return {"train": effort.probe_clips, "test": effort.test_clips}


def switch_digits(config: PretrainConfig, clips: int, split: str) -> MovingDigits:
    """Return clips like those a model was trained on, of another seed."""
    trained = MovingDigits.parse(config.data)
    return MovingDigits(
        trained.motion, clips, trained.frames, trained.size, trained.digits, config.seed + 1, cast(Any, split)
    )


def _evidence(config: PretrainConfig, model: VJVCR, digits: MovingDigits) -> np.ndarray:
    """Latents ``(N, M)``, or predicted features (class token, mean of each quarter) of all future frames."""
    found = []
    for frames in _batches(config, model, digits):
        seen = model.see(frames)
        latent = model.infer(seen)
        if latent is None:
            predicted = model.predictor(seen.memory, None).flatten(0, 1)
            told = [pool(predicted, pooling) for pooling in ("cls", "grid2")]
            latent = torch.cat(told, dim=1).unflatten(0, (len(frames), -1)).flatten(1)
        found.append(latent.double().cpu())
    return torch.cat(found).numpy()


def _batches(config: PretrainConfig, model: Objective, digits: MovingDigits) -> Iterator[torch.Tensor]:
    """Clips of the frames that a sample holds, normalised: ``(B, K, 3, S, S)``."""
    spec, device = config.objective.frames, next(model.parameters()).device
    places = spec.draw(np.array([digits.frames]), np.array([10.0]), np.zeros((1, 2)))[0]
    preprocess = Preprocessing(config.image_size)
    for start in range(0, digits.videos, AT_ONCE):
        clips = clips_of(digits, range(start, min(start + AT_ONCE, digits.videos)), places)
        yield preprocess(clips.reshape(-1, *clips.shape[2:]), device).unflatten(0, clips.shape[:2])


@torch.no_grad()
def imagined_ways(config: PretrainConfig, model: VJVCR) -> list[list[Film]]:
    """Draw what a model with a decoder predicts: the truth, then one film per code, for a few unseen clips."""
    digits, preprocess = switch_digits(config, SHOWN, "test"), Preprocessing(config.image_size)
    frames, past = next(_batches(config, model, digits)), model.config.past
    seen, shown = model.see(frames), []
    codes = torch.eye(model.config.latent_size, device=frames.device)
    latents = [None] if model.config.latent == "none" else [code.expand(len(frames), -1) for code in codes]
    true = preprocess.denormalise(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
    for latent in latents:
        pictures = model.pictures(model.predictor(seen.memory, latent))
        shown.append(preprocess.denormalise(pictures.flatten(0, 1)).unflatten(0, pictures.shape[:2]))
    films = []
    for row in range(SHOWN):
        rows = [Film("truth", to_frames(true[row]), frames.shape[1])]
        for code, pictures in enumerate(shown):
            label = "no latent" if latents == [None] else f"code {code + 1}"
            rows.append(Film(label, to_frames(torch.cat([true[row, :past], pictures[row]])), past))
        films.append(rows)
    return films


# -- SRVP: prediction --------------------------------------------------------------------------------------------------


def judge_prediction(name: str, config: PretrainConfig, model: SRVP, effort: Effort) -> list[Row]:
    """PSNR and SSIM of the best of the samples, for each metric on its own."""
    target = _pixels(config, model, effort.predicted_clips)
    condition = model.config.condition
    samples = (_futures(model, target, config.seed + 100 + number) for number in range(effort.samples))
    best = best_scores(samples, target[:, condition:])
    rows = []
    for question, scores in best.items():
        found, each = estimate(scores), [round(float(score), 4) for score in scores]
        low, high = found.mean - found.half_width, found.mean + found.half_width
        of = f"best of {effort.samples}"
        rows.append(Row(question, name, found.mean, low, high, found.clips, of, each))
    return rows


def _pixels(config: PretrainConfig, model: SRVP, clips: int) -> torch.Tensor:
    """Unseen clips ``(N, T, C, 64, 64)`` in [0, 1]."""
    digits = switch_digits(config, clips, "test")
    return torch.cat([model.pixels(frames).transpose(0, 1) for frames in _batches(config, model, digits)])


def _futures(model: SRVP, clips: torch.Tensor, seed: int) -> torch.Tensor:
    """Predict once what follows the first frames of clips ``(N, T, C, 64, 64)``: ``(N, T - condition, ...)``."""
    settings, generator = model.config, torch.Generator().manual_seed(seed)
    ahead = clips.shape[1] - settings.condition
    parts = []
    for part in clips.split(AT_ONCE):
        first = torch.randn(len(part), settings.state_width, generator=generator).to(part.device)
        noise = torch.randn(len(part), clips.shape[1] - 1, settings.noise_width, generator=generator).to(part.device)
        seen = part[:, : settings.condition].transpose(0, 1)
        parts.append(model.predict(seen, ahead, first, noise).transpose(0, 1))
    return torch.cat(parts).clamp(0, 1)


@torch.no_grad()
def imagined_futures(config: PretrainConfig, model: SRVP, samples: int = 2) -> list[list[Film]]:
    """Draw the truth and a few predictions of a few unseen clips."""
    clips, condition = _pixels(config, model, SHOWN), model.config.condition
    futures = [_futures(model, clips, config.seed + 100 + number) for number in range(samples)]
    films = []
    for row in range(SHOWN):
        rows = [Film("truth", to_frames(clips[row]), clips.shape[1])]
        for number, future in enumerate(futures):
            whole = torch.cat([clips[row, :condition], future[row]])
            rows.append(Film(f"sample {number + 1}", to_frames(whole), condition))
        films.append(rows)
    return films


def to_frames(pictures: torch.Tensor) -> np.ndarray:
    """Pictures ``(T, C, S, S)`` in [0, 1], of one colour or three -> uint8 ``(T, S, S, 3)``."""
    coloured = pictures.expand(-1, 3, -1, -1).clamp(0, 1)
    return (255 * coloured).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def to_json(rows: list[Row]) -> list[dict[str, Any]]:
    """Plain values of rows."""
    return [asdict(row) for row in rows]


def from_json(stored: list[dict[str, Any]]) -> list[Row]:
    """Rows of plain values."""
    return [Row(**row) for row in stored]
