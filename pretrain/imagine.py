"""Draw what an RSP model imagines: the current frame, its true future, and futures decoded from posterior and prior."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image, ImageDraw

from rsp_robot.devices import pick_device
from rsp_robot.errors import UserError
from rsp_robot.files import atomic_path, write_json
from rsp_robot.preprocessing import Preprocessing
from rsp_robot.pretrain.latents import sample_one_hot
from rsp_robot.pretrain.masking import patchify, unpatchify
from rsp_robot.pretrain.objectives.rsp import RSP, RSPConfig
from rsp_robot.pretrain.pairs import FramePairs
from rsp_robot.pretrain.train import PretrainConfig, load_objective
from rsp_robot.videos import open_videos

CAPTION = (
    "Each row is one pair of frames {gap} frames apart: the current frame, its true future, the future decoded from "
    "the posterior (which saw the noised future), and {samples} futures decoded from the prior (which did not). Every "
    "patch is predicted up to its mean and contrast; the true ones are used to show it."
)


@dataclass(frozen=True)
class ImagineConfig:
    """Draw the futures that a pretrained RSP model imagines."""

    run: Path
    """Run folder of `rsp-robot pretrain`."""
    out: Path | None = None
    """The picture to write; by default ``media/imagined.png`` in the run folder."""
    data: Path | None = None
    """Videos to draw from; by default those of the run."""
    camera: str | None = None
    """Camera of a demonstration file; by default that of the run."""
    rows: int = 4
    """Pairs of frames to draw."""
    gap: int | None = None
    """Frames between current and future; by default the largest of the run that a video is long enough for."""
    samples: int = 4
    """Futures to draw from the prior."""
    seed: int = 0
    """Decides the frames and the samples."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:<index>."""

    def __post_init__(self) -> None:
        if self.rows < 1 or self.samples < 0 or (self.gap is not None and self.gap < 1):
            raise UserError("rows and gap must be at least 1, samples at least 0; correct the settings")


