from __future__ import annotations

import pytest

from rsp_robot.errors import UserError
from rsp_robot.experiments.evaluation.rows import KEYS, StartStates, in_order, make_row, read_rows, write_rows
from rsp_robot.experiments.evaluation.simulation_worker import Episode, Outcome, Scene

EPISODE = Episode("p", 2, 102, Scene("toy/reach"))


def test_row_of_a_known_outcome():
    row = make_row(EPISODE, Outcome("abc", True, False, 3, 4, -1.5, 9, 0.12345))
    assert row == {
        "policy": "p", "task": "toy/reach", "episode": 2, "seed": 102, "initial_state": "abc", "success_once": True,
        "success_at_end": False, "first_success": 3, "success_steps": 4, "return": -1.5, "length": 9, "wall_s": 0.123,
        "error": None,
    }  # fmt: skip
    assert tuple(row) == tuple(make_row(EPISODE, "it died")) == KEYS


def row(policy: str, task: str, number: int, error: str | None = None, state: str = "s") -> dict:
    outcome = error or Outcome(state, True, True, 1, 1, 0.0, 1, 0.0)
    return make_row(Episode(policy, number, 100 + number, Scene(task)), outcome)


def test_rows_are_ordered_by_policy_task_and_number():
    rows = [row("b", "t", 10), row("a", "u", 0), row("b", "t", 9), row("a", "t", 1)]
    assert in_order(rows, ["b", "a"], ["t", "u"]) == [rows[2], rows[0], rows[3], rows[1]]


def test_an_outcome_replaces_an_error_and_not_the_other_way_round(tmp_path):
    rows = [row("a", "t", 0, "died"), row("a", "t", 0), row("a", "t", 1), row("a", "t", 1, "died")]
    write_rows(tmp_path / "rows.jsonl", rows)
    there, remarks = read_rows(tmp_path / "rows.jsonl")
    assert list(there.values()) == [rows[1], rows[2]] and not remarks


def test_start_states_are_compared_by_task_and_episode():
    states = StartStates([row("a", "t", 0), row("a", "u", 0, state="other"), row("b", "t", 0, "died")])
    states.check(row("b", "t", 0))
    with pytest.raises(UserError, match=r"episode 0 of u \(seed 100\) starts in different states for 'a' and 'b'"):
        states.check(row("b", "u", 0))
