from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from rsp_robot.errors import UserError
from rsp_robot.experiments import experts
from rsp_robot.experiments.cli import main
from rsp_robot.experiments.comparison.statistics import wilson_interval
from rsp_robot.experiments.experts import FIRST_SEED, ExpertsConfig, Measured, measure_experts, table

REACH = "metaworld/reach-v3"


@pytest.fixture
def config(tmp_path: Path) -> ExpertsConfig:
    return ExpertsConfig(tmp_path / "e.jsonl", episodes=4, horizon=46, workers=1)  # so that some episodes fail


def test_episodes_are_counted_once_whatever_interrupts(config: ExpertsConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    (whole,) = measure_experts([REACH], config, quiet=True)
    rows = config.out.read_text().splitlines()
    assert [json.loads(row)["seed"] for row in rows] == list(range(FIRST_SEED, FIRST_SEED + 4))
    assert 0 < whole.successes < 4 and whole.interval == wilson_interval(whole.successes, 4)
    config.out.write_text("\n".join(rows[:3]))
    asked: list[int] = []
    run_tasks = experts.run_tasks

    def counted(start, setup, tasks, workers):  # type: ignore[no-untyped-def]
        tasks = list(tasks)
        asked.extend(tasks)
        return run_tasks(start, setup, iter(tasks), workers)

    monkeypatch.setattr(experts, "run_tasks", counted)
    assert measure_experts([REACH], config, quiet=True) == [whole]
    assert asked == [FIRST_SEED + 3]


def test_other_settings_need_another_file(config: ExpertsConfig) -> None:
    measure_experts([REACH], replace(config, episodes=1), quiet=True)
    with pytest.raises(UserError, match="has episodes of metaworld/reach-v3 with other settings; choose another --out"):
        measure_experts([REACH], replace(config, action_noise=0.0), quiet=True)


def test_the_table() -> None:
    rows = [Measured(REACH, 50, 49, wilson_interval(49, 50), 61.0)]
    assert list(table(rows, "markdown"))[2] == "| metaworld/reach-v3 | 49/50 | 90% to 100% | 61 |"
    assert " ".join(next(table(rows)).split()) == "metaworld/reach-v3 49/50 90% to 100% 61 steps"


def test_the_command_prints_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["experts", REACH, "--episodes", "1", "--horizon", "2", "--workers", "1", "--out", str(tmp_path / "e")]
    assert main([*command, "--markdown"]) == 0
    assert "| metaworld/reach-v3 | 0/1 | 0% to 79% | nan |" in capsys.readouterr().out
    assert main([*command[:2], "--episodes", "0", "--out", "x"]) == 2
