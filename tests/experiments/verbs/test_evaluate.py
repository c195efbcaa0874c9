"""`rsp-robot evaluate` on policy folders of the toy suite."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from rsp_robot.experiments import cli
from rsp_robot.files import read_json, read_jsonl


@pytest.fixture(autouse=True)
def folders(toy_policies: ModuleType) -> None:
    toy_policies.save(Path("good"), 2.0, "toy/reach", "toy/leave")
    toy_policies.save(Path("reach"), 2.0, "toy/reach")
    toy_policies.save(Path("leave"), 0.0, "toy/leave")
    toy_policies.save(Path("blind"), 1.0, "toy/leave", "toy/reach", cameras=())


def evaluate(*words: str) -> int:
    return cli.main(["evaluate", *words, "--workers", "2", "--out", "rows.jsonl"])


def test_policies_are_compared_on_the_tasks_they_were_trained_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate("good", "parts=reach,leave", "blind", "--episodes", "6") == 0
    rows = read_jsonl(Path("rows.jsonl"))
    assert len(rows) == 3 * 2 * 6
    said = capsys.readouterr().out
    assert "toy/reach" in said and "toy/leave" in said and "good" in said
    results = read_json("rows.results.json")
    assert results["task"] == "toy/reach, toy/leave" and len(results["rows"]) == 36
    assert results["arms"][1]["description"] == "loaded from reach, leave"
    assert cli.main(["compare", "rows.jsonl"]) == 0


def test_one_task_among_those_known(capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate("good", "reach", "--task", "toy/reach", "--episodes", "3") == 0
    assert {row["task"] for row in read_jsonl(Path("rows.jsonl"))} == {"toy/reach"}
    assert "3/3" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["reach", "leave"], "'reach' was trained on toy/reach, 'leave' on toy/leave; name the tasks to play"),
        (["reach", "--task", "toy/leave"], "policy 'reach' was trained on toy/reach, not on toy/leave; name tasks"),
        (["nowhere"], "nowhere holds no policy"),
        ([], "no policies to evaluate; give their folders"),
        (["reach", "--task", "toy/reech"], "not on toy/reech"),
    ],
)
def test_mistakes_are_told_in_one_line_before_anything_is_loaded(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rsp_robot.experiments.evaluation.policy_folders.load_policy", None)
    assert evaluate(*words) == cli.USER_ERROR
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1


def test_a_task_that_was_not_learnt_is_played_where_a_user_insists() -> None:
    with pytest.warns(UserWarning, match="policy 'reach' was trained on toy/reach, not on toy/leave"):
        assert evaluate("reach", "--task", "toy/leave", "--episodes", "2", "--allow-mismatch") == 0
    assert len(read_jsonl(Path("rows.jsonl"))) == 2
