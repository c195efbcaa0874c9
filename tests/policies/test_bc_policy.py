from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from rsp_robot.backbones.vit import ViTConfig
from rsp_robot.encoder import FrozenEncoder
from rsp_robot.errors import UserError
from rsp_robot.files import read_json
from rsp_robot.policies.bc_data import Scalings
from rsp_robot.policies.bc_policy import BCPolicy
from rsp_robot.policies.behaviour_cloning import BCConfig, train_bc
from rsp_robot.policies.heads import (
    HEADS,
    ChunkingConfig,
    FlowConfig,
    MLPConfig,
    find_head,
)  # fmt: skip
from rsp_robot.policies.network import NetworkShape, PolicyNetwork
from rsp_robot.policies.normalisation import Scaling
from rsp_robot.policies.policy import load_policy

CONFIG = BCConfig(steps=30, batch_size=16, mlp=MLPConfig(hidden=(32,)))
QUICK = replace(
    CONFIG, steps=4, batch_size=8, chunking=ChunkingConfig(width=16, heads=2), flow=FlowConfig(width=16, heads=2)
)


def observe(count: int, seed: int = 3) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 256, (count, 16, 16, 3), np.uint8)
    return {
        "front": frames,
        "proprio": rng.uniform(-1, 1, (count, 3)).astype(np.float32),
        "state": rng.uniform(-1, 1, (count, 4)).astype(np.float32),
    }


def rows_of(observations, rows):
    return {key: value[rows] for key, value in observations.items()}


@pytest.mark.parametrize("head", HEADS)
def test_rows_are_independent_to_the_last_bit(make_data, encoder, tmp_path, head):
    config = replace(QUICK, head=head, history=2, fusion="difference")
    policy = load_policy(train_bc(make_data(), encoder, tmp_path / "run", config), encoder)
    steps = [observe(6, seed) for seed in range(4)]
    policy.reset(range(6))
    together = [policy.act(step, range(6)) for step in steps]
    assert np.abs(together).max() <= 1 and together[0].dtype == np.float32
    for rows in ([4], [5, 3, 0]):
        policy.reset(rows)
        for step, wanted in zip(steps, together, strict=True):
            assert np.array_equal(policy.act(rows_of(step, rows), rows), wanted[rows])


def test_an_episode_is_remembered_by_its_id_and_forgotten_at_its_start(make_data, encoder, tmp_path):
    config = replace(QUICK, history=3, fusion="difference")
    policy = load_policy(train_bc(make_data(), encoder, tmp_path / "run", config), encoder)
    first, second = observe(1, 1), observe(1, 2)
    policy.reset([5, 6])
    fresh = policy.act(second, [6])
    policy.act(first, [5])
    later = policy.act(second, [5])
    assert not np.array_equal(later, fresh)
    policy.reset([5])
    assert np.array_equal(policy.act(second, [5]), fresh)
    assert np.array_equal(policy.act(second), fresh), "without ids every row is the first of an episode"


def test_what_a_head_draws_depends_on_the_id_alone(make_data, tmp_path):
    policy = load_policy(train_bc(make_data(), None, tmp_path / "run", replace(QUICK, head="flow")))
    observation = rows_of(observe(1), [0, 0])
    policy.reset([1, 2])
    one, two = policy.act(observation, [1, 2])
    assert not np.array_equal(one, two)
    torch.manual_seed(5)
    policy.reset([2, 1])
    assert np.array_equal(policy.act(observation, [2, 1]), [two, one])


def constant_policy(bias, actions: Scaling) -> BCPolicy:
    entry = find_head("mlp")
    network = PolicyNetwork(NetworkShape(2, 3), entry, MLPConfig(hidden=()), generator=torch.Generator())
    with torch.no_grad():
        network.head.layers[0].weight.zero_()
        network.head.layers[0].bias.copy_(torch.tensor(bias))
    return BCPolicy(network, Scalings(Scaling(np.zeros(3, np.float32), np.ones(3, np.float32)), actions))


def test_actions_are_scaled_back_and_clipped():
    plain = Scaling(np.zeros(2, np.float32), np.ones(2, np.float32))
    halved = Scaling(np.array([0.25, 0.0], np.float32), np.array([0.5, 0.1], np.float32))
    observation = {"proprio": np.zeros((1, 3), np.float32)}
    assert constant_policy([5.0, -5.0], plain).act(observation).tolist() == [[1, -1]]
    assert constant_policy([1.0, 5.0], halved).act(observation).tolist() == [[0.75, 0.5]]
    assert constant_policy([1.0, 5.0], halved).act({"proprio": np.zeros((0, 3), np.float32)}).shape == (0, 2)


