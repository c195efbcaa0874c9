from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from rsp_robot.errors import UserError
from rsp_robot.experiments.evaluation.evaluate import EvaluateConfig, Tally, evaluate, plan_episodes, plan_path
from rsp_robot.experiments.evaluation.roles import Role
from rsp_robot.experiments.evaluation.simulation_worker import Scene
from rsp_robot.files import append_jsonl, read_json, read_jsonl
from rsp_robot.policies.file_lock import try_lock

KEYS = [
    "policy", "task", "episode", "seed", "initial_state", "success_once", "success_at_end", "first_success",
    "success_steps", "return", "length", "wall_s", "error",
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


def test_error_rows_are_neither_success_nor_failure_and_are_tried_again(config, blind, toy_suite):
    config = replace(config, tasks="toy/raise", episodes=1, attempts=1)
    row = evaluate({"blind": blind}, config)[0]
    assert row["error"].startswith("ArithmeticError") and list(row) == KEYS
    assert row["success_once"] is None and row["initial_state"] is None and row["length"] is None
    (toy_suite / "seed-100000").unlink()
    evaluate({"blind": blind}, config)
    assert (toy_suite / "seed-100000").exists()
    assert len(read_jsonl(config.out)) == 1


def test_play_on_after_success(config, blind):
    rows = evaluate({"blind": blind}, replace(config, tasks="toy/leave", stop_on_success=False))
    assert all(row["success_once"] and not row["success_at_end"] and row["first_success"] == 0 for row in rows)
    assert {row["length"] for row in rows} == {12}


def test_start_states_that_differ_are_refused(config, blind, seeing):
    with pytest.raises(UserError, match=r"episode \d of toy/unseeded \(seed 10000\d\) starts in different states"):
        evaluate({"see": seeing, "blind": blind}, replace(config, tasks="toy/unseeded"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"horizon": 5}, "holds rows of toy/reach with horizon 12, asked for 5"),
        ({"seed": 7}, "holds rows with seed 100000, asked for 7"),
        ({"stop_on_success": False}, "holds rows with stop_on_success True, asked for False"),
        ({"protocol": "another"}, "holds rows with protocol honest, asked for another"),
    ],
)
def test_rows_of_other_settings_are_not_mixed(config, blind, change, message):
    evaluate({"blind": blind}, replace(config, episodes=1))
    before = config.out.read_bytes()
    with pytest.raises(UserError, match=message):
        evaluate({"blind": blind}, replace(config, **change))
    assert config.out.read_bytes() == before


def test_rows_of_another_device_are_not_mixed(config, blind):
    blind.eyes = torch.nn.Identity()
    blind.eyes.device = torch.device("cuda", 1)
    evaluate({"blind": blind}, config)
    blind.eyes.device = torch.device("cpu")
    with pytest.raises(UserError, match="holds rows of 'blind' on toy/reach with device cuda, asked for cpu"):
        evaluate({"blind": blind}, config)


def test_rows_of_another_policy_of_that_name_are_not_mixed(config, blind):
    blind.fingerprint = "aaaa"
    evaluate({"blind": blind}, replace(config, episodes=1))
    blind.fingerprint = "bbbb"
    with pytest.raises(UserError, match="another policy called 'blind'"):
        evaluate({"blind": blind}, config)


def test_a_plan_without_rows_binds_nobody(config, blind):
    with pytest.raises(ValueError, match="returned actions of shape"):
        blind.act = lambda observations, ids=None: np.zeros((3, 2))
        evaluate({"blind": blind}, config)
    assert plan_path(config.out).exists() and not config.out.exists()
    del blind.act
    assert len(evaluate({"blind": blind}, replace(config, horizon=3))) == 4
    assert read_json(plan_path(config.out))["tasks"]["toy/reach"]["horizon"] == 3


