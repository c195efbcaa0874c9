from __future__ import annotations

import numpy as np
import pytest
from stable_baselines3.common.env_checker import check_env

from rsp_robot.errors import UserError
from rsp_robot.policies.embeddings import encode_rows
from rsp_robot.policies.rl import EmbeddingEnv, EmbeddingVecEnv, EpisodeWrapper
from rsp_robot.policies.rl.embedder import Embedder, ordered_keys, to_half
from rsp_robot.policies.rl.embedding_env import FlatVecEnv


def test_pictures_become_halves_and_the_rest_is_passed_on(points, point, frozen) -> None:
    env = EmbeddingVecEnv(points(3)(), frozen)
    assert env.observation_space["embedding"].dtype == np.float16
    observations = env.reset()
    assert set(observations) == {"embedding", "proprio"} and observations["embedding"].shape == (3, frozen.dim)
    env.seed(5)
    observations = env.reset()
    twin = point()
    for row in range(3):
        seen, _ = twin.reset(seed=5 + row)
        expected = encode_rows(frozen, seen["front"][None])[0].astype(np.float16)
        np.testing.assert_array_equal(observations["embedding"][row], expected)
        np.testing.assert_array_equal(observations["proprio"][row], seen["proprio"])


def test_the_wrapped_environment_passes_the_checker_of_stable_baselines(point, frozen) -> None:
    for settings in ({}, {"history": 3, "fusion": "difference"}, {"half": False}):
        check_env(EmbeddingEnv(EpisodeWrapper(point(), 2), frozen, **settings), warn=False)
    check_env(EmbeddingEnv(point(state=True), None, vectors=("state",)), warn=False)


@pytest.mark.parametrize("fusion", ["concat", "difference"])
def test_history_is_of_one_episode_alone_and_the_last_observation_still_has_it(points, point, frozen, fusion) -> None:
    env = EmbeddingVecEnv(points(2)(), frozen, history=3, fusion=fusion, half=False)
    env.seed(0)
    rows, twins = env.reset(), [EmbeddingEnv(point(), frozen, history=3, fusion=fusion, half=False) for _ in range(2)]
    singles = [twin.reset(seed=index)[0] for index, twin in enumerate(twins)]
    action = np.full((2, 2), 0.3, np.float32)
    for _ in range(10):
        for index in range(2):
            np.testing.assert_array_equal(rows["embedding"][index], singles[index]["embedding"])
        rows, _, dones, infos = env.step(action)
        singles = [twin.step(action[0])[0] for twin in twins]
    assert dones.all()
    for index in range(2):
        np.testing.assert_array_equal(infos[index]["terminal_observation"]["embedding"], singles[index]["embedding"])
    newest = rows["embedding"].reshape(2, 3, -1)[:, 2]  # a new episode: its first picture in all places
    older = np.zeros_like(newest) if fusion == "difference" else newest
    np.testing.assert_array_equal(rows["embedding"].reshape(2, 3, -1)[:, 0], older)


def test_cameras_are_joined_in_the_order_given(point, frozen) -> None:
    one = EmbeddingEnv(point(cameras=("a", "b")), frozen, ("a", "b"), half=False)
    other = EmbeddingEnv(point(cameras=("a", "b")), frozen, ("b", "a"), half=False)
    first, second = (env.reset(seed=1)[0]["embedding"].reshape(2, -1) for env in (one, other))
    np.testing.assert_array_equal(first, second[::-1])
    assert not np.array_equal(first[0], first[1])


def test_one_vector_for_algorithms_that_take_no_dictionaries(points, frozen) -> None:
    env = FlatVecEnv(EmbeddingVecEnv(points(2)(), frozen))
    flat = env.reset()
    assert flat.shape == (2, frozen.dim + 2) and flat.dtype == np.float32
    for _ in range(10):
        flat, _, dones, infos = env.step(np.zeros((2, 2), np.float32))
    assert dones.all() and infos[0]["terminal_observation"].shape == (frozen.dim + 2,)


def test_what_is_not_there_is_named(points, frozen) -> None:
    with pytest.raises(UserError, match="shows no pictures 'side', only front"):
        EmbeddingVecEnv(points()(), frozen, ("side",))
    with pytest.raises(UserError, match="shows no vector 'state', only"):
        EmbeddingVecEnv(points()(), frozen, vectors=("state",))
    with pytest.raises(UserError, match="give both or neither"):
        Embedder(None, ("front",))
    with pytest.raises(UserError, match="nothing is observed"):
        Embedder(None, (), ())


def test_halves_do_not_overflow() -> None:
    assert np.isfinite(to_half(np.array([1e9, -1e9]))).all()
    assert ordered_keys(["state", "proprio", "embedding"]) == ["embedding", "proprio", "state"]


def test_an_action_is_held_and_the_episode_reported(point) -> None:
    env = EpisodeWrapper(point(), action_repeat=4, reward_scale=0.5)
    twin = point()
    env.reset(seed=2)
    twin.reset(seed=2)
    action, total = np.array([0.1, -0.2], np.float32), 0.0
    for decision, repeat in enumerate((4, 4, 2)):  # the horizon cuts the last one short
        steps = [twin.step(action) for _ in range(repeat)]
        observation, reward, terminated, truncated, info = env.step(action)
        total += sum(step[1] for step in steps)
        assert reward == pytest.approx(0.5 * sum(step[1] for step in steps))
        np.testing.assert_array_equal(observation["front"], steps[-1][0]["front"])
        assert (truncated, terminated) == (decision == 2, False)
    assert info["episode"]["l"] == 3 and info["episode"]["r"] == pytest.approx(total)


def test_a_success_between_decisions_counts_and_may_end_the_episode(point) -> None:
    for stop in (False, True):
        env = EpisodeWrapper(point(), action_repeat=5, stop_on_success=stop)
        env.reset(seed=0)
        env.unwrapped.position, env.unwrapped.goal = np.array([-0.6, 0.0]), np.zeros(2)
        _, _, terminated, truncated, info = env.step(np.array([1.0, 0.0]))
        assert info["success"] and not terminated and truncated is stop
        assert env.unwrapped.steps == (1 if stop else 5)
        if not stop:
            *_, info = env.step(np.array([1.0, 0.0]))
        assert info["is_success"] is True


def test_nothing_is_drawn_between_decisions_where_the_environment_can_leave_it_out(point) -> None:
    class Careful(point):
        look = True
        drawn = 0

        def _observe(self):
            if not self.look:
                return {"proprio": self.position.astype(np.float32)}
            self.drawn += 1
            return super()._observe()

        def observe(self):
            return self._observe()

    env = EpisodeWrapper(Careful(), action_repeat=5)
    plain = EpisodeWrapper(point(), action_repeat=5)
    env.reset(seed=0), plain.reset(seed=0)
    for _ in range(2):
        seen, other = env.step(np.ones(2)), plain.step(np.ones(2))
        np.testing.assert_array_equal(seen[0]["front"], other[0]["front"])
    assert env.unwrapped.drawn == 3, "the reset and two decisions"
