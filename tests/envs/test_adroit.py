from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from rsp_robot import envs
from rsp_robot.envs.experts import make_expert
from rsp_robot.errors import UserError

pytest.importorskip("gymnasium_robotics")

from rsp_robot.envs.adroit import TASKS, AdroitEnv

NAMES = tuple(TASKS)


def make(name: str, **settings: object) -> AdroitEnv:
    env = envs.make(f"adroit/{name}", **{"cameras": (), **settings})  # type: ignore[arg-type]
    assert isinstance(env, AdroitEnv)
    return env


def actions(env: AdroitEnv, length: int = 40, seed: int = 0) -> np.ndarray:
    """Slow random movements: the hand touches things."""
    assert env.action_space.shape is not None
    steps = np.random.default_rng(seed).uniform(-0.3, 0.3, (length, *env.action_space.shape))
    return np.clip(np.cumsum(steps, axis=0), -1, 1)


def roll(env: AdroitEnv, wanted: np.ndarray) -> list[np.ndarray]:
    """Return everything there is to see and to draw after each step."""
    seen = []
    for action in wanted:
        observation, reward, _, _, info = env.step(action)
        assert env.observation_space.contains(observation)
        drawn = [env.data.geom_xpos.ravel(), env.data.site_xpos.ravel()]
        seen.append(np.concatenate([env.get_state(), observation["proprio"], [reward, info["success"]], *drawn]))
    return seen


@pytest.mark.parametrize("name", NAMES)
def test_seed_determines_the_episode_and_states_are_exact_though_the_reset_edits_the_model(name: str) -> None:
    env, other = make(name), make(name)
    wanted = actions(env)
    first_proprio = env.reset(seed=7)[0]["proprio"]
    start, digest = env.get_state(), env.state_hash()
    first = roll(env, wanted[:15])
    middle = env.get_state()
    second = roll(env, wanted[15:])

    other.reset(seed=8)
    assert other.state_hash() != digest
    roll(other, actions(other, seed=1))
    np.testing.assert_array_equal(other.reset(seed=7)[0]["proprio"], first_proprio)
    assert other.state_hash() == digest
    np.testing.assert_array_equal(roll(other, wanted[:15]), first)

    other.reset(seed=9)
    other.set_state(start)
    np.testing.assert_array_equal(other.get_state(), start)
    np.testing.assert_array_equal(roll(other, wanted[:15]), first)
    other.reset(seed=9)
    other.set_state(middle)
    np.testing.assert_array_equal(other.get_state(), middle)
    np.testing.assert_array_equal(roll(other, wanted[15:]), second)
    env.close()
    other.close()


@pytest.mark.parametrize("name", NAMES)
def test_physics_rewards_and_success_are_those_of_the_suite(name: str) -> None:
    from rsp_robot.envs.gymnasium_robotics import import_environment

    env, suite = make(name), import_environment(f"adroit_hand.{TASKS[name].module}")()
    env.reset(seed=5)
    suite.reset(seed=5)
    for action in actions(env):
        observation, reward, _, _, info = env.step(action)
        theirs, their_reward, _, _, their_info = suite.step(action)
        np.testing.assert_array_equal(env.simulator._get_obs(), theirs)
        assert (reward, info["success"]) == (float(their_reward), bool(their_info["success"]))
    if name in ("pen", "relocate"):  # what CortexBench hands to its policies
        joints = len(observation["proprio"])
        np.testing.assert_array_equal(observation["proprio"], theirs[:joints].astype(np.float32))
        assert joints == {"pen": 24, "relocate": 30}[name]
    env.close()


def open_door(env: AdroitEnv, share: float) -> None:
    env.data.joint("door_hinge").qpos[0] = 1.35 * share


def drive_nail(env: AdroitEnv, share: float) -> None:
    gap = env.data.site("nail_goal").xpos - env.data.site("S_target").xpos
    joint = env.data.joint("nail_dir")
    reach = float(np.linalg.norm(gap)) * np.sign(gap @ joint.xaxis)
    joint.qpos[0] += reach * (0.5 if share < 1 else 1.0)


def turn_target(env: AdroitEnv, share: float) -> None:
    target, pen = env.model.body("target").id, env.model.body("Object").id
    if share > 1:
        env.model.body_quat[target] = env.data.xquat[pen]


def carry_ball(env: AdroitEnv, share: float) -> None:
    gap = env.data.site("target").xpos - env.data.body("Object").xpos
    away = 0.12 if share < 1 else 0.08
    for axis, way in zip("xyz", gap * (1 - away / np.linalg.norm(gap)), strict=True):
        env.data.joint(f"OBJT{axis}").qpos[0] += way


