"""What is dm_control's own; the contract is tested on every task by ``test_every_task.py``."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from rsp_robot import envs
from rsp_robot.envs.dmc import TASKS, DMCEnv
from rsp_robot.envs.experts import make_expert
from rsp_robot.errors import UserError

pytest.importorskip("dm_control")


def make(name: str, **kwargs: Any) -> DMCEnv:
    env = envs.make(f"dmc/{name}", **{"cameras": (), **kwargs})
    assert isinstance(env, DMCEnv)
    return env


@pytest.mark.parametrize("name", [name for name, task in TASKS.items() if task.domain])
def test_an_episode_is_dm_controls_own_with_two_steps_per_action(name: str) -> None:
    """Against dm_control's public way in: ``suite.load``."""
    env = make(name)
    env.reset(seed=1)
    env.step(np.ones(env.action_space.shape or ()))
    env.reset(seed=4)

    from dm_control import suite

    domain, _, task = name.partition("-")
    theirs = suite.load(domain, task.replace("-", "_"), task_kwargs={"random": 4})
    theirs.reset()
    np.testing.assert_array_equal(env.data.qpos, theirs.physics.data.qpos)
    actions = np.random.default_rng(0).uniform(-1, 1, (500, *theirs.action_spec().shape))
    total = 0.0
    for index, action in enumerate(actions):
        expected = [theirs.step(action) for _ in range(2)]
        reward, _, truncated, _ = env.step(action)[1:]
        assert reward == expected[0].reward + expected[1].reward
        assert truncated is expected[1].last() is (index == 499)
        total += reward
    np.testing.assert_array_equal(env.data.qpos, theirs.physics.data.qpos)
    assert 0 <= total <= 1000
    assert env.fps == pytest.approx(1 / (2 * theirs.control_timestep()))


def test_the_model_object_stays_and_what_a_seed_changes_in_it_comes_back() -> None:
    for name in TASKS:
        env = make(name)
        model, data = env.model, env.data
        places = (model.body_pos, model.body_quat, model.geom_pos, model.geom_size, model.site_pos, model.dof_damping)
        env.reset(seed=2)
        before = [array.copy() for array in places]
        env.reset(seed=3)
        env.reset(seed=2)
        physics = env.simulator.physics
        assert physics.model.ptr is model and physics.data.ptr is data
        for array, expected in zip(places, before, strict=True):
            np.testing.assert_array_equal(array, expected)


# Success: hand-made states.


def success_at(env: DMCEnv, position: dict[str, float], velocity: dict[str, float] | None = None) -> bool:
    """Put joints somewhere in dm_control's default pose, take one step without action, return success."""
    physics = env.simulator.physics
    with physics.reset_context():
        for joint, value in position.items():
            physics.named.data.qpos[joint] = value
        for joint, value in (velocity or {}).items():
            physics.named.data.qvel[joint] = value
    return bool(env.step(np.zeros(env.action_space.shape or ()))[4]["success"])


def test_reacher_succeeds_where_its_tip_touches_the_target() -> None:
    env = make("reacher-easy")
    env.reset(seed=0)
    env.model.geom("target").pos[:2] = 0.15, 0.0
    bend = 2 * np.arccos(0.15 / 2 / 0.12)  # both links are 12 cm long
    assert success_at(env, {"shoulder": -bend / 2, "wrist": bend})
    assert success_at(env, {"shoulder": -bend / 2 + 0.3, "wrist": bend})  # 4.5 cm aside
    assert not success_at(env, {"shoulder": -bend / 2 + 0.5, "wrist": bend})  # 7.4 cm aside
    assert not success_at(env, {"shoulder": 0.0, "wrist": 0.0})


def test_finger_succeeds_while_its_body_spins_clockwise() -> None:
    env = make("finger-spin")
    env.reset(seed=0)
    for speed, expected in ((-40.0, True), (-10.0, False), (40.0, False)):
        assert success_at(env, {"proximal": -1.5}, {"hinge": speed}) is expected


def test_walker_succeeds_upright_and_in_the_other_task_at_speed() -> None:
    for name, standing in (("walker-stand", True), ("walker-walk", False)):
        env = make(name)
        env.reset(seed=0)
        assert success_at(env, {}) is standing
        assert success_at(env, {}, {"rootx": 1.2}) is True
        assert success_at(env, {}, {"rootx": -1.2}) is standing
        assert success_at(env, {"rooty": 1.5, "rootz": -1.1}, {"rootx": 1.2}) is False  # lying


def test_cheetah_succeeds_at_five_metres_per_second() -> None:
    env = make("cheetah-run")
    env.reset(seed=0)
    for speed, expected in ((6.0, True), (4.0, False), (-6.0, False)):
        assert success_at(env, {"rootz": 0.5}, {"rootx": speed}) is expected


