"""One process or many: what a process knows of the others, started by ``torchrun`` or alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from rsp_robot.devices import pick_device
from rsp_robot.errors import UserError

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """The processes of one run; alone, every exchange is free."""

    rank: int
    size: int
    device: torch.device

    @property
    def main(self) -> bool:
        """Whether this process writes files and talks to the user."""
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """Whether any process says yes. Waits for all of them, not for their devices."""
        if self.size == 1:
            return flag
        votes = torch.tensor(int(flag))  # on the CPU: gloo
        dist.all_reduce(votes, op=dist.ReduceOp.MAX)
        return bool(votes)

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """Mean over the processes, element by element."""
        if self.size == 1:
            return values
        total = values.clone()
        dist.all_reduce(total)
        return total / self.size

    def on_main(self, work: Callable[[], T]) -> T:
        """Do something in the main process alone and give its plain result to all.

        Raises:
            UserError: in the main process, if ``work`` does; the others leave with the same exit status, silently.
        """
        if self.size == 1:
            return work()
        if not self.main:
            box: list[Any] = [None]
            dist.broadcast_object_list(box, src=0)
            if not box[0][0]:
                raise SystemExit(2)
            result: T = box[0][1]
            return result
        outcome: tuple[bool, Any] = (False, None)
        try:
            outcome = (True, work())
            return outcome[1]
        finally:
            dist.broadcast_object_list([outcome], src=0)


@contextmanager
def joined_world(device: str = "auto") -> Iterator[World]:
    """Join the processes that ``torchrun`` started, or be alone.

    Each process takes the CUDA device of its local rank, or the CPU where the machine has none.

    Raises:
        UserError: the device is not there, or one was named for several processes.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1 or "RANK" not in os.environ:
        yield World(0, 1, pick_device(device))
        return
    if device not in ("auto", "cpu", "cuda"):
        raise UserError(f"device {device!r} cannot serve {size} processes; leave --device out, or say cpu or cuda")
    cuda = device != "cpu" and torch.cuda.is_available()
    picked = pick_device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if cuda else "cpu" if device == "auto" else device)
    if cuda:
        torch.cuda.set_device(picked)
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")
    try:
        yield World(int(os.environ["RANK"]), size, picked)
    finally:
        dist.destroy_process_group()
