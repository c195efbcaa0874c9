"""What a pretraining run is told: its configuration, and the numbers that follow from it."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import yaml

from rsp_robot.errors import UserError, unknown_name
from rsp_robot.pretrain.objectives import ObjectiveConfig, find_objective
from rsp_robot.pretrain.objectives.rsp import RSPConfig
from rsp_robot.pretrain.schedule import half_cosine, lr_factor, scaled_lr
from rsp_robot.run_folder import plain
from rsp_robot.videos.spec import resolved

Precision = Literal["fp32", "bf16", "fp16"]
Residence = Literal["auto", "device", "host", "disk", "source"]
WHERE_IT_RUNS = ("out", "resume", "device", "keep_frames", "device_share", "workers", "prefetch", "strict", "wandb")


class Pace(NamedTuple):
    """What changes from step to step."""

    lr: float
    """Learning rate."""
    weight_decay: float
    share: float = 0.0
    """Share of the (stretched) run that is over, in [0, 1)."""


@dataclass(frozen=True)
class PretrainConfig:
    """Pretrain a visual encoder on demonstration videos."""

    data: str
    """Where the videos are: files, folders, HDF5 demonstrations, LeRobot or Minari data sets, packed frames, or made
    on the fly (digits:<motion>); several as PATH,PATH or with shares of the samples as PATH=0.7,PATH=0.3."""
    out: Path
    """The run folder to write."""
    cameras: tuple[str, ...] = ()
    """Cameras to learn from, patterns such as front or '*wrist*'; all by default. What has no camera passes."""
    tasks: tuple[str, ...] = ()
    """Patterns of the tasks to learn from; all by default."""
    episodes: tuple[str, ...] = ()
    """Patterns of the episodes to learn from; all by default."""
    fps: float | None = None
    """Frames per second of videos that do not know theirs (arrays, pictures)."""
    strict: bool = False
    """End the run where a video cannot be read, instead of leaving it out."""
    arch: str = "vit-small"
    """vit-pico, vit-nano, vit-tiny, vit-small, vit-base or vit-large."""
    image_size: int = 224
    """Side of the encoder's input in pixels."""
    patch_size: int = 16
    """Side of a patch in pixels."""
    objective: ObjectiveConfig = field(default_factory=RSPConfig)
    """The method and its settings."""
    init: Path | None = None
    """Start from these weights: a published checkpoint, an encoder folder or a run folder."""

    steps: int = 20_000
    """Optimiser steps; not used where ``epochs`` is given."""
    epochs: float | None = None
    """Samples drawn from each video in the whole run; repeated sampling r visits every video epochs/r times."""
    batch_size: int = 256
    """Videos per optimiser step, over all processes and all accumulated micro-batches."""
    repeated_sampling: int = 1
    """Samples drawn from each of those videos."""
    micro_batch: int | None = None
    """Videos per forward pass and process; gradients accumulate up to the batch size. The whole share by default."""
    base_lr: float = 1.5e-4
    """Learning rate for a batch of 256; the peak is base_lr x batch_size / 256."""
    warmup: float = 0.1
    """Share of the steps in which the learning rate rises to its peak."""
    start_lr: float = 0.0
    """Learning rate at the first step, as a share of the peak."""
    final_lr: float = 0.0
    """Learning rate after the last step, as a share of the peak."""
    hold: float = 0.0
    """Share of the steps after the warm-up in which the learning rate stays at its peak."""
    lr_decay: Literal["cosine", "linear"] = "cosine"
    """How the learning rate falls after that."""
    weight_decay: float = 0.05
    """AdamW's weight decay, on matrices and tokens only."""
    final_weight_decay: float | None = None
    """Weight decay after the last step, reached on half a cosine; by default it does not change."""
    stretch: float = 1.0
    """Learning rate, weight decay and the objective's own schedules are laid out for so many times the steps, and the
    end of them is never reached."""
    beta2: float = 0.95
    """AdamW's second moment; 0.999 is torch's own default."""
    clip_grad: float | None = None
    """Largest norm of the gradient; longer ones are cut to it. Off by default."""

    min_crop: float = 0.5
    """Smallest area of the random crop as a share of the picture; 1 turns it off."""
    flip: bool = True
    """Mirror half of the samples."""
    color_jitter: float = 0.0
    """Largest change of brightness, contrast and saturation, as a share; 0 turns it off."""
    same_augmentation: bool = True
    """Crop, mirror and colour all frames of a sample alike; otherwise each frame on its own."""
    short_side: int | None = None
    """Larger pictures are reduced to this shorter side when they are read; one and a half times the image size by
    default. Packed frames are taken as they are."""

    seed: int = 0
    """Decides initial weights, samples, crops and everything that the objective draws."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:<index>."""
    precision: Precision = "fp32"
    """Arithmetic of the forward pass: bf16 by autocast, fp16 by autocast with loss scaling."""
    compile: bool = False
    """Compile the objective with torch.compile; worth its minute or two on a GPU."""
    keep_frames: Residence = "auto"
    """Where frames live: device (GPU memory), host (page-locked memory), disk (packed frames, memory-mapped), source
    (decoded whenever they are needed); auto takes the first that fits, and packed or small sources only."""
    device_share: float = 0.3
    """Largest share of the device's free memory that frames may take."""
    workers: int | None = None
    """Threads that read and decode; as many as there are cores by default."""
    prefetch: int = 2
    """Batches read ahead by a thread of their own."""

    pooling: str | None = None
    """Pooling of the exported encoder: cls, mean, cls+mean, grid<k> or spatial-softmax; by default cls where there is
    a class token, else mean."""
    holdout: float = 0.0
    """Share of the videos, the last ones, that training never sees."""
    probe_every: int | None = None
    """Steps between linear probes on held-out demonstrations (of a demonstration file; needs a holdout)."""
    log_every: int = 50
    """Steps between rows of metrics.jsonl."""
    checkpoint_every: int = 500
    """Steps between checkpoints."""
    keep_last: int = 2
    """Newest checkpoints to keep."""
    keep_every: int | None = None
    """Also keep the checkpoint of every so many steps."""
    keep_doublings: bool = False
    """Also save and keep the checkpoints of steps 1, 2, 4, 8, ..."""
    patience: int = 5
    """Steps in a row without a finite loss before the run gives up; such steps are skipped."""
    wandb: str | None = None
    """Also log to this Weights & Biases project (pip install wandb)."""
    resume: bool = False
    """Go on with the run in ``out``."""

    def __post_init__(self) -> None:
        if isinstance(self.data, os.PathLike):  # welcome from Python
            object.__setattr__(self, "data", os.fspath(self.data))
        least_one = (
            "steps",
            "batch_size",
            "repeated_sampling",
            "log_every",
            "checkpoint_every",
            "keep_last",
            "patience",
        )
        for least, names in ((1, least_one), (0, ("seed", "prefetch", "base_lr", "weight_decay"))):
            for name in names:
                if getattr(self, name) < least:
                    raise UserError(f"{name} must be at least {least}, not {getattr(self, name)}; correct the settings")
        if self.precision not in get_args(Precision):
            raise unknown_name("precision", self.precision, get_args(Precision))
        for name in ("epochs", "micro_batch", "clip_grad", "probe_every", "keep_every", "fps", "short_side", "workers"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise UserError(f"{name} must be positive, not {value}; leave it out to turn it off")
        if not 0 <= self.warmup < 1 or not 0 <= self.holdout < 1:
            raise UserError("warmup and holdout are shares in [0, 1); correct the settings")
        if self.hold < 0 or self.warmup + self.hold > 1:
            raise UserError("warmup and hold together are a share of the steps, in [0, 1]; correct the settings")
        if not 0 <= self.start_lr <= 1 or not 0 <= self.final_lr <= 1 or not 0 < self.beta2 < 1:
            raise UserError("start_lr and final_lr are shares in [0, 1] and beta2 one in (0, 1); correct the settings")
        if self.stretch < 1 or (self.final_weight_decay or 0.0) < 0:
            raise UserError("stretch must be at least 1 and final_weight_decay at least 0; correct the settings")
        if self.lr_decay not in ("cosine", "linear"):
            raise unknown_name("learning rate decay", self.lr_decay, ("cosine", "linear"))
        if not 0 <= self.color_jitter < 1 or not 0 < self.device_share <= 1:
            raise UserError("color_jitter must lie in [0, 1) and device_share in (0, 1]; correct the settings")
        if not 0 < self.min_crop <= 1:
            raise UserError(f"min_crop {self.min_crop} must lie in (0, 1]; 1 turns cropping off")

    @property
    def largest_side(self) -> int:
        """Shorter side in pixels that pictures are reduced to when they are read."""
        return self.short_side or round(1.5 * self.image_size)

    @property
    def samples_per_step(self) -> int:
        """Samples (frame pairs, clips) that one optimiser step sees."""
        return self.batch_size * self.repeated_sampling

    @property
    def peak_lr(self) -> float:
        """Learning rate after the warm-up; repeated sampling does not count (as in the published recipe)."""
        return scaled_lr(self.base_lr, self.batch_size)

    @property
    def passes(self) -> float | None:
        """How often every video is visited, where ``epochs`` says it."""
        return None if self.epochs is None else self.epochs / self.repeated_sampling

    def total_steps(self, videos: int) -> int:
        """Optimiser steps of the whole run over so many videos."""
        if self.passes is None:
            return self.steps
        return max(1, round(self.passes * videos / self.batch_size))

    def warmup_steps(self, steps: int) -> int:
        """Optimiser steps of the warm-up."""
        return int(self.warmup * steps)

    def pace(self, step: int, steps: int) -> Pace:
        """Return what a step, counted from 0, of so many is taken with."""
        laid_out = max(1, round(self.stretch * steps))
        factor = lr_factor(
            step,
            laid_out,
            self.warmup_steps(steps),
            start=self.start_lr,
            end=self.final_lr,
            hold=int(self.hold * steps),
            linear=self.lr_decay == "linear",
        )
        last = self.weight_decay if self.final_weight_decay is None else self.final_weight_decay
        share = step / laid_out
        return Pace(self.peak_lr * factor, half_cosine(self.weight_decay, last, share), share)

    def identity(self) -> dict[str, Any]:
        """Return what makes two runs the same run, wherever they are started from."""
        kept = {key: value for key, value in plain(self).items() if key not in WHERE_IT_RUNS}
        kept["data"] = resolved(self.data)
        kept["init"] = None if self.init is None else str(self.init.resolve())
        kept["objective"] = {"name": self.objective.name, **kept["objective"]}
        return kept


def read_config(run: Path) -> PretrainConfig:
    """Read the configuration that a run folder of `rsp-robot pretrain` was made with.

    Raises:
        UserError: the folder holds no such run.
    """
    try:
        stored: dict[str, Any] = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
        settings = dict(stored.pop("objective"))
        objective = find_objective(settings.pop("name"))(**settings)
        known = {entry.name for entry in dataclasses.fields(PretrainConfig)}
        kept = {key: value for key, value in stored.items() if key in known}
        for name in ("cameras", "tasks", "episodes"):
            kept[name] = tuple(kept.get(name) or ())
        paths = {"data": str(stored["data"]), "out": run, "init": stored.get("init") and Path(stored["init"])}
        return PretrainConfig(**{**kept, **paths, "objective": objective})
    except (OSError, AttributeError, KeyError, TypeError, ValueError, yaml.YAMLError):
        raise UserError(f"{run} is not a run folder of `rsp-robot pretrain`; give one") from None
