from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rsp_robot import envs
from rsp_robot.envs.base import VisualEnv
from rsp_robot.envs.collect import CollectConfig, record_episode
from rsp_robot.envs.experts import make_expert
from rsp_robot.envs.robosuite import DEFAULT_CAMERA, SUITE, RobosuiteEnv
from rsp_robot.errors import UserError

TASKS = SUITE.tasks()
WITH_EXPERT = [task for task in TASKS if SUITE.describe(task).expert]


def slow_except(*fast: str) -> list[object]:
    return [task if task in fast else pytest.param(task, marks=pytest.mark.slow) for task in TASKS]


def build(task: str, camera: str | None = None) -> RobosuiteEnv:
    env = envs.make(f"robosuite/{task}", cameras=() if camera is None else camera, image_size=64)
    assert isinstance(env, RobosuiteEnv)
    return env


@pytest.fixture(scope="module")
def lift() -> Iterator[RobosuiteEnv]:
    env = build("Lift")
    yield env
    env.close()


@pytest.fixture(scope="module")
def wipe() -> Iterator[RobosuiteEnv]:
    env = build("Wipe", DEFAULT_CAMERA)
    yield env
    env.close()


def some_actions(env: VisualEnv, steps: int) -> np.ndarray:
    """Noise that presses down a little, so that the arm meets things (Wipe's sponge its dirt)."""
    actions = 0.3 * np.random.default_rng(0).standard_normal((steps, *(env.action_space.shape or ())))
    actions[:, 2] -= 0.4
    return actions


def roll(env: RobosuiteEnv, actions: np.ndarray) -> np.ndarray:
    """Act and return everything there is to know after each step, derived quantities included."""
    seen = []
    for action in actions:
        observation, reward, _, _, info = env.step(action)
        assert env.observation_space.contains(observation)
        felt = [observation["proprio"], [reward, info["success"]], env.get_state()]
        seen.append(np.concatenate([*felt, env.data.xpos.ravel(), env.data.sensordata, env.data.qacc]))
    return np.stack(seen)


@pytest.mark.parametrize("task", slow_except("Wipe", "Door"))
def test_seed_determines_the_episode_and_states_are_exact(task: str) -> None:
    env, other = build(task), build(task)
    actions = some_actions(env, 40)
    env.reset(seed=7)
    start, name = env.get_state(), env.state_hash()
    first = roll(env, actions[:25])
    middle = env.get_state()
    second = roll(env, actions[25:])

    env.set_state(start)
    np.testing.assert_array_equal(roll(env, actions[:25]), first)  # back within an episode

    other.reset(seed=8)
    assert other.state_hash() != name
    roll(other, actions[::-1])  # leaves its furniture, fingers and markers behind
    other.reset(seed=7)
    assert other.state_hash() == name
    np.testing.assert_array_equal(other.get_state(), start)
    np.testing.assert_array_equal(roll(other, actions[:25]), first)

    other.reset(seed=9)
    other.set_state(middle)
    np.testing.assert_array_equal(other.get_state(), middle)
    np.testing.assert_array_equal(roll(other, actions[25:]), second)
    env.close()
    other.close()