@pytest.mark.parametrize(
    ("name", "solve"), [("door", open_door), ("hammer", drive_nail), ("pen", turn_target), ("relocate", carry_ball)]
)
def test_success_is_judged_at_the_present_moment(name: str, solve: Callable[[AdroitEnv, float], None]) -> None:
    env = make(name)
    still = np.zeros(env.action_space.shape or ())
    found = []
    for share in (0.95, 1.05):
        assert env.reset(seed=0)[1]["success"] is False
        solve(env, share)
        found.append(env.step(still)[4]["success"])
    assert found == [False, True] and all(type(flag) is bool for flag in found)
    assert env.reset(seed=0)[1]["success"] is False
    env.close()


def test_judging_the_first_moment_takes_no_time() -> None:
    env = make("door")
    env.reset(seed=0)
    assert env.data.time == 0.0
    env.step(np.zeros(28))
    assert env.data.time == pytest.approx(0.01)
    env.close()


@pytest.mark.parametrize("name", NAMES)
def test_proprioception_and_action_are_the_joints_they_are_named_after(name: str) -> None:
    env = make(name)
    description = envs.describe(f"adroit/{name}")
    named = [entry.split(" ")[0] for entry in description.proprio]
    assert named == [env.model.joint(index).name for index in range(len(named))]
    assert [entry.split(" ")[0] for entry in description.action] == named
    assert [f"A_{joint}" for joint in named] == [env.model.actuator(index).name for index in range(env.model.nu)]
    slides = [env.model.joint(joint).type[0] == 2 for joint in named]
    assert [entry.endswith("(m)") for entry in description.proprio] == slides
    first, second = env.reset(seed=0)[0]["proprio"], env.reset(seed=1)[0]["proprio"]
    np.testing.assert_array_equal(first, second)  # nothing of door, nail, pen or ball
    env.close()


def test_episodes_are_truncated_at_the_horizon_and_stepping_on_is_no_error() -> None:
    env = make("pen")
    env.reset(seed=0)
    assert [env.step(np.zeros(24))[3] for _ in range(102)] == [False] * 99 + [True] * 3
    env.close()


def test_mistakes_are_one_line_and_leave_the_environment_usable() -> None:
    env = make("pen")
    env.reset(seed=0)
    with pytest.raises(UserError, match="holds NaN"):
        env.step(np.full(24, np.nan))
    with pytest.raises(UserError, match="is it another task's"):
        env.set_state(np.zeros(7))
    assert np.isfinite(env.step(np.zeros(24))[0]["proprio"]).all()
    with pytest.raises(UserError, match="nobody demonstrates adroit/pen"):
        make_expert("adroit/pen", env)
    with pytest.raises(UserError, match="unknown camera of adroit/door 'view_1'"):
        envs.make("adroit/door", cameras="view_1")
    env.close()


def test_pictures_are_upright_and_show_the_episodes_own_scene() -> None:
    env = make("door", cameras="vil_camera", image_size=96)
    first = env.reset(seed=0)[0]["vil_camera"]
    assert first[:4].mean() < 5 and first[60:75, 40:56].mean() > 100, "black sky above, table below"
    second = env.reset(seed=1)[0]["vil_camera"]
    top, bottom = np.abs(first.astype(int) - second).mean((1, 2)).reshape(2, 48).mean(1)
    assert top > 5 > 1 > bottom, "the door has moved, the hand below it has not"
    env.close()


def test_the_drawing_is_back_with_the_state_and_scenes_do_not_mix() -> None:
    alone = {}
    for name in ("relocate", "hammer"):
        env = make(name, cameras="fixed", image_size=48)
        env.reset(seed=1)
        alone[name] = [env.step(action)[0]["fixed"] for action in actions(env, 5)]
        state = env.get_state()
        env.close()
        alone[name].append(state)
    both = {name: make(name, cameras="fixed", image_size=48) for name in alone}
    for env in both.values():
        env.reset(seed=1)
    for step in range(5):
        for name, env in both.items():
            np.testing.assert_array_equal(env.step(actions(env, 5)[step])[0]["fixed"], alone[name][step])
    for name, env in both.items():
        env.reset(seed=2)
        env.set_state(alone[name][5])
        np.testing.assert_array_equal(env.render("fixed", 48), alone[name][4])
        env.close()


@pytest.mark.parametrize("name", NAMES)
def test_the_description_agrees_with_the_environment(name: str) -> None:
    description = envs.describe(f"adroit/{name}")
    env = make(name, cameras=list(description.cameras), image_size=16)
    observation, _ = env.reset(seed=0)
    assert set(observation) == {*description.cameras, "proprio"}
    assert observation["proprio"].shape == (len(description.proprio),)
    assert env.action_space.shape == (len(description.action),) and env.action_space.dtype == np.float32
    assert len(description.action) == {"door": 28, "hammer": 26, "pen": 24, "relocate": 30}[name]
    assert env.horizon == description.horizon == (100 if name == "pen" else 200)
    assert env.fps == description.fps == pytest.approx(1 / env.simulator.dt)
    assert description.expert == ""
    env.close()
