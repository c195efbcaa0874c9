"""How much pretraining is enough: every doubling of one run, frozen and judged by the same protocol."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from rsp_robot.errors import UserError
from rsp_robot.experiments.comparison.aggregates import Estimate
from rsp_robot.experiments.comparison.statistics import Interval
from rsp_robot.experiments.protocols import Protocol
from rsp_robot.experiments.suite.run import SuiteConfig, run_protocol
from rsp_robot.files import read_json, read_jsonl, write_json
from rsp_robot.pretrain.checkpoints import build_objective, is_doubling, load_objective, saved_steps
from rsp_robot.pretrain.config import PretrainConfig, read_config
from rsp_robot.pretrain.objectives import Objective
from rsp_robot.pretrain.published import load_weights


@dataclass(frozen=True)
class Point:
    """What a policy gets from one checkpoint."""

    step: int
    samples: int
    """Seen up to it; 0 for the weights that training began with."""
    minutes: float | None
    """Of training up to it, by its own measured speed; None where nothing was logged of it."""
    mean: Estimate
    """Success over tasks and training seeds of the policies."""
    iqm: Estimate
    tasks: Mapping[str, float]
    """Success rate by task."""
    difference: Estimate | None
    """Mean success less that of step 0, on the same start states; None at step 0."""


@dataclass(frozen=True)
class Budget:
    """Success against the samples seen during pretraining."""

    points: tuple[Point, ...]
    """By step; the first is step 0."""
    helps_from: int | None
    """Fewest samples from which on every checkpoint's difference to step 0 has an interval above zero; None if the last
    has not."""
    unsurpassed: int
    """Fewest samples that no later checkpoint surpasses: none whose difference to it has an interval above zero."""


def measure_budget(run: Path, protocol: Protocol, config: SuiteConfig, first_step: int = 1) -> Path:
    """Freeze the checkpoints of a run, judge them, and return the file with the numbers, beside its picture.

    What is there already is not done again; a run that has gone on adds its new doublings.

    Args:
        run: run folder of a pretraining that kept its doublings.
        protocol: how they are judged.
        config: where and how; its encoders are replaced, its folder holds ``encoders/``, ``suite/`` and the result.
        first_step: doublings before it are left out; step 0 never is.

    Raises:
        UserError: ``run`` has no such checkpoints, the folder holds something else, or what
            :func:`~rsp_robot.experiments.suite.run.run_protocol` refuses.
    """
    from rsp_robot.experiments.budget_output import draw_budget, print_budget, to_plain

    pretraining = read_config(run)
    steps = [0, *find_doublings(run, pretraining, first_step)]
    out = config.out
    claim_folder(out, run, pretraining)
    arms = []
    for step in reversed(steps):  # a comparison is of an earlier arm less a later one
        folder = export_checkpoint(run, pretraining, step, out / "encoders")
        arms.append(f"{pretraining.samples_per_step * step}={folder}")
    summary = read_json(run_protocol(protocol, replace(config, encoder=tuple(arms), out=out / "suite")))
    budget = read_budget(summary["last_checkpoint"], steps, pretraining.samples_per_step, timed_rows(run))
    tasks = list(budget.points[0].tasks)
    played = tasks[0] if len(tasks) == 1 else f"{len(tasks)} tasks"
    title = f"{pretraining.objective.name.upper()}, {pretraining.arch}: {protocol.label}, {played}"
    write_json(out / "budget.json", to_plain(budget, summary, run))
    draw_budget(budget, title, out / "budget.png")
    print_budget(budget, title, protocol.quick)
    return out / "budget.json"


def find_doublings(run: Path, config: PretrainConfig, first_step: int = 1) -> list[int]:
    """Return the steps 1, 2, 4, 8, ... from ``first_step`` on that a run has checkpoints of.

    Raises:
        UserError: there are none.
    """
    steps = saved_steps(run / "checkpoints")
    if not steps:
        raise UserError(f"{run} has no checkpoint; pretrain first")
    if not config.keep_doublings:
        raise UserError(
            f"{run} was pretrained without --keep-doublings and has only steps {', '.join(map(str, steps))}; "
            "pretrain with it"
        )
    doublings = [step for step in steps if is_doubling(step)]
    found = [step for step in doublings if step >= first_step]
    if not found:
        raise UserError(
            f"--first-step {first_step} is beyond the last doubling of {run}, {max(doublings, default=0)}; lower it"
        )
    return found


def claim_folder(out: Path, run: Path, config: PretrainConfig) -> None:
    """Write down which run a folder is about.

    Raises:
        UserError: it is about another one, or holds something else.
    """
    wanted = json.loads(json.dumps({"run": str(run.resolve()), "settings": config.identity()}, default=str))
    if (out / "run.json").exists():
        found = read_json(out / "run.json")
        if found["settings"] != wanted["settings"]:
            raise UserError(f"{out} is about the run {found['run']}, not {wanted['run']}; give another --out")
    elif out.exists() and (out.is_file() or any(out.iterdir())):
        raise UserError(f"{out} holds something that is no budget of a run; give another --out")
    else:
        write_json(out / "run.json", wanted)


def export_checkpoint(run: Path, config: PretrainConfig, step: int, folder: Path) -> Path:
    """Freeze the encoder of a step, where it is not there yet; return its folder.

    Raises:
        UserError: the checkpoint is damaged, or the weights that training began with are gone.
    """
    target = folder / f"step-{step:08d}"
    if not (target / "config.json").exists():
        objective = load_objective(run, torch.device("cpu"), step) if step else initial_objective(config)
        encoder = objective.encoder(config.pooling)
        encoder.provenance |= {
            "data": config.data,
            "steps": step,
            "samples": config.samples_per_step * step,
            "seed": config.seed,
            "start": str(config.init) if config.init else "random weights",
        }
        encoder.save(target)
    return target


def initial_objective(config: PretrainConfig) -> Objective:
    """Return the model as it is before the first step.

    Raises:
        UserError: the weights to start from cannot be read.
    """
    objective = build_objective(config)
    if config.init:
        load_weights(objective, config.init)
    return objective.eval()


def timed_rows(run: Path) -> list[tuple[int, float]]:
    """Return (step, samples per second since the row before) of what a run logged."""
    rows = read_jsonl(run / "metrics.jsonl")
    return [(row["step"], row["pairs_per_s"]) for row in rows if "pairs_per_s" in row]


def minutes_until(step: int, samples_per_step: int, rows: Sequence[tuple[int, float]]) -> float | None:
    """Return the minutes of training up to a step; None where the log ends before it.

    >>> minutes_until(15, 4, [(10, 4.0), (30, 8.0)])  # 10 steps at 4 samples per second, 5 at 8
    0.20833333333333334
    """
    seconds, before = 0.0, 0
    for until, speed in rows:
        seconds += samples_per_step * (min(step, until) - before) / speed
        before = min(step, until)
    return seconds / 60 if before == step else None


def read_budget(
    table: Mapping[str, Any], steps: Sequence[int], samples_per_step: int, rows: Sequence[tuple[int, float]]
) -> Budget:
    """Put the numbers of a comparison in order of the steps.

    Args:
        table: what ``rsp-robot compare`` writes, of arms called by their samples, the longest pretrained first.
        steps: of the arms, rising from 0.
        samples_per_step: of the pretraining.
        rows: see :func:`timed_rows`.
    """
    arms = {arm["name"]: arm for arm in table["arms"]}
    differences = {(int(pair["a"]), int(pair["b"])): _estimate(pair, "difference") for pair in table["pairs"]}
    points = []
    for step in steps:
        samples = samples_per_step * step
        arm = arms[str(samples)]
        points.append(
            Point(
                step,
                samples,
                minutes_until(step, samples_per_step, rows),
                _estimate(arm["aggregates"]["mean"]),
                _estimate(arm["aggregates"]["iqm"]),
                {task["task"]: task["rate"] for task in arm["tasks"]},
                differences.get((samples, 0)),
            )
        )
    better = {pair for pair, difference in differences.items() if difference.interval.low > 0}
    seen = [point.samples for point in points]
    helps_from = None
    for samples in reversed(seen[1:]):
        if (samples, 0) not in better:
            break
        helps_from = samples
    unsurpassed = next(few for few in seen if not any((more, few) in better for more in seen))
    return Budget(tuple(points), helps_from, unsurpassed)


def _estimate(values: Mapping[str, Any], key: str = "value") -> Estimate:
    return Estimate(values[key], Interval(*values["interval"]))
