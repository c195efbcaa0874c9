from __future__ import annotations

import pytest
import torch

from rsp_robot.errors import UserError
from rsp_robot.policies.heads import MLPHead


def make_head(seed: int = 0, **kwargs) -> MLPHead:
    return MLPHead(4, 2, (8, 5), generator=torch.Generator().manual_seed(seed), **kwargs)


def test_layers_are_as_wide_as_asked():
    widths = [tuple(layer.weight.shape) for layer in make_head().layers if isinstance(layer, torch.nn.Linear)]
    assert widths == [(8, 4), (5, 8), (2, 5)]
    assert [type(layer).__name__ for layer in make_head(activation="silu").layers][1::2] == ["SiLU", "SiLU"]
    linear = MLPHead(4, 2, (), generator=torch.Generator())
    assert len(linear.layers) == 1


def test_the_generator_alone_decides_the_weights():
    torch.manual_seed(1)
    first = make_head().state_dict()
    before = torch.get_rng_state()
    second = make_head().state_dict()
    assert torch.equal(torch.get_rng_state(), before), "the global generator is left alone"
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["layers.0.weight"], make_head(seed=1).state_dict()["layers.0.weight"])


def test_the_last_layer_starts_small():
    full, small = make_head(last_layer_scale=1.0), make_head(last_layer_scale=0.01)
    assert torch.allclose(small.layers[-1].weight, full.layers[-1].weight * 0.01)
    assert torch.equal(small.layers[0].weight, full.layers[0].weight)
    assert full.layers[0].weight.abs().max() <= 0.5  # 1 / sqrt(4 inputs)


def test_evaluation_normalises_by_the_whole_training_set():
    head = MLPHead(2, 1, (), last_layer_scale=1.0, generator=torch.Generator())
    with torch.no_grad():
        head.layers[0].weight.copy_(torch.tensor([[1.0, 10.0]]))
        head.layers[0].bias.zero_()
    head.set_input_statistics(torch.tensor([[1.0, 0.0], [3.0, 4.0]]))  # means 2 and 2, deviations 1 and 2
    head.train()
    head(torch.randn(64, 2, generator=torch.Generator().manual_seed(0)) * 9)  # a minibatch does not move them
    head.eval()
    assert head(torch.tensor([[5.0, 4.0]])).item() == pytest.approx((5 - 2) / 1 + 10 * (4 - 2) / 2, rel=1e-4)


def test_training_normalises_by_the_minibatch():
    head = make_head().train()
    features = torch.randn(32, 4, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(head(features), head(features * 7 + 3), atol=1e-5)


def test_unknown_activation():
    with pytest.raises(UserError, match="unknown activation 'rel'; did you mean relu"):
        make_head(activation="rel")
