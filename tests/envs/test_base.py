"""The shared part of all suites, tried on a suite of its own: a ball that falls, ten lines of MuJoCo."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
import pytest
from gymnasium import spaces

from rsp_robot.envs.base import VisualEnv
from rsp_robot.envs.rendering import Camera, find_backend
from rsp_robot.errors import UserError

find_backend()

XML = """<mujoco><option timestep="0.01"/><worldbody><light pos="0 0 3"/>
<body name="ball"><freejoint/><geom type="sphere" size="0.1" rgba="1 0 0 1"/></body></worldbody></mujoco>"""
SIDE = Camera("side", distance=2.0, azimuth=90.0, elevation=0.0)


class FallingBall(VisualEnv):
    """The seed is the height in metres; success is to be below the ground."""

    def __init__(self, cameras: tuple[str, ...] = (), horizon: int = 5) -> None:
        model = mujoco.MjModel.from_xml_string(XML)
        self._state_size = 13
        super().__init__(
            "toy/fall",
            cameras=cameras,
            offered=(SIDE,),
            default_camera="side",
            image_size=32,
            quality="lean",
            horizon=horizon,
            fps=100.0,
            proprio_space=spaces.Box(-10.0, 10.0, (1,), np.float32),
            action_dim=2,
            model=model,
            data=mujoco.MjData(model),
        )

    def _reset(self, seed: int) -> bool:
        mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[2] = seed
        mujoco.mj_forward(self.model, self.data)
        return self._success()

    def _success(self) -> bool:
        return bool(self.data.qpos[2] < 0)

    def _step(self, action: np.ndarray) -> tuple[float, bool]:
        self.data.qvel[0] = action[0]
        mujoco.mj_step(self.model, self.data)
        return float(action.sum()), self._success()

    def _proprio(self) -> np.ndarray:
        return self.data.qpos[2:3].astype(np.float32)

    def _state(self) -> np.ndarray:
        return np.concatenate([self.data.qpos, self.data.qvel])

    def _restore(self, state: np.ndarray) -> None:
        self.data.qpos[:], self.data.qvel[:] = state[:7], state[7:]
        mujoco.mj_forward(self.model, self.data)

    def _initial_state(self) -> np.ndarray:
        return self.data.qpos


def test_the_simulation_is_shown_as_it_is() -> None:
    env = FallingBall()
    observation, info = env.reset(seed=0)
    assert observation["proprio"].tolist() == [0.0] and info == {"success": False, "seed": 0}
    observation, reward, terminated, truncated, info = env.step(np.array([2.0, 0.25]))  # 2 is clipped to 1
    assert observation["proprio"][0] == pytest.approx(-9.81 * 0.01**2, rel=1e-4)
    assert (reward, terminated, truncated, info) == (1.25, False, False, {"success": True})
    assert env.data.qpos[0] == pytest.approx(0.01)


def test_truncation_counts_from_the_reset_and_from_the_saved_state() -> None:
    env = FallingBall(horizon=3)
    env.reset(seed=1)
    env.step(np.zeros(2))
    saved = env.get_state()
    assert saved.tolist()[:2] == [1.0, 1.0] and saved.shape == (15,)
    assert [env.step(np.zeros(2))[3] for _ in range(3)] == [False, True, True]
    env.reset(seed=2)
    env.set_state(saved)
    assert [env.step(np.zeros(2))[3] for _ in range(2)] == [False, True]
    np.testing.assert_array_equal(env.get_state()[:1], [1.0])


def test_the_hash_is_of_the_reset_not_of_the_present() -> None:
    env, other = FallingBall(), FallingBall()
    env.reset(seed=3)
    name = env.state_hash()
    env.step(np.zeros(2))
    assert env.state_hash() == name and len(name) == 32 and int(name, 16) >= 0
    other.reset(seed=3)
    assert other.state_hash() == name
    other.reset(seed=4)
    assert other.state_hash() != name


def test_cameras_become_observations() -> None:
    env = FallingBall(cameras=("side",))
    space: Any = env.observation_space
    assert list(space.spaces) == ["proprio", "side"] and space["side"].shape == (32, 32, 3)
    picture = env.reset(seed=0)[0]["side"]
    assert space["side"].contains(picture) and picture[16, 16, 0] > 60 and picture[2, 2, 0] < 50
    assert env.render().shape == (480, 480, 3)
    assert env.render("side", size=24).shape == (24, 24, 3)
    env.close()


def test_an_environment_that_does_not_look_leaves_the_pictures_out() -> None:
    env, looking = FallingBall(cameras=("side",)), FallingBall(cameras=("side",))
    env.reset(seed=0), looking.reset(seed=0)
    env.look = False
    action = np.zeros(env.action_space.shape)
    assert set(env.step(action)[0]) == {"proprio"}
    env.look = True
    seen, expected = env.observe(), looking.step(action)[0]
    assert all(np.array_equal(seen[key], expected[key]) for key in ("side", "proprio"))
    env.close(), looking.close()


def test_a_blind_environment_makes_its_renderer_when_asked_for_a_picture() -> None:
    env = FallingBall()
    env.reset(seed=0)
    assert env.render(size=16)[8, 8, 0] > 60
    env.close()


@pytest.mark.parametrize("state", [np.zeros(3), np.zeros((1, 15)), np.full(15, np.nan)])
def test_foreign_states_are_refused(state: np.ndarray) -> None:
    env = FallingBall()
    env.reset(seed=5)
    with pytest.raises(UserError, match=r"a state of toy/fall has shape \(15,\)"):
        env.set_state(state)
    assert env.episode_seed == 5
