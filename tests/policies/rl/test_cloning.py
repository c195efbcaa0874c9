from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from rsp_robot.demonstrations import DemonstrationFile
from rsp_robot.errors import UserError
from rsp_robot.files import read_json, read_jsonl
from rsp_robot.policies.policy import load_policy
from rsp_robot.policies.rl import EmbeddingEnv, EpisodeWrapper, RLConfig, train_rl
from rsp_robot.policies.rl.cloning import read_transitions
from rsp_robot.policies.rl.config import CloneConfig
from rsp_robot.policies.rl.embedder import Embedder

CLONE = CloneConfig(steps=600, lr=3e-3, critic_steps=20)
TINY = RLConfig(
    algorithm="sac", steps=20, n_envs=2, hidden=(64,), batch_size=16, evaluate_every=0, log_every=10, device="cpu",
    clone=CLONE,
)  # fmt: skip


def test_demonstrations_look_as_they_would_have_while_acting(point, frozen, point_demonstrations) -> None:
    """One fusing function: each row is what the wrapped environment shows at that decision."""
    embedder = Embedder(frozen, ("front",), ("proprio",), history=3, fusion="difference")
    shown = read_transitions(point_demonstrations(3), embedder, action_repeat=2, reward_scale=0.5)
    assert len(shown) == 15 and len(shown.follows) == 12, "the last decision of each has no successor"
    with DemonstrationFile(point_demonstrations(3)) as file:
        demonstration = file.read(1)
    env = EmbeddingEnv(EpisodeWrapper(point(), 1), frozen, history=3, fusion="difference")
    held = Embedder(frozen, ("front",), ("proprio",), history=3, fusion="difference")
    for decision in range(5):
        step = 2 * decision
        parts = {key: demonstration.observations[key][step : step + 1] for key in ("front", "proprio")}
        expected = held.embed(parts, [0])
        row = 5 + decision
        np.testing.assert_allclose(
            shown.observations["embedding"][row].astype(np.float32),
            expected["embedding"][0].astype(np.float32),
            atol=2e-2,
        )
        np.testing.assert_array_equal(shown.observations["proprio"][row], expected["proprio"][0])
        np.testing.assert_allclose(shown.actions[row], demonstration.actions[step : step + 2].mean(axis=0), rtol=1e-6)
        assert shown.rewards[row] == pytest.approx(0.5 * demonstration.rewards[step : step + 2].sum(), rel=1e-5)
    for key in ("embedding", "proprio"):
        np.testing.assert_array_equal(shown.next_observations[key][4], shown.observations[key][6])
    assert shown.follows.tolist() == [0, 1, 2, 3, 5, 6, 7, 8, 10, 11, 12, 13]
    assert env.observation_space["embedding"].shape == (embedder.dim,)


@pytest.mark.parametrize("algorithm", ["sac", "td3", "ppo"])
def test_the_cloned_actor_imitates_before_it_learns(
    points, point, tmp_path, point_demonstrations, monkeypatch, algorithm
) -> None:
    from rsp_robot.policies.rl import train as module

    kept = {}

    def no_learning(model, steps, recorder):
        kept["model"], model.num_timesteps = model, steps

    monkeypatch.setattr(module, "_learn", no_learning)
    path = point_demonstrations(40)
    folder = train_rl(
        points(2, state=True), tmp_path / "run", replace(TINY, algorithm=algorithm), vectors=("proprio", "state"),
        demonstrations=path,
    )  # fmt: skip
    policy = load_policy(folder)
    errors, untrained = [], []
    with DemonstrationFile(path) as file:
        for index in range(5):
            shown = file.read(index)
            policy.reset(range(len(shown)))
            actions = policy.act(shown.observations, range(len(shown)))
            errors.append(np.abs(actions - shown.actions).mean())
            untrained.append(np.abs(shown.actions).mean())
    assert np.mean(errors) < 0.4 * np.mean(untrained)
    model = kept["model"]
    if algorithm == "ppo":
        assert model.policy.log_std.exp().detach().numpy() == pytest.approx(CLONE.std)
        return
    assert model.replay_buffer.pos == 40 * 9 // 2 and model.learning_starts == 0
    assert model._n_updates == 20, "the critic was prepared"
    stored = model.replay_buffer.actions[: model.replay_buffer.pos].reshape(-1, 2)
    with DemonstrationFile(path) as file:
        np.testing.assert_array_equal(stored[:9], file.read(0).actions[:9])
    if algorithm == "sac":
        _, log_std, _ = model.actor.get_action_dist_params(
            {"proprio": torch.randn(3, 2), "state": torch.randn(3, 4)}
        )  # fmt: skip
        np.testing.assert_allclose(log_std.detach().exp().numpy(), CLONE.std, rtol=1e-5)
    else:
        for one, other in zip(model.actor.parameters(), model.actor_target.parameters(), strict=True):
            assert torch.equal(one, other)


def test_a_run_from_demonstrations_goes_on_without_cloning_again(
    points, tmp_path, point_demonstrations, frozen
) -> None:
    path = point_demonstrations(5)
    config = replace(TINY, clone=replace(CLONE, steps=30, critic_steps=5))
    run = tmp_path / "run"

    def train(config: RLConfig):
        return train_rl(points(2), run, config, encoder=frozen, cameras=("front",), demonstrations=path)

    train(config)
    first = read_json(next((run / "checkpoints").glob("*/state.json")))
    train(replace(config, steps=40, clone=config.clone))
    second = read_json(next((run / "checkpoints").glob("*/state.json")))
    assert second["extra"]["clone_loss"] == first["extra"]["clone_loss"]
    rows = np.load(next((run / "checkpoints").glob("*/buffer/rewards.npy")))
    assert len(rows) == -(-5 * 9 // 2) + 20, "the demonstrations, once, and forty decisions"
    assert [row["step"] for row in read_jsonl(run / "metrics.jsonl")] == [10, 20, 30, 40]


def test_demonstrations_without_what_the_policy_sees_are_refused(point_demonstrations, frozen) -> None:
    path = point_demonstrations(2, state=False)
    with pytest.raises(UserError, match="holds no obs/state, which the policy sees"):
        read_transitions(path, Embedder(None, (), ("proprio", "state")))
    with pytest.raises(UserError, match="has no camera 'side', only front"):
        read_transitions(path, Embedder(frozen, ("side",)))
