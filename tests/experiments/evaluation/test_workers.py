from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest

from rsp_robot.errors import UserError
from rsp_robot.experiments.evaluation import workers
from rsp_robot.experiments.evaluation.simulation_worker import Episode, Outcome, Scene
from rsp_robot.experiments.evaluation.workers import Processes, Worker, play_episodes


def episodes(task: str, count: int, policy: str = "blind", cameras: tuple[str, ...] = ()) -> list[Episode]:
    return [Episode(policy, number, number, Scene(f"toy/{task}", cameras, 16)) for number in range(count)]


def play(policy, task: str, count: int, size: int = 2, **kwargs) -> dict[int, Outcome | str]:
    found = list(play_episodes({("blind", f"toy/{task}"): policy}, episodes(task, count), size, **kwargs))
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
    worker = Worker()
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


def test_a_lost_opengl_context_costs_a_process_and_no_episode(toy_suite, seeing):
    policies = {("see", f"toy/{task}"): seeing for task in ("lose-context-once", "reach")}
    lost = dict(play_episodes(policies, episodes("lose-context-once", 4, "see", ("front",)), 2))
    kept = dict(play_episodes(policies, episodes("reach", 4, "see", ("front",)), 2))
    assert [e.total_return for e in by_number(lost)] == [e.total_return for e in by_number(kept)]
    assert len(seeing.begun) == 4 + 1 + 4 and (toy_suite / "lost").exists()


def by_number(found: dict[Episode, Outcome | str]) -> list[Outcome]:
    return [found[episode] for episode in sorted(found, key=lambda episode: episode.number)]


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
        def __init__(self):
            super().__init__()
            started.append(self)

    original, workers.Worker = workers.Worker, Noted
    try:
        stream = play_episodes({("blind", "toy/reach"): blind}, episodes("reach", 6), 2)
        next(stream)
        stream.close()  # the user lost interest, or an exception came
    finally:
        workers.Worker = original
    assert 1 <= len(started) <= 2
    for worker in started:
        assert worker.process.returncode is not None
        with pytest.raises(ProcessLookupError):
            os.kill(worker.process.pid, 0)


def test_processes_that_are_kept_play_the_next_episodes_too(toy_suite, blind):
    alone = play(blind, "reach", 5)
    with Processes() as kept:
        assert play(blind, "leave", 4, kept=kept).keys() == {0, 1, 2, 3}
        first = [worker.process for worker in kept.idle]
        again = play(blind, "reach", 5, kept=kept)
        assert {worker.process for worker in kept.idle} == set(first) and len(first) == 2
        assert [again[i].total_return for i in range(5)] == [alone[i].total_return for i in range(5)]
    assert kept.idle == [] and all(process.returncode is not None for process in first)


def test_a_kept_process_that_died_meanwhile_is_replaced(toy_suite, blind):
    with Processes() as kept:
        play(blind, "reach", 4, kept=kept)
        for worker in kept.idle:
            worker.process.kill()
            worker.process.wait()
        outcomes = play(blind, "reach", 4, kept=kept, attempts=2)
        assert all(isinstance(outcome, Outcome) for outcome in outcomes.values())
        assert all(worker.process.poll() is None for worker in kept.idle)


def test_a_process_amid_an_episode_is_not_kept(toy_suite, blind):
    with Processes() as kept:
        stream = play_episodes({("blind", "toy/reach"): blind}, episodes("reach", 6), 2, kept=kept)
        next(stream)
        stream.close()
        assert all(worker.episode is None for worker in kept.idle) and len(kept.idle) <= 1


def test_several_policies_and_tasks_share_the_processes(toy_suite, blind, seeing):
    jobs = [*episodes("reach", 3), *episodes("reach", 3, "see", ("front",)), *episodes("leave", 3)]
    policies = {("blind", "toy/reach"): blind, ("see", "toy/reach"): seeing, ("blind", "toy/leave"): blind}
    found = dict(play_episodes(policies, jobs, 2))
    assert set(found) == set(jobs)
    assert sorted(seeing.begun) == [0, 1, 2]
    for number in range(3):
        assert found[jobs[number]].initial_state == found[jobs[3 + number]].initial_state
        assert found[jobs[6 + number]].first_success == 0, "success holds at the reset of that task alone"


def test_a_policy_never_plays_two_episodes_of_one_seed_at_a_time(toy_suite):
    """It remembers episodes by their seeds."""

    class Remembering:
        cameras = ()

        def __init__(self):
            self.steps = {}

        def reset(self, ids):
            self.steps |= dict.fromkeys(ids, 0)

        def act(self, observations, ids):
            for number in ids:
                self.steps[number] += 1
            return np.array([[0.1 * self.steps[number], 0.0] for number in ids], np.float32)

    policy = Remembering()
    names = ("a", "b", "c")
    jobs = [Episode(name, 5, 5, Scene("toy/reach")) for name in names]
    found = dict(play_episodes({(name, "toy/reach"): policy for name in names}, jobs, 3))
    returns = {outcome.total_return for outcome in found.values()}
    assert returns == {play(Remembering(), "reach", 6)[5].total_return}
