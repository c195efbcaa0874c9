"""What `rsp-robot bench data` found: a table for people, JSON for programs."""

from __future__ import annotations

from dataclasses import asdict
from datetime import date
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from rsp_robot.experiments.bench.data import DataBench, Measured
from rsp_robot.experiments.bench.report import machine
from rsp_robot.threads import one_thread
from rsp_robot.versions import versions


def print_data(measured: Measured, bench: DataBench, device: torch.device, console: Console) -> None:
    """Print the machine, a row per loader, and the share of a pretraining that waits for data."""
    height, width = measured.frame_size
    with one_thread():
        console.print(f"{machine(device)}, torch {torch.__version__}", highlight=False, soft_wrap=True)
    console.print(
        f"pairs 4 to 48 frames apart, from films of {measured.frames} frames of {width}x{height}, to "
        f"{bench.image_size} px, {bench.batch} per batch, one core\n",
        highlight=False,
        soft_wrap=True,
    )
    table = Table(box=None, pad_edge=False)
    table.add_column("", no_wrap=True)
    for title in ("pairs/s", "x naive", "augmented", "x naive"):
        table.add_column(title, justify="right", no_wrap=True)
    naive = measured.rows[0]
    for row in measured.rows:
        table.add_row(
            row.name,
            f"{row.pairs_s:,.4g}",
            f"{row.pairs_s / naive.pairs_s:,.3g}",
            f"{row.augmented_s:,.4g}",
            f"{row.augmented_s / naive.augmented_s:,.3g}",
        )
    console.print(table)
    note = "\npairs/s: uint8 on the device. augmented: cropped, resized and normalised there as well."
    console.print(note, highlight=False, soft_wrap=True)
    for name, share in measured.waiting.items():
        console.print(
            f"share of a step of rsp-small spent waiting for data, {name}: {share:.1%}", highlight=False, soft_wrap=True
        )


def data_json(measured: Measured, bench: DataBench, device: torch.device) -> dict[str, Any]:
    """Return everything that was measured, and where."""
    naive = measured.rows[0]
    return {
        "date": date.today().isoformat(),
        "machine": machine(device),
        "versions": versions(),
        "settings": {name: value for name, value in asdict(bench).items() if name != "out"},
        "frame_size": list(measured.frame_size),
        "frames_per_film": measured.frames,
        "rows": [
            {
                "name": row.name,
                "pairs_per_s": row.pairs_s,
                "rounds": list(row.delivered),
                "relative_to_naive": row.pairs_s / naive.pairs_s,
                "augmented_pairs_per_s": row.augmented_s,
                "augmented_rounds": list(row.augmented),
                "augmented_relative_to_naive": row.augmented_s / naive.augmented_s,
            }
            for row in measured.rows
        ],
        "share_waiting_for_data": measured.waiting,
    }