def test_the_ball_succeeds_on_its_target_and_the_start_says_so() -> None:
    env = make("manipulator-bring-ball")
    flags = [env.reset(seed=seed)[1]["success"] for seed in range(60)]
    assert 1 <= sum(flags) <= 15  # one in ten
    env.reset(seed=flags.index(False))
    target = env.model.body("target_ball").pos
    for offset, expected in ((0.0, True), (0.05, False)):
        assert success_at(env, {"ball_x": target[0] + offset, "ball_z": target[2]}, {"ball_z": 0.1}) is expected


def test_the_brick_succeeds_once_it_is_up() -> None:
    env = make("lift-brick")
    _, info = env.reset(seed=0)
    assert info["success"] is False
    start = env.data.joint("duplo2x4/").qpos[2]
    for lift, expected in ((0.25, False), (0.35, True)):
        env.data.joint("duplo2x4/").qpos[2] = start + lift
        env.data.joint("duplo2x4/").qvel[:] = 0
        assert env.step(np.zeros(9))[4]["success"] is expected


# Proprioception and actions.


def test_the_target_is_for_the_eyes_alone() -> None:
    env = make("reacher-easy")
    before = env.reset(seed=0)[0]["proprio"]
    env.model.geom("target").pos[:2] = 0.1, 0.1
    np.testing.assert_array_equal(env._proprio(), before)
    assert before.shape == (4,)
    np.testing.assert_array_equal(before[:2], np.float32(env.data.qpos))


def test_touch_is_felt_and_part_of_the_state() -> None:
    env = make("manipulator-bring-ball")
    names = envs.describe(env.task).proprio
    finger, touch = names.index("finger angle (rad)"), [index for index, name in enumerate(names) if "touch" in name]
    closing = np.array([0.0, 0.0, 0.0, 0.0, 1.0])
    before = env.reset(seed=3)[0]["proprio"]
    assert len(touch) == 5 and not before[touch].any()
    for _ in range(100):
        felt = env.step(closing)[0]["proprio"]
        if felt[touch].any():
            break
    assert felt[touch].max() > 0.01 and felt[finger] > before[finger]
    saved = env.get_state()
    env.reset(seed=4)
    env.set_state(saved)
    np.testing.assert_array_equal(env.get_state(), saved)
    np.testing.assert_array_equal(env._proprio(), felt)


def test_the_arms_actions_are_scaled_to_its_speeds() -> None:
    env = make("lift-brick")
    env.reset(seed=0)
    env.step(np.array([0.5, 0, 0, 0, 0, -1, 0, 0, 1.0]))
    np.testing.assert_allclose(env.data.ctrl[[0, 5, 8]], [0.314, -0.838, 5.0], atol=1e-3)


def test_nobody_demonstrates() -> None:
    env = make("walker-walk")
    with pytest.raises(UserError, match="nobody demonstrates dmc/walker-walk; choose another task"):
        make_expert(env.task, env)


# Pictures.


def test_the_reachers_target_is_where_geometry_says() -> None:
    """Camera ``fixed`` looks down from 0.75 m: x is to the right, y is up. Mirrored or turned it is elsewhere."""
    env = make("reacher-easy", cameras="fixed", image_size=160)
    for seed in range(3):
        red, green, _ = env.reset(seed=seed)[0]["fixed"].astype(int).transpose(2, 0, 1)
        rows, columns = np.nonzero(red > 1.6 * green)
        offset = 80 / np.tan(np.radians(45 / 2)) / 0.74 * env.model.geom("target").pos[:2]
        assert abs(offset).max() > 10
        assert abs(columns.mean() + 0.5 - (80 + offset[0])) < 4 and abs(rows.mean() + 0.5 - (80 - offset[1])) < 4
    env.close()


@pytest.mark.parametrize("wanted", [None, "egl"])
def test_dm_control_opens_no_display_and_mujocos_opengl_is_not_touched(wanted: str | None) -> None:
    code = """
import os, sys
from rsp_robot import envs
before = os.environ.get("MUJOCO_GL")
for task in ("dmc/walker-walk", "dmc/lift-brick"):
    envs.make(task, cameras=()).reset(seed=0)
    assert os.environ.get("MUJOCO_GL") == before
print(sorted(name for name in sys.modules if name == "torch" or name.startswith("dm_control._render.")))
"""
    environment = {name: value for name, value in os.environ.items() if name not in ("MUJOCO_GL", "PYOPENGL_PLATFORM")}
    if wanted is not None:
        environment["MUJOCO_GL"] = wanted
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "['dm_control._render.constants']\n", "")
