from __future__ import annotations

import pytest
import torch

from rsp_robot.errors import UserError
from rsp_robot.policies.bc_data import Sample
from rsp_robot.policies.heads import MLPConfig, find_head
from rsp_robot.policies.network import TASK_WIDTH, NetworkShape, PolicyNetwork


def make(shape: NetworkShape, head: str = "mlp", seed: int = 0, eyes=None) -> PolicyNetwork:
    entry = find_head(head)
    return PolicyNetwork(shape, entry, entry.config(), eyes, generator=torch.Generator().manual_seed(seed))


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(9))


def sample(vector, pictures=None, task=None) -> Sample:
    return Sample(vector, pictures, torch.zeros(len(vector), dtype=torch.int64) if task is None else task)


def test_vectors_are_normalised_by_the_minibatch_in_training_and_by_the_training_set_after():
    network = make(NetworkShape(actions=2, proprio=3))
    rows = 5 + 2 * draw(50, 3)
    network.set_input_statistics(rows)
    batch = rows[:10, None]
    in_training = network.train().features(sample(batch)).vector[:, 0]
    assert torch.allclose(in_training.mean(dim=0), torch.zeros(3), atol=1e-5)
    after = network.eval().features(sample(batch)).vector[:, 0]
    wanted = (batch[:, 0] - rows.mean(dim=0)) / (rows.var(dim=0, correction=0) + 1e-5).sqrt()
    assert torch.allclose(after, wanted, atol=1e-5)


def test_statistics_of_embeddings_that_learn_are_a_running_average():
    network = make(NetworkShape(actions=2, proprio=1, cameras=1, embedding=(4, 8), attentive=True))
    network.train().features(sample(torch.ones(6, 1, 1), draw(6, 1, 1, 4, 8)))
    assert network.norm.running_mean[-1] == pytest.approx(0.1)


def test_embeddings_come_before_proprioception_camera_by_camera():
    shape = NetworkShape(actions=2, proprio=1, cameras=2, embedding=(3,), history=2, fusion="difference")
    network = make(shape)
    assert shape.vector == 13 and network.norm.num_features == 13
    pictures = draw(5, 3, 2, 3)  # two consecutive observations with a history of two
    vector = network.eval().features(sample(torch.full((5, 2, 1), 7.0), pictures)).vector * (1 + 1e-5) ** 0.5
    left, right = pictures[:, :, 0], pictures[:, :, 1]
    wanted = torch.cat([left[:, 2] - left[:, 1], left[:, 2], right[:, 2] - right[:, 1], right[:, 2]], dim=1)
    assert torch.allclose(vector[:, 1, :12], wanted, atol=1e-5) and torch.allclose(vector[:, 1, 12], torch.tensor(7.0))


def test_attentive_pooling_is_shared_by_cameras_and_trained():
    network = make(NetworkShape(actions=2, proprio=1, cameras=2, embedding=(5, 8), attentive=True)).eval()
    tokens = draw(3, 1, 1, 5, 8).expand(-1, -1, 2, -1, -1)
    features = network.features(sample(torch.zeros(3, 1, 1), tokens))
    assert features.tokens is None and torch.equal(features.vector[..., :8], features.vector[..., 8:16])
    features.vector[..., 0].sum().backward()
    assert network.pool.query.grad.abs().sum() > 0


def test_heads_that_attend_get_the_tokens_of_all_cameras_and_times():
    shape = NetworkShape(actions=2, proprio=1, cameras=2, embedding=(5, 8), history=3)
    network = make(shape, "flow").eval()
    tokens = draw(4, 3, 2, 5, 8)
    features = network.features(sample(torch.zeros(4, 1, 1), tokens))
    assert features.vector.shape == (4, 1, 1) and features.tokens.shape == (4, 1, *shape.tokens) == (4, 1, 30, 8)
    assert torch.equal(features.tokens[:, 0, :5], tokens[:, 0, 0])
    assert torch.equal(features.tokens[:, 0, 25:], tokens[:, 2, 1])
    with pytest.raises(UserError, match="MLPHead reads a vector, not 30 patch tokens; choose pooling attentive"):
        make(shape, "mlp")


def test_a_task_changes_the_features_by_its_own_learned_code():
    network = make(NetworkShape(actions=2, proprio=3, tasks=2)).eval()
    assert network.task.weight.shape == (2, 16) and network.head.shape.vector == 3 + TASK_WIDTH
    rows = draw(1, 1, 3).expand(2, 2, -1)
    vector = network.features(sample(rows, task=torch.tensor([0, 1]))).vector
    assert torch.equal(vector[0, :, :3], vector[1, :, :3])
    assert torch.equal(vector[1, 0, 3:], network.task.weight[1]) and torch.equal(vector[1, 1, 3:], vector[1, 0, 3:])
    assert make(NetworkShape(actions=2, proprio=3)).task is None


def test_all_weights_come_from_the_generator():
    shape = NetworkShape(actions=2, proprio=1, cameras=1, embedding=(4, 8), attentive=True, tasks=3)
    states = []
    for seed, noise in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(noise)
        states.append(make(shape, seed=seed).state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(states[0]["task.weight"], states[2]["task.weight"])
    assert not torch.equal(states[0]["pool.query"], states[2]["pool.query"])


def test_a_frozen_encoder_is_not_part_of_what_is_stored(encoder):
    shape = NetworkShape(actions=2, proprio=1, cameras=1, embedding=(6,))
    frozen = make(shape, eyes=encoder)
    assert not any(name.startswith("eyes.") for name in frozen.stored_state())
    frozen.load_stored_state(make(shape, seed=1).stored_state())
    encoder.weight.requires_grad_(True)
    trained = make(shape, eyes=encoder)
    assert "eyes.weight" in trained.stored_state()
    with pytest.raises(RuntimeError, match="tensors differ: eyes.weight"):
        trained.load_stored_state(make(shape).stored_state())


def test_head_settings_reach_the_head():
    entry = find_head("mlp")
    shape = NetworkShape(actions=2, proprio=3)
    network = PolicyNetwork(shape, entry, MLPConfig(hidden=(7,)), generator=torch.Generator())
    assert network.head.layers[0].weight.shape == (7, 3)