def test_another_process_starts_the_same_and_says_nothing(lift: RobosuiteEnv) -> None:
    program = (
        "import os; os.environ.pop('MUJOCO_GL', None)\n"
        "from rsp_robot import envs\n"
        "env = envs.make('robosuite/Lift', cameras=())\n"
        "env.reset(seed=3)\n"
        "print(env.state_hash(), env.model.geom('cube_g0').size.tolist(), os.environ.get('MUJOCO_GL'))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    lift.reset(seed=3)
    assert done.stdout == f"{lift.state_hash()} {lift.model.geom('cube_g0').size.tolist()} None\n"
    assert done.stderr == ""


def test_the_physics_is_robosuites_own(lift: RobosuiteEnv) -> None:
    import robosuite

    settings = {"has_renderer": False, "has_offscreen_renderer": False, "use_camera_obs": False, "hard_reset": False}
    plain = robosuite.make("Lift", robots="Panda", control_freq=20, seed=0, **settings)
    generator = np.random.default_rng(4)
    plain.rng = plain.placement_initializer.rng = generator
    plain.reset()
    observation, _ = lift.reset(seed=4)
    for action in some_actions(lift, 30):
        theirs, _, _, _ = plain.step(action)
        observation = lift.step(action)[0]
    np.testing.assert_allclose(lift.data.qpos, plain.sim.data.qpos, atol=1e-6)
    names = ("robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos")
    expected = np.concatenate([theirs[name] for name in names])
    np.testing.assert_allclose(observation["proprio"], expected, atol=2e-3)  # theirs are one physics step older


@pytest.mark.parametrize("task", slow_except("Lift", "PickPlaceCan", "Wipe"))
def test_the_description_agrees_with_the_environment(task: str) -> None:
    env, about = build(task), SUITE.describe(task)
    observation, info = env.reset(seed=0)
    assert observation["proprio"].shape == (len(about.proprio),) and observation["proprio"].dtype == np.float32
    assert env.action_space.shape == (len(about.action),)
    assert (env.task, env.horizon, env.fps) == (about.task, about.horizon, about.fps)
    assert set(about.cameras) == {env.model.camera(i).name for i in range(env.model.ncam)}
    assert info["success"] is False
    assert env.step(np.zeros(len(about.action)))[4]["success"] is False
    env.close()


def test_the_bins_have_no_side_view() -> None:
    with pytest.raises(UserError, match="unknown camera of robosuite/PickPlaceCan 'sideview'"):
        envs.make("robosuite/PickPlaceCan", cameras="sideview")


def test_actions_move_the_hand_and_close_the_fingers(lift: RobosuiteEnv) -> None:
    before = lift.reset(seed=0)[0]["proprio"]
    np.testing.assert_allclose(before[:3], [-0.1, 0.0, 1.0], atol=0.08)
    np.testing.assert_allclose(np.abs(before[7:]), 0.0208, atol=2e-3)
    for _ in range(15):
        after = lift.step(np.array([0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0]))[0]["proprio"]
    assert 0.1 < after[1] - before[1] < 0.3
    np.testing.assert_allclose(after[[0, 2]], before[[0, 2]], atol=0.03)
    assert np.abs(after[7:]).max() < 0.005


def test_success_of_lift_is_the_cubes_height(lift: RobosuiteEnv) -> None:
    lift.reset(seed=0)
    height = lift.data.joint("cube_joint0").qpos[2:3]
    for above, expected in ((0.03, False), (0.06, True)):
        height[0] = 0.8 + above
        assert lift.step(np.zeros(7))[4]["success"] is expected
        lift.data.joint("cube_joint0").qvel[:] = 0.0


def test_success_of_door_is_its_hinge() -> None:
    env = build("Door")
    for angle, expected in ((0.28, False), (0.32, True)):
        env.reset(seed=0)
        env.data.joint("Door_hinge").qpos[0] = angle
        assert env.step(np.zeros(7))[4]["success"] is expected
    env.close()


def brown(picture: np.ndarray) -> int:
    red, blue = picture[..., 0].astype(int), picture[..., 2].astype(int)
    return int(((red < 110) & (red - blue > 15)).sum())


def test_wiped_dirt_vanishes_and_comes_back_with_the_state(wipe: RobosuiteEnv) -> None:
    dirty = brown(wipe.reset(seed=0)[0][DEFAULT_CAMERA])
    assert dirty > 100
    start = wipe.get_state()
    markers = wipe.simulator.model.mujoco_arena.markers
    for marker in markers[:-1]:
        wipe.simulator.wiped_markers.append(marker)
        wipe.model.geom(marker.visual_geoms[0]).rgba[3] = 0.0
    assert wipe.step(np.zeros(6))[4]["success"] is False
    almost_clean = wipe.get_state()
    assert brown(wipe.render(DEFAULT_CAMERA, 64)) < dirty / 4

    wipe.set_state(start)
    assert brown(wipe.render(DEFAULT_CAMERA, 64)) == dirty
    wipe.set_state(almost_clean)
    assert brown(wipe.render(DEFAULT_CAMERA, 64)) < dirty / 4
    wipe.simulator.wiped_markers.append(markers[-1])
    assert wipe.step(np.zeros(6))[4]["success"] is True
    wipe.reset(seed=0)
    assert brown(wipe.render(DEFAULT_CAMERA, 64)) == dirty


def test_pictures_are_upright_and_each_scene_keeps_its_own() -> None:
    alone = {}
    for task in ("Lift", "Door"):
        env = build(task, DEFAULT_CAMERA)
        alone[task] = [env.reset(seed=0)[0][DEFAULT_CAMERA], env.step(np.full(7, 0.5))[0][DEFAULT_CAMERA]]
        env.close()
    start = alone["Lift"][0].astype(float)
    assert start[-16:].mean() > start[:16].mean() + 60  # the white table is below the grey wall and the robot's base
    assert not np.array_equal(alone["Lift"][0], alone["Lift"][1])

    together = {task: build(task, DEFAULT_CAMERA) for task in alone}
    for task, env in together.items():
        np.testing.assert_array_equal(env.reset(seed=0)[0][DEFAULT_CAMERA], alone[task][0])
    for task, env in reversed(together.items()):
        np.testing.assert_array_equal(env.step(np.full(7, 0.5))[0][DEFAULT_CAMERA], alone[task][1])
        env.close()


def test_collision_shapes_are_not_drawn() -> None:
    env = build("Lift", DEFAULT_CAMERA)
    expected = env.reset(seed=0)[0][DEFAULT_CAMERA]
    shapes = env.model.geom_group == 0
    assert shapes.any()
    env.model.geom_rgba[shapes] = (0.0, 1.0, 0.0, 1.0)
    np.testing.assert_array_equal(env.reset(seed=0)[0][DEFAULT_CAMERA], expected)
    env.close()


def test_episodes_outlast_robosuites_own_horizon(lift: RobosuiteEnv) -> None:
    short = envs.make("robosuite/Lift", cameras=(), horizon=3)
    short.reset(seed=0)
    assert [short.step(np.zeros(7))[3] for _ in range(4)] == [False, False, True, True]
    short.close()
    lift.reset(seed=0)
    lift.simulator.timestep = 10_000
    assert lift.step(np.zeros(7))[3] is False


def test_a_refused_action_leaves_the_environment_usable(lift: RobosuiteEnv) -> None:
    lift.reset(seed=0)
    state = lift.get_state()
    with pytest.raises(UserError, match="holds NaN"):
        lift.step(np.full(7, np.nan))
    with pytest.raises(UserError, match=r"takes actions of shape \(7,\), got \(6,\)"):
        lift.step(np.zeros(6))
    np.testing.assert_array_equal(lift.get_state(), state)
    assert np.isfinite(lift.step(np.zeros(7))[0]["proprio"]).all()


def test_nobody_demonstrates_wiping(wipe: RobosuiteEnv) -> None:
    with pytest.raises(UserError, match="nobody demonstrates robosuite/Wipe"):
        make_expert("robosuite/Wipe", wipe)


def solved(task: str, seeds: range) -> int:
    """Count the episodes that the expert solves against the noise that collecting adds to its actions."""
    env = build(task)
    expert = make_expert(env.task, env)
    config = CollectConfig(env.task, out=Path("unused"), steps_after_success=0)
    episodes = [record_episode(env, expert, seed, config) for seed in seeds]
    env.close()
    for episode in episodes:
        assert episode.expert_actions is not None and np.abs(episode.expert_actions).max() <= 1.0
    return sum(episode.first_success is not None for episode in episodes)


@pytest.mark.parametrize("task", WITH_EXPERT)
def test_the_expert_succeeds_in_spite_of_noise(task: str) -> None:
    assert solved(task, range(1)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("task", WITH_EXPERT)
def test_the_expert_hardly_ever_fails(task: str) -> None:
    assert solved(task, range(100, 120)) >= 19


def test_the_expert_goes_on_from_a_state_as_if_nothing_had_happened() -> None:
    env, other = build("NutAssemblyRound"), build("NutAssemblyRound")
    expert, heir = make_expert(env.task, env), make_expert(other.task, other)
    env.reset(seed=1)
    for _ in range(40):
        env.step(expert.act())
    other.reset(seed=2)
    other.set_state(env.get_state())
    for _ in range(15):
        action = expert.act()
        np.testing.assert_array_equal(heir.act(), action)
        env.step(action)
        other.step(action)
    np.testing.assert_array_equal(other.get_state(), env.get_state())
    env.close()
    other.close()
