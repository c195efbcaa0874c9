from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rsp_robot.errors import UserError
from rsp_robot.files import read_json, read_jsonl
from rsp_robot.policies.policy import load_policy
from rsp_robot.policies.rl import RLConfig, train_rl
from rsp_robot.policies.rl.checkpoint import latest_checkpoint
from rsp_robot.policies.rl.train import TaskFacts

TINY = RLConfig(
    algorithm="sac", steps=120, n_envs=2, hidden=(16,), batch_size=16, learning_starts=20, rollout_steps=32, epochs=2,
    log_every=40, evaluate_every=60, evaluation_episodes=3, checkpoint_every=40, device="cpu",
)  # fmt: skip
FACTS = TaskFacts("toy/point", 16, "lean", 10)


def train(points, out: Path, config: RLConfig = TINY, encoder=None, **settings) -> Path:
    state = encoder is None
    return train_rl(
        points(config.n_envs, config.action_repeat, state=state), out, config, encoder=encoder,
        cameras=() if state else ("front",), vectors=("proprio", "state") if state else ("proprio",),
        evaluation=points(2, config.action_repeat, state=state), facts=FACTS, **settings,
    )  # fmt: skip


@pytest.mark.parametrize("algorithm", ["ppo", "sac", "td3", "a2c", "ddpg", "tqc", "crossq", "trpo"])
def test_every_algorithm_gives_a_policy_that_acts_as_it_was_trained(points, point, tmp_path, frozen, algorithm) -> None:
    if algorithm in ("tqc", "crossq", "trpo"):
        pytest.importorskip("sb3_contrib")
    config = replace(TINY, algorithm=algorithm, steps=64, history=2, evaluate_every=0, checkpoint_every=1000)
    folder = train(points, tmp_path / "run", config, frozen)
    policy = load_policy(folder, frozen)
    about = read_json(folder / "config.json")
    assert (policy.cameras, policy.image_size, policy.quality) == (("front",), 16, "lean")
    assert about["algorithm"] == algorithm and about["steps"] >= 64 and policy.fingerprint == about["fingerprint"]
    env = point()
    observation, _ = env.reset(seed=3)
    policy.reset([3])
    action = policy.act({key: value[None] for key, value in observation.items()}, [3])
    assert action.shape == (1, 2) and action.dtype == np.float32 and np.abs(action).max() <= 1


@pytest.mark.parametrize("algorithm", ["ppo", "sac", "td3", "crossq"])
def test_the_policy_kept_is_the_learners_own_actor(points, tmp_path, frozen, monkeypatch, algorithm) -> None:
    from rsp_robot.policies.rl import train as module

    if algorithm == "crossq":
        pytest.importorskip("sb3_contrib")
    kept = {}
    build = module.build
    monkeypatch.setattr(module, "build", lambda *a, **k: kept.setdefault("model", build(*a, **k)))
    config = replace(TINY, algorithm=algorithm, steps=64, history=2, evaluate_every=0)
    policy = load_policy(train(points, tmp_path / "run", config, frozen), frozen)
    model = kept["model"]
    raw = points(2)()
    raw.seed(7)
    learner_env = module._embedded(points(2)(), policy.embedder, config)
    learner_env.seed(7)
    seen, shown = learner_env.reset(), raw.reset()
    policy.reset([0, 1])
    for _ in range(4):
        expected, _ = model.predict(seen, deterministic=True)
        actions = policy.act(shown, [0, 1])
        np.testing.assert_allclose(actions, expected, atol=1e-5)
        seen, shown = learner_env.step(actions)[0], raw.step(actions)[0]


