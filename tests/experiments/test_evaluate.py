from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from rsp_robot.errors import UserError
from rsp_robot.experiments.evaluate import EvaluateConfig, evaluate, make_row, plan_path
from rsp_robot.experiments.simulation_worker import Episode, Outcome
from rsp_robot.files import append_jsonl, read_jsonl

KEYS = [
    "policy", "task", "episode", "seed", "initial_state", "success_once", "success_at_end", "first_success", "return",
    "length", "wall_s", "error",
]  # fmt: skip


@pytest.fixture
def config(toy_suite, tmp_path) -> EvaluateConfig:
    return EvaluateConfig("toy/reach", out=tmp_path / "evaluation.jsonl", episodes=4, workers=2)


def timeless(rows: list[dict]) -> str:
    return json.dumps([{**row, "wall_s": 0} for row in rows])


def test_rows_follow_the_plan(config, seeing, blind):
    rows = evaluate({"see": seeing, "blind": blind}, config)
    assert [(row["policy"], row["episode"]) for row in rows] == [(p, e) for p in ("see", "blind") for e in range(4)]
    assert all(list(row) == KEYS and row["seed"] == 100_000 + row["episode"] and row["error"] is None for row in rows)
    assert [row["initial_state"] for row in rows[:4]] == [row["initial_state"] for row in rows[4:]]
    assert len({row["initial_state"] for row in rows}) == 4
    assert all(row["success_once"] and row["first_success"] == row["length"] for row in rows[:4])
    assert not any(row["success_once"] for row in rows[4:]) and {row["length"] for row in rows[4:]} == {12}
    assert read_jsonl(config.out) == rows, "the finished file is in order"


def test_same_rows_with_one_process_and_with_three(config, seeing, blind, tmp_path):
    policies = {"see": seeing, "blind": blind}
    alone = evaluate(policies, replace(config, workers=1, out=tmp_path / "alone.jsonl"))
    together = evaluate(policies, replace(config, workers=3, out=tmp_path / "together.jsonl"))
    assert timeless(alone) == timeless(together)


def test_a_policy_that_wants_the_state_is_told_it_and_the_others_are_not(config, oracle, blind):
    rows = evaluate({"oracle": oracle, "blind": blind}, config)
    assert all(row["success_once"] for row in rows[:4]) and not any(row["success_once"] for row in rows[4:])
    assert [row["initial_state"] for row in rows[:4]] == [row["initial_state"] for row in rows[4:]]


def test_other_pictures_than_in_training_are_played_where_a_user_insists(config, seeing):
    seeing.image_size, seeing.quality = 64, "lean"
    with pytest.raises(UserError, match="evaluation has 48; set image_size to 64, or insist with --allow-mismatch"):
        evaluate({"see": seeing}, replace(config, image_size=48))
    with pytest.warns(UserWarning, match="trained on pictures with image_size 64, the evaluation has 48"):
        rows = evaluate({"see": seeing}, replace(config, image_size=48, allow_mismatch=True))
    assert all(row["success_once"] for row in rows)


def test_only_what_is_missing_is_played(config, seeing, blind, toy_suite):
    policies = {"see": seeing, "blind": blind}
    rows = evaluate(policies, config)
    written = config.out.read_bytes()
    kept = [row for row in rows if (row["policy"], row["episode"]) not in {("see", 2), ("blind", 0)}]
    config.out.write_text("".join(json.dumps(row) + "\n" for row in kept) + '{"policy": "see", "epi')
    seeing.begun.clear()
    again = evaluate(policies, config)
    assert seeing.begun == [100_002]
    assert timeless(again) == timeless(rows)
    assert evaluate(policies, config) == again, "nothing to do: the rows as they are, wall time and all"
    assert len(config.out.read_bytes().splitlines()) == len(written.splitlines())


def test_episodes_and_policies_may_be_added(config, seeing, blind):
    first = evaluate({"see": seeing}, replace(config, episodes=2))
    more = evaluate({"see": seeing, "blind": blind}, config)
    assert more[:2] == first and len(more) == 8
    assert evaluate({"see": seeing}, replace(config, episodes=1)) == first[:1]
    assert len(read_jsonl(config.out)) == 8, "rows that were not asked for stay"


