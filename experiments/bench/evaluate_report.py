"""What `rsp-robot bench evaluate` found: a table for people, JSON for programs."""

from __future__ import annotations

from dataclasses import asdict
from datetime import date
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from rsp_robot.experiments.bench.evaluate import LEAN_TARGET, STOCK_TARGET, EvaluateBench, Measured, Way
from rsp_robot.experiments.bench.report import machine
from rsp_robot.versions import versions

QUIET = 0.2
"""Cores busy with something else that are no reason to doubt the numbers."""


def print_evaluate(measured: Measured, bench: EvaluateBench, device: torch.device, console: Console) -> None:
    """Print the machine, the setting, and a row per plain loop with its target."""
    head = [
        f"{machine(device)}, torch {torch.__version__}",
        f"{bench.task}, {bench.policy or bench.encoder}, pictures of {measured.image_size} px, {measured.quality}, "
        f"{bench.horizon} steps per episode\n",
    ]
    for line in head:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    table = Table(box=None, pad_edge=False)
    table.add_column("", no_wrap=True)
    for title in ("episodes/min", "evaluate", "ratio", "target", "", "CPU s"):
        table.add_column(title, justify="right", no_wrap=True)
    for way, target in compared(measured):
        ratio = measured.speed_up(way)
        table.add_row(
            way.name,
            f"{way.per_minute:.4g}",
            f"{measured.ours.per_minute:.4g}",
            f"{ratio:.3g}x",
            f">= {target:g}x",
            "met" if ratio >= target else "missed",
            f"{median(way.cpu_s):.3g}, {median(measured.ours.cpu_s):.3g}",
        )
    console.print(table, highlight=False, markup=False)
    for note in notes(measured):
        console.print(note, highlight=False, markup=False, soft_wrap=True)


def compared(measured: Measured) -> list[tuple[Way, float]]:
    """Return the plain loops and the targets for how many times as fast the evaluation is."""
    rows = [(measured.plain, LEAN_TARGET)]
    return rows if measured.stock is None else [(measured.stock, STOCK_TARGET), *rows]


def notes(measured: Measured) -> list[str]:
    """Return what the numbers do not tell by themselves."""
    rows = f"the rows of {measured.compared} episodes that the plain loop played too are identical"
    if measured.differing:
        rows = f"ROWS DIFFER in {len(measured.differing)} numbers: {measured.differing[0]}"
    busy = measured.others or 0.0
    disturbed = f"NOT A QUIET MACHINE: other processes kept {busy:.1f} of {measured.cores} cores busy meanwhile"
    return [
        f"\n{rows}",
        f"evaluate: {measured.workers} simulation processes on {measured.cores} cores, and one that encodes; the plain "
        "loop: one process; both act on one thread",
        "without the start of processes; CPU s: processor time per episode, of the plain loop and of evaluate",
        *([disturbed] if busy > QUIET else []),
    ]


def evaluate_json(measured: Measured, bench: EvaluateBench, device: torch.device) -> dict[str, Any]:
    """Return everything that was measured, and where."""
    ways = {"evaluate": measured.ours, "plain": measured.plain, "stock": measured.stock}
    return {
        "date": date.today().isoformat(),
        "machine": machine(device),
        "versions": versions(),
        "settings": {
            name: str(value) if name == "policy" and value else value
            for name, value in asdict(bench).items()
            if name != "out"
        },
        "workers": measured.workers,
        "cores": measured.cores,
        "quality": measured.quality,
        "image_size": measured.image_size,
        "ways": {name: asdict(way) | {"episodes_per_minute": way.per_minute} for name, way in ways.items() if way},
        "speed_up": {
            way.name: {"ratio": measured.speed_up(way), "target": target, "met": measured.speed_up(way) >= target}
            for way, target in compared(measured)
        },
        "cores_busy_with_others": measured.others,
        "rows_compared": measured.compared,
        "rows_identical": not measured.differing,
        "differences": list(measured.differing),
    }
