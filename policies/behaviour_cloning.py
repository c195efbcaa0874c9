"""Behaviour cloning on embeddings of a frozen encoder and proprioception.

A small head (:class:`~rsp_robot.policies.heads.MLPHead`) regresses the demonstrated actions; only the head learns. The
encoder's pictures are embedded once and kept, so that a run takes seconds. Without an encoder the policy is blind:
proprioception alone.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from rsp_robot.demonstrations import DemonstrationFile
from rsp_robot.errors import UserError
from rsp_robot.policies.bc_data import BCData, choose_cameras, load_bc_data, read_vectors
from rsp_robot.policies.bc_policy import BCPolicy
from rsp_robot.policies.embeddings import content_hash
from rsp_robot.policies.heads import MLPHead
from rsp_robot.policies.policy import load_policy, save_policy_folder
from rsp_robot.policies.threads import one_thread
from rsp_robot.progress import Progress
from rsp_robot.run_folder import RunFolder
from rsp_robot.versions import SIMULATORS

if TYPE_CHECKING:
    from rsp_robot.encoder import FrozenEncoder

__all__ = ["BCConfig", "BCPolicy", "load_policy", "train_bc"]


@dataclass(frozen=True)
class BCConfig:
    """How the head of a behaviour cloning policy is built and trained."""

    cameras: tuple[str, ...] = ()
    """Cameras whose embeddings are joined, in this order; by default all of the demonstration file."""
    labels: Literal["auto", "executed", "expert"] = "auto"
    """Actions to imitate: those executed, noise and all; those the expert wanted before noise was added (as in DART,
    Laskey et al. 2017); or, by default, the expert's where the file has them."""
    hidden: tuple[int, ...] = (256, 256)
    """Width of each hidden layer."""
    activation: str = "relu"
    """relu, gelu, silu or tanh."""
    last_layer_scale: float = 1e-2
    """Factor on the first weights of the last layer, so that training starts near the zero action."""
    steps: int = 2000
    """Optimiser steps."""
    batch_size: int = 128
    """Steps of demonstrations per minibatch, drawn with replacement."""
    lr: float = 1e-3
    """Learning rate of AdamW at the start."""
    schedule: Literal["constant", "cosine"] = "cosine"
    """Learning rate over time: unchanged, or down to zero along a half cosine."""
    weight_decay: float = 1e-2
    """Weight decay of AdamW, on matrices only; 0 makes it Adam."""
    ema: float = 0.0
    """Decay of an exponential moving average of the weights, which is then what is saved; 0 saves the weights
    themselves."""
    log_every: int = 100
    """Steps between two rows of the learning curve."""
    seed: int = 0
    """Seed of the head's first weights and of the minibatches."""

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 2 or self.log_every < 1:
            raise UserError("steps and log_every must be at least 1, batch_size at least 2; correct the settings")
        if not 0 <= self.ema < 1 or self.lr <= 0 or self.weight_decay < 0:
            raise UserError("lr must be positive, weight_decay not negative, ema in [0, 1); correct the settings")
        if any(width < 1 for width in self.hidden):
            raise UserError("every hidden width must be at least 1; correct the settings")


def learning_rate(config: BCConfig, step: int) -> float:
    """Return the learning rate of optimiser step ``step``, counted from 0.

    >>> learning_rate(BCConfig(steps=100, lr=0.5), 0), learning_rate(BCConfig(steps=100, lr=0.5), 50)
    (0.5, 0.25)
    """
    if config.schedule == "constant":
        return config.lr
    return config.lr * 0.5 * (1 + math.cos(math.pi * step / config.steps))


def fit_head(data: BCData, config: BCConfig, run: RunFolder | None = None, title: str = "clone") -> MLPHead:
    """Train a head on the CPU; the same data and configuration give the same weights to the last bit.

    The loss is the mean squared error of the actions. The last weights are what counts: no checkpoint is chosen by its
    loss.

    Args:
        data: features and actions.
        config: head and training.
        run: where the curve is logged: ``loss`` (mean over the steps since the last row) and ``valid_loss``.
        title: beside the progress bar.

    Returns:
        the head in evaluation mode.
    """
    generator = torch.Generator().manual_seed(config.seed)
    inputs, outputs = data.train_features.shape[1], data.train_actions.shape[1]
    head = MLPHead(inputs, outputs, config.hidden, config.activation, config.last_layer_scale, generator=generator)
    head.set_input_statistics(data.train_features)
    matrices = [parameter for parameter in head.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in head.parameters() if parameter.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=config.lr, fused=True)
    average = [parameter.detach().clone() for parameter in head.parameters()] if config.ema else []
    losses: list[Tensor] = []
    head.train()
    with one_thread(), Progress(title, total=config.steps, unit="steps") as bar:
        for step in range(config.steps):
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(config, step)
            rows = torch.randint(len(data.train_features), (config.batch_size,), generator=generator)
            loss = mse_loss(head(data.train_features[rows]), data.train_actions[rows])
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            losses.append(loss.detach())
            if average:
                # Short at the beginning, so that the average is not held back by the first weights.
                decay = min(config.ema, (1 + step) / (10 + step))
                torch._foreach_lerp_(average, [p.detach() for p in head.parameters()], 1 - decay)
            if (step + 1) % config.log_every == 0 or step + 1 == config.steps:
                metrics = {"loss": float(torch.stack(losses).mean())}
                losses.clear()
                if not math.isfinite(metrics["loss"]):
                    raise UserError(f"behaviour cloning diverged at step {step + 1}; lower lr (now {config.lr:g})")
                if len(data.valid_features):
                    metrics["valid_loss"] = _evaluate_loss(head, average, data.valid_features, data.valid_actions)
                if run is not None:
                    run.log(step + 1, **metrics)
                bar.update(step + 1 - bar.done, **metrics)
    _use(head, average)
    return head.eval()


