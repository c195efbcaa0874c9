from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import pytest

from rsp_robot import envs
from rsp_robot.envs.base import VisualEnv
from rsp_robot.envs.experts import make_expert
from rsp_robot.envs.kitchen import KitchenEnv
from rsp_robot.errors import UserError

TASKS = envs.list_tasks("kitchen")


@pytest.fixture(scope="module")
def microwave() -> Iterator[KitchenEnv]:
    env = cast(KitchenEnv, envs.make("kitchen/microwave", cameras=()))
    yield env
    env.close()


def roll(env: VisualEnv, actions: np.ndarray) -> list[np.ndarray]:
    """Act, return everything there is to see after each step."""
    seen = []
    for action in actions:
        observation, reward, _, _, info = env.step(action)
        assert env.observation_space.contains(observation)
        assert type(info["success"]) is bool
        pictures = [observation[camera].ravel() for camera in env.cameras]
        seen.append(np.concatenate([env.get_state(), observation["proprio"], [reward, info["success"]], *pictures]))
    return seen


def solve(env: VisualEnv, seed: int) -> int:
    """Let the disturbed expert act; return at how many of the steps, up to ten after the first, it was solved."""
    noise, expert = np.random.default_rng(seed), make_expert(env.task, env)
    _, info = env.reset(seed=seed)
    assert info["success"] is False
    expert.reset()
    solved, left = 0, env.horizon
    while left > 0:
        action = expert.act()
        assert env.action_space.contains(action)
        solved += env.step(action + 0.1 * noise.standard_normal(9))[4]["success"]
        left = min(left - 1, 9) if solved else left - 1
    return solved


def test_seed_determines_the_episode_and_states_are_exact() -> None:
    actions = np.random.default_rng(0).uniform(-1, 1, (16, 9))
    env, other = (envs.make("kitchen/left-door", image_size=32) for _ in range(2))
    first, info = env.reset(seed=7)
    start, name = env.get_state(), env.state_hash()
    before = roll(env, actions[:8])
    middle, picture = env.get_state(), env.render("right_cap2", 64)
    after = roll(env, actions[8:])

    different, _ = other.reset(seed=8)
    assert other.state_hash() != name
    assert np.abs(different["left_cap2"].astype(int) - first["left_cap2"]).mean() > 5
    roll(other, actions)
    again, _ = other.reset(seed=7)
    assert other.state_hash() == name and info == {"success": False, "seed": 7}
    for part in first:
        np.testing.assert_array_equal(again[part], first[part])
    np.testing.assert_array_equal(other.get_state(), start)
    np.testing.assert_array_equal(roll(other, actions[:8]), before)

    other.reset(seed=9)  # the kitchen stands elsewhere
    other.set_state(middle)
    np.testing.assert_array_equal(other.get_state(), middle)
    np.testing.assert_array_equal(other.render("right_cap2", 64), picture)
    np.testing.assert_array_equal(roll(other, actions[8:]), after)
    env.close()
    other.close()


def test_the_arm_moves_as_in_gymnasium_robotics(microwave: KitchenEnv) -> None:
    from gymnasium_robotics.envs.franka_kitchen.kitchen_env import KitchenEnv as Original

    original: Any = Original(tasks_to_complete=["microwave"], robot_noise_ratio=0.0, object_noise_ratio=0.0)
    microwave.reset(seed=3)
    robot = original.robot_env
    desk = microwave.model.body("desk").id
    robot.model.body_pos[desk] = microwave.model.body_pos[desk]
    robot.set_state(microwave.data.qpos, microwave.data.qvel)
    robot._get_obs()  # it drives from where it last saw itself
    robot.data.qacc_warmstart[:] = microwave.data.qacc_warmstart
    for action in np.random.default_rng(1).uniform(-1, 1, (10, 9)):
        microwave.step(action)
        original.step(action)
    np.testing.assert_array_equal(robot.data.qpos, microwave.data.qpos)
    np.testing.assert_array_equal(robot.data.qvel, microwave.data.qvel)


def test_kitchens_stand_within_reach_and_the_arm_starts_free(microwave: KitchenEnv) -> None:
    places = []
    for seed in range(12):
        observation, _ = microwave.reset(seed=seed)
        assert not microwave._robot_touches()
        places.append(np.concatenate([microwave.model.body("desk").pos, observation["proprio"]]))
        hand, handle = microwave.data.body("panda0_link2").xpos, microwave.data.site("microhandle_site").xpos
        assert np.linalg.norm(handle - hand) < 1.0
    spread = np.ptp(places, axis=0)
    assert (spread[:3] > 0.08).all() and (spread[:3] < 0.2).all()
    assert (spread[3:10] > 0.03).all() and (spread[3:10] < 0.3).all()


