"""What every step of a run sees: micro-batches as a pure function of (seed, step, place), read ahead by a thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeVar

import torch

from rsp_robot.errors import UserError
from rsp_robot.pretrain.augment import Augmentation
from rsp_robot.pretrain.config import PretrainConfig
from rsp_robot.pretrain.distributed import World
from rsp_robot.pretrain.objectives import Objective
from rsp_robot.pretrain.samples import Samples
from rsp_robot.pretrain.streams import stream, torch_seed

T = TypeVar("T")


class Shard(NamedTuple):
    """The micro-batch of one forward pass."""

    place: int
    """Its place among the micro-batches of the step, over all processes."""
    frames: torch.Tensor
    """uint8 ``(B, K, H, W, 3)``, where they were read to: page-locked where they go to a GPU, or there already."""
    sizes: torch.Tensor
    """int64 ``(B, 2)``: height and width of each sample's pictures within the canvas."""


class Prepared(NamedTuple):
    """A micro-batch on the device, with everything drawn."""

    frames: torch.Tensor
    """``(B, K, 3, S, S)``, normalised."""
    draws: Any
    """What the objective drew for it."""


@dataclass(frozen=True)
class Batches:
    """The micro-batches of a run.

    Which process sees a micro-batch, and whether gradients accumulate over it, changes nothing in it: its samples come
    from (seed, step), its crops and the objective's draws from (seed, step, place).
    """

    config: PretrainConfig
    samples: Samples
    world: World

    def __post_init__(self) -> None:
        check_shares(self.config, self.world.size)

    @property
    def micro_batch(self) -> int:
        """Videos per forward pass."""
        return self.config.micro_batch or self.config.batch_size // self.world.size

    @property
    def accumulation(self) -> int:
        """Forward passes per optimiser step in this process."""
        return self.config.batch_size // (self.micro_batch * self.world.size)

    def read(self, step: int) -> list[Shard]:
        """Read the micro-batches of this process for one step (pinned where they go to a GPU)."""
        config = self.config
        drawn = self.samples.draw(step, config.batch_size, config.repeated_sampling, config.seed)
        rows, shards = self.micro_batch * config.repeated_sampling, []
        for i in range(self.accumulation):
            place = i * self.world.size + self.world.rank
            frames, sizes = self.samples.read(drawn[place * rows : (place + 1) * rows])
            pin = self.world.device.type == "cuda" and frames.device.type == "cpu" and not frames.is_pinned()
            shards.append(Shard(place, frames.pin_memory() if pin else frames, sizes))
        return shards

    def prepare(self, objective: Objective, shard: Shard, step: int) -> Prepared:
        """Bring a micro-batch to the device, augment it, and draw what the objective needs."""
        at = (self.config.seed, step, shard.place)
        crops = torch.Generator().manual_seed(torch_seed(stream("augmentation", *at)))
        generator = torch.Generator(self.world.device).manual_seed(torch_seed(stream("objective", *at)))
        frames = shard.frames.to(self.world.device, non_blocking=True)
        frames = Augmentation.of(self.config)(frames, shard.sizes, crops)
        return Prepared(frames, objective.draw(frames, generator))


def check_shares(config: PretrainConfig, processes: int) -> None:
    """Refuse a batch that does not divide into equal micro-batches.

    Raises:
        UserError: it does not.
    """
    share = (config.micro_batch or 1) * processes
    if config.batch_size % share:
        of = f"{processes} processes" + (f" of micro-batches of {config.micro_batch}" if config.micro_batch else "")
        raise UserError(f"a batch of {config.batch_size} does not divide among {of}; make it a multiple of {share}")


class ReadAhead:
    """Iterate over ``read(step)`` for ``steps`` in order, ``depth`` of them read ahead in a thread.

    ``waited`` counts the seconds in which the training loop stood still for data.
    """

    def __init__(self, read: Callable[[int], T], steps: range, depth: int) -> None:
        self.read, self.steps, self.depth, self.waited = read, steps, depth, 0.0

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        if self.depth < 1:
            for step in self.steps:
                yield step, self._timed(partial(self.read, step))
            return
        with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as reader:
            queue: list[Future[Any]] = []
            waiting = iter(self.steps)
            try:
                for step in self.steps:
                    for ahead in waiting:
                        queue.append(reader.submit(self.read, ahead))
                        if len(queue) > self.depth:
                            break
                    yield step, self._timed(queue.pop(0).result)
            finally:
                for future in queue:
                    future.cancel()

    def _timed(self, work: Callable[[], T]) -> T:
        started = time.perf_counter()
        result = work()
        self.waited += time.perf_counter() - started
        return result
