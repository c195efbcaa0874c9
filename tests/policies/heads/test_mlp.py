from __future__ import annotations

import pytest
import torch

from rsp_robot.policies.heads import Features


def test_layers_are_as_wide_as_asked(make_head) -> None:
    head = make_head("mlp", 4, 2, hidden=(8, 5), activation="silu")
    assert [tuple(layer.weight.shape) for layer in list(head.layers)[::2]] == [(8, 4), (5, 8), (2, 5)]
    assert [type(layer).__name__ for layer in head.layers][1::2] == ["SiLU", "SiLU"]
    assert len(make_head("mlp", 4, 2, hidden=()).layers) == 1


def test_the_last_layer_starts_small(make_head) -> None:
    full, small = (make_head("mlp", 4, 2, last_layer_scale=scale) for scale in (1.0, 0.01))
    assert torch.allclose(small.layers[-1].weight, full.layers[-1].weight * 0.01)
    assert torch.equal(small.layers[0].weight, full.layers[0].weight)
    assert full.layers[0].weight.abs().max() <= 0.5  # 1 / sqrt(4 inputs)


def test_the_loss_is_the_mean_squared_error(make_head) -> None:
    head = make_head("mlp", 1, 2, hidden=(), last_layer_scale=0.0)  # answers zero
    actions = torch.tensor([[[1.0, 3.0]], [[9.0, 9.0]]])
    mask = torch.tensor([[True], [False]])
    assert head.loss(Features(torch.ones(2, 1, 1)), actions, mask, torch.Generator())["loss"].item() == 5.0


def test_it_learns_a_function(make_head, fit) -> None:
    vector = torch.linspace(-1, 1, 64).reshape(-1, 1, 1)
    head = make_head("mlp", hidden=(32, 32))
    assert fit(head, vector, (3 * vector).sin())["loss"] < 1e-2
    action, memory = head.act(Features(torch.full((1, 1, 1), 0.5)), None, torch.Generator())
    assert action.item() == pytest.approx(0.997, abs=0.2) and memory is None


def test_between_two_answers_it_takes_the_middle(make_head, fit) -> None:
    head = make_head("mlp", hidden=(16,))
    actions = torch.tensor([-1.0, 1.0]).repeat(32).reshape(-1, 1, 1)
    fit(head, torch.ones(64, 1, 1), actions)
    action, _ = head.act(Features(torch.ones(1, 1, 1)), None, torch.Generator())
    assert abs(action.item()) < 0.05
