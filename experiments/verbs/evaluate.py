"""``rsp-robot evaluate``: load policies, roll them out on the same starts, and print the comparison."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from rsp_robot.errors import UserError
from rsp_robot.experiments.evaluate import EvaluateConfig, describe_config, evaluate
from rsp_robot.experiments.results import Arm, Results, print_table, save_results
from rsp_robot.versions import versions


@dataclass(frozen=True)
class EvaluateCommand:
    """Which policies are compared, and on what."""

    policies: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[NAME=]FOLDER ...")]
    """Policy folders, or run folders of `rsp-robot bc`: the one in question first, then the baselines. A policy goes
    by the name of its folder unless it is given another."""
    evaluation: Annotated[EvaluateConfig, tyro.conf.arg(name="")]


def run_evaluation(command: EvaluateCommand) -> Path:
    """Evaluate, print the table, and write ``<out>.results.json`` beside the rows; return its path.

    Raises:
        UserError: a folder holds no policy, two policies have one name, or the evaluation is refused.
    """
    folders = name_policies(command.policies)
    from rsp_robot.policies.policy import load_policy  # torch only now, so that a mistake in the line is told at once

    config = command.evaluation
    policies = {
        name: load_policy(folder, task=config.task, allow_mismatch=config.allow_mismatch)
        for name, folder in folders.items()
    }
    rows = evaluate(policies, config)
    results = Results(
        title="Evaluation",
        task=config.task,
        arms=tuple(Arm(name, name, f"loaded from {folder}") for name, folder in folders.items()),
        rows=tuple(rows),
        config=describe_config(config),
        versions=versions(),
        seeds={"first": config.seed, "last": config.seed + config.episodes - 1},
        command=shlex.join(["rsp-robot", *sys.argv[1:]]),
    )
    print_table(results)
    return save_results(config.out.with_suffix(".results.json"), results)


def name_policies(words: Sequence[str]) -> dict[str, Path]:
    """Return the folders by policy name, in the order given.

    >>> name_policies(["runs/bc-rsp", "runs/bc-blind/policy", "base=runs/old"])
    {'bc-rsp': PosixPath('runs/bc-rsp'), 'bc-blind': PosixPath('runs/bc-blind/policy'), 'base': PosixPath('runs/old')}

    Raises:
        UserError: two policies have one name.
    """
    folders: dict[str, Path] = {}
    for word in words:
        given, _, folder = word.rpartition("=") if "=" in word and not Path(word).exists() else ("", "", word)
        path = Path(folder)
        place = path.resolve()
        name = given or (place.parent.name if place.name == "policy" else place.name)
        if name in folders:
            raise UserError(f"two policies are called {name!r}; give one another name: other={word}")
        folders[name] = path
    return folders
