"""What `rsp-robot bench policy` found: a table for people, JSON for programs."""

from __future__ import annotations

from dataclasses import asdict
from datetime import date
from statistics import median
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table

from rsp_robot.experiments.bench.policy import (
    BYTES_TARGET,
    CLONING_TARGET,
    LATENCY_TARGET,
    STEPS_TARGET,
    Measured,
    PolicyBench,
)
from rsp_robot.experiments.bench.report import machine
from rsp_robot.versions import versions


class Line(NamedTuple):
    """One row of the table."""

    what: str
    reference: str
    """The slow way."""
    ours: str
    ratio: str
    target: str
    met: bool | None = None
    """None without a target."""
    key: str = ""
    """Name in the JSON."""


def lines(measured: Measured) -> list[Line]:
    """Return the rows of the table."""
    throughput, cloning, learning = measured.throughput, measured.cloning, measured.learning
    rows = [
        Line(
            "latency: bare backbone, encoder" if latency is measured.latencies[0] else f"  {latency.name}",
            f"{1e3 * median(latency.backbone):.3g} ms",
            f"{1e3 * median(latency.encoder):.3g} ms",
            f"{latency.ratio:.2f}x",
            f"<= {LATENCY_TARGET:.2f}x",
            latency.ratio <= LATENCY_TARGET,
            f"latency of {latency.name}",
        )
        for latency in measured.latencies
    ]
    rows += [
        Line(
            "pictures/s: acting, in batches",
            f"{throughput.acting:,.4g}",
            f"{throughput.batched:,.4g}",
            f"{throughput.batched / throughput.acting:.3g}x",
            "",
        ),
        Line(
            f"cloning {cloning.epochs} epochs: anew, cache",
            f"{cloning.reencoded:.3g} s",
            f"{cloning.cached:.3g} s",
            f"{cloning.speed_up:.3g}x",
            f">= {CLONING_TARGET:g}x",
            cloning.speed_up >= CLONING_TARGET,
            "cloning",
        ),
        Line(
            "  the same with a full cache",
            "",
            f"{cloning.kept:.3g} s",
            f"{cloning.reencoded / cloning.kept:.3g}x",
            "",
        ),
    ]
    if learning is not None:
        rows += [
            Line(
                "SAC steps/s: pictures, embeddings",
                f"{1 / median(learning.pictures):,.3g}",
                f"{1 / median(learning.embeddings):,.3g}",
                f"{learning.speed_up:.3g}x",
                f">= {STEPS_TARGET:g}x",
                learning.speed_up >= STEPS_TARGET,
                "sac_steps",
            ),
            Line(
                "replay bytes per transition",
                f"{learning.pictures_bytes:,.0f}",
                f"{learning.embeddings_bytes:,.0f}",
                f"1/{1 / learning.share_of_bytes:.3g}",
                f"<= 1/{1 / BYTES_TARGET:.0f}",
                learning.share_of_bytes <= BYTES_TARGET,
                "sac_bytes",
            ),
        ]
    return rows


def print_policy(measured: Measured, bench: PolicyBench, device: torch.device, console: Console) -> None:
    """Print the machine, the setting, and a row per comparison with its target."""
    shape = " x ".join(map(str, measured.embedding))
    head = [
        f"{machine(device)}, torch {torch.__version__}",
        f"{bench.encoder}, embeddings of {shape}, pictures of {bench.picture} px\n",
    ]
    for line in head:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    table = Table(box=None, pad_edge=False)
    table.add_column("", no_wrap=True)
    for title in ("slow way", "ours", "ratio", "target", ""):
        table.add_column(title, justify="right", no_wrap=True)
    for row in lines(measured):
        verdict = "" if row.met is None else "met" if row.met else "missed"
        table.add_row(row.what, row.reference, row.ours, row.ratio, row.target, verdict)
    console.print(table, highlight=False, markup=False)
    for note in notes(measured):
        console.print(note, highlight=False, markup=False, soft_wrap=True)


def notes(measured: Measured) -> list[str]:
    """Return what the numbers do not tell by themselves."""
    latency, cloning = measured.latencies[0], measured.cloning
    once, anew = cloning.encoded
    told = [
        f"\nof the first latency, preprocessing is {1e3 * median(latency.preprocessing):.3g} ms",
        f"cloning encoded {anew:,} pictures anew, {once:,} for the cache, on one thread each; the weights of the two "
        f"policies differ by {cloning.apart:.1e}",
        f"batches are encoded on {measured.throughput.cores} cores, everything else is computed by one thread",
    ]
    if measured.learning is not None:
        told.append("SAC: the environment costs next to nothing; add a simulator's time per step to both")
    return told


def policy_json(measured: Measured, bench: PolicyBench, device: torch.device) -> dict[str, Any]:
    """Return everything that was measured, and where."""
    cloning, learning = measured.cloning, measured.learning
    found: dict[str, Any] = {
        "date": date.today().isoformat(),
        "machine": machine(device),
        "versions": versions(),
        "settings": {name: value for name, value in asdict(bench).items() if name != "out"},
        "encoder": {"fingerprint": measured.fingerprint, "embedding": list(measured.embedding)},
        "latency_s": [
            {part: median(getattr(latency, part)) for part in ("encoder", "backbone", "preprocessing")}
            | {"name": latency.name, "ratio": latency.ratio, "target": LATENCY_TARGET, "rounds": asdict(latency)}
            for latency in measured.latencies
        ],
        "pictures_per_s": asdict(measured.throughput),
        "cloning": asdict(cloning) | {"speed_up": cloning.speed_up, "target": CLONING_TARGET},
    }
    if learning is not None:
        found["sac"] = asdict(learning) | {
            "speed_up": learning.speed_up,
            "speed_up_target": STEPS_TARGET,
            "share_of_bytes": learning.share_of_bytes,
            "share_of_bytes_target": BYTES_TARGET,
        }
    found["targets_met"] = {row.key: row.met for row in lines(measured) if row.met is not None}
    return found
