"""Nothing of an encoder changes while a policy is trained: not its weights, not its batch statistics."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from rsp_robot.encoder import FrozenEncoder
from rsp_robot.files import read_json
from rsp_robot.policies import behaviour_cloning as module
from rsp_robot.policies.behaviour_cloning import BCConfig, train_bc
from rsp_robot.policies.fitting import fit
from rsp_robot.policies.heads import MLPConfig
from rsp_robot.policies.policy import load_policy

CONFIG = BCConfig(steps=6, batch_size=8, log_every=3, mlp=MLPConfig(hidden=(16,)))


def batch_normed() -> FrozenEncoder:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5))
    with torch.no_grad():
        layers[1].running_mean.fill_(0.3)
    return FrozenEncoder.wrap(layers, 16, pooling="mean")


@pytest.mark.parametrize("augment", ["none", "shift"])
def test_a_batch_norm_backbone_keeps_its_statistics(make_data, tmp_path, augment):
    encoder = batch_normed()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    folder = train_bc(make_data(count=4), encoder, tmp_path / "run", replace(CONFIG, augment=augment))
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    stored = read_json(folder / "config.json")["encoder"]
    assert stored["checksum_before"] == stored["checksum_after"] == encoder.weights_checksum()


def test_a_timm_resnet_keeps_its_statistics(make_data, tmp_path):
    encoder = FrozenEncoder.load("random:resnet18@32")
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    folder = train_bc(make_data(count=2), encoder, tmp_path / "run", replace(CONFIG, steps=3, augment="shift"))
    policy = load_policy(folder)
    policy.network.train()
    policy.eyes(np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8))
    for seen in (encoder, policy.eyes):
        assert all(torch.equal(value, before[name]) for name, value in seen.state_dict().items())
    assert any("running_mean" in name for name in before)


def test_training_mode_of_the_whole_policy_does_not_reach_the_encoder(make_data, tmp_path):
    encoder = batch_normed()
    policy = load_policy(train_bc(make_data(count=4), encoder, tmp_path / "run", CONFIG), encoder)
    policy.network.train()
    assert policy.network.norm.training and policy.network.head.training
    assert policy.network.eyes is encoder
    assert not any(child.training for child in encoder.modules())
    frames = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), np.uint8)
    assert torch.equal(encoder(frames), encoder(frames)), "dropout is off"


def test_nothing_of_the_encoder_is_given_to_the_optimiser(make_data, tmp_path, monkeypatch):
    networks = []
    monkeypatch.setattr(module, "fit", lambda network, *rest: (networks.append(network), fit(network, *rest))[1])
    train_bc(make_data(count=4), batch_normed(), tmp_path / "run", replace(CONFIG, augment="shift"))
    assert all(not name.startswith("eyes.") for name in networks[0].stored_state())
    assert not networks[0].eyes_are_trained


@pytest.mark.parametrize("when", ["training", "checkpoint"])
def test_an_encoder_that_changes_is_noticed(make_data, encoder, tmp_path, monkeypatch, when):
    def meddle(*args):
        encoder.weight += 0.1
        return fit(*args)

    monkeypatch.setattr(module, "fit", meddle)
    config = replace(CONFIG, checkpoint_every=3 if when == "checkpoint" else 0)
    with pytest.raises(RuntimeError, match="weights of the frozen encoder changed during training"):
        train_bc(make_data(), encoder, tmp_path / "run", config)
    assert not (tmp_path / "run" / "policy").exists()
    assert not list((tmp_path / "run").glob("checkpoints/*"))


def test_fine_tuning_leaves_the_original_alone(make_data, tmp_path):
    encoder = FrozenEncoder.load("random:vit-nano/8@16")
    folder = train_bc(make_data(count=4), encoder, tmp_path / "run", replace(CONFIG, finetune=True))
    config = read_json(folder / "config.json")
    assert config["encoder"]["checksum_before"] == config["encoder"]["checksum_after"] == encoder.weights_checksum()
    tuned = load_policy(folder).network.eyes
    original = encoder.backbone.state_dict()
    assert any(not torch.equal(value, original[name]) for name, value in tuned.backbone.state_dict().items())
