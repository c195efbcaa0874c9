from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from rsp_robot.experiments.evaluation.simulation_worker import (
    MAX_ENVIRONMENTS,
    Environments,
    Episode,
    Film,
    Scene,
    play_episode,
)


class CountingEnv:
    """Success after step 3 only; reward is the number of the step; never ends by itself before step 5."""

    fps = 60.0

    def __init__(self, success_steps: tuple[int, ...] = (3,), horizon: int = 5) -> None:
        self.success_steps, self.horizon, self.steps = success_steps, horizon, -1

    def reset(self, seed: int) -> tuple[dict, dict]:
        self.seed, self.steps = seed, 0
        return {"proprio": np.zeros(1, np.float32)}, {"success": 0 in self.success_steps}

    def step(self, action: np.ndarray) -> tuple[dict, float, bool, bool, dict]:
        self.steps += 1
        observation = {"proprio": np.full(1, self.steps, np.float32)}
        return observation, self.steps, False, self.steps == self.horizon, {"success": self.steps in self.success_steps}

    def state_hash(self) -> str:
        return f"start-{self.seed}"

    def render(self, camera: str | None, size: int) -> np.ndarray:
        return np.full((size, size, 3), self.steps, np.uint8)


def still(observation: dict) -> np.ndarray:
    return np.zeros(1, np.float32)


EPISODE = Episode("policy", 0, 7, Scene("toy/reach"))
TO_THE_END = replace(EPISODE, stop_on_success=False)


def test_stops_at_the_first_success():
    outcome = play_episode(CountingEnv(), EPISODE, still)
    assert (outcome.length, outcome.first_success, outcome.total_return) == (3, 3, 1 + 2 + 3)
    assert outcome.success_once and outcome.success_at_end
    assert outcome.initial_state == "start-7"
    assert outcome.frames is None


def test_plays_to_the_horizon_and_notices_that_success_was_lost():
    outcome = play_episode(CountingEnv(), TO_THE_END, still)
    assert (outcome.length, outcome.first_success, outcome.total_return) == (5, 3, 15)
    assert outcome.success_once and not outcome.success_at_end


def test_failure_has_no_first_success():
    outcome = play_episode(CountingEnv(success_steps=()), EPISODE, still)
    assert (outcome.length, outcome.first_success, outcome.success_once) == (5, None, False)


def test_success_at_the_reset_takes_no_action():
    outcome = play_episode(CountingEnv(success_steps=(0,)), EPISODE, still)
    assert (outcome.length, outcome.first_success, outcome.success_once, outcome.success_at_end) == (0, 0, True, True)
    later = play_episode(CountingEnv(success_steps=(0,)), TO_THE_END, still)
    assert (later.length, later.first_success, later.success_once, later.success_at_end) == (5, 0, True, False)


def test_the_policy_sees_every_observation_before_its_action():
    seen = []

    def choose(observation: dict) -> np.ndarray:
        seen.append(float(observation["proprio"][0]))
        return np.zeros(1)

    play_episode(CountingEnv(success_steps=()), EPISODE, choose)
    assert seen == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("rate", "steps", "fps"), [(60.0, [0, 1, 2, 3], 60.0), (30.0, [0, 2, 3], 30.0)])
def test_film_keeps_its_rate_and_always_shows_the_end(rate, steps, fps):
    film = replace(EPISODE, film=Film("front", 16, rate))
    outcome = play_episode(CountingEnv(), film, still)
    assert outcome.frames.shape == (len(steps), 16, 16, 3)
    assert outcome.frames[:, 0, 0, 0].tolist() == steps
    assert outcome.fps == fps


def test_steps_at_which_success_held_are_counted_without_the_reset():
    outcome = play_episode(CountingEnv(success_steps=(0, 2, 3, 5)), TO_THE_END, still)
    assert (outcome.success_steps, outcome.first_success, outcome.success_at_end) == (3, 0, True)
    assert play_episode(CountingEnv(success_steps=()), EPISODE, still).success_steps == 0


def test_environments_are_kept_per_scene_and_the_oldest_is_closed(toy_suite):
    environments = Environments()
    blind = environments.get(Scene("toy/reach", horizon=5))
    front = environments.get(Scene("toy/reach", ("front",), 16, horizon=5))
    assert environments.get(Scene("toy/reach", horizon=5)) is blind
    assert front.cameras == ("front",) and front.horizon == 5 and front.image_size == 16
    environments.get(Scene("toy/leave", horizon=5))
    environments.get(Scene("toy/reach", ("front",), 32, horizon=5))  # one too many: front was unused for longest
    assert MAX_ENVIRONMENTS == 3
    assert front.closed and not blind.closed
    environments.close()
    assert blind.closed


def test_imports_no_torch():
    code = "import sys, rsp_robot.experiments.evaluation.simulation_worker; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
