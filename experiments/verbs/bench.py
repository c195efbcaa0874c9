"""``rsp-robot bench``: measure on this machine what the code is worth, and print it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from rsp_robot.devices import pick_device
from rsp_robot.experiments.bench.data import DataBench
from rsp_robot.experiments.bench.data import measure as measure_data
from rsp_robot.experiments.bench.data_report import data_json, print_data
from rsp_robot.experiments.bench.evaluate import EvaluateBench
from rsp_robot.experiments.bench.evaluate import measure as measure_evaluate
from rsp_robot.experiments.bench.evaluate_report import evaluate_json, print_evaluate
from rsp_robot.experiments.bench.policy import PolicyBench
from rsp_robot.experiments.bench.policy import measure as measure_policy
from rsp_robot.experiments.bench.policy_report import policy_json, print_policy
from rsp_robot.experiments.bench.pretrain import PretrainBench, measure
from rsp_robot.experiments.bench.report import print_measured, to_json
from rsp_robot.files import write_json

Pretrain = Annotated[
    PretrainBench,
    tyro.conf.subcommand(
        "pretrain", description="Optimiser steps of RSP, with each optimisation switched off in turn."
    ),
]
Data = Annotated[
    DataBench,
    tyro.conf.subcommand("data", description="How fast each way of loading brings frame pairs to the device."),
]

Policy = Annotated[
    PolicyBench,
    tyro.conf.subcommand(
        "policy", description="What a frozen encoder costs a policy, and what keeping its embeddings saves."
    ),
]

Evaluate = Annotated[
    EvaluateBench,
    tyro.conf.subcommand(
        "evaluate", description="Episodes per minute against a plain loop with the same policy and the same seeds."
    ),
]


@dataclass(frozen=True)
class BenchCommand:
    """What is measured."""

    bench: Annotated[Pretrain | Data | Policy | Evaluate, tyro.conf.arg(name="")]


def run_bench(command: BenchCommand) -> Path | int:
    """Measure, print the table, and write the JSON if asked; return its path, or 1 where rows differ.

    Raises:
        UserError: the device or a compiler is not there, an encoder cannot be loaded, or not even one pair fits the
            memory.
    """
    bench = command.bench
    device = pick_device("cpu" if isinstance(bench, EvaluateBench) else bench.device)  # policies act on the CPU
    console = Console()
    differ = False
    if isinstance(bench, EvaluateBench):
        rate = measure_evaluate(bench)
        print_evaluate(rate, bench, device, console)
        found, differ = evaluate_json(rate, bench, device), bool(rate.differing)
    elif isinstance(bench, DataBench):
        speed = measure_data(bench)
        print_data(speed, bench, device, console)
        found = data_json(speed, bench, device)
    elif isinstance(bench, PolicyBench):
        cost = measure_policy(bench)
        print_policy(cost, bench, device, console)
        found = policy_json(cost, bench, device)
    else:
        measured = measure(bench)
        print_measured(measured, bench, device, console)
        found = to_json(measured, bench, device)
    if bench.out is not None:
        write_json(bench.out, found)
    return bench.out if bench.out is not None and not differ else int(differ)
