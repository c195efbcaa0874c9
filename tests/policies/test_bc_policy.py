from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from rsp_robot.backbones.vit import ViTConfig
from rsp_robot.encoder import FrozenEncoder
from rsp_robot.errors import UserError
from rsp_robot.files import read_json
from rsp_robot.policies.bc_policy import BCPolicy
from rsp_robot.policies.behaviour_cloning import BCConfig, train_bc
from rsp_robot.policies.heads import MLPHead
from rsp_robot.policies.policy import load_policy

CONFIG = BCConfig(steps=50, batch_size=32, hidden=(32,))


def observe(count: int, seed: int = 3) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 256, (count, 16, 16, 3), np.uint8)
    return {"front": frames, "proprio": rng.uniform(-1, 1, (count, 3)).astype(np.float32)}


def test_rows_are_independent_to_the_last_bit(make_data, encoder, tmp_path):
    policy = load_policy(train_bc(make_data(), encoder, tmp_path / "run", CONFIG), encoder)
    observations = observe(9)
    together = policy.act(observations, list(range(9)))
    assert np.abs(together).max() <= 1
    for rows in ([4], [8, 4, 0], [0, 1, 2, 3, 4]):
        part = policy.act({key: value[rows] for key, value in observations.items()})
        assert np.array_equal(part, together[rows])


def test_actions_are_clipped(encoder):
    head = MLPHead(3, 2, (), generator=torch.Generator())
    with torch.no_grad():
        head.layers[0].bias.copy_(torch.tensor([5.0, -5.0]))
    policy = BCPolicy(head, None, (), np.zeros(3, np.float32), np.ones(3, np.float32))
    assert policy.act({"proprio": np.zeros((1, 3), np.float32)}).tolist() == [[1, -1]]


def test_saved_and_loaded_policies_act_alike(make_data, make_encoder, tmp_path):
    data = make_data(cameras=("front", "side"))
    encoder = make_encoder()
    folder = train_bc(data, encoder, tmp_path / "run", replace(CONFIG, cameras=("side",)))
    config = read_json(folder / "config.json")
    assert (config["cameras"], config["image_size"], config["quality"]) == (["side"], 16, "lean")
    assert config["encoder"]["fingerprint"] == encoder.fingerprint and config["training"]["steps"] == 50
    policy = load_policy(folder.parent, encoder)
    assert (policy.cameras, policy.image_size, policy.quality) == (("side",), 16, "lean")
    assert policy.fingerprint == config["fingerprint"]
    observations = observe(3)
    observations["side"] = observations.pop("front")
    again = load_policy(folder, make_encoder())
    assert np.array_equal(policy.act(observations), again.act(observations))
    assert not any(parameter.requires_grad for parameter in policy.head.parameters())


def test_the_wrong_encoder_is_refused_with_the_reason(make_data, make_encoder, tmp_path):
    folder = train_bc(make_data(), make_encoder(0), tmp_path / "run", CONFIG)
    wrong = make_encoder(1)
    with pytest.raises(UserError, match=f"with encoder {make_encoder(0).fingerprint}, this is {wrong.fingerprint}"):
        load_policy(folder, wrong)
    with pytest.raises(UserError, match="does not know where its encoder is; give the encoder"):
        load_policy(folder)
    blind = train_bc(make_data(), None, tmp_path / "blind", CONFIG)
    with pytest.raises(UserError, match="is blind and takes no encoder"):
        load_policy(blind, wrong)
    assert load_policy(blind).cameras == ()


def test_the_encoder_is_found_again_where_it_was(make_data, make_encoder, tmp_path, monkeypatch):
    loaded = []

    def load(spec):
        loaded.append(spec)
        return make_encoder()

    monkeypatch.setattr(FrozenEncoder, "load", load)
    (tmp_path / "here" / "encoder").mkdir(parents=True)
    data = make_data()
    train_bc(data, make_encoder(), tmp_path / "here" / "bc", CONFIG, encoder_source=tmp_path / "here" / "encoder")
    (tmp_path / "here").rename(tmp_path / "moved")  # both together
    load_policy(tmp_path / "moved" / "bc")
    load_policy(train_bc(data, "random:vit-toy", tmp_path / "named", CONFIG))
    assert loaded == [tmp_path / "moved" / "encoder", "random:vit-toy", "random:vit-toy"]
    encoder = make_encoder()
    encoder.source = tmp_path / "moved" / "encoder"
    load_policy(train_bc(data, encoder, tmp_path / "attribute", CONFIG))
    assert loaded[3:] == [tmp_path / "moved" / "encoder"]


def test_pictures_of_another_size_are_refused(make_data, encoder, tmp_path):
    policy = load_policy(train_bc(make_data(), encoder, tmp_path / "run", CONFIG), encoder)
    observations = observe(2)
    with pytest.raises(UserError, match="trained on pictures of 16 pixels"):
        policy.act({**observations, "front": np.zeros((2, 32, 32, 3), np.uint8)})
    with pytest.raises(UserError, match="trained with 3 numbers of proprioception"):
        policy.act({**observations, "proprio": np.zeros((2, 4), np.float32)})


def test_with_a_real_frozen_encoder(make_data, tmp_path):
    """The whole way with the encoder as users have it: a folder, found again, rows equal to the last bit."""
    shape = ViTConfig(image_size=16, patch_size=8, width=24, depth=2, heads=2)
    FrozenEncoder.random(shape, seed=1).save(tmp_path / "encoder")
    folder = train_bc(make_data(), tmp_path / "encoder", tmp_path / "run", CONFIG)
    policy = load_policy(folder)
    assert policy.encoder.fingerprint == FrozenEncoder.load(tmp_path / "encoder").fingerprint
    observations = observe(7)
    together = policy.act(observations)
    assert together.std() > 0
    for i in range(7):
        assert np.array_equal(
            policy.act({key: value[i : i + 1] for key, value in observations.items()})[0], together[i]
        )
    with pytest.raises(UserError, match="trained with encoder"):
        load_policy(folder, FrozenEncoder.random(shape, seed=2))
