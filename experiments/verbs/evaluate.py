"""``rsp-robot evaluate``: load policies, roll them out on the same starts, and print the comparison."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from rsp_robot.errors import UserError
from rsp_robot.experiments.comparison.compare import compare
from rsp_robot.experiments.comparison.files import read_source, runs_of
from rsp_robot.experiments.comparison.output import print_comparison
from rsp_robot.experiments.comparison.results import Arm, Results, print_table, save_results
from rsp_robot.experiments.evaluation.evaluate import EvaluateConfig, describe_config, evaluate
from rsp_robot.experiments.evaluation.policy_folders import NamedPolicy, find_policies, load_policies
from rsp_robot.experiments.evaluation.roles import check_fit, choose_tasks
from rsp_robot.versions import versions


@dataclass(frozen=True)
class EvaluateCommand:
    """Which policies are compared, and on what."""

    policies: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[NAME=]FOLDER[,FOLDER...] ...")]
    """Policy folders, or run folders of `rsp-robot bc` or `rsp-robot rl`: the one in question first, then the
    baselines. A policy goes by the name of its folder unless it is given another. Several folders of one name are one
    policy, made of a folder per task."""
    evaluation: Annotated[EvaluateConfig, tyro.conf.arg(name="")]
    device: str = "auto"
    """Where frozen encoders run: auto, cpu, cuda or cuda:<index>. Rows of different devices differ in last bits and are
    not mixed in one file."""


def run_evaluation(command: EvaluateCommand) -> Path:
    """Evaluate, print the table, and write ``<out>.results.json`` beside the rows; return its path.

    Raises:
        UserError: a folder holds no policy, two policies have one name, a policy does not fit the task, or the
            evaluation is refused.
    """
    config = command.evaluation
    if not command.policies:
        raise UserError("no policies to evaluate; give their folders, for example: rsp-robot evaluate runs/bc-rsp")
    named = find_policies(command.policies)
    tasks = choose_tasks({name: tuple(policy.tasks) for name, policy in named.items()}, config.tasks)
    for name, policy in named.items():
        for task in tasks:
            if not config.allow_mismatch:
                check_fit(name, tuple(policy.tasks), task)
    from rsp_robot.devices import pick_device  # torch only now, so that a mistake in the line is told at once

    config = replace(config, tasks=tasks)
    rows = evaluate(load_policies(named, tasks, config.allow_mismatch, pick_device(command.device)), config)
    results = Results(
        title="Evaluation",
        task=", ".join(tasks),
        arms=tuple(Arm(name, name, f"loaded from {_places(policy)}") for name, policy in named.items()),
        rows=tuple(rows),
        config=describe_config(config),
        versions=versions(),
        seeds={"first": config.seed, "last": config.seed + config.episodes - 1},
        command=shlex.join(["rsp-robot", *sys.argv[1:]]),
    )
    written = save_results(config.out.with_suffix(".results.json"), results)
    if len(tasks) == 1:
        print_table(results)
    else:
        print_tasks(config.out, tuple(named))
    return written


def print_tasks(rows: Path, policies: Sequence[str]) -> None:
    """Print success by task, aggregates and paired differences of the policies in a rows file."""
    notes: list[str] = []
    source = read_source(rows, notes)
    arms = {name: runs_of(source, name) for name in policies}
    print_comparison(compare(arms, allow_mismatch=True, notes=notes))


def _places(policy: NamedPolicy) -> str:
    return ", ".join(str(folder) for folder in policy.folders)
