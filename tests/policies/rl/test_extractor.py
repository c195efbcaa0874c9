from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import PPO, SAC

from rsp_robot.errors import UserError
from rsp_robot.policies.rl import FrozenEncoderExtractor
from rsp_robot.policies.rl.normaliser import RunningNorm

KWARGS = {"net_arch": [16], "normalize_images": False, "features_extractor_class": FrozenEncoderExtractor}


def learner(env, frozen, **settings):
    kwargs = KWARGS | {"features_extractor_kwargs": {"encoder": frozen}}
    return SAC(
        "MultiInputPolicy", env, policy_kwargs=kwargs, buffer_size=100, learning_starts=10, batch_size=4, seed=0,
        device="cpu", **settings,
    )  # fmt: skip


def test_training_leaves_the_one_encoder_of_all_networks_as_it_was(points, frozen) -> None:
    """Averaging target networks in place would change an encoder that is among their parameters."""
    before = frozen.weights_checksum()
    weights = [parameter.clone() for parameter in frozen.parameters()]
    model = learner(points(1)(), frozen, tau=0.5)
    networks = [model.actor, model.critic, model.critic_target]
    assert len({id(network.features_extractor) for network in networks}) == 3, "extractors of their own"
    assert {id(network.features_extractor.encoder) for network in networks} == {id(frozen)}
    critic = [parameter.clone() for parameter in model.critic.parameters()]
    model.learn(25)
    assert any(not torch.equal(old, new) for old, new in zip(critic, model.critic.parameters(), strict=True))
    assert frozen.weights_checksum() == before
    assert all(torch.equal(old, new) for old, new in zip(weights, frozen.parameters(), strict=True))


def test_the_encoder_is_neither_saved_nor_optimised_nor_copied(points, frozen) -> None:
    model = learner(points(1)(), frozen)
    assert not any("encoder" in name or "backbone" in name for name in model.policy.state_dict())
    held = {id(parameter) for parameter in frozen.parameters()}
    for optimiser in (model.actor.optimizer, model.critic.optimizer):
        assert not held & {id(parameter) for group in optimiser.param_groups for parameter in group["params"]}
    assert list(model.actor.features_extractor.parameters()) == []
    twin = copy.deepcopy(model.actor)
    assert twin.features_extractor.encoder is frozen
    model.policy.set_training_mode(True)
    assert not frozen.training


def test_pictures_give_the_encoders_own_embeddings(points, frozen) -> None:
    env = points(2)()
    model = learner(env, frozen)
    observations = env.reset()
    with torch.no_grad():
        tensors, _ = model.policy.obs_to_tensor(
            {
                key: np.transpose(value, (0, 3, 1, 2)) if value.ndim == 4 else value
                for key, value in observations.items()
            }
        )
        raw = model.actor.features_extractor.raw({key: value.float() for key, value in tensors.items()})
    torch.testing.assert_close(raw[:, : frozen.dim], frozen(observations["front"]))
    np.testing.assert_array_equal(raw[:, frozen.dim :].numpy(), observations["proprio"])


def test_without_statistics_each_embedding_is_normalised_by_itself(points, frozen) -> None:
    space = points(1)().observation_space
    extractor = FrozenEncoderExtractor(space, frozen)
    seen = {"front": torch.randint(0, 255, (2, 16, 16, 3), dtype=torch.uint8), "proprio": torch.ones(2, 2)}
    features = extractor(seen)
    assert features.shape == (2, extractor.features_dim) == (2, frozen.dim + 2)
    torch.testing.assert_close(features[:, : frozen.dim].mean(dim=1), torch.zeros(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(features[:, frozen.dim :], torch.ones(2, 2))
    norm = RunningNorm(frozen.dim + 2)
    norm.update(extractor.raw(seen).numpy())
    norm.publish()
    with_norm = FrozenEncoderExtractor(space, frozen, norm)(seen)
    torch.testing.assert_close(with_norm.mean(dim=0), torch.zeros(frozen.dim + 2), atol=1e-3, rtol=0)


def test_pictures_divided_by_255_are_refused(points, frozen) -> None:
    extractor = FrozenEncoderExtractor(points(1)().observation_space, frozen)
    with pytest.raises(UserError, match="normalize_images=False"):
        extractor({"front": torch.rand(1, 3, 16, 16), "proprio": torch.zeros(1, 2)})


def test_a_part_that_is_neither_picture_nor_vector_is_named(points, frozen) -> None:
    with pytest.raises(UserError, match="'front' is a picture; give the extractor an encoder"):
        FrozenEncoderExtractor(points(1)().observation_space)
    with pytest.raises(UserError, match="'kind' is neither a picture nor a vector"):
        FrozenEncoderExtractor(spaces.Dict({"kind": spaces.Discrete(3)}), frozen)


def test_an_on_policy_method_looks_through_it_too(points, frozen) -> None:
    before = frozen.weights_checksum()
    kwargs = KWARGS | {"features_extractor_kwargs": {"encoder": frozen}}
    model = PPO(
        "MultiInputPolicy", points(2)(), n_steps=8, batch_size=8, n_epochs=2, policy_kwargs=kwargs, device="cpu"
    )
    model.learn(16)
    assert frozen.weights_checksum() == before


def test_running_statistics_are_those_of_all_rows_but_used_only_when_published() -> None:
    rows = np.random.default_rng(0).normal(3.0, 2.0, (500, 4))
    rows[:, 3] = 7.0
    norm = RunningNorm(4)
    for part in np.array_split(rows, 37):
        norm.update(part)
    np.testing.assert_allclose(norm.mean, rows.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(norm.std[:3], rows[:, :3].std(axis=0), rtol=1e-12)
    assert norm.std[3] == 1
    tensor = torch.from_numpy(rows).float()
    torch.testing.assert_close(norm.apply(tensor), tensor)  # not published: mean 0, deviation 1
    norm.publish()
    torch.testing.assert_close(norm.apply(tensor).mean(dim=0), torch.zeros(4), atol=1e-5, rtol=0)
    other = RunningNorm(4)
    other.restore(norm.state())
    assert torch.equal(other.apply(tensor), norm.apply(tensor)) and other.count == 500
    assert norm.apply(torch.full((1, 4), 1e6)).max() == 10
