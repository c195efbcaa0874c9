"""Encoders that a suite pretrains itself: each objective on the same demonstrations, with as many samples."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from rsp_robot.errors import UserError, unknown_name
from rsp_robot.experiments.presets import PRESETS, find_preset
from rsp_robot.experiments.protocols import Protocol
from rsp_robot.experiments.suite.jobs import Place, SuitePlan
from rsp_robot.files import read_jsonl
from rsp_robot.policies.file_lock import lock

if TYPE_CHECKING:
    from rsp_robot.pretrain.config import PretrainConfig

SMALL = "-small"
"""Ends the name of the preset of an objective for about a hundred demonstrations."""


def small_objectives() -> tuple[str, ...]:
    """Return the objectives that have a preset for small data."""
    return tuple(name.removesuffix(SMALL) for name in PRESETS if name.endswith(SMALL))


def pretraining_config(objective: str, protocol: Protocol, data: str, out: Path) -> PretrainConfig:
    """Return the objective's small preset with the protocol's budget.

    Raises:
        UserError: the objective has no such preset.
    """
    if objective not in small_objectives():
        raise unknown_name("objective to pretrain with", objective, small_objectives())
    preset = find_preset(objective + SMALL)
    return replace(
        preset,
        data=data,
        out=out,
        steps=protocol.pretraining_steps,
        batch_size=protocol.pretraining_batch,
        base_lr=preset.base_lr * preset.batch_size / protocol.pretraining_batch,  # the same peak for any batch
        probe_every=protocol.pretraining_steps,
        log_every=max(1, protocol.pretraining_steps // 40),
        checkpoint_every=max(1, protocol.pretraining_steps // 4),
        keep_last=1,
    )


def pretraining_fingerprint(objective: str, protocol: Protocol) -> str:
    """Return what differs where the pretrained encoder would: settings, budget, and whose demonstrations.

    Raises:
        UserError: the objective has no preset for small data.
    """
    settings = pretraining_config(objective, protocol, "demonstrations", Path("run")).identity()
    learned_from = {
        "tasks": [task.task for task in protocol.tasks],
        "demonstrations": protocol.demonstrations,
        "cameras": [task.cameras or protocol.cameras for task in protocol.tasks],
        "image_size": protocol.image_size,
        "quality": protocol.quality,
    }
    del settings["data"]
    content = json.dumps([settings, learned_from], sort_keys=True, default=str)
    return f"pretrain:{objective}:{hashlib.sha256(content.encode()).hexdigest()[:16]}"


def is_pretrained(place: Place, objective: str) -> bool:
    """Whether the encoder is there."""
    return (place.pretraining(objective) / "encoder" / "config.json").exists()


def pretrain_encoder(place: Place, plan: SuitePlan, objective: str) -> None:
    """Pretrain an encoder on the demonstrations of all tasks, or go on with it.

    Raises:
        UserError: the demonstrations do not allow it.
    """
    from rsp_robot.pretrain.train import pretrain

    out = place.pretraining(objective)
    data = ",".join(str(place.demonstrations(plan, task.task)) for task in plan.protocol.tasks)
    config = pretraining_config(objective, plan.protocol, data, out)
    waiting = f"{objective}: another process is at it; waiting"
    with lock(out.with_name(f".{out.name}.lock"), exclusive=True, say=waiting):
        if not is_pretrained(place, objective):
            pretrain(replace(config, device=plan.device, resume=(out / "config.yaml").exists()))


@dataclass(frozen=True)
class Pretrained:
    """What one pretraining came to."""

    encoder: str
    objective: str
    minutes: float
    """Of training alone, by its own measured speed."""
    rank: float
    """Effective rank of the embeddings at the end."""
    probe_actions: float | None
    """R² of the expert's actions from embedding and proprioception, on held-out demonstrations."""
    probe_actions_start: float | None
    """The same with the weights that training began with."""
    probe_actions_blind: float | None
    """The same without the embedding."""


def pretrained(place: Place, plan: SuitePlan) -> Iterator[Pretrained]:
    """Yield what each pretraining of a suite came to."""
    for name, encoder in plan.encoders.items():
        if encoder.objective:
            yield read_pretraining(name, encoder.objective, place.pretraining(encoder.objective))


def read_pretraining(encoder: str, objective: str, run: Path) -> Pretrained:
    """Read what a run folder tells.

    Raises:
        UserError: it tells nothing.
    """
    from rsp_robot.pretrain.config import read_config

    rows = read_jsonl(run / "metrics.jsonl")
    trained = [row for row in rows if "pairs_per_s" in row]
    probed = [row for row in rows if "probe_actions" in row]
    if not trained:
        raise UserError(f"{run / 'metrics.jsonl'} tells of no training; remove {run} and run the same command again")
    batch = read_config(run).samples_per_step
    steps = [row["step"] - before for row, before in zip(trained, [0, *(row["step"] for row in trained)], strict=False)]
    seconds = sum(batch * count / row["pairs_per_s"] for count, row in zip(steps, trained, strict=True))
    first, last = (probed[0], probed[-1]) if probed else ({}, {})
    return Pretrained(
        encoder,
        objective,
        seconds / 60,
        trained[-1]["rank"],
        last.get("probe_actions"),
        first.get("probe_actions"),
        last.get("probe_actions_blind"),
    )


def pretraining_table(found: list[Pretrained], protocol: Protocol) -> Table:
    """Return a table of all pretrainings."""
    budget = f"{protocol.pretraining_steps} steps of {protocol.pretraining_batch} samples"
    table = Table(title=f"Pretraining: {budget} each, one seed", title_justify="left", title_style="bold")
    table.add_column("encoder")
    for heading in ("minutes", "rank", "probe of actions", "random weights", "blind"):
        table.add_column(heading, justify="right")
    for one in found:
        probes = (one.probe_actions, one.probe_actions_start, one.probe_actions_blind)
        numbers = ["" if probe is None else f"{probe:.2f}" for probe in probes]
        table.add_row(one.encoder, f"{one.minutes:.1f}", f"{one.rank:.1f}", *numbers)
    return table
