"""What `rsp-robot bench pretrain` found: a table for people, JSON for programs."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from rsp_robot.experiments.bench.pretrain import Measured, PretrainBench, Row
from rsp_robot.versions import versions

MIB = 2**20


def print_measured(measured: Measured, bench: PretrainBench, device: torch.device, console: Console) -> None:
    """Print the machine, the full setting, one row per formulation, and the speed-up over the plain one."""
    full, plain = measured.rows[0], measured.rows[-1]
    for line in headlines(measured, bench, device):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    table = Table(box=None, pad_edge=False)
    table.add_column("", no_wrap=True)
    for title in ("pairs/s", "±%", "x full", "x plain", "of peak", "MiB"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in measured.rows:
        table.add_row(*cells(measured, row))
    console.print(table)
    for note in notes(measured, bench):
        console.print(note, highlight=False, markup=False, soft_wrap=True)
    console.print(
        f"\nThe full setting is {measured.speed_up(full, plain):.2f} times as fast as the plain formulation.",
        highlight=False,
    )


def headlines(measured: Measured, bench: PretrainBench, device: torch.device) -> Iterator[str]:
    """Yield the machine, the task and the full setting, a line each."""
    full, peaks, total = measured.rows[0], measured.peaks, measured.flops.total / 1e9
    yield f"{machine(device)}, torch {torch.__version__}"
    yield f"matmul peak: {_tera(peaks['bf16'])} TFLOP/s in bf16, {_tera(peaks['fp32'])} in fp32"
    yield (
        f"RSP, {bench.arch}/{bench.patch_size} at {bench.image_size} px, {measured.batch} pairs per step, "
        f"{total:.4g} GFLOP per pair"
    )
    yield (
        f"full setting: {measured.pairs_s(full):.4g} pairs/s, {full.step_s * 1e3:.4g} ms/step, "
        f"{_tera(measured.flops_s(full))} TFLOP/s, {measured.of_peak(full):.0%} of the {full.formulation.precision} "
        f"peak, {full.memory / MIB:.0f} MiB\n"
    )


def cells(measured: Measured, row: Row) -> list[str]:
    """Return one row of the table."""
    full, plain = measured.rows[0], measured.rows[-1]
    return [
        row.name,
        f"{measured.pairs_s(row):.4g}",
        f"{100 * row.spread / 2:.0f}",
        f"{measured.speed_up(row, full):.2f}",
        f"{measured.speed_up(row, plain):.2f}",
        f"{measured.of_peak(row):.0%}",
        f"{row.memory / MIB:.0f}",
    ]


def notes(measured: Measured, bench: PretrainBench) -> Iterator[str]:
    """Yield what the numbers do not tell by themselves."""
    full = measured.rows[0].formulation
    if not bench.compile:
        yield "torch.compile was left out (--no-compile)"
    elif not full.compile:
        yield "torch.compile is no part of the full setting on a CPU, where every row would take minutes to compile"
    if not full.bf16:
        yield "bf16 is not part of the full setting: this machine has no bf16 arithmetic in hardware"
    for row in measured.rows:
        if row.micro_batch < measured.batch:
            yield f"{row.name}: memory for {row.micro_batch} pairs at a time only, accumulated to {measured.batch}"


def machine(device: torch.device) -> str:
    """Name the hardware, and for a CPU how many threads compute."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{cpu_name()}, {torch.get_num_threads()} of {os.cpu_count()} cores"


def cpu_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return the processor's name as Linux tells it, else its architecture."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def to_json(measured: Measured, bench: PretrainBench, device: torch.device) -> dict[str, Any]:
    """Return everything that was measured, and where."""
    full, plain = measured.rows[0], measured.rows[-1]
    return {
        "date": date.today().isoformat(),
        "machine": machine(device),
        "versions": versions(),
        "settings": {name: value for name, value in asdict(bench).items() if name != "out"},
        "batch": measured.batch,
        "gflop_per_pair": {name: value / 1e9 for name, value in measured.flops._asdict().items()},
        "matmul_peak_tflops": {name: value / 1e12 for name, value in measured.peaks.items()},
        "rows": [
            {
                "name": row.name,
                "formulation": asdict(row.formulation),
                "micro_batch": row.micro_batch,
                "seconds_per_step": list(row.seconds),
                "pairs_per_s": measured.pairs_s(row),
                "relative_to_full": measured.speed_up(row, full),
                "relative_to_plain": measured.speed_up(row, plain),
                "model_tflops": measured.flops_s(row) / 1e12,
                "share_of_peak": measured.of_peak(row),
                "peak_memory_mib": row.memory / MIB,
                "first_loss": row.loss,
            }
            for row in measured.rows
        ],
        "speed_up_over_plain": measured.speed_up(full, plain),
    }


def _tera(flops: float) -> str:
    return f"{flops / 1e12:.3g}"
