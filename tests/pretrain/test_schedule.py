from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from rsp_robot.pretrain.schedule import lr_factor, parameter_groups, scaled_lr


def test_learning_rate_scales_with_the_batch() -> None:
    assert scaled_lr(1.5e-4, 256) == 1.5e-4
    assert scaled_lr(1.5e-4, 1536) == pytest.approx(9e-4)
    assert scaled_lr(3.2e-3, 32) == pytest.approx(4e-4)


def test_warm_up_is_linear_and_ends_at_the_peak() -> None:
    assert [lr_factor(step, 100, 4) for step in range(5)] == [0.0, 0.25, 0.5, 0.75, 1.0]


def test_cosine_falls_from_the_peak_to_zero() -> None:
    # A quarter, half and three quarters of the way down: (1 + cos 45°)/2, 1/2, (1 + cos 135°)/2.
    half_root = math.sqrt(0.5)
    found = [lr_factor(step, 90, 10) for step in (10, 30, 50, 70, 90)]
    assert found == pytest.approx([1.0, (1 + half_root) / 2, 0.5, (1 - half_root) / 2, 0.0])
    factors = [lr_factor(step, 90, 10) for step in range(10, 91)]
    assert factors == sorted(factors, reverse=True)


def test_without_warm_up_it_starts_at_the_peak_and_all_warm_up_divides_by_nothing() -> None:
    assert lr_factor(0, 10, 0) == 1.0
    assert [lr_factor(step, 4, 4) for step in (3, 4)] == [0.75, 1.0]


def test_it_may_start_and_end_above_zero() -> None:
    found = [lr_factor(step, 30, 10, start=0.2, end=0.1) for step in (0, 5, 10, 20, 30)]
    assert found == pytest.approx([0.2, 0.6, 1.0, 0.55, 0.1])


def test_it_may_stay_at_the_peak_and_fall_on_a_line() -> None:
    found = [lr_factor(step, 20, 4, hold=6, linear=True) for step in (0, 4, 9, 10, 15, 20)]
    assert found == pytest.approx([0.0, 1.0, 1.0, 1.0, 0.5, 0.0])
    assert lr_factor(1, 2, 1, hold=1) == 1.0


def test_weight_decay_falls_on_matrices_and_tokens_only() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.norm = nn.Linear(2, 3), nn.LayerNorm(3)
            self.token = nn.Parameter(torch.zeros(1, 1, 3))
            self.positions = nn.Parameter(torch.zeros(1, 4, 3), requires_grad=False)

    net = Net()
    decayed, plain = parameter_groups(net, 0.05)
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.05, 0.0)

    def names(group: dict[str, object]) -> set[str]:
        return {name for name, p in net.named_parameters() if any(p is member for member in group["params"])}

    assert names(decayed) == {"linear.weight", "token"}
    assert names(plain) == {"linear.bias", "norm.weight", "norm.bias"}, "and what is not trained is in neither"
