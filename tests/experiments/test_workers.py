from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest

from rsp_robot.errors import UserError
from rsp_robot.experiments import workers
from rsp_robot.experiments.simulation_worker import Episode, Outcome, Setup
from rsp_robot.experiments.workers import Worker, play_episodes


def setup(task: str) -> Setup:
    return Setup(f"toy/{task}", 16, "lean", None, True)


def episodes(count: int, policy: str = "blind") -> list[Episode]:
    return [Episode(policy, number, number, ()) for number in range(count)]


def play(policy, task: str, count: int, size: int = 2, **kwargs) -> dict[int, Outcome | str]:
    found = list(play_episodes({"blind": policy}, episodes(count), setup(task), size, **kwargs))
    assert len(found) == len({episode for episode, _ in found}), "an episode ended twice"
    return {episode.number: outcome for episode, outcome in found}


def begun(marks: Path) -> int:
    return len(list(marks.glob("seed-*")))


def test_every_episode_is_played_once_and_without_torch(toy_suite, blind):
    outcomes = play(blind, "torchless", 5)
    assert sorted(outcomes) == [0, 1, 2, 3, 4]
    assert all(isinstance(outcome, Outcome) for outcome in outcomes.values())
    assert begun(toy_suite) == 5


def test_the_first_message_says_what_is_imported(toy_suite):
    worker = Worker(setup("reach"))
    kind, modules = worker.connection.recv()
    worker.stop()
    worker.join()
    assert kind == "ready" and "numpy" in modules
    assert "torch" not in modules and "mujoco" not in modules
    assert worker.process.returncode == 0


def test_a_dead_process_is_replaced_and_its_episode_played_again(toy_suite, blind):
    outcomes = play(blind, "crash-once", 4)
    undisturbed = play(blind, "reach", 4)
    assert [outcomes[i].total_return for i in range(4)] == [undisturbed[i].total_return for i in range(4)]


def test_a_hanging_process_is_replaced(toy_suite, blind):
    started = time.monotonic()
    outcomes = play(blind, "hang-once", 3, step_timeout_s=1.0)
    assert all(isinstance(outcome, Outcome) for outcome in outcomes.values())
    assert time.monotonic() - started < 30


def test_three_failures_give_an_episode_up_with_the_reason(toy_suite, blind):
    outcome = play(blind, "crash", 1)[0]
    assert "SIGKILL" in outcome and "the scene fell over" in outcome and "(3 attempts)" in outcome
    error = play(blind, "raise", 1, attempts=2)[0]
    assert error == "ArithmeticError: the solver (2 attempts)"
    assert "no such scene" in play(blind, "unmakeable", 1, attempts=1)[0]


def test_an_action_that_is_not_finite_ends_the_episode_only(toy_suite):
    class Diverged:
        cameras = ()

        def reset(self, ids):
            pass

        def act(self, observations, ids=None):
            actions = np.zeros((len(ids), 2), np.float32)
            actions[np.asarray(ids) == 1] = np.nan
            return actions

    outcomes = play(Diverged(), "reach", 4)
    assert outcomes[1] == "the policy's action is not finite"
    assert all(isinstance(outcomes[i], Outcome) for i in (0, 2, 3))


def test_actions_are_clipped(toy_suite):
    class Far:
        cameras = ()

        def reset(self, ids):
            pass

        def act(self, observations, ids=None):
            return np.full((len(ids), 2), 50.0, np.float32)

    class Edge(Far):
        def act(self, observations, ids=None):
            return np.ones((len(ids), 2), np.float32)

    assert play(Far(), "reach", 1)[0].total_return == play(Edge(), "reach", 1)[0].total_return


def test_a_users_mistake_found_in_a_process_is_passed_on(toy_suite, blind):
    with pytest.raises(UserError, match="unknown task"):
        play(blind, "reach-", 2)


def test_wrong_action_shape_is_named(toy_suite, blind):
    blind.act = lambda observations, ids=None: np.zeros((len(ids) + 1, 2), np.float32)
    with pytest.raises(ValueError, match=r"policy 'blind' returned actions of shape \(2, 2\) for 1 observations"):
        play(blind, "reach", 1)


def test_processes_that_cannot_start_are_reported(toy_suite, blind, monkeypatch):
    monkeypatch.setattr(workers, "_BOOT", "import sys; sys.exit('no numpy here')")
    with pytest.raises(UserError, match=r"do not start \(simulation process ended with status 1: no numpy here\)"):
        play(blind, "reach", 2, size=1)


def test_no_process_is_left_behind(toy_suite, blind):
    started = []

    class Noted(Worker):
        def __init__(self, setup):
            super().__init__(setup)
            started.append(self)

    original, workers.Worker = workers.Worker, Noted
    try:
        stream = play_episodes({"blind": blind}, episodes(6), setup("reach"), 2)
        next(stream)
        stream.close()  # the user lost interest, or an exception came
    finally:
        workers.Worker = original
    assert 1 <= len(started) <= 2
    for worker in started:
        assert worker.process.returncode is not None
        with pytest.raises(ProcessLookupError):
            os.kill(worker.process.pid, 0)


def test_several_policies_share_the_processes(toy_suite, blind, seeing):
    jobs = [Episode(name, i, i, cameras) for i in range(3) for name, cameras in (("blind", ()), ("see", ("front",)))]
    found = dict(play_episodes({"blind": blind, "see": seeing}, jobs, setup("reach"), 2))
    assert set(found) == set(jobs)
    assert sorted(seeing.begun) == [0, 1, 2]
    for i in range(3):
        states = {found[Episode(name, i, i, c)].initial_state for name, c in (("blind", ()), ("see", ("front",)))}
        assert len(states) == 1