def test_rows_checkpoints_and_the_proof_of_frozenness(points, tmp_path, frozen) -> None:
    folder = train(points, tmp_path / "run", encoder=frozen)
    rows = read_jsonl(tmp_path / "run" / "metrics.jsonl")
    assert [row["step"] for row in rows if "evaluation_success" in row] == [60, 120]
    curve = [row for row in rows if "return" in row]
    assert [row["step"] for row in curve] == [40, 80, 120] and all("critic_loss" in row for row in curve)
    about = read_json(folder / "config.json")
    assert about["encoder"]["checksum_before"] == about["encoder"]["checksum_after"] == frozen.weights_checksum()
    assert about["encoder"]["source"] == frozen.source and about["evaluation"]["length"] == 10
    names = {path.suffix for path in (tmp_path / "run" / "checkpoints").rglob("*") if path.is_file()}
    assert names == {".npy", ".json", ".pt"}
    checkpoint = latest_checkpoint(tmp_path / "run" / "checkpoints")
    torch.load(checkpoint / "learner.pt", weights_only=True)  # tensors and plain values only
    stored = np.load(checkpoint / "buffer" / "observation.embedding.npy", allow_pickle=False)
    assert stored.shape == (60, 2, frozen.dim) and stored.dtype == np.float16
    loaded = load_policy(folder)  # finds its encoder again
    assert loaded.encoder.fingerprint == frozen.fingerprint
    assert not list(tmp_path.glob("SB3-*")), "nothing is left among the temporary files"


def test_a_finished_run_is_returned_and_more_steps_go_on(points, tmp_path) -> None:
    folder = train(points, tmp_path / "run")
    stamp = (folder / "config.json").stat().st_mtime_ns
    assert train(points, tmp_path / "run") == folder and (folder / "config.json").stat().st_mtime_ns == stamp
    longer = train(points, tmp_path / "run", replace(TINY, steps=160))
    assert read_json(longer / "config.json")["steps"] == 160
    steps = [row["step"] for row in read_jsonl(tmp_path / "run" / "metrics.jsonl") if "return" in row]
    assert steps == [40, 80, 120, 160]
    with pytest.raises(UserError, match=r"other settings \(hidden\)"):
        train(points, tmp_path / "run", replace(TINY, hidden=(8,)))


KILLED = """
import sys
sys.path.insert(0, {folder!r})
from pathlib import Path
from conftest import EpisodeWrapper, PointEnv, DummyVecEnv
from rsp_robot.policies.rl import RLConfig, train_rl
from rsp_robot.policies.rl.train import TaskFacts
make = lambda: DummyVecEnv([lambda: EpisodeWrapper(PointEnv(state=True), 1)] * 2)
train_rl(make, Path({out!r}), RLConfig(**{config!r}), vectors=("proprio", "state"), evaluation=make,
         facts=TaskFacts("toy/point", 16, "lean", 10))
"""


def test_a_killed_run_goes_on_from_its_checkpoint_with_its_buffer(points, tmp_path, monkeypatch) -> None:
    out = tmp_path / "run"
    config = replace(TINY, steps=100_000, evaluate_every=0)
    plain = {name: getattr(config, name) for name in RLConfig.__dataclass_fields__ if name != "clone"}
    code = KILLED.format(folder=str(Path(__file__).parent), out=str(out), config=plain)
    with subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "OMP_NUM_THREADS": "1"}) as process:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            found = latest_checkpoint(out / "checkpoints") if (out / "checkpoints").is_dir() else None
            if found is not None and int(found.name.removeprefix("step-")) >= 80:
                break
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    checkpoint = latest_checkpoint(out / "checkpoints")
    before = int(checkpoint.name.removeprefix("step-"))
    rewards = np.load(checkpoint / "buffer" / "rewards.npy")
    assert before >= 80 and len(rewards) == before // 2 and not (out / "policy").exists()

    from rsp_robot.policies.rl import train as module

    kept = {}
    learn = module._learn

    def spy(model, steps, recorder):
        kept["at"], kept["pos"] = model.num_timesteps, model.replay_buffer.pos
        kept["rewards"] = model.replay_buffer.rewards[: model.replay_buffer.pos].copy()
        kept["updates"], kept["optimiser"] = model._n_updates, len(model.actor.optimizer.state)
        kept["norm"], kept["episodes"] = recorder.statistics.count, recorder.episodes
        learn(model, steps, recorder)

    monkeypatch.setattr(module, "_learn", spy)
    folder = train(points, out, replace(config, steps=before + 40))
    assert kept["at"] == before and kept["pos"] == before // 2
    np.testing.assert_array_equal(kept["rewards"], rewards)
    assert kept["updates"] > 0 and kept["optimiser"] > 0 and kept["norm"] == before and kept["episodes"] > 0
    assert read_json(folder / "config.json")["steps"] == before + 40
    steps = [row["step"] for row in read_jsonl(out / "metrics.jsonl")]
    assert steps == sorted(set(steps)), "no row twice"