def test_success_is_r3ms_test_of_the_present_moment(microwave: KitchenEnv) -> None:
    still = np.zeros(9)

    def judged(**joints: float) -> bool:
        microwave.reset(seed=0)
        for name, value in joints.items():
            microwave.data.joint(name).qpos[0] = value
        _, reward, _, _, info = microwave.step(still)
        assert reward == float(info["success"])
        return cast(bool, info["success"])

    assert not judged()
    assert not judged(microwave=-0.90) and judged(microwave=-0.97)
    assert judged(microwave=-1.53) and not judged(microwave=-1.60)
    assert not judged(microwave=-1.25, left_hinge_cabinet=-0.4)
    assert judged(microwave=-1.25, left_hinge_cabinet=-0.1)
    assert judged(microwave=-1.25)
    microwave.data.joint("microwave").qpos[0] = 0.0
    assert microwave.step(still)[4]["success"] is False


def test_each_task_is_its_own_joint() -> None:
    for task in TASKS:
        env = cast(KitchenEnv, envs.make(task, cameras=()))
        env.reset(seed=0)
        env.data.joint(env.goal.joint).qpos[0] = env.goal.goal
        assert env._success()
        assert env.observation_space["proprio"].shape == (len(envs.describe(task).proprio),)
        assert env.action_space.shape == (len(envs.describe(task).action),)
        env.close()


def test_proprioception_is_the_robots_joints_without_noise(microwave: KitchenEnv) -> None:
    before = microwave.reset(seed=0)[0]["proprio"]
    np.testing.assert_array_equal(before, microwave.data.qpos[:9].astype(np.float32))
    fast = np.zeros(9)
    fast[0], fast[7:] = 1.0, 1.0
    for _ in range(5):
        after = microwave.step(fast)[0]["proprio"]
    assert 0.2 < after[0] - before[0] < 0.8  # 0.4 s at up to 2 rad/s
    assert (after[7:] > 0.03).all()


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("seeds", [[5, 6], pytest.param(range(3000, 3020), marks=pytest.mark.slow)], ids=["2", "20"])
def test_the_disturbed_expert_solves_it_and_it_stays_solved(task: str, seeds: list[int]) -> None:
    env = envs.make(task, cameras=())
    solved = [solve(env, seed) > 5 for seed in seeds]
    env.close()
    assert np.mean(solved) >= 0.9


def test_the_expert_acts_the_same_way_twice(microwave: KitchenEnv) -> None:
    runs = []
    for _ in range(2):
        expert = make_expert("kitchen/microwave", microwave)
        microwave.reset(seed=4)
        expert.reset()
        actions = []
        for _ in range(40):
            actions.append(expert.act())
            microwave.step(actions[-1])
        runs.append(actions)
    np.testing.assert_array_equal(*runs)


def test_episodes_are_truncated_at_the_horizon_and_stepping_on_is_no_error() -> None:
    env = envs.make("kitchen/light", cameras=(), horizon=3)
    env.reset(seed=0)
    assert [env.step(np.zeros(9))[3] for _ in range(5)] == [False, False, True, True, True]
    env.close()


def test_a_bad_action_is_refused_and_the_environment_lives_on(microwave: KitchenEnv) -> None:
    microwave.reset(seed=0)
    state = microwave.get_state()
    with pytest.raises(UserError, match="holds NaN"):
        microwave.step(np.full(9, np.nan))
    with pytest.raises(UserError, match=r"takes actions of shape \(9,\)"):
        microwave.step(np.zeros(7))
    np.testing.assert_array_equal(microwave.get_state(), state)
    microwave.step(np.ones(9))


def test_pictures_are_upright_and_not_mirrored() -> None:
    env = envs.make("kitchen/knob", cameras=("left_cap2", "default"), image_size=64)
    observation, _ = env.reset(seed=0)
    wide, left = observation["default"], observation["left_cap2"]
    assert wide[:12].mean() < 60 < 100 < wide[-12:].mean()  # the night above, the floor below
    assert left[:8, -8:].mean() < 60 < 200 < left[:8, :8].mean()  # the white wall is on the left
    env.close()


def test_scenes_do_not_disturb_each_others_pictures() -> None:
    def look(env: VisualEnv, seed: int) -> np.ndarray:
        return env.reset(seed=seed)[0]["right_cap2"]

    alone = []
    for task, seed in (("kitchen/knob", 1), ("kitchen/left-door", 2)):
        env = envs.make(task, cameras="right_cap2", image_size=48)
        alone.append(look(env, seed))
        env.close()
    knob, door = (envs.make(f"kitchen/{name}", cameras="right_cap2", image_size=48) for name in ("knob", "left-door"))
    assert np.abs(alone[0].astype(int) - alone[1]).mean() > 5
    for _ in range(2):
        np.testing.assert_array_equal(look(knob, 1), alone[0])
        np.testing.assert_array_equal(look(door, 2), alone[1])
    door.close()
    np.testing.assert_array_equal(look(knob, 1), alone[0])
    knob.close()


@pytest.mark.parametrize("camera", envs.describe("kitchen/knob").cameras)
def test_every_camera_sees_something(camera: str) -> None:
    env = envs.make("kitchen/knob", cameras=camera, image_size=32)
    assert env.reset(seed=0)[0][camera].std() > 15
    env.close()