@torch.no_grad()
def _use(head: MLPHead, average: Sequence[Tensor]) -> None:
    """Put averaged weights into the head, where there are any."""
    if average:
        for parameter, value in zip(head.parameters(), average, strict=True):
            parameter.copy_(value)


@torch.no_grad()
def _evaluate_loss(head: MLPHead, average: Sequence[Tensor], features: Tensor, actions: Tensor) -> float:
    """Return the loss of what would be saved now, on clipped actions as they are executed."""
    held = [parameter.detach().clone() for parameter in head.parameters()]
    _use(head, average)
    head.eval()
    loss = float(mse_loss(head(features).clamp(-1, 1), actions))
    head.train()
    _use(head, held)
    return loss


def _simulators(task: str, recorded: Mapping[str, str]) -> dict[str, str]:
    """Return the versions that decide how a task behaves: the physics and its own suite (all, if that is unknown)."""
    suite = task.partition("/")[0]
    relevant = ("mujoco", suite) if suite in SIMULATORS else SIMULATORS
    return {name: recorded[name] for name in relevant if name in recorded}


def _location(encoder: FrozenEncoder, given: str | os.PathLike[str] | None, policy: Path) -> str | None:
    """Return where the encoder can be loaded from again: relative to the policy's folder, or as it was given."""
    source = given if given is not None else getattr(encoder, "source", None)
    if source is None:
        return None
    if Path(source).exists():
        return os.path.relpath(Path(source).resolve(), policy.resolve())
    return str(source)


def train_bc(
    data: str | os.PathLike[str],
    encoder: FrozenEncoder | str | os.PathLike[str] | None,
    out: str | os.PathLike[str],
    config: BCConfig | None = None,
    resume: bool = True,
    *,
    encoder_source: str | os.PathLike[str] | None = None,
    cache: str | os.PathLike[str] | None = None,
) -> Path:
    """Clone the demonstrations of a file into a policy.

    The same data, encoder and configuration give the same policy to the last bit on the same kind of machine. A
    finished run is returned at once; one that was killed is trained anew, which takes seconds, from embeddings that are
    kept.

    Args:
        data: demonstration file (.hdf5); its masks say what is for training and for validation.
        encoder: the frozen encoder to look through, or what :meth:`FrozenEncoder.load` takes; None for a blind policy.
        out: the run folder.
        config: head and training.
        resume: go on with ``out`` where it holds this run already; otherwise it must be empty or missing.
        encoder_source: where the encoder can be loaded from, recorded so that the policy finds it again; by default
            what was given as ``encoder``, or the encoder's own attribute ``source`` where it has one.
        cache: folder for embeddings; by default ``<data>.embeddings`` beside the data.

    Returns:
        the policy folder, ``<out>/policy``.

    Raises:
        UserError: damaged or incomplete data, no such camera, a folder that holds something else, a diverging loss.
        RuntimeError: the encoder's weights changed meanwhile.
    """
    config = config or BCConfig()
    if isinstance(encoder, (str, os.PathLike)):
        from rsp_robot.encoder import FrozenEncoder

        encoder_source = encoder if encoder_source is None else encoder_source
        encoder = FrozenEncoder.load(encoder)
    data_path, folder = Path(data), Path(out)
    with DemonstrationFile(data_path) as file:
        data_hash = content_hash(data_path)
        cameras = choose_cameras(file, config.cameras, blind=encoder is None)
        fingerprint = None if encoder is None else encoder.fingerprint
        settings = asdict(config) | {
            "cameras": cameras,
            "data": data_path.name,
            "data_sha256": data_hash,
            "encoder": fingerprint or "none (blind)",
        }
        policy_folder = folder / "policy"
        finished = (policy_folder / "config.json").is_file()
        vectors = None if finished else read_vectors(file, config.labels)  # refuses bad data before a folder is made
        run = RunFolder.open(folder, settings, resume=resume)
        if vectors is None:
            return policy_folder
        run.forget_after(-1)
        checksum = None if encoder is None else encoder.weights_checksum()
        cache_folder = Path(cache) if cache is not None else data_path.with_suffix(".embeddings")
        arrays = load_bc_data(file, vectors, data_hash, encoder, cameras, cache_folder)
        info = file.info
    head = fit_head(arrays, config, run, title=f"clone {folder.name}")
    run.close()
    if encoder is not None and encoder.weights_checksum() != checksum:
        raise RuntimeError("the weights of the frozen encoder changed during behaviour cloning")
    source = None if encoder is None else _location(encoder, encoder_source, policy_folder)
    description = {
        "kind": "behaviour_cloning",
        "task": info.task,
        "cameras": list(cameras),
        "image_size": info.image_size if cameras else None,
        "quality": (info.quality or None) if cameras else None,
        "simulators": _simulators(info.task, info.versions),
        "encoder": None if encoder is None else {"fingerprint": fingerprint, "dim": int(encoder.dim), "source": source},
        "head": {
            "inputs": arrays.train_features.shape[1],
            "outputs": arrays.train_actions.shape[1],
            "hidden": list(config.hidden),
            "activation": config.activation,
        },
        "training": settings,
    }
    tensors = {f"head.{name}": value for name, value in head.state_dict().items()}
    tensors |= {"proprio.mean": arrays.proprio_mean, "proprio.std": arrays.proprio_std}
    return save_policy_folder(policy_folder, description, tensors)