def test_rows_of_unknown_origin_are_refused(config, blind):
    append_jsonl(config.out, {"policy": "blind", "episode": 0})
    with pytest.raises(UserError, match=r"evaluation\.plan\.json is missing"):
        evaluate({"blind": blind}, config)
    assert not plan_path(config.out).exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tasks": "toy/reech"}, "unknown task 'toy/reech'; did you mean toy/reach"),
        ({"tasks": ("toy/reach", "toy/reach")}, "a task is named twice in toy/reach, toy/reach"),
        ({"tasks": ()}, "no policy says what it was trained on; name the task with --task"),
        ({"episodes": 0}, "at least 1"),
        ({"image_size": 48}, "trained on pictures with image_size 64, the evaluation has 48; set image_size to 64"),
        ({"quality": "fulll"}, "unknown quality 'fulll'; did you mean full"),
        ({"image_size": 8}, "image_size=8 is out of range; choose 16 to 2048 pixels"),
        ({"horizon": 0}, "horizon=0 is out of range; choose at least 1 step"),
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


def test_tasks_are_played_one_after_the_other_and_their_rows_kept_apart(config, seeing, blind):
    config = replace(config, tasks=("toy/reach", "toy/leave"), episodes=3)
    rows = evaluate({"see": seeing, "blind": blind}, config)
    assert [(row["policy"], row["task"], row["episode"]) for row in rows] == [
        (policy, task, number)
        for policy in ("see", "blind")
        for task in ("toy/reach", "toy/leave")
        for number in range(3)
    ]
    assert read_jsonl(config.out) == rows
    assert all(row["first_success"] == 0 and row["success_steps"] == 0 for row in rows if row["task"] == "toy/leave")
    plan = read_json(plan_path(config.out))
    assert plan["protocol"] == "honest" and plan["format"] == 2
    assert {task: settings["horizon"] for task, settings in plan["tasks"].items()} == {"toy/reach": 12, "toy/leave": 12}
    assert plan["policies"]["see"]["toy/leave"] == {
        "fingerprint": "", "cameras": ["front"], "image_size": 64, "quality": "lean", "device": "cpu"
    }  # fmt: skip
    assert plan["policies"]["blind"]["toy/leave"]["image_size"] is None


def test_tasks_may_be_added_to_a_file(config, blind):
    first = evaluate({"blind": blind}, config)
    more = evaluate({"blind": blind}, replace(config, tasks=("toy/leave", "toy/reach")))
    assert more[4:] == first and len(more) == 8
    assert list(read_json(plan_path(config.out))["tasks"]) == ["toy/reach", "toy/leave"]
    assert read_jsonl(config.out) == [*first, *more[:4]], "in the order of the plan"


def test_a_policy_may_be_one_per_task(config, oracle, blind):
    config = replace(config, tasks=("toy/reach", "toy/torchless"))
    rows = evaluate({"both": {"toy/torchless": blind, "toy/reach": oracle}}, config)
    assert [row["success_once"] for row in rows] == [True] * 4 + [False] * 4


def test_policies_see_what_each_was_trained_on(config, seeing, toy_suite):
    class Sized(type(seeing)):
        def __init__(self, size):
            super().__init__()
            self.image_size = size

        def act(self, observations, ids=None):
            assert observations["front"].shape[1:3] == (self.image_size,) * 2
            return super().act(observations, ids)

    rows = evaluate({"small": Sized(24), "large": Sized(80)}, config)
    assert all(row["success_once"] for row in rows)
    record = read_json(plan_path(config.out))["policies"]
    assert [record[name]["toy/reach"]["image_size"] for name in ("small", "large")] == [24, 80]
    with pytest.raises(UserError, match="holds rows of 'small' on toy/reach with image_size 24, asked for 80"):
        evaluate({"small": Sized(80)}, config)