def test_a_resumed_learner_has_every_weight_and_every_draw(points, tmp_path) -> None:
    """From the same checkpoint two processes take the same path; the environments begin new episodes."""
    import shutil

    train(points, tmp_path / "one", replace(TINY, steps=80))
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    folders = [train(points, tmp_path / name, replace(TINY, steps=120)) for name in ("one", "two")]
    assert len({read_json(folder / "config.json")["fingerprint"] for folder in folders}) == 1


def test_pictures_in_the_buffer_give_a_policy_as_well(points, tmp_path, frozen) -> None:
    config = replace(TINY, steps=30, replay="pictures", learning_starts=24, evaluate_every=0)
    folder = train(points, tmp_path / "run", config, frozen)
    checkpoint = latest_checkpoint(tmp_path / "run" / "checkpoints")
    assert np.load(checkpoint / "buffer" / "observation.front.npy").shape == (15, 2, 3, 16, 16)
    assert load_policy(folder, frozen).embedder.half is False


def test_settings_that_do_not_fit_are_refused_in_a_line(points, tmp_path, frozen) -> None:
    with pytest.raises(UserError, match="unknown algorithm 'sax'; did you mean sac"):
        train(points, tmp_path / "a", replace(TINY, algorithm="sax"))
    with pytest.raises(UserError, match="n_envs=2 but 3 environments"):
        train_rl(points(3), tmp_path / "b", TINY)
    with pytest.raises(UserError, match="gamma=1.5 is out of range; choose 0 to 1"):
        RLConfig(gamma=1.5)
    with pytest.raises(UserError, match="entropy='lots' is not understood"):
        train(points, tmp_path / "c", replace(TINY, entropy="lots"))
    with pytest.raises(UserError, match="history above 1 do not go together"):
        RLConfig(replay="pictures", history=2)


def test_sb3_contrib_is_asked_for_where_it_is_missing(monkeypatch) -> None:
    from rsp_robot.policies.rl import algorithms

    monkeypatch.setattr(algorithms, "find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"tqc needs sb3-contrib, which is not installed; pip install 'rsp-robot\[contr"
    ):
        algorithms.find_algorithm("tqc")


def test_a_damaged_checkpoint_is_named(points, tmp_path) -> None:
    train(points, tmp_path / "run")
    checkpoint = latest_checkpoint(tmp_path / "run" / "checkpoints")
    (checkpoint / "learner.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(UserError, match=f"{checkpoint.name} cannot be read .*; remove it, and the run starts over"):
        train(points, tmp_path / "run", replace(TINY, steps=200))


def test_learning_from_the_state_solves_the_toy_task(points, tmp_path) -> None:
    config = replace(
        TINY, steps=1200, n_envs=4, gradient_steps=2, hidden=(64, 64), batch_size=64, learning_starts=100, lr=2e-3,
        gamma=0.8, evaluate_every=1200, evaluation_episodes=20,
    )  # fmt: skip
    folder = train(points, tmp_path / "run", config)
    rows = read_jsonl(tmp_path / "run" / "metrics.jsonl")
    last = [row["evaluation_success"] for row in rows if "evaluation_success" in row][-1]
    assert last >= 0.8, json.dumps(rows[-3:])
    assert read_json(folder / "config.json")["evaluation"]["success"] == last
