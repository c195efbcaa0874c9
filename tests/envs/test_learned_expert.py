from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rsp_robot.demonstrations import DemonstrationFile
from rsp_robot.envs import make
from rsp_robot.envs.collect import CollectConfig, collect
from rsp_robot.envs.experts import describe_expert, make_expert
from rsp_robot.envs.learned_expert import LearnedExpert, find_learned_expert
from rsp_robot.errors import UserError
from rsp_robot.versions import simulator_versions

TASK = "dmc/reacher-easy"
KINDS = ["linear", "relu", "linear", "silu", "affine", "linear", "tanh"]
WIDTHS = {"proprio": 4, "state": 6}


def write_expert(folder: Path, seed: int = 0, **changed: object) -> Path:
    """Write a policy folder as `rsp-robot rl --encoder state` does, with random weights."""
    from safetensors.numpy import save_file

    rng = np.random.default_rng(seed)
    features = sum(WIDTHS.values())
    tensors = {"norm.mean": rng.normal(size=features), "norm.std": rng.uniform(0.5, 2, features)}
    for index, (before, after) in {0: (features, 16), 2: (16, 8), 5: (8, 2)}.items():
        tensors[f"actor.{index}.weight"] = rng.normal(size=(after, before)) / 2
        tensors[f"actor.{index}.bias"] = rng.normal(size=after)
    tensors |= {"actor.4.scale": rng.normal(size=8), "actor.4.shift": rng.normal(size=8)}
    config = {
        "format": 2, "kind": "reinforcement_learning", "algorithm": "sac", "steps": 1234, "task": TASK,
        "encoder": None, "fingerprint": f"{seed:016x}",
        "simulators": {name: simulator_versions()[name] for name in ("mujoco", "dm_control")},
        "head": {"layers": KINDS, "vectors": ["state", "proprio"], "action_repeat": 3},
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config | changed))
    save_file({name: value.astype(np.float32) for name, value in tensors.items()}, folder / "model.safetensors")
    return folder


def test_the_actor_in_numpy_is_the_actor_in_torch(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    from rsp_robot.policies.rl.actor import run_layers
    from rsp_robot.policies.rl.normaliser import CLIP

    folder = write_expert(tmp_path / "policy")
    env = make(TASK, cameras=())
    env.reset(seed=0)
    expert = LearnedExpert(folder, env)
    tensors = load_file(folder / "model.safetensors")
    layers = {name.removeprefix("actor."): value for name, value in tensors.items()}
    features = 20 * np.random.default_rng(1).normal(size=(50, 10)).astype(np.float32)
    for row in features:
        normalised = ((torch.from_numpy(row) - tensors["norm.mean"]) / tensors["norm.std"]).clamp(-CLIP, CLIP)
        expected = run_layers(KINDS, layers, normalised[None])
        np.testing.assert_allclose(expert.decide(row), expected[0].numpy(), atol=1e-5)


def test_it_acts_on_the_state_and_holds_its_actions(tmp_path: Path) -> None:
    env = make(TASK, cameras=(), state=True)
    expert = make_expert(TASK, env, write_expert(tmp_path / "run" / "policy").parent)
    observation, _ = env.reset(seed=3)
    expert.reset()
    actions = []
    for step in range(7):
        if step % 3 == 0:
            expected = expert.decide(np.concatenate([observation["proprio"], observation["state"]]))
        actions.append(expert.act())
        np.testing.assert_array_equal(actions[-1], expected)
        observation, *_ = env.step(actions[-1])
    assert not np.array_equal(actions[2], actions[3])
    expert.reset()
    np.testing.assert_array_equal(expert.act(), expert.decide(expert._observe()))


def test_it_feeds_the_collection_and_is_named_in_the_file(tmp_path: Path) -> None:
    folder = write_expert(tmp_path / "policy")
    config = CollectConfig(
        TASK, tmp_path / "d.hdf5", demonstrations=2, image_size=16, horizon=12, keep_failures=True, workers=1,
        action_noise=0.0, expert=folder,
    )  # fmt: skip
    with DemonstrationFile(collect(config, quiet=True)) as file:
        assert file.info.expert == "sac on states, 1234 decisions, 0000000000000000"
        shown = file.read(0)
    assert shown.observations["state"].shape[1] == 6
    env = make(TASK, cameras=())
    env.reset(seed=shown.seed)
    expert = LearnedExpert(folder, env)
    np.testing.assert_allclose(shown.actions[0], expert.act(), atol=1e-6)
    collect(config, quiet=True)  # complete: nothing to do
    moved = write_expert(tmp_path / "elsewhere")
    collect(replace(config, expert=moved), quiet=True)  # the same expert at another place
    with pytest.raises(UserError, match="made with other settings .*expert"):
        collect(replace(config, expert=write_expert(tmp_path / "other", seed=1)), quiet=True)


def test_nobody_demonstrates_without_one() -> None:
    with pytest.raises(UserError, match="nobody demonstrates dmc/reacher-easy; give an expert .* with --expert"):
        collect(CollectConfig(TASK, Path("never.hdf5")), quiet=True)
    assert describe_expert(TASK) == "" and describe_expert("metaworld/reach-v3")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"task": "dmc/cheetah-run"}, "was trained on dmc/cheetah-run, not on dmc/reacher-easy"),
        ({"encoder": {"source": "x"}}, "looks at pictures; train an expert with"),
        ({"kind": "behaviour_cloning"}, "of kind behaviour_cloning, an expert is of kind reinforcement_learning"),
        ({"simulators": {"mujoco": "1.2.3"}}, "was trained with mujoco 1.2.3, .* is installed"),
        ({"head": {"layers": ["convolution"], "vectors": ["state"], "action_repeat": 1}}, "unknown convolution"),
    ],
)
def test_what_is_no_expert_for_the_task_is_refused(tmp_path: Path, changed: dict, message: str) -> None:
    env = make(TASK, cameras=())
    with pytest.raises(UserError, match=message):
        LearnedExpert(write_expert(tmp_path / "policy", **changed), env)


def test_damaged_and_missing_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no finished policy; train one with"):
        find_learned_expert(tmp_path)
    folder = write_expert(tmp_path / "policy")
    (folder / "model.safetensors").write_bytes(b"nothing")
    env = make(TASK, cameras=())
    with pytest.raises(UserError, match="cannot be read .*train it again"):
        LearnedExpert(folder, env)


def test_a_learned_expert_needs_no_torch(tmp_path: Path) -> None:
    folder = write_expert(tmp_path / "policy")
    code = (
        "import sys; from rsp_robot.envs import make; from rsp_robot.envs.experts import make_expert; "
        f"env = make({TASK!r}, cameras=()); env.reset(seed=0); make_expert({TASK!r}, env, {str(folder)!r}).act(); "
        "assert 'torch' not in sys.modules and 'stable_baselines3' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
