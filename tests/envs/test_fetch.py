from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest

from rsp_robot import envs
from rsp_robot.envs.base import VisualEnv
from rsp_robot.envs.experts import make_expert
from rsp_robot.errors import UserError

pytest.importorskip("gymnasium_robotics")

TASKS = ["fetch/PickAndPlace", "fetch/Push", "fetch/Reach", "fetch/Slide"]
CLASSES = {
    "fetch/PickAndPlace": "pick_and_place:MujocoFetchPickAndPlaceEnv",
    "fetch/Push": "push:MujocoFetchPushEnv",
    "fetch/Reach": "reach:MujocoFetchReachEnv",
    "fetch/Slide": "slide:MujocoFetchSlideEnv",
}
PICK = "fetch/PickAndPlace"


@pytest.fixture
def pick() -> Iterator[VisualEnv]:
    env = envs.make(PICK, cameras=())
    yield env
    env.close()


def actions(length: int = 40, seed: int = 0) -> np.ndarray:
    """Wide movements that take the gripper into objects and table."""
    return np.random.default_rng(seed).uniform([-1.0, -1.0, -1.2, -1.0], [1.0, 1.0, 0.8, 1.0], (length, 4))


def roll(env: VisualEnv, wanted: np.ndarray) -> list[np.ndarray]:
    """Return everything there is to see and to draw after each step."""
    seen = []
    for action in wanted:
        observation, reward, _, _, info = env.step(action)
        assert env.observation_space.contains(observation)
        drawn = [env.data.geom_xpos.ravel(), env.data.site_xpos.ravel(), env.data.cam_xpos.ravel()]
        seen.append(np.concatenate([env.get_state(), observation["proprio"], [reward, info["success"]], *drawn]))
    return seen


@pytest.mark.parametrize("task", TASKS)
def test_seed_determines_the_episode_and_states_are_exact(task: str) -> None:
    wanted = actions()
    env, other = envs.make(task, cameras=()), envs.make(task, cameras=())
    first_proprio = env.reset(seed=7)[0]["proprio"]
    start, name = env.get_state(), env.state_hash()
    first = roll(env, wanted[:15])
    middle = env.get_state()
    second = roll(env, wanted[15:])

    other.reset(seed=8)
    assert other.state_hash() != name
    roll(other, actions(seed=1))
    np.testing.assert_array_equal(other.reset(seed=7)[0]["proprio"], first_proprio)
    assert other.state_hash() == name
    np.testing.assert_array_equal(other.get_state(), start)
    np.testing.assert_array_equal(roll(other, wanted[:15]), first)

    other.reset(seed=9)
    other.set_state(start)
    np.testing.assert_array_equal(other.get_state(), start)
    np.testing.assert_array_equal(roll(other, wanted[:15]), first)
    other.set_state(middle)
    np.testing.assert_array_equal(other.get_state(), middle)
    np.testing.assert_array_equal(roll(other, wanted[15:]), second)
    env.close()
    other.close()


@pytest.mark.parametrize("task", TASKS)
def test_physics_rewards_and_success_are_those_of_the_suite(task: str) -> None:
    from rsp_robot.envs.gymnasium_robotics import import_environment

    env, suite = envs.make(task, cameras=()), import_environment(f"fetch.{CLASSES[task]}")()
    expert = make_expert(task, env) if envs.describe(task).expert else None
    env.reset(seed=5)
    suite.reset(seed=5)
    for action in actions(50):
        chosen = action if expert is None else expert.act().astype(np.float64)
        _, reward, _, _, info = env.step(chosen)
        theirs, their_reward, _, _, their_info = suite.step(chosen)
        np.testing.assert_array_equal(env._full_observation["observation"], theirs["observation"])  # type: ignore[attr-defined]
        assert (reward, info["success"]) == (float(their_reward), bool(their_info["is_success"]))
    if expert is not None:
        assert info["success"]
    env.close()