def test_episodes_are_begun_in_an_order_that_needs_few_environments():
    tasks, ways = ("x/a", "x/b"), [("one",), ("two",), ("three",), ("four",), ()]
    roles = {(f"p{i}", task): Role(None, Scene(task, ways[i])) for i in range(5) for task in tasks}
    roles |= {("twin", task): roles["p0", task] for task in tasks}
    episodes = list(plan_episodes(roles, EvaluateConfig(tasks, episodes=4)))
    assert len({(e.policy, e.task, e.number) for e in episodes}) == len(episodes) == 6 * 2 * 4
    scenes = [episode.scene for episode in episodes]
    open_now, made = [], 0
    for scene in scenes:
        made += scene not in open_now
        open_now = [*[other for other in open_now if other != scene][-2:], scene]
    assert made == 10, "each environment is made once, with room for three"
    assert [(e.policy, e.number) for e in episodes[:5]] == [("p0", 0), ("p1", 0), ("p2", 0), ("twin", 0), ("p0", 1)]


def test_a_line_cut_off_is_repaired_and_said(config, blind, capsys):
    rows = evaluate({"blind": blind}, config)
    text = config.out.read_text()
    config.out.write_text(text[: text.rstrip().rindex("\n") + 30])
    capsys.readouterr()
    assert timeless(evaluate({"blind": blind}, config)) == timeless(rows)
    said = [line for line in capsys.readouterr().err.splitlines() if "cut off" in line]
    assert said == [f"{config.out}: its last line was cut off; repaired, its episode is played again"]
    lines = config.out.read_text().splitlines()
    lines[1] = lines[1][:20]
    config.out.write_text("\n".join(lines) + "\n")
    assert timeless(evaluate({"blind": blind}, config)) == timeless(rows)
    assert "1 damaged line left out" in capsys.readouterr().err


def test_errors_of_other_policies_stay_in_the_file(config, blind, oracle):
    config = replace(config, tasks="toy/raise", episodes=1, attempts=1)
    evaluate({"blind": blind, "oracle": oracle}, config)
    evaluate({"oracle": oracle}, config)
    assert [(row["policy"], bool(row["error"])) for row in read_jsonl(config.out)] == [
        ("blind", True),
        ("oracle", True),
    ]


def test_rows_of_an_earlier_version_are_refused(config, blind):
    rows = evaluate({"blind": blind}, config)
    plan = read_json(plan_path(config.out))
    plan_path(config.out).write_text(json.dumps({"task": "toy/reach", "seed": 100_000, "policies": {"blind": ""}}))
    with pytest.raises(UserError, match="written by another version of rsp-robot"):
        evaluate({"blind": blind}, config)
    plan_path(config.out).write_text(json.dumps(plan))
    del rows[2]["success_steps"]
    config.out.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match="line 3: not a row of this version"):
        evaluate({"blind": blind}, config)


def test_two_evaluations_do_not_write_one_file(config, blind):
    held = try_lock(config.out.with_name(".evaluation.jsonl.lock"))
    with held, pytest.raises(UserError, match="is being written by another evaluation"):
        evaluate({"blind": blind}, config)
    assert len(evaluate({"blind": blind}, config)) == 4


def test_networks_are_in_evaluation_mode_meanwhile_and_as_before_afterwards(config, blind):
    class Learning(type(blind)):
        def __init__(self):
            self.network = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout())
            self.network[0].requires_grad_(False)
            self.network[0].eval()
            self.modes = set()

        def act(self, observations, ids=None):
            self.modes |= {module.training for module in self.network.modules()}
            self.network.requires_grad_(True)
            return super().act(observations, ids)

    policy = Learning()
    policy.network.train()
    policy.network[0].eval()
    evaluate({"learning": policy}, config)
    assert policy.modes == {False}
    assert [module.training for module in policy.network.modules()] == [True, False, True]
    assert not any(parameter.requires_grad for parameter in policy.network.parameters())


def test_success_rates_so_far():
    rows = [{"policy": "a", "success_once": s, "error": None} for s in (True, False, True)]
    tally = Tally([*rows, {"policy": "b", "success_once": None, "error": "died"}])
    assert tally.rates() == {"a:": 2 / 3}
