"""``rsp-robot bench policy``: what a frozen encoder costs a policy, and what keeping its embeddings saves."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch

from rsp_robot.devices import pick_device
from rsp_robot.encoder import FrozenEncoder
from rsp_robot.errors import UserError
from rsp_robot.experiments.bench.clips import moving_scene
from rsp_robot.experiments.bench.measure import seconds
from rsp_robot.experiments.bench.policy_learning import Cloning, Learning, measure_cloning, measure_learning
from rsp_robot.machine import available_cores
from rsp_robot.policies.embeddings import encode_rows, encode_stream
from rsp_robot.progress import Progress
from rsp_robot.threads import one_thread

LATENCY_TARGET, CLONING_TARGET, STEPS_TARGET, BYTES_TARGET = 1.10, 10.0, 3.0, 1 / 20
WARM_UP = 5
LATENCY_S = 10.0
"""Time for the latency of one encoder."""


@dataclass(frozen=True)
class PolicyBench:
    """What is measured, and for how long."""

    encoder: str = "random:vit-nano/16@64"
    """What `rsp-robot bc --encoder` takes; by default one of the quickstart's size."""
    other_encoders: tuple[str, ...] = ("random:vit-small/16@224",)
    """Encoders whose latency is measured as well; by default one of the published size."""
    picture: int = 96
    """Side of the camera's pictures in pixels."""
    rounds: int = 200
    """Single pictures encoded for the latency, as many as there is time for; the median counts."""
    frames: int = 384
    """Pictures of the demonstrations that are cloned, and encoded per second."""
    epochs: int = 50
    """Passes of behaviour cloning over them; CortexBench's published protocol has 100."""
    batch: int = 64
    """Pictures per minibatch of behaviour cloning."""
    sac_steps: int = 8
    """Steps of SAC with pictures in its replay buffer that are timed, each with an update; with embeddings ten times as
    many. 0 leaves SAC out."""
    sac_batch: int = 128
    """Transitions per update of SAC."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:<index>."""
    out: Path | None = None
    """Also write everything that was measured there, as JSON."""

    def __post_init__(self) -> None:
        for name in ("picture", "rounds", "frames", "epochs", "batch", "sac_batch"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.sac_steps < 0:
            raise UserError(f"sac_steps must not be negative, but is {self.sac_steps}")
        if not 2 <= self.batch <= self.frames:
            raise UserError(f"batch must be from 2 to the number of frames ({self.frames}), not {self.batch}")


@dataclass(frozen=True)
class Latency:
    """Seconds per single picture, one number per round, one thread."""

    name: str
    """The encoder, as it was asked for."""
    encoder: tuple[float, ...]
    """uint8 picture in, embedding out."""
    backbone: tuple[float, ...]
    """Normalised image in, tokens out."""
    preprocessing: tuple[float, ...]
    """uint8 picture in, normalised image out."""

    @property
    def ratio(self) -> float:
        """Median of the encoder over that of the bare backbone."""
        return median(self.encoder) / median(self.backbone)


@dataclass(frozen=True)
class Throughput:
    """Pictures encoded per second."""

    batched: float
    """In batches over a demonstration file, on all cores."""
    acting: float
    """As a policy encodes them: a row does not depend on its neighbours, one thread."""
    cores: int


@dataclass(frozen=True)
class Measured:
    """One run of the bench."""

    fingerprint: str
    embedding: tuple[int, ...]
    """Shape of one embedding."""
    latencies: tuple[Latency, ...]
    """That of the encoder itself first."""
    throughput: Throughput
    cloning: Cloning
    learning: Learning | None
    """None where SAC was left out."""


def measure(bench: PolicyBench, quiet: bool = False) -> Measured:
    """Measure everything.

    Raises:
        UserError: the encoder cannot be loaded, or the device is not there.
    """
    device = pick_device(bench.device)
    encoder = FrozenEncoder.load(bench.encoder, device)
    scene = moving_scene(bench.frames, bench.picture, bench.picture, np.random.default_rng(0))
    with Progress("bench policy", 4, "parts", quiet=quiet) as bar:
        latencies = [measure_latency(bench.encoder, encoder, scene, bench.rounds, device)]
        for name in bench.other_encoders:
            other = FrozenEncoder.load(name, device)
            latencies.append(measure_latency(name, other, scene, bench.rounds, device))
        bar.update(1)
        throughput = measure_throughput(encoder, scene, device)
        bar.update(1)
        cloning = measure_cloning(encoder, scene, bench.epochs, bench.batch, device)
        bar.update(1)
        learning = None
        if bench.sac_steps:
            learning = measure_learning(encoder, bench.picture, bench.sac_steps, bench.sac_batch, device)
        bar.update(1)
    return Measured(encoder.fingerprint, encoder.embedding_shape, tuple(latencies), throughput, cloning, learning)


def measure_latency(name: str, encoder: FrozenEncoder, scene: np.ndarray, rounds: int, device: torch.device) -> Latency:
    """Time encoder, backbone and preprocessing in turns on one picture after the other."""
    found: list[tuple[float, float, float]] = []
    until = time.monotonic() + LATENCY_S
    with one_thread(), torch.inference_mode():
        image = encoder.preprocessing(scene[:1], device)
        for number in range(rounds + WARM_UP):
            frame = scene[number % len(scene)][None]
            spent = (
                seconds(partial(encoder, frame), device),
                seconds(partial(encoder.backbone, image), device),
                seconds(partial(encoder.preprocessing, frame, device), device),
            )
            if number >= WARM_UP:
                found.append(spent)
            if found and time.monotonic() > until:
                break
    return Latency(name, *zip(*found, strict=True))


def measure_throughput(encoder: FrozenEncoder, scene: np.ndarray, device: torch.device) -> Throughput:
    """Time the encoding of a scene in batches, and of a part of it as a policy does it."""
    few = scene[: max(1, len(scene) // 4)]
    list(encode_stream(encoder, [scene[:64]]))
    batched = seconds(lambda: list(encode_stream(encoder, [scene])), device)
    acting = seconds(lambda: encode_rows(encoder, few), device)
    return Throughput(len(scene) / batched, len(few) / acting, available_cores())
