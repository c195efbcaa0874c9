"""The training loop: one process, any objective on frame pairs, resumable to the same weights."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from rsp_robot.backbones.vit import vit_config
from rsp_robot.devices import pick_device
from rsp_robot.errors import UserError
from rsp_robot.files import atomic_path
from rsp_robot.preprocessing import Preprocessing
from rsp_robot.pretrain.augment import crop_and_flip, draw_boxes
from rsp_robot.pretrain.monitors import token_ranks
from rsp_robot.pretrain.objectives.rsp import RSP, RSPConfig
from rsp_robot.pretrain.pairs import FramePairs
from rsp_robot.pretrain.schedule import lr_factor, parameter_groups, scaled_lr
from rsp_robot.progress import Progress
from rsp_robot.run_folder import RunFolder, plain
from rsp_robot.videos import open_videos

MONITORED_FRAMES = 256


@dataclass(frozen=True)
class PretrainConfig:
    """Pretrain a visual encoder with RSP on demonstration videos."""

    data: Path
    """An HDF5 demonstration file, a video file, or a folder of videos."""
    out: Path
    """The run folder to write."""
    camera: str | None = None
    """Camera of a demonstration file; the first by default."""
    arch: str = "vit-small"
    """vit-nano, vit-tiny, vit-small, vit-base or vit-large."""
    image_size: int = 224
    """Side of the encoder's input in pixels."""
    patch_size: int = 16
    """Side of a patch in pixels."""
    rsp: RSPConfig = field(default_factory=RSPConfig)
    """The objective."""
    steps: int = 20_000
    """Optimiser steps."""
    batch_size: int = 256
    """Frame pairs per step."""
    base_lr: float = 1.5e-4
    """Learning rate for a batch of 256; the rate used is base_lr x batch_size / 256."""
    warmup: float = 0.1
    """Share of the steps in which the learning rate rises from zero."""
    weight_decay: float = 0.05
    """AdamW's weight decay, on matrices only."""
    min_crop: float = 0.5
    """Smallest area of the random crop as a share of the picture; 1 turns it off."""
    flip: bool = True
    """Mirror half of the samples."""
    pooling: str = "cls"
    """Pooling of the exported encoder: cls, mean, cls+mean or grid<k>."""
    seed: int = 0
    """Decides initial weights, pairs, crops, masks, noise and latents."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:<index>."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of the forward pass; bf16 uses autocast."""
    checkpoint_every: int = 500
    """Steps between checkpoints."""
    log_every: int = 50
    """Steps between rows of metrics.jsonl."""
    resume: bool = False
    """Go on with the run in ``out``."""


def build_objective(config: PretrainConfig) -> RSP:
    """Make the model with weights drawn from the seed."""
    with torch.random.fork_rng(devices=[]):  # layers draw from the global generator: leave it as it was
        torch.manual_seed(config.seed)
        return RSP(vit_config(config.arch, config.image_size, config.patch_size), config.rsp)


def pretrain(config: PretrainConfig) -> Path:
    """Train, export ``encoder/`` into the run folder and return the run folder. A finished run returns at once.

    Raises:
        UserError: the data, the settings or the run folder do not allow it; see the message.
    """
    device = pick_device(config.device)
    if config.resume and (config.out / "encoder" / "config.json").exists():
        return RunFolder.open(config.out, _identity(config), resume=True).path
    # Data and settings are looked at before the folder is made: a mistake leaves nothing behind.
    pairs = FramePairs(open_videos(config.data, config.camera), config.rsp.min_gap, config.rsp.max_gap)
    model = build_objective(config).to(device)
    run = RunFolder.open(config.out, _identity(config), resume=config.resume)
    _train(config, model, pairs, run, device)
    encoder = model.encoder(config.pooling)
    encoder.provenance |= {"data": str(config.data), "steps": config.steps, "seed": config.seed}
    encoder.save(run.path / "encoder")
    run.close()
    return run.path


def load_objective(run: Path, config: PretrainConfig, device: torch.device) -> RSP:
    """Load the latest checkpoint of a run as a model in evaluation mode.

    Raises:
        UserError: there is no checkpoint.
    """
    model = build_objective(config).to(device)
    if not _restore(run / "checkpoints" / "last.pt", model, None, device):
        raise UserError(f"{run} has no checkpoint; pretrain first")
    return model.eval()


def _identity(config: PretrainConfig) -> dict[str, Any]:
    """Return what makes two runs the same run, wherever they are started from."""
    kept = {key: value for key, value in plain(config).items() if key not in ("out", "resume", "device")}
    return kept | {"data": str(config.data.resolve())}