def test_saved_and_loaded_policies_act_alike(make_data, make_encoder, tmp_path):
    data = make_data(cameras=("front", "side"))
    encoder = make_encoder()
    folder = train_bc(data, encoder, tmp_path / "run", replace(CONFIG, cameras=("side",)))
    config = read_json(folder / "config.json")
    assert (config["cameras"], config["image_size"], config["quality"]) == (["side"], 16, "lean")
    assert config["encoder"]["fingerprint"] == encoder.fingerprint and config["training"]["steps"] == 30
    assert config["kept"] == "last of 30 steps" and config["tasks"] == ["toy/reach"]
    policy = load_policy(folder.parent, encoder)
    assert (policy.cameras, policy.image_size, policy.quality) == (("side",), 16, "lean")
    assert policy.fingerprint == config["fingerprint"] and not policy.state
    observations = observe(3)
    observations["side"] = observations.pop("front")
    again = load_policy(folder, make_encoder())
    assert np.array_equal(policy.act(observations), again.act(observations))
    assert not any(parameter.requires_grad for parameter in policy.network.parameters())


def test_the_wrong_encoder_is_refused_with_the_reason(make_data, make_encoder, tmp_path):
    folder = train_bc(make_data(), make_encoder(0), tmp_path / "run", QUICK)
    right, wrong = make_encoder(0), make_encoder(1)
    message = f"with encoder {right.fingerprint}, this is {wrong.fingerprint}"
    with pytest.raises(UserError, match=f"{message}; .*insist with --allow-mismatch"):
        load_policy(folder, wrong)
    with pytest.warns(UserWarning, match=message):
        insisted = load_policy(folder, wrong, allow_mismatch=True)
    assert insisted.eyes is wrong
    wrong.embedding_shape = (7,)
    with pytest.warns(UserWarning), pytest.raises(UserError, match=r"embeddings of shape \(7,\), .* takes \(6,\)"):
        load_policy(folder, wrong, allow_mismatch=True)
    with pytest.raises(UserError, match="does not know where its encoder is; give the encoder"):
        load_policy(folder)


@pytest.mark.parametrize(
    ("kind", "reason"), [(None, "is blind"), ("state", "sees the state"), ("scratch", "of its own")]
)
def test_policies_without_an_encoder_take_none(make_data, encoder, tmp_path, kind, reason):
    folder = train_bc(make_data(), kind, tmp_path / "run", QUICK)
    policy = load_policy(folder)
    assert policy.cameras == (("front",) if kind == "scratch" else ()) and policy.state == (kind == "state")
    assert policy.act(observe(2)).shape == (2, 2)
    with pytest.raises(UserError, match=f"{reason}.* takes no encoder"):
        load_policy(folder, encoder)


def test_the_encoder_is_found_again_where_it_was(make_data, make_encoder, tmp_path, monkeypatch):
    loaded = []

    def load(spec, device="cpu"):
        loaded.append(spec)
        return make_encoder()

    monkeypatch.setattr(FrozenEncoder, "load", load)
    (tmp_path / "here" / "encoder").mkdir(parents=True)
    data = make_data()
    train_bc(data, make_encoder(), tmp_path / "here" / "bc", QUICK, encoder_source=tmp_path / "here" / "encoder")
    (tmp_path / "here").rename(tmp_path / "moved")  # both together
    load_policy(tmp_path / "moved" / "bc")
    load_policy(train_bc(data, "random:vit-toy", tmp_path / "named", QUICK))
    assert loaded == [tmp_path / "moved" / "encoder", "random:vit-toy", "random:vit-toy"]
    encoder = make_encoder()
    encoder.source = tmp_path / "moved" / "encoder"
    load_policy(train_bc(data, encoder, tmp_path / "attribute", QUICK))
    assert loaded[3:] == [tmp_path / "moved" / "encoder"]


def test_a_policy_of_several_tasks_is_told_which(make_data, tmp_path):
    """The same observation wants opposite actions in the two tasks; only the task's code tells them apart."""
    files = [make_data(f"{task}.hdf5", count=8, cameras=(), blind_task=True, task=f"toy/{task}") for task in "ab"]
    import h5py

    with h5py.File(files[1], "r+") as file:
        for demo in file["data"].values():
            demo["expert_actions"][...] *= -1
    folder = train_bc(files, None, tmp_path / "run", replace(CONFIG, steps=300, lr=3e-3))
    with pytest.raises(UserError, match="knows several tasks; name one of: toy/a, toy/b"):
        load_policy(folder)
    with pytest.raises(UserError, match="unknown task of this policy 'toy/bb'; did you mean toy/b"):
        load_policy(folder, task="toy/bb")
    proprio = np.array([[0.5, -0.5, 1.0]], np.float32)
    one, two = (load_policy(folder, task=f"toy/{task}").act({"proprio": proprio})[0] for task in "ab")
    assert np.allclose(one, [-0.2, 0.2], atol=0.05) and np.allclose(two, [0.2, -0.2], atol=0.05)
    assert read_json(folder / "config.json")["tasks"] == ["toy/a", "toy/b"]


def test_a_policy_of_one_task_needs_no_name(make_data, tmp_path):
    folder = train_bc(make_data(), None, tmp_path / "run", QUICK)
    assert load_policy(folder, task="toy/elsewhere").tasks == ("toy/reach",)


