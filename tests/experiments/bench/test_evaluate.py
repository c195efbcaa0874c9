"""The bench of evaluation itself, on the toy suite."""

from __future__ import annotations

import json
import os
from io import StringIO
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from rsp_robot.errors import UserError
from rsp_robot.experiments.bench import evaluate as module
from rsp_robot.experiments.bench.evaluate import EvaluateBench, Measured, Way, differences, measure
from rsp_robot.experiments.bench.evaluate_report import evaluate_json, notes, print_evaluate
from rsp_robot.experiments.bench.plain_loop import play_plainly
from rsp_robot.experiments.cli import main
from rsp_robot.experiments.evaluation.rows import make_row
from rsp_robot.experiments.evaluation.simulation_worker import Episode, Scene, play_episode

CPU = torch.device("cpu")
SMALL: dict[str, Any] = {"task": "toy/reach", "horizon": 6, "rounds": 2, "episodes": 3, "plain_episodes": 2}


@pytest.fixture
def policy(toy_policies: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A policy of the toy suite that other processes can load as well."""
    monkeypatch.setattr(module, "find_backend", lambda: None)
    metadata = tmp_path / "site" / "toy_suite-1.0.dist-info" / "entry_points.txt"
    metadata.write_text(metadata.read_text() + "[rsp_robot.policies]\ntoy = toy_policies:load\n")
    return toy_policies.save(Path("toy").resolve(), 2.0, "toy/reach")


def test_the_same_episodes_are_played_in_every_way(policy: Path) -> None:
    measured = measure(EvaluateBench(policy, **SMALL, workers=2), quiet=True)
    assert measured.compared == 2 * 2 and measured.differing == ()
    assert measured.others is None or measured.others < 100
    assert measured.stock is not None and measured.workers == 2 and measured.quality == "lean"
    for way in (measured.ours, measured.plain, measured.stock):
        assert len(way.seconds) == len(way.cpu_s) == 2 and min(way.seconds) > 0
    assert measure(EvaluateBench(policy, **SMALL, stock_episodes=0), quiet=True).stock is None


def test_the_plain_loop_and_the_worker_agree_about_an_episode(toy_suite: Path, oracle: Any) -> None:
    from toy_suite import ToyEnv

    env = ToyEnv("reach", (), 16, "lean", 12)
    env.show_state()
    scene = Scene("toy/reach", horizon=12, state=True)

    def choose(observation: dict[str, np.ndarray]) -> np.ndarray:
        batch = {key: value[None] for key, value in observation.items()}
        return np.clip(oracle.act(batch, [4])[0], -1, 1)

    ours = make_row(Episode("p", 0, 4, scene), play_episode(env, Episode("p", 0, 4, scene, False), choose))
    plain = play_plainly(env, oracle, 4)
    assert list(differences(ours, plain)) == []
    assert 0 < plain["first_success"] < 12 and plain["success_steps"] > 1 and plain["success_at_end"]
    told = list(differences(ours | {"return": 0.5}, plain))
    assert told == [f"seed 4: return is 0.5 in the evaluation, {plain['return']} in the plain loop"]


def test_a_policy_is_trained_where_none_is_given(
    policy: Path, monkeypatch: pytest.MonkeyPatch, toy_policies: ModuleType
) -> None:
    monkeypatch.setattr(
        module, "_train", lambda bench, folder: toy_policies.save(folder / "p", 1.0, bench.task).resolve()
    )
    assert measure(EvaluateBench(**SMALL, workers=1, stock_episodes=0), quiet=True).differing == ()


def test_the_command_prints_and_writes(policy: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    options = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    assert main(["bench", "evaluate", *options, "--policy", str(policy), "--workers=1", f"--out={out}"]) == 0
    assert "are identical" in capsys.readouterr().out
    found = json.loads(out.read_text())
    assert found["rows_identical"] and found["settings"]["policy"] == str(policy)
    assert set(found["ways"]) == {"evaluate", "plain", "stock"} and found["speed_up"]["plain loop"]["target"] == 1.8


def known(differing: tuple[str, ...] = ()) -> Measured:
    def way(name: str, *seconds: float) -> Way:
        return Way(name, seconds, seconds)

    stock, plain, ours = way("stock", 30.0, 20.0, 21.0), way("plain", 2.0, 4.0, 3.0), way("evaluate", 2.0, 1.0, 1.5)
    return Measured(stock, plain, ours, 6, differing, 3, 2, "lean", 96, 1.25)


def test_ratios_are_of_medians_and_targets_are_told() -> None:
    console = Console(width=120, file=StringIO())
    print_evaluate(known(), EvaluateBench(), CPU, console)
    text = " ".join(console.file.getvalue().split())
    assert "stock 2.857 40 14x >= 10x met" in text and "plain 20 40 2x >= 1.8x met" in text
    found = evaluate_json(known(("seed 1: length is 3, 4",)), EvaluateBench(), CPU)
    assert found["speed_up"]["plain"] == {"ratio": 2.0, "target": 1.8, "met": True}
    assert not found["rows_identical"]
    assert any("other processes kept 1.2 of 2 cores busy" in note for note in notes(known()))
    assert "ROWS DIFFER in 1 numbers" in notes(known(("seed 1: length is 3, 4",)))[0]


def test_rows_that_differ_make_the_command_fail(policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rsp_robot.experiments.verbs.bench.measure_evaluate", lambda bench: known(("seed 1: ...",)))
    assert main(["bench", "evaluate"]) == 1


def test_mistakes(policy: Path, toy_suite: Path) -> None:
    with pytest.raises(UserError, match="was trained on toy/reach, not on toy/leave"):
        measure(EvaluateBench(policy, task="toy/leave"), quiet=True)
    with pytest.raises(UserError, match="rounds must be at least 1, not 0"):
        EvaluateBench(rounds=0)
    with pytest.raises(UserError, match="give --episodes at least as many"):
        EvaluateBench(episodes=2, plain_episodes=3)
    assert not [name for name in os.listdir() if name != "toy"]