def test_the_drawing_is_back_with_the_state() -> None:
    env, other = envs.make(PICK, image_size=48), envs.make(PICK, image_size=48)
    env.reset(seed=3)
    for action in actions(10):
        seen = env.step(action)[0]["close"]
    other.reset(seed=4)
    other.set_state(env.get_state())
    np.testing.assert_array_equal(other.render(size=48), seen)
    env.close()
    other.close()


def test_proprioception_is_the_gripper_and_its_fingers(pick: VisualEnv) -> None:
    before = pick.reset(seed=0)[0]["proprio"]
    np.testing.assert_allclose(before[:3], [1.342, 0.749, 0.535], atol=1e-3)
    np.testing.assert_allclose(before[3:5], 0.0, atol=1e-3)
    for _ in range(5):
        after = pick.step(np.array([0.0, 1.0, 0.0, 1.0]))[0]["proprio"]
    assert after[1] - before[1] == pytest.approx(5 * 0.033, abs=0.01)
    assert 0.015 < after[6] < 0.035, "the velocity at the end of the step, in metres per step"
    assert min(after[3:5]) > 0.02 and np.abs(after[[0, 2]] - before[[0, 2]]).max() < 0.01


@pytest.mark.parametrize("task", ["fetch/Push", "fetch/Reach", "fetch/Slide"])
def test_proprioception_says_nothing_about_goal_and_object(task: str) -> None:
    env = envs.make(task, cameras=())
    first, second = env.reset(seed=0)[0]["proprio"], env.reset(seed=1)[0]["proprio"]
    assert first.shape == (10,)
    np.testing.assert_array_equal(first, second)
    env.close()


def test_success_is_less_than_five_centimetres_at_the_present_moment(pick: VisualEnv) -> None:
    pick.reset(seed=0)
    cube = pick.data.joint("object0:joint")
    start = cube.qpos[:3].copy()
    found = []
    for gap in (0.055, 0.045, 0.055):
        pick.simulator.goal = start + np.array([gap, 0.0, 0.0])  # type: ignore[attr-defined]
        found.append(pick.step(np.zeros(4))[4]["success"])
    assert found == [False, True, False] and all(type(flag) is bool for flag in found)


def test_some_episodes_of_push_are_solved_at_the_start() -> None:
    env = envs.make("fetch/Push", cameras=())
    solved = [env.reset(seed=seed)[1]["success"] for seed in range(40)]
    for seed, flag in enumerate(solved):
        env.reset(seed=seed)
        distance = np.linalg.norm(env.goal - env.object)  # type: ignore[attr-defined]
        assert flag is bool(distance < 0.05)
    assert 0 < sum(solved) < 8
    env.close()


def test_episodes_are_truncated_at_the_horizon_and_stepping_on_is_no_error() -> None:
    env = envs.make("fetch/Reach", cameras=())
    env.reset(seed=0)
    assert [env.step(np.zeros(4))[3] for _ in range(52)] == [False] * 49 + [True] * 3
    env.close()


def test_mistakes_are_one_line_and_leave_the_environment_usable(pick: VisualEnv) -> None:
    pick.reset(seed=0)
    with pytest.raises(UserError, match="holds NaN"):
        pick.step(np.array([0.0, np.nan, 0.0, 0.0]))
    with pytest.raises(UserError, match="is it another task's"):
        pick.set_state(np.zeros(7))
    assert np.isfinite(pick.step(np.zeros(4))[0]["proprio"]).all()
    slide = envs.make("fetch/Slide", cameras=())
    with pytest.raises(UserError, match="nobody demonstrates fetch/Slide"):
        make_expert("fetch/Slide", slide)
    slide.close()


def success_rate(task: str, seeds: range) -> float:
    env = envs.make(task, cameras=())
    expert, solved = make_expert(task, env), 0
    for seed in seeds:
        noise = 0.1 * np.random.default_rng(seed).standard_normal((50, 4))
        env.reset(seed=seed)
        expert.reset()
        for row in noise:
            action = expert.act()
            assert env.action_space.contains(action)
            success = env.step(action + row)[4]["success"]
        solved += success
    env.close()
    return solved / len(seeds)