def test_observations_are_checked(make_data, encoder, tmp_path):
    policy = load_policy(train_bc(make_data(), encoder, tmp_path / "run", QUICK), encoder)
    good = observe(2)
    for wrong, message in (
        ({"front": np.zeros((2, 32, 32, 3), np.uint8)}, "trained on pictures of 16 pixels"),
        ({"proprio": np.zeros((2, 4), np.float32)}, "trained with 3 numbers of proprioception"),
        ({"front": good["front"] / 255}, "are float64"),
        ({"front": good["front"].transpose(0, 3, 1, 2)}, "channels first"),
        ({"front": good["front"][:1]}, "one row per episode"),
    ):
        with pytest.raises(UserError, match=message):
            policy.act(good | wrong)
    with pytest.raises(UserError, match="looks through camera 'front', the observation has proprio"):
        policy.act({"proprio": good["proprio"]})
    with pytest.raises(UserError, match="one row per episode"):
        policy.act(good, [1])


SHAPE = ViTConfig(image_size=16, patch_size=8, width=24, depth=2, heads=2)


@pytest.mark.parametrize(
    "change",
    [
        {}, {"pooling": "mean"}, {"pooling": "attentive", "history": 2}, {"pooling": "tokens", "head": "flow"},
        {"pooling": "tokens", "head": "chunking", "history": 2}, {"finetune": True}, {"augment": "shift"},
        {"finetune": True, "pooling": "attentive", "augment": "shift", "ema": 0.9},
    ],
)  # fmt: skip
def test_with_a_real_frozen_encoder(make_data, tmp_path, change):
    """The whole way with the encoder as users have it: a folder, found again, rows equal to the last bit."""
    FrozenEncoder.random(SHAPE, seed=1).save(tmp_path / "encoder")
    folder = train_bc(make_data(count=4), tmp_path / "encoder", tmp_path / "run", replace(QUICK, **change))
    policy = load_policy(folder)
    if not change.get("finetune"):
        assert policy.eyes.weights_checksum() == FrozenEncoder.load(tmp_path / "encoder").weights_checksum()
        with pytest.raises(UserError, match="trained with encoder"):
            load_policy(folder, FrozenEncoder.random(SHAPE, seed=2))
    observations = observe(4)
    policy.reset(range(4))
    together = policy.act(observations, range(4))
    assert together.std() > 0
    for i in range(4):
        policy.reset([i])
        assert np.array_equal(policy.act(rows_of(observations, [i]), [i])[0], together[i])


def test_a_fine_tuned_policy_needs_its_encoder_no_more(make_data, tmp_path):
    encoder = FrozenEncoder.random(SHAPE, seed=1)
    folder = train_bc(make_data(count=4), encoder, tmp_path / "run", replace(QUICK, finetune=True))
    assert read_json(folder / "config.json")["encoder"]["source"] is None
    assert load_policy(folder).act(observe(2)).shape == (2, 2)
    with pytest.raises(UserError, match="has eyes of its own and takes no encoder"):
        load_policy(folder, encoder)


def test_a_pooling_chosen_when_the_encoder_was_loaded_is_found_again(make_data, tmp_path):
    FrozenEncoder.random(SHAPE, seed=1).save(tmp_path / "encoder")
    encoder = FrozenEncoder.load(tmp_path / "encoder", pooling="grid2")
    folder = train_bc(make_data(count=4), encoder, tmp_path / "run", QUICK)
    policy = load_policy(folder)
    assert policy.eyes.pooling == "grid2" and policy.eyes.fingerprint == encoder.fingerprint


def test_an_encoder_with_another_pooling_is_pooled_as_the_policy_was(make_data, tmp_path):
    encoder = FrozenEncoder.random(SHAPE, seed=1)
    folder = train_bc(make_data(count=4), encoder, tmp_path / "run", replace(QUICK, pooling="mean"))
    policy = load_policy(folder, encoder.with_pooling("tokens"))
    assert policy.eyes.pooling == "mean"
    assert np.array_equal(policy.act(observe(2)), load_policy(folder, encoder).act(observe(2)))


@pytest.mark.parametrize("change", [{}, {"pooling": "attentive"}, {"history": 3, "fusion": "difference"}])
def test_a_policy_without_proprioception_does_not_feel(make_data, tmp_path, change):
    data = make_data(count=4)
    settings = {"normalise_actions": "none", "steps": 5, "batch_size": 8, "proprio": False}
    folder = train_bc(data, "random:vit-nano/8@16", tmp_path / "run", BCConfig(**settings, **change))
    policy = load_policy(folder)
    seen = observe(3)
    first = policy.act(seen, ids=[0, 1, 2])
    policy.reset([0, 1, 2])
    felt = seen | {"proprio": seen["proprio"] + 7}
    assert np.array_equal(first, policy.act(felt, ids=[0, 1, 2]))
    policy.reset([0, 1, 2])
    del felt["proprio"]
    assert np.array_equal(first, policy.act(felt, ids=[0, 1, 2]))
