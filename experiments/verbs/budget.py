"""``rsp-robot budget``: how much pretraining is enough."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from rsp_robot.errors import UserError
from rsp_robot.experiments.suite.run import SuiteConfig, choose_protocol


@dataclass(frozen=True)
class BudgetCommand:
    """Which pretraining is judged, by which protocol."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder of `rsp-robot pretrain --keep-doublings`; it may still be going on."""
    out: Path
    """Folder for encoders/, suite/, budget.json and budget.png; the same command again continues what is there."""
    protocol: str = "tabletop"
    """Name of the protocol; `rsp-robot suite list` has them all."""
    first_step: int = 1
    """Leave out the checkpoints before this step; the weights before training are always judged."""
    tasks: tuple[str, ...] = ()
    """Tasks of the protocol to leave it at; by default all."""
    seeds: int | None = None
    """Training seeds of the policies; by default the protocol's."""
    pooling: str = ""
    """Pooling in place of the protocol's."""
    quick: bool = False
    """The protocol shrunk to minutes, to see that it runs."""
    data: Path | None = None
    """Folder with demonstrations named <suite>-<task>.hdf5; by default they are collected."""
    device: str = "cpu"
    """Where to encode and train: cpu, cuda, cuda:<index> or auto."""
    workers: int = 0
    """Simulation processes of a job; 0 for as many as there are cores."""
    at_once: int = 1
    """Jobs side by side on this machine, each in a process of its own if there are several."""


def run_budget(command: BudgetCommand) -> Path:
    """Judge the checkpoints, print a table, and return the file with the numbers.

    Raises:
        UserError: ``run`` kept no doublings, the folder holds something else, or the protocol cannot be run.
    """
    if command.first_step < 1:
        raise UserError(f"--first-step {command.first_step} is out of range; choose 1 or more")
    config = SuiteConfig(
        command.protocol,
        out=command.out,
        quick=command.quick,
        seeds=command.seeds,
        tasks=command.tasks,
        pooling=command.pooling,
        data=command.data,
        device=command.device,
        workers=command.workers,
        at_once=command.at_once,
    )
    protocol = choose_protocol(config)

    from rsp_robot.experiments.budget import measure_budget

    return measure_budget(command.run, protocol, config, command.first_step)
