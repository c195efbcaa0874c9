from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from rsp_robot.encoder import FrozenEncoder
from rsp_robot.errors import UserError
from rsp_robot.policies.policy import load_policy, save_policy_folder
from rsp_robot.policies.rl.actor import export_layers, run_layers
from rsp_robot.policies.rl.embedder import Embedder
from rsp_robot.policies.rl.rl_policy import RLPolicy


def make_policy(encoder: FrozenEncoder | None, history: int = 1, repeat: int = 1) -> RLPolicy:
    embedder = Embedder(encoder, ("front",) if encoder else (), ("proprio",), history)
    features = embedder.dim + 2
    generator = torch.Generator().manual_seed(0)
    tensors = {"0.weight": torch.randn(3, features, generator=generator), "0.bias": torch.zeros(3)}
    return RLPolicy(
        ["linear", "tanh"], tensors, torch.zeros(features), torch.full((features,), 9.0), embedder, [2], repeat, 16
    )


def rows(count: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "front": rng.integers(0, 255, (count, 16, 16, 3), dtype=np.uint8),
        "proprio": rng.normal(size=(count, 2)).astype(np.float32),
    }


def test_a_row_depends_on_its_own_episode_alone(frozen) -> None:
    together, alone = make_policy(frozen, history=2, repeat=2), make_policy(frozen, history=2, repeat=2)
    together.reset([5, 6, 7])
    alone.reset([6])
    for step in range(5):
        shown = rows(3, step)
        actions = together.act(shown, [5, 6, 7])
        own = alone.act({key: value[1:2] for key, value in shown.items()}, [6])
        np.testing.assert_array_equal(actions[1], own[0])
        if step == 1:  # another episode begins under an id
            together.reset([5])


def test_an_action_is_held_and_a_reset_ends_it(frozen) -> None:
    policy = make_policy(frozen, repeat=3)
    policy.reset([0])
    actions = [policy.act(rows(1, step), [0])[0] for step in range(7)]
    for step in range(7):
        np.testing.assert_array_equal(actions[step], actions[3 * (step // 3)])
    assert not np.array_equal(actions[2], actions[3])
    policy.reset([0])
    np.testing.assert_array_equal(policy.act(rows(1, 99), [0]), make_policy(frozen).act(rows(1, 99)))


def test_what_it_cannot_act_on_is_refused_in_a_line(frozen) -> None:
    policy = make_policy(frozen, repeat=2)
    with pytest.raises(UserError, match="remembers earlier steps; give act"):
        policy.act(rows(2))
    with pytest.raises(UserError, match="trained on pictures of 16 pixels"):
        policy.act({"front": np.zeros((1, 8, 8, 3), np.uint8), "proprio": np.zeros((1, 2))}, [0])
    with pytest.raises(UserError, match="trained with 2 numbers of proprioception"):
        policy.act({"front": np.zeros((1, 16, 16, 3), np.uint8), "proprio": np.zeros((1, 3))}, [0])


def save(folder: Path, encoder: FrozenEncoder | None) -> Path:
    about = None
    if encoder is not None:
        about = {"fingerprint": encoder.fingerprint, "dim": encoder.dim, "source": None, "pooling": encoder.pooling}
    head = {
        "layers": ["linear"], "vectors": ["proprio"], "widths": [2], "history": 1, "fusion": "concat", "half": True,
        "action_repeat": 1,
    }  # fmt: skip
    features = 2 + (encoder.dim if encoder else 0)
    config = {
        "kind": "reinforcement_learning", "cameras": ["front"] if encoder else [], "image_size": 16, "quality": "lean",
        "encoder": about, "head": head, "task": "toy/point",
    }  # fmt: skip
    tensors = {"actor.0.weight": torch.zeros(3, features), "actor.0.bias": torch.ones(3)}
    return save_policy_folder(
        folder, config, tensors | {"norm.mean": torch.zeros(features), "norm.std": torch.ones(features)}
    )


def test_the_encoder_has_to_be_the_one_of_training(tmp_path, frozen) -> None:
    folder = save(tmp_path / "policy", frozen)
    assert load_policy(folder, frozen).act(rows(1)).tolist() == [[1, 1, 1]]
    assert load_policy(folder, frozen).tasks == ("toy/point",)
    other = FrozenEncoder.load("random:vit-nano/8@16#1")
    with pytest.raises(UserError, match=f"trained with encoder {frozen.fingerprint}, this is {other.fingerprint}"):
        load_policy(folder, other)
    with pytest.warns(UserWarning, match="was trained with encoder"):
        load_policy(folder, other, allow_mismatch=True)
    with pytest.raises(UserError, match="does not know where its encoder is"):
        load_policy(folder)
    with pytest.raises(UserError, match="sees no pictures and takes no encoder"):
        load_policy(save(tmp_path / "blind", None), frozen)


def test_how_it_acts_is_part_of_its_fingerprint(tmp_path) -> None:
    from rsp_robot.policies.policy import policy_fingerprint, read_policy_folder

    _, config, tensors = read_policy_folder(save(tmp_path / "policy", None))
    changed = config | {"head": config["head"] | {"action_repeat": 2}}
    assert policy_fingerprint(config, tensors) == config["fingerprint"] != policy_fingerprint(changed, tensors)


def test_layers_are_exported_as_they_are_in_evaluation() -> None:
    generator = torch.Generator().manual_seed(0)
    modules = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ELU(), torch.nn.Linear(8, 2), torch.nn.Tanh())
    kinds, tensors = export_layers(modules)
    assert kinds == ["linear", "elu", "linear", "tanh"]
    features = torch.randn(5, 4, generator=generator)
    torch.testing.assert_close(run_layers(kinds, tensors, features), modules(features))
    with pytest.raises(NotImplementedError, match="a layer LSTM cannot be kept"):
        export_layers(torch.nn.Sequential(torch.nn.LSTM(2, 2)))