def _train(config: PretrainConfig, model: RSP, pairs: FramePairs, run: RunFolder, device: torch.device) -> None:
    optimizer = torch.optim.AdamW(
        parameter_groups(model, config.weight_decay), betas=(0.9, 0.95), fused=True, lr=torch.tensor(0.0)
    )
    checkpoint = run.checkpoints / "last.pt"
    first = _restore(checkpoint, model, optimizer, device)
    run.forget_after(first)
    peak, warmup = scaled_lr(config.base_lr, config.batch_size), int(config.warmup * config.steps)
    monitored = pairs.spread(min(MONITORED_FRAMES, pairs.frames))
    with Progress("pretrain RSP", total=config.steps, unit="steps", done=first) as bar:
        for step in range(first, config.steps):
            rate = peak * lr_factor(step + 1, config.steps, warmup)
            for group in optimizer.param_groups:
                group["lr"].fill_(rate)
            logged = (step + 1) % config.log_every == 0 or step + 1 == config.steps
            losses = _step(config, model, optimizer, pairs, step, device, log_prior=logged)
            if logged:
                numbers = {name: float(value) for name, value in losses.items()}
                # The ranks look at the weights after the step: they may be lost where the loss before it was not.
                numbers |= _ranks(model, config, monitored, device)
                if not np.isfinite(list(numbers.values())).all():
                    raise UserError(
                        f"training diverged at step {step + 1} (loss {numbers['loss']:.3g}); lower --base-lr"
                    )
                run.log(step + 1, **numbers, lr=rate)
                bar.update(1, loss=numbers["loss"], kl=numbers["kl"])
            else:
                bar.update(1)
            if (step + 1) % config.checkpoint_every == 0 or step + 1 == config.steps:
                _save(checkpoint, model, optimizer, step + 1)


def _step(
    config: PretrainConfig,
    model: RSP,
    optimizer: torch.optim.Optimizer,
    pairs: FramePairs,
    step: int,
    device: torch.device,
    log_prior: bool,
) -> dict[str, torch.Tensor]:
    # Every step draws from generators of its own, so a resumed run draws what the undisturbed one would have drawn.
    rng = np.random.default_rng([config.seed, step])
    generator = torch.Generator(device).manual_seed(int(rng.integers(2**62)))
    current, future = augment_pair(config, *pairs.sample(config.batch_size, rng), rng, device)
    half = torch.autocast(device.type, torch.bfloat16) if config.precision == "bf16" else nullcontext()
    with half:
        losses: dict[str, torch.Tensor] = model(current, future, generator=generator, log_prior=log_prior)
    losses["loss"].backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return {name: value.detach() for name, value in losses.items()}


def augment_pair(
    config: PretrainConfig, current: np.ndarray, future: np.ndarray, rng: np.random.Generator, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Crop and flip both frames of a pair alike, normalise: two uint8 ``(B, H, W, 3)`` -> two ``(B, 3, S, S)``."""
    draws = torch.Generator().manual_seed(int(rng.integers(2**62)))
    batch = len(current)
    boxes = draw_boxes(batch, draws, scale=(config.min_crop, 1.0)) if config.min_crop < 1 else _whole(batch)
    flip = torch.rand(batch, generator=draws) < (0.5 if config.flip else 0.0)
    frames = torch.from_numpy(np.concatenate([current, future])).to(device).permute(0, 3, 1, 2).float()
    cropped = crop_and_flip(frames, boxes.repeat(2, 1), flip.repeat(2), config.image_size)
    first, second = Preprocessing(config.image_size).normalise(cropped).chunk(2)
    return first, second


def _whole(batch: int) -> torch.Tensor:
    return torch.tensor([0.0, 0.0, 1.0, 1.0]).repeat(batch, 1)


def _ranks(model: RSP, config: PretrainConfig, frames: np.ndarray, device: torch.device) -> dict[str, float]:
    with torch.no_grad():
        return token_ranks(model.backbone(Preprocessing(config.image_size)(frames, device)))


def _save(path: Path, model: RSP, optimizer: torch.optim.Optimizer, step: int) -> None:
    with atomic_path(path) as temporary:
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}, temporary)


def _restore(path: Path, model: RSP, optimizer: torch.optim.Optimizer | None, device: torch.device) -> int:
    if not path.exists():
        return 0
    state = torch.load(path, map_location=device, weights_only=True)
    model.load_state_dict(state["model"])
    if optimizer is not None:
        optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])
