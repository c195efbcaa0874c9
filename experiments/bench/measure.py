"""Time, memory and the machine's own peak, on the CPU and on a CUDA device."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

PEAK_SIZE = {"cpu": 2048, "cuda": 8192}
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Time some work from start to end, the device's part included."""
    synchronise(device)
    started = time.perf_counter()
    work()
    synchronise(device)
    return time.perf_counter() - started


def matmul_peak(device: torch.device, precision: str, size: int | None = None, repeats: int = 5) -> float:
    """Best speed of a square matrix product on this machine, in FLOP/s.

    Args:
        device: where.
        precision: ``bf16`` or ``fp32``.
        size: rows and columns; 8192 on CUDA and 2048 on the CPU by default.
        repeats: timed products after one to warm up; the best one counts.
    """
    size = size or PEAK_SIZE[device.type]
    a, b = torch.randn(2, size, size, device=device).to(DTYPES[precision])
    out = torch.empty_like(a)
    times = [seconds(lambda: torch.mm(a, b, out=out), device) for _ in range(repeats + 1)]
    return 2 * size**3 / min(times[1:])


def memory_of(work: Callable[[], object], device: torch.device) -> int:
    """Do some work and return the most bytes of tensors that it held at once, beyond those there before.

    On the CPU this takes a run of torch's profiler: slower, but blind to what else is in the process.
    """
    if device.type == "cuda":
        synchronise(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        synchronise(device)
        return torch.cuda.max_memory_allocated(device) - before
    cpu = [torch.profiler.ProfilerActivity.CPU]
    with _silent(), torch.profiler.profile(activities=cpu, profile_memory=True) as profile:
        work()
    assert profile.profiler is not None and profile.profiler.kineto_results is not None
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


@contextmanager
def _silent() -> Iterator[None]:
    """Drop what is written to stderr, from C++ too: the profiler chats."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
