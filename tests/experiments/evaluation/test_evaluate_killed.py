"""Evaluations that are killed, and their simulation processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from rsp_robot.experiments.evaluation.evaluate import EvaluateConfig, evaluate
from rsp_robot.files import read_jsonl

SCRIPT = """
import sys, time
sys.path[:0] = {path!r}
from pathlib import Path
from conftest import BlindPolicy, OraclePolicy, SeeingPolicy
from rsp_robot.experiments.evaluation import evaluate as module
module.find_backend = lambda: None
class Slow(SeeingPolicy):
    def act(self, observations, ids=None):
        time.sleep({pause})
        return super().act(observations, ids)
module.evaluate(
    {{"see": Slow(), "blind": BlindPolicy(), "oracle": OraclePolicy()}},
    module.EvaluateConfig({tasks!r}, Path({out!r}), {episodes}, stop_on_success=False, workers={workers}),
)
"""


class Evaluation:
    """An evaluation of three policies in a process of its own."""

    def __init__(self, config: EvaluateConfig, script: Path, pause: float) -> None:
        path = [*sys.path[:2], str(Path(__file__).parents[1])]
        settings = {"tasks": config.tasks, "out": str(config.out), "episodes": config.episodes}
        script.write_text(SCRIPT.format(path=path, pause=pause, workers=config.workers, **settings))
        self.out = config.out
        self.process = subprocess.Popen([sys.executable, str(script)], stderr=subprocess.DEVNULL)

    def wait_for(self, reached: Callable[[], bool], limit_s: float = 120.0) -> None:
        until = time.monotonic() + limit_s
        while not reached():
            assert self.process.poll() is None, "it ended before"
            assert time.monotonic() < until
            time.sleep(0.02)

    def rows(self) -> list[dict]:
        return read_jsonl(self.out)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def start(toy_suite: Path, tmp_path: Path) -> Iterator[Callable[..., Evaluation]]:
    begun: list[Evaluation] = []

    def begin(config: EvaluateConfig, pause: float) -> Evaluation:
        begun.append(Evaluation(config, tmp_path / "evaluation.py", pause))
        return begun[-1]

    yield begin
    for evaluation in begun:
        evaluation.kill()


@pytest.fixture
def policies(seeing, blind, oracle) -> dict:
    return {"see": seeing, "blind": blind, "oracle": oracle}


def timeless(rows: list[dict]) -> str:
    return json.dumps([{**row, "wall_s": 0} for row in rows])


def alive(process: int) -> bool:
    """Whether it runs; one that ended but was not waited for does not."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"


def simulations(marks: Path) -> list[int]:
    """Processes in which an environment was made."""
    return [int(path.name.partition("-")[2]) for path in marks.glob("process-*")]


def test_killed_evaluation_goes_on(start, policies, tmp_path):
    config = EvaluateConfig("toy/reach", tmp_path / "rows.jsonl", 8, stop_on_success=False, workers=2)
    evaluation = start(config, pause=0.02)
    evaluation.wait_for(lambda: len(evaluation.rows()) >= 3)
    evaluation.kill()
    before = evaluation.rows()
    assert 3 <= len(before) < 24
    rows = evaluate(policies, config)
    assert all(row in rows for row in before)
    assert timeless(rows) == timeless(evaluate(policies, replace(config, out=tmp_path / "undisturbed.jsonl")))


@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel")
@pytest.mark.parametrize("task", ["toy/reach", "toy/hang-once"])
def test_simulations_end_with_the_evaluation_that_was_killed_even_when_they_hang(start, task, tmp_path, toy_suite):
    evaluation = start(EvaluateConfig(task, tmp_path / "rows.jsonl", 500, workers=2), pause=0.02)
    hung = (lambda: (toy_suite / "hung").exists()) if task == "toy/hang-once" else lambda: True
    evaluation.wait_for(lambda: len(simulations(toy_suite)) == 2 and hung())
    processes = simulations(toy_suite)
    assert all(map(alive, processes))
    evaluation.kill()
    until = time.monotonic() + 10
    while any(map(alive, processes)) and time.monotonic() < until:
        time.sleep(0.02)
    assert not any(map(alive, processes))


@pytest.mark.slow
def test_three_policies_three_tasks_killed_twice_and_once_a_simulation_give_the_rows_of_an_undisturbed_run(
    start, policies, tmp_path, toy_suite
):
    tasks = ("toy/reach", "toy/leave", "toy/torchless")
    config = EvaluateConfig(tasks, tmp_path / "rows.jsonl", 100, stop_on_success=False, workers=3)
    for kept in (100, 350):
        evaluation = start(config, pause=0.002)
        evaluation.wait_for(lambda evaluation=evaluation, kept=kept: len(evaluation.rows()) >= kept)
        evaluation.kill()
        assert len(evaluation.rows()) < 900
    evaluation = start(config, pause=0.002)
    evaluation.wait_for(lambda: len(evaluation.rows()) >= 600)
    victim = next(process for process in simulations(toy_suite) if alive(process))
    os.kill(victim, signal.SIGKILL)
    assert evaluation.process.wait(120) == 0 and not alive(victim)
    rows = read_jsonl(config.out)
    undisturbed = evaluate(policies, replace(config, out=tmp_path / "undisturbed.jsonl", workers=1))
    assert len(rows) == len({(row["policy"], row["task"], row["episode"]) for row in rows}) == 900
    assert timeless(rows) == timeless(undisturbed)
    assert not any(row["error"] for row in rows)
