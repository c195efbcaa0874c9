from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from rsp_robot import envs
from rsp_robot.envs.base import VisualEnv
from rsp_robot.envs.experts import Expert, make_expert
from rsp_robot.errors import UserError

PUSH = "metaworld/push-v3"
FEW = ["metaworld/bin-picking-v3", "metaworld/drawer-open-v3"]
"""One task whose reward remembers its first step, one whose furniture is moved by the reset."""


@pytest.fixture
def push() -> Iterator[VisualEnv]:
    env = envs.make(PUSH, cameras=(), horizon=150)
    yield env
    env.close()


def roll(env: VisualEnv, expert: Expert, noise: np.ndarray) -> list[np.ndarray]:
    """Act with the given noise, return everything there is to see after each step."""
    seen = []
    for row in noise:
        observation, reward, _, _, info = env.step(expert.act() + row)
        assert env.observation_space.contains(observation)
        seen.append(np.concatenate([env.get_state(), observation["proprio"], [reward, info["success"]]]))
    return seen


@pytest.mark.parametrize(
    "task", [*FEW, *(pytest.param(t, marks=pytest.mark.slow) for t in envs.list_tasks("metaworld") if t not in FEW)]
)
def test_seed_determines_the_episode_and_states_are_exact(task: str) -> None:
    noise = 0.1 * np.random.default_rng(0).standard_normal((30, 4))
    env, other = envs.make(task, cameras=(), horizon=100), envs.make(task, cameras=(), horizon=100)
    expert, other_expert = make_expert(task, env), make_expert(task, other)
    env.reset(seed=7)
    start, name = env.get_state(), env.state_hash()
    first = roll(env, expert, noise[:15])
    middle = env.get_state()
    second = roll(env, expert, noise[15:])

    other.reset(seed=8)
    assert other.state_hash() != name
    roll(other, other_expert, noise)  # leaves its furniture and flags behind
    other.reset(seed=7)
    assert other.state_hash() == name
    np.testing.assert_array_equal(other.get_state(), start)
    np.testing.assert_array_equal(roll(other, other_expert, noise[:15]), first)

    other.reset(seed=9)
    other.set_state(middle)
    np.testing.assert_array_equal(other.get_state(), middle)
    np.testing.assert_array_equal(roll(other, other_expert, noise[15:]), second)
    env.close()
    other.close()


def test_a_reset_without_seed_is_another_episode_that_can_be_named(push: VisualEnv) -> None:
    push.reset(seed=1)
    _, info = push.reset()
    name = push.state_hash()
    _, again = push.reset()
    assert push.state_hash() != name and again["seed"] != info["seed"]
    push.reset(seed=info["seed"])
    assert push.state_hash() == name


def test_spaces_and_contract(push: VisualEnv) -> None:
    observation, info = push.reset(seed=0)
    assert set(observation) == {"proprio"}
    assert observation["proprio"].shape == (4,) and observation["proprio"].dtype == np.float32
    assert push.action_space.shape == (4,) and push.action_space.dtype == np.float32
    assert (push.task, push.cameras, push.horizon, push.fps) == (PUSH, (), 150, 80.0)
    assert info["success"] is False
    _, reward, terminated, truncated, info = push.step(np.zeros(4, np.float32))
    assert isinstance(reward, float) and (terminated, truncated) == (False, False)
    assert info["success"] is False


def test_proprioception_is_the_hand_and_its_opening(push: VisualEnv) -> None:
    before = push.reset(seed=0)[0]["proprio"]
    np.testing.assert_allclose(before[:3], [0.0, 0.6, 0.2], atol=0.02)
    assert before[3] == pytest.approx(1.0, abs=0.05)
    for _ in range(20):
        after = push.step(np.array([1.0, 0.0, 0.0, 1.0]))[0]["proprio"]
    assert after[0] - before[0] == pytest.approx(0.2, abs=0.05)  # 20 steps of at most 1 cm
    np.testing.assert_allclose(after[1:3], before[1:3], atol=0.03)
    assert after[3] < 0.6


def test_the_expert_succeeds_and_success_is_a_bool_each_step(push: VisualEnv) -> None:
    expert = make_expert(PUSH, push)
    push.reset(seed=0)
    expert.reset()
    flags = []
    for _ in range(100):
        action = expert.act()
        assert push.action_space.contains(action)
        flags.append(push.step(action)[4]["success"])
    assert all(type(flag) is bool for flag in flags)
    assert not any(flags[:20]) and any(flags)


def test_episodes_are_truncated_at_the_horizon_and_stepping_on_is_no_error() -> None:
    env = envs.make("metaworld/reach-v3", cameras=(), horizon=3)
    env.reset(seed=0)
    assert [env.step(np.zeros(4))[3] for _ in range(5)] == [False, False, True, True, True]
    env.reset(seed=1)
    assert env.step(np.zeros(4))[3] is False
    env.close()


def test_longer_horizons_than_meta_worlds_own_do_not_raise() -> None:
    env = envs.make("metaworld/reach-v3", cameras=(), horizon=510)
    env.reset(seed=0)
    assert [env.step(np.zeros(4))[3] for _ in range(510)] == [False] * 509 + [True]
    env.close()


def test_mistakes_are_one_line(push: VisualEnv) -> None:
    for call in (lambda: push.step(np.zeros(4)), push.get_state, push.state_hash):
        with pytest.raises(UserError, match=r"before reset\(\); call reset\(\) first"):
            call()
    push.reset(seed=0)
    with pytest.raises(UserError, match=r"takes actions of shape \(4,\), got \(3,\)"):
        push.step(np.zeros(3))
    with pytest.raises(UserError, match="holds NaN"):
        push.step(np.array([0.0, np.nan, 0.0, 0.0]))
    with pytest.raises(UserError, match="is it another task's"):
        push.set_state(np.zeros(7))
    with pytest.raises(UserError, match="make both for one task"):
        make_expert("metaworld/reach-v3", push)


def test_actions_are_clipped(push: VisualEnv) -> None:
    push.reset(seed=0)
    wild = push.step(np.array([5.0, -7.0, 0.0, 3.0]))[0]["proprio"]
    push.reset(seed=0)
    np.testing.assert_array_equal(push.step(np.array([1.0, -1.0, 0.0, 1.0]))[0]["proprio"], wild)


@pytest.mark.filterwarnings("ignore:.*")
def test_gymnasiums_checker_passes() -> None:
    env = envs.make(PUSH, image_size=36)
    check_env(env, skip_render_check=True)
    env.close()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*")
def test_stable_baselines3s_checker_passes() -> None:
    from stable_baselines3.common.env_checker import check_env as check

    env = envs.make(PUSH, image_size=64)
    check(env)
    env.close()