def test_killed_evaluation_goes_on(config, seeing, blind, toy_suite, tmp_path):
    script = tmp_path / "killed.py"
    script.write_text(
        "import sys, time\n"
        f"sys.path[:0] = {sys.path[:2]!r}\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from pathlib import Path\n"
        "from conftest import BlindPolicy, SeeingPolicy\n"
        "from rsp_robot.experiments import evaluate as module\n"
        "module.find_backend = lambda: None\n"
        "class Slow(SeeingPolicy):\n"
        "    def act(self, observations, ids=None):\n"
        "        time.sleep(0.05)\n"
        "        return super().act(observations, ids)\n"
        f"config = module.EvaluateConfig('toy/reach', out=Path({str(config.out)!r}), episodes=8, workers=2)\n"
        "module.evaluate({'see': Slow(), 'blind': BlindPolicy()}, config)\n"
    )
    process = subprocess.Popen([sys.executable, str(script)], stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while len(read_jsonl(config.out)) < 3 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    before = read_jsonl(config.out)
    assert 3 <= len(before) < 16
    config = replace(config, episodes=8)
    rows = evaluate({"see": seeing, "blind": blind}, config)
    assert all(row in rows for row in before)
    assert timeless(rows) == timeless(
        evaluate({"see": seeing, "blind": blind}, replace(config, out=tmp_path / "undisturbed.jsonl"))
    )


def test_error_rows_are_neither_success_nor_failure_and_are_tried_again(config, blind, toy_suite):
    config = replace(config, task="toy/raise", episodes=1, attempts=1)
    row = evaluate({"blind": blind}, config)[0]
    assert row["error"].startswith("ArithmeticError") and list(row) == KEYS
    assert row["success_once"] is None and row["initial_state"] is None and row["length"] is None
    (toy_suite / "seed-100000").unlink()
    evaluate({"blind": blind}, config)
    assert (toy_suite / "seed-100000").exists()
    assert len(read_jsonl(config.out)) == 1


def test_play_on_after_success(config, blind):
    rows = evaluate({"blind": blind}, replace(config, task="toy/leave", stop_on_success=False))
    assert all(row["success_once"] and not row["success_at_end"] and row["first_success"] == 0 for row in rows)
    assert {row["length"] for row in rows} == {12}


def test_start_states_that_differ_are_refused(config, blind, seeing):
    with pytest.raises(UserError, match=r"episode \d \(seed 10000\d\) starts in different states"):
        evaluate({"see": seeing, "blind": blind}, replace(config, task="toy/unseeded"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"horizon": 5}, "holds rows with horizon 12, asked for 5"),
        ({"seed": 7}, "holds rows with seed 100000, asked for 7"),
        ({"stop_on_success": False}, "holds rows with stop_on_success True, asked for False"),
        ({"task": "toy/leave"}, "holds rows with task toy/reach, asked for toy/leave"),
    ],
)
def test_rows_of_other_settings_are_not_mixed(config, blind, change, message):
    evaluate({"blind": blind}, replace(config, episodes=1))
    before = config.out.read_bytes()
    with pytest.raises(UserError, match=message):
        evaluate({"blind": blind}, replace(config, **change))
    assert config.out.read_bytes() == before


def test_rows_of_another_policy_of_that_name_are_not_mixed(config, blind):
    blind.fingerprint = "aaaa"
    evaluate({"blind": blind}, replace(config, episodes=1))
    blind.fingerprint = "bbbb"
    with pytest.raises(UserError, match="another policy called 'blind'"):
        evaluate({"blind": blind}, config)


def test_rows_of_unknown_origin_are_refused(config, blind):
    append_jsonl(config.out, {"policy": "blind", "episode": 0})
    with pytest.raises(UserError, match=r"evaluation\.plan\.json is missing"):
        evaluate({"blind": blind}, config)
    assert not plan_path(config.out).exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "toy/reech"}, "unknown task 'toy/reech'; did you mean toy/reach"),
        ({"episodes": 0}, "at least 1"),
        ({"image_size": 48}, "trained on pictures with image_size 64, the evaluation has 48; set image_size to 64"),
        ({"quality": "full"}, "trained on pictures with quality lean, the evaluation has full"),
    ],
)
def test_bad_requests_are_refused_before_anything_starts(config, seeing, change, message):
    seeing.image_size, seeing.quality = 64, "lean"
    with pytest.raises(UserError, match=message):
        evaluate({"see": seeing}, replace(config, **change))
    assert not config.out.exists() and not plan_path(config.out).exists()


def test_bad_policies_are_refused(config, seeing, blind):
    with pytest.raises(UserError, match="no policies"):
        evaluate({}, config)
    with pytest.raises(UserError, match="cannot name a policy"):
        evaluate({"../x": blind}, config)
    seeing.cameras = ("frunt",)
    with pytest.raises(UserError, match=r"unknown camera of toy/reach 'frunt'; did you mean front"):
        evaluate({"see": seeing}, config)


def test_make_row_of_a_known_outcome():
    outcome = Outcome("abc", True, False, 3, -1.5, 9, 0.12345)
    row = make_row(Episode("p", 2, 102, ()), "toy/reach", outcome)
    assert row == {
        "policy": "p", "task": "toy/reach", "episode": 2, "seed": 102, "initial_state": "abc", "success_once": True,
        "success_at_end": False, "first_success": 3, "return": -1.5, "length": 9, "wall_s": 0.123, "error": None,
    }  # fmt: skip