def imagine(config: ImagineConfig) -> Path:
    """Write the picture and, beside it, a JSON file with its caption and the errors of what it shows.

    Raises:
        UserError: the run has no checkpoint, or no video is long enough for the gap.
    """
    trained = read_config(config.run)
    device = pick_device(config.device)
    model = load_objective(config.run, trained, device)
    source = open_videos(config.data or trained.data, config.camera or trained.camera)
    pairs = FramePairs(source, 1, 1)
    gap = config.gap or min(trained.rsp.max_gap, max(pairs.lengths) - 1)
    current, future = choose_pairs(pairs, config.rows, gap, config.seed)
    generator = torch.Generator(device).manual_seed(config.seed)
    size = trained.image_size
    columns, errors = imagine_futures(model, current, future, config.samples, generator)
    names = ["current", "future", "posterior", *(f"prior {i + 1}" for i in range(config.samples))]
    path = config.out or config.run / "media" / "imagined.png"
    with atomic_path(path) as temporary:
        draw_grid(columns, names, max(1, 128 // size)).save(temporary, format="PNG")
    caption = CAPTION.format(gap=gap, samples=config.samples)
    write_json(path.with_suffix(".json"), {"caption": caption, "gap": gap, "seed": config.seed, **errors})
    return path


def read_config(run: Path) -> PretrainConfig:
    """Read the configuration that a run folder of `rsp-robot pretrain` was made with.

    Raises:
        UserError: the folder holds no such run.
    """
    try:
        stored: dict[str, Any] = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
        rsp = RSPConfig(**stored.pop("rsp"))
        return PretrainConfig(**{**stored, "rsp": rsp, "data": Path(stored["data"]), "out": run})
    except (OSError, AttributeError, KeyError, TypeError, yaml.YAMLError):
        raise UserError(f"{run} is not a run folder of `rsp-robot pretrain`; give one") from None


def choose_pairs(pairs: FramePairs, rows: int, gap: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Pick ``rows`` pairs from different videos where possible: two uint8 ``(rows, H, W, 3)``.

    Raises:
        UserError: no video is long enough for the gap.
    """
    rng = np.random.default_rng(seed)
    long_enough = [video for video, length in enumerate(pairs.lengths) if length > gap]
    if not long_enough:
        raise UserError(f"no video is longer than the gap of {gap} frames; the longest has {max(pairs.lengths)}")
    videos = rng.permutation(long_enough)[np.arange(rows) % len(long_enough)]
    starts = [int(rng.integers(0, pairs.lengths[video] - gap)) for video in videos]
    chosen = np.stack([pairs.read(int(v), (t, t + gap)) for v, t in zip(videos, starts, strict=True)])
    return chosen[:, 0], chosen[:, 1]


@torch.no_grad()
def imagine_futures(
    model: RSP, current: np.ndarray, future: np.ndarray, samples: int, generator: torch.Generator
) -> tuple[list[torch.Tensor], dict[str, float]]:
    """Decode the future from the posterior and ``samples`` times from the prior.

    Args:
        model: in evaluation mode.
        current: uint8 ``(B, H, W, 3)``.
        future: uint8 ``(B, H, W, 3)``.
        samples: draws from the prior.
        generator: where the noise and the latents come from.

    Returns:
        The columns of the picture, each ``(B, 3, S, S)`` in [0, 1], and the mean squared errors of what they show
        (that of the prior is the mean over its samples, where there are any).
    """
    device = model.mask_token.device
    preprocess = Preprocessing(model.vit.image_size)
    now, later = preprocess(current, device), preprocess(future, device)
    noise = torch.randn(later.shape, generator=generator, device=device)
    tokens = model.backbone(now)
    seen = model.backbone(later + model.config.noise_std * noise)
    posterior, prior = model.posterior(tokens[:, 0], seen[:, 0]), model.prior(tokens[:, 0])
    target = model.targets(later)
    futures = [model.predict_future(tokens, sample_one_hot(posterior, generator))]
    futures += [model.predict_future(tokens, sample_one_hot(prior, generator)) for _ in range(samples)]
    errors = [float((predicted - target).square().mean()) for predicted in futures]
    shown = [preprocess.denormalise(to_images(model, predicted, later)) for predicted in futures]
    columns = [preprocess.denormalise(now), preprocess.denormalise(later), *shown]
    prior_error = {"mse_prior": float(np.mean(errors[1:]))} if samples else {}
    return columns, {"mse_posterior": errors[0], **prior_error}


def to_images(model: RSP, predicted: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Predicted patches ``(B, N, P)`` -> normalised images, with the true patches' mean and contrast put back."""
    if model.config.normalise_targets:
        variance, mean = torch.var_mean(patchify(truth, model.vit.patch_size), dim=-1, keepdim=True)
        predicted = predicted * (variance + 1e-6).sqrt() + mean
    return unpatchify(predicted, model.vit.patch_size)


def draw_grid(columns: list[torch.Tensor], names: list[str], zoom: int) -> Image.Image:
    """Columns of ``(B, 3, S, S)`` in [0, 1] -> one picture with the names above."""
    gutter, header = 4, 18
    rows, side = columns[0].shape[0], columns[0].shape[-1] * zoom
    size = (len(columns) * (side + gutter) - gutter, header + rows * (side + gutter) - gutter)
    canvas = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(canvas)
    for x, (column, name) in enumerate(zip(columns, names, strict=True)):
        pen.text((x * (side + gutter) + side // 2, header // 2), name, fill="black", anchor="mm")
        frames = (column.permute(0, 2, 3, 1).cpu().numpy() * 255).round().astype(np.uint8)
        for y, frame in enumerate(frames):
            picture = Image.fromarray(frame).resize((side, side), Image.Resampling.NEAREST)
            canvas.paste(picture, (x * (side + gutter), header + y * (side + gutter)))
    return canvas
