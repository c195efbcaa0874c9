"""``rsp-robot bench``: measure on this machine what the code is worth, and print it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from rsp_robot.devices import pick_device
from rsp_robot.experiments.bench.pretrain import PretrainBench, measure
from rsp_robot.experiments.bench.report import print_measured, to_json
from rsp_robot.files import write_json


@dataclass(frozen=True)
class BenchCommand:
    """What is measured."""

    what: Annotated[Literal["pretrain"], tyro.conf.Positional]
    """pretrain: optimiser steps of RSP, with each optimisation switched off in turn."""
    pretrain: Annotated[PretrainBench, tyro.conf.arg(name="")]


def run_bench(command: BenchCommand) -> Path | None:
    """Measure, print the table, and write the JSON if asked; return its path.

    Raises:
        UserError: the device is not there, there is no compiler, or not even one pair fits the memory.
    """
    bench = command.pretrain
    measured, device = measure(bench), pick_device(bench.device)
    print_measured(measured, bench, device, Console())
    if bench.out is not None:
        write_json(bench.out, to_json(measured, bench, device))
    return bench.out
