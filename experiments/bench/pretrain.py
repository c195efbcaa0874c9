"""``rsp-robot bench pretrain``: the speed of RSP's optimiser step, of each optimisation in it, and of the plain one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from rsp_robot.backbones.cross_attention import use_fused_attention
from rsp_robot.backbones.vit import ViTConfig, vit_config
from rsp_robot.devices import pick_device
from rsp_robot.errors import UserError
from rsp_robot.experiments.bench.flops import Flops, count_flops
from rsp_robot.experiments.bench.formulations import LABELS, Formulation, build, formulations
from rsp_robot.experiments.bench.measure import matmul_peak, memory_of, seconds
from rsp_robot.experiments.doctor.checkup import cpu_has_bf16
from rsp_robot.pretrain.batches import Prepared
from rsp_robot.pretrain.config import Pace, PretrainConfig
from rsp_robot.pretrain.distributed import World
from rsp_robot.pretrain.engine import Engine, fuses_attention
from rsp_robot.pretrain.objectives.rsp import Draws, RSPConfig
from rsp_robot.progress import Progress

BATCH, STEPS, ROUNDS = {"cpu": 8, "cuda": 256}, {"cpu": 1, "cuda": 10}, {"cpu": 3, "cuda": 5}
WARM_UP = {"cpu": 1, "cuda": 3}
PACE = Pace(lr=1e-4, weight_decay=0.05)


@dataclass(frozen=True)
class PretrainBench:
    """What is measured, and for how long."""

    arch: str = "vit-small"
    """vit-nano, vit-tiny, vit-small, vit-base or vit-large."""
    image_size: int = 224
    """Side of the encoder's input in pixels."""
    patch_size: int = 16
    """Side of a patch in pixels."""
    decoder_width: int = 512
    """Width of the shared decoder."""
    decoder_depth: int = 8
    """Blocks of the shared decoder."""
    decoder_heads: int = 16
    """Attention heads of the shared decoder."""
    batch: int | None = None
    """Frame pairs per optimiser step; 256 on a GPU and 8 on the CPU by default. A formulation that runs out of a GPU's
    memory accumulates over halves, quarters, ..."""
    steps: int | None = None
    """Steps per round and formulation; 10 on a GPU and 1 on the CPU by default."""
    rounds: int | None = None
    """Rounds over all formulations; the median of a formulation counts. 5 on a GPU and 3 on the CPU by default."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:<index>."""
    compile: bool = True
    """Measure torch.compile as well: part of the full setting on a GPU, a row of its own on the CPU."""
    only: tuple[str, ...] = ()
    """Optimisations to turn over, of: compile, bf16, fused_attention, one_pass, lazy_prior, fused_optimiser. All by
    default; the full setting and the plain formulation are always measured."""
    out: Path | None = None
    """Also write everything that was measured there, as JSON."""

    def __post_init__(self) -> None:
        for name in ("batch", "steps", "rounds"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name} must be at least 1, not {value}")
        for name in self.only:
            if name not in LABELS:
                raise UserError(f"unknown optimisation {name!r}; choose from: {', '.join(LABELS)}")

    @property
    def vit(self) -> ViTConfig:
        """Sizes of the encoder."""
        return vit_config(self.arch, self.image_size, self.patch_size)

    @property
    def objective(self) -> RSPConfig:
        """The published objective on a decoder of these sizes."""
        return RSPConfig(
            decoder_width=self.decoder_width, decoder_depth=self.decoder_depth, decoder_heads=self.decoder_heads
        )


@dataclass(frozen=True)
class Row:
    """What was measured of one formulation."""

    name: str
    formulation: Formulation
    micro_batch: int
    """Pairs per forward pass; less than the batch where that did not fit the memory."""
    seconds: tuple[float, ...]
    """Per optimiser step, one number per round."""
    memory: int
    """Most bytes of tensors held in a step, weights, optimiser and frames included."""
    loss: float
    """Of the first step: how far the formulations agree."""

    @property
    def step_s(self) -> float:
        """Median time of an optimiser step."""
        return median(self.seconds)

    @property
    def spread(self) -> float:
        """Slowest minus fastest round over the median."""
        return (max(self.seconds) - min(self.seconds)) / self.step_s


@dataclass(frozen=True)
class Measured:
    """One run of the bench."""

    rows: tuple[Row, ...]
    """The full setting first, the plain formulation last."""
    batch: int
    flops: Flops
    peaks: Mapping[str, float]
    """Measured FLOP/s of a matrix product by precision."""

    def pairs_s(self, row: Row) -> float:
        """Frame pairs per second."""
        return self.batch / row.step_s

    def flops_s(self, row: Row) -> float:
        """Model FLOP/s: what every formulation has to compute, not what it computes besides."""
        return self.flops.total * self.pairs_s(row)

    def of_peak(self, row: Row) -> float:
        """Share of the machine's measured peak in the same precision."""
        return self.flops_s(row) / self.peaks[row.formulation.precision]

    def speed_up(self, row: Row, over: Row) -> float:
        """How many times as fast one row is as another."""
        return over.step_s / row.step_s


