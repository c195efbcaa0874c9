from __future__ import annotations

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from stable_baselines3 import SAC
from stable_baselines3.common.buffers import DictReplayBuffer

from rsp_robot.policies.rl.checkpoint import (
    _load_buffer,
    _save_buffer,
    checkpoint_steps,
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from rsp_robot.policies.rl.normaliser import RunningNorm


def make_model(points) -> SAC:
    return SAC(
        "MultiInputPolicy", points(2, state=True, cameras=())(), policy_kwargs={"net_arch": [8]}, buffer_size=50,
        learning_starts=4, batch_size=4, seed=0, device="cpu",
    )  # fmt: skip


def test_a_learner_comes_back_with_optimisers_counters_and_every_random_generator(points, tmp_path) -> None:
    model, norm = make_model(points), RunningNorm(3)
    model.learn(20)
    norm.update(np.arange(6.0).reshape(2, 3))

    def draw(learner: SAC) -> list[float]:
        sample = learner.action_space.sample()
        return [torch.rand(1).item(), np.random.rand(), random.random(), *sample.tolist()]

    path = save_checkpoint(tmp_path, model, norm, {"note": 1})
    drawn = draw(model)
    other, empty = make_model(points), RunningNorm(3)
    assert load_checkpoint(path, other, empty) == {"note": 1}
    assert draw(other) == drawn
    again = save_checkpoint(tmp_path / "again", other, empty, {"note": 1})
    first, second = (torch.load(p / "learner.pt", weights_only=True)["modules"] for p in (path, again))
    assert first.keys() == second.keys() >= {"policy", "actor.optimizer", "critic.optimizer", "ent_coef_optimizer"}
    for name in first["policy"]:
        assert torch.equal(first["policy"][name], second["policy"][name])
    moments = [state["exp_avg"] for state in first["critic.optimizer"]["state"].values()]
    for one, two in zip(moments, second["critic.optimizer"]["state"].values(), strict=True):
        assert torch.equal(one, two["exp_avg"]) and one.abs().sum() > 0
    assert (
        torch.equal(other.log_ent_coef, model.log_ent_coef)
        and other.log_ent_coef != 0
        and other.num_timesteps == 20
        and other._n_updates > 0
    )
    np.testing.assert_array_equal(empty.std, norm.std)


def test_only_the_latest_whole_checkpoint_counts(points, tmp_path) -> None:
    model, norm = make_model(points), RunningNorm(1)
    assert latest_checkpoint(tmp_path) is None and checkpoint_steps(None) == 0
    for steps in (4, 8):
        model.num_timesteps = steps
        save_checkpoint(tmp_path, model, norm, {})
    (tmp_path / "step-0000000099").mkdir()  # cut short
    (tmp_path / "step-0000000099" / "learner.pt").write_bytes(b"")
    found = latest_checkpoint(tmp_path)
    assert found.name == "step-0000000008" and checkpoint_steps(found) == 8
    assert not (tmp_path / "step-0000000004").exists(), "only the newest is kept"


def fill(size: int, count: int) -> DictReplayBuffer:
    from gymnasium import spaces

    space = spaces.Dict({"embedding": spaces.Box(-np.inf, np.inf, (3,), np.float16)})
    buffer = DictReplayBuffer(size, space, spaces.Box(-1, 1, (2,)), device="cpu")
    for index in range(count):
        seen = {"embedding": np.full((1, 3), index, np.float16)}
        buffer.add(seen, {"embedding": seen["embedding"] + 1}, np.zeros((1, 2)), np.array([index]), np.zeros(1), [{}])
    return buffer


@pytest.mark.parametrize(("saved", "size"), [(4, 10), (10, 10), (13, 10), (13, 20), (13, 5), (4, 3)])
def test_a_buffer_comes_back_oldest_first_whatever_its_new_size(tmp_path, saved: int, size: int) -> None:
    before = fill(10, saved)
    _save_buffer(tmp_path / "buffer", before)
    after = fill(size, 0)
    _load_buffer(tmp_path / "buffer", after)
    held = min(saved, 10, size)
    rewards = sorted(after.rewards[: size if after.full else after.pos, 0].tolist())
    assert rewards == list(range(saved - held, saved)), "the latest ones"
    assert after.full is (held == size)
    np.testing.assert_array_equal(after.observations["embedding"][:held, 0, 0], after.rewards[:held, 0])
    np.testing.assert_array_equal(after.next_observations["embedding"][:held, 0, 0], after.rewards[:held, 0] + 1)
    new = {"embedding": np.full((1, 3), 50, np.float16)}
    after.add(new, new, np.zeros((1, 2)), np.array([50]), np.zeros(1), [{}])
    left = set(after.rewards[: size if after.full else after.pos, 0].tolist())
    assert 50 in left and (held < size or float(saved - held) not in left), "the oldest makes room"


def test_a_buffer_of_other_parts_is_refused(tmp_path) -> None:
    _save_buffer(tmp_path / "buffer", fill(10, 3))
    other = SimpleNamespace(**vars(fill(10, 0)))
    other.rewards = np.zeros((10, 2), np.float32)
    with pytest.raises(ValueError, match="rewards has shape"):
        _load_buffer(tmp_path / "buffer", other)