@pytest.mark.parametrize("task", ["fetch/PickAndPlace", "fetch/Push", "fetch/Reach"])
def test_the_expert_ends_at_the_goal_in_spite_of_noise(task: str) -> None:
    assert success_rate(task, range(10)) == 1.0


@pytest.mark.slow
@pytest.mark.parametrize("task", ["fetch/PickAndPlace", "fetch/Push", "fetch/Reach"])
def test_the_expert_ends_at_the_goal_in_nearly_all_episodes(task: str) -> None:
    assert success_rate(task, range(100, 200)) >= 0.98


def red(picture: np.ndarray) -> np.ndarray:
    """Return the rows and columns of red pixels ``(n, 2)``."""
    r, g, b = picture.astype(int).transpose(2, 0, 1)
    return np.argwhere((r > 1.6 * g) & (r > 1.6 * b))


def test_the_goal_is_drawn_upright_where_it_is() -> None:
    env = envs.make("fetch/Reach", image_size=96)
    env.reset(seed=0)
    centres = {}
    for name, goal in {"high": [1.45, 0.75, 0.8], "low": [1.45, 0.75, 0.45], "back": [1.2, 0.65, 0.45]}.items():
        env.simulator.goal = np.array(goal)  # type: ignore[attr-defined]
        env._show_goal()  # type: ignore[attr-defined]
        centres[name] = red(env.render("close", 96)).mean(0)
    assert centres["high"][0] < centres["low"][0] - 20, "up is up"
    assert centres["back"][1] < centres["low"][1] - 20, "the robot is on the left"
    env.close()


@pytest.mark.parametrize("task", TASKS)
def test_the_first_picture_shows_the_episodes_own_goal(task: str) -> None:
    env = envs.make(task, image_size=64)
    camera = env.cameras[0]
    places = []
    for seed in (2, 3):
        picture = env.reset(seed=seed)[0][camera]
        assert len(red(picture)) >= 1
        places.append(red(picture).mean(0))
    assert np.abs(places[0] - places[1]).max() > 3
    env.close()


def test_scenes_side_by_side_are_drawn_as_each_alone() -> None:
    alone = {}
    for task in ("fetch/Slide", "fetch/Push"):
        env = envs.make(task, image_size=48)
        env.reset(seed=1)
        alone[task] = [env.step(action)[0][env.cameras[0]] for action in actions(4)]
        env.close()
    both = {task: envs.make(task, image_size=48) for task in alone}
    for env in both.values():
        env.reset(seed=1)
    for step, action in enumerate(actions(4)):
        for task, env in both.items():
            np.testing.assert_array_equal(env.step(action)[0][env.cameras[0]], alone[task][step])
    for env in both.values():
        env.close()


@pytest.mark.parametrize("task", TASKS)
def test_the_description_agrees_with_the_environment(task: str) -> None:
    description = envs.describe(task)
    env = envs.make(task, cameras=list(description.cameras), image_size=16)
    observation, info = env.reset(seed=0)
    assert set(observation) == {*description.cameras, "proprio"}
    assert env.observation_space.contains(observation)
    assert observation["proprio"].shape == (len(description.proprio),)
    assert env.action_space.shape == (len(description.action),) and env.action_space.dtype == np.float32
    assert (env.horizon, env.fps) == (description.horizon, description.fps) == (50, 25.0)
    assert env.fps == pytest.approx(1 / env.simulator.dt)  # type: ignore[attr-defined]
    assert info["success"] is False
    env.close()


def test_the_suites_notices_are_not_printed() -> None:
    code = "from rsp_robot import envs; envs.make('fetch/Reach', cameras=()).reset(seed=0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "" and done.stderr == ""