class Contender:
    """A formulation with weights, optimiser and batches of its own."""

    def __init__(
        self,
        formulation: Formulation,
        bench: PretrainBench,
        world: World,
        whole: Prepared,
        weights: Mapping[str, torch.Tensor],
    ) -> None:
        model = build(formulation, bench.vit, bench.objective, world.device, weights)
        config = PretrainConfig(
            data="",
            out=Path(),
            arch=bench.arch,
            image_size=bench.image_size,
            patch_size=bench.patch_size,
            objective=bench.objective,
            batch_size=len(whole.frames),
            precision="bf16" if formulation.bf16 else "fp32",
            compile=formulation.compile,
        )
        self.formulation, self.device, self.whole = formulation, world.device, whole
        self.engine = Engine(model, config, world, fused=formulation.fused_optimiser)
        use_fused_attention(model, formulation.fused_attention)  # the engine has made its own choice
        if not formulation.fused_optimiser and world.device.type == "cuda":
            for group in self.engine.optimizer.param_groups:
                group["foreach"] = True  # what torch takes on a GPU unless it is told otherwise
        self.batches = [whole]

    @property
    def micro_batch(self) -> int:
        """Pairs per forward pass."""
        return len(self.batches[0].frames)

    def step(self) -> dict[str, torch.Tensor]:
        """Take one optimiser step over the whole batch."""
        return self.engine.step(self.batches, PACE)

    def run(self, steps: int) -> None:
        """Take some steps, reading nothing back."""
        for _ in range(steps):
            self.step()

    def warm_up(self, steps: int) -> tuple[float, int]:
        """Compile, and fill optimiser and caches; return the loss of the first step and the memory of one step.

        Raises:
            UserError: not even one pair fits the memory.
        """
        loss: float | None = None
        while loss is None:
            try:
                loss = float(self.step()["loss"])
            except torch.OutOfMemoryError:
                self.engine.optimizer.zero_grad(set_to_none=True)
            if loss is None:  # the exception holds on to the memory until here
                self._halve()
        self.run(steps - 1)
        return loss, self._held() + memory_of(self.step, self.device)

    def _halve(self) -> None:
        if self.micro_batch == 1:
            raise UserError("not even one pair fits the memory; choose a smaller --arch or --image-size")
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.batches = list(split(self.whole, (self.micro_batch + 1) // 2))

    def _held(self) -> int:
        """Bytes of weights, optimiser and batch."""
        states = [value for state in self.engine.optimizer.state.values() for value in state.values()]
        tensors = [*self.engine.objective.state_dict().values(), self.whole.frames, *self.whole.draws, *states]
        return sum(tensor.nbytes for tensor in tensors if isinstance(tensor, torch.Tensor))


def split(whole: Prepared, size: int) -> Iterator[Prepared]:
    """Cut a batch into micro-batches of at most ``size`` pairs."""
    parts = zip(whole.frames.split(size), *(part.split(size) for part in whole.draws), strict=True)
    for frames, *draws in parts:
        yield Prepared(frames, Draws(*draws))


def full_formulation(device: torch.device, compile: bool) -> Formulation:
    """Return what is fast on a device: everything, but bf16 only in hardware, and compilation only on a GPU.

    On the CPU a compilation takes minutes, one for every row, and gained little where it was measured. Attention is as
    the engine chooses it.
    """
    cuda = device.type == "cuda"
    bf16 = torch.cuda.is_bf16_supported() if cuda else cpu_has_bf16()
    return Formulation(compile and cuda, bf16, fuses_attention(device, "bf16" if bf16 else "fp32"), True, True, True)


def has_compiler() -> bool:
    """Whether torch.compile finds a C++ compiler."""
    return any(shutil.which(name) for name in ("c++", "g++", "clang++"))


def measure(bench: PretrainBench, quiet: bool = False) -> Measured:
    """Time all formulations in turn, round by round, on random frames that are on the device already.

    Raises:
        UserError: the device is not there, there is no compiler, or not even one pair fits the memory.
    """
    device = pick_device(bench.device)
    if bench.compile and not has_compiler():
        raise UserError("torch.compile needs a C++ compiler; install one (g++), or give --no-compile")
    world, kind = World(0, 1, device), device.type
    size, steps, rounds = bench.batch or BATCH[kind], bench.steps or STEPS[kind], bench.rounds or ROUNDS[kind]
    switches = [name for name in bench.only or LABELS if bench.compile or name != "compile"]
    rows = formulations(full_formulation(device, bench.compile), switches)
    flops = count_flops(bench.vit, bench.objective)
    whole, weights = _draw(bench, device, size)
    peaks = {"bf16": 0.0, "fp32": 0.0}
    contenders: dict[str, Contender] = {}
    first: dict[str, tuple[float, int]] = {}
    times: dict[str, list[float]] = {name: [] for name in rows}
    # Every formulation has its own compiled graph, and a smaller micro-batch one more, none with symbolic sizes.
    dynamo: Any = torch._dynamo.config
    with (
        dynamo.patch(recompile_limit=64, automatic_dynamic_shapes=False),
        Progress("bench", total=len(rows) * (rounds + 1), unit="turns", quiet=quiet) as bar,
    ):
        for name, formulation in rows.items():
            contenders[name] = Contender(formulation, bench, world, whole, weights)
            first[name] = contenders[name].warm_up(WARM_UP[kind])
            bar.update(1)
        for _ in range(rounds):
            peaks = {precision: max(best, matmul_peak(device, precision)) for precision, best in peaks.items()}
            for name, contender in contenders.items():
                times[name].append(seconds(partial(contender.run, steps), device) / steps)
                bar.update(1, **{"pairs/s": size / times[name][-1]})
    return Measured(
        tuple(
            Row(name, rows[name], one.micro_batch, tuple(times[name]), first[name][1], first[name][0])
            for name, one in contenders.items()
        ),
        size,
        flops,
        peaks,
    )


def _draw(bench: PretrainBench, device: torch.device, size: int) -> tuple[Prepared, dict[str, torch.Tensor]]:
    """One batch of random frames, and random weights that all formulations start from."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = bench.objective.build(bench.vit)
    generator = torch.Generator(device).manual_seed(0)
    frames = torch.randn(size, 2, 3, bench.image_size, bench.image_size, generator=generator, device=device)
    return Prepared(frames, model.draw(frames, generator)), model.state_dict()
