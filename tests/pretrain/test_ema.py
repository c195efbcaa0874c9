from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from rsp_robot.pretrain.ema import follow, momentum_at, relative_distance

GOOD, BAD = torch.zeros(()), torch.ones(())


class Pair(nn.Module):
    """One weight that learns and one that is fixed."""

    def __init__(self, learned: float, fixed: float) -> None:
        super().__init__()
        self.learned = nn.Parameter(torch.tensor([learned, 2 * learned]))
        self.fixed = nn.Parameter(torch.tensor([fixed]), requires_grad=False)


def test_momentum_rises_in_a_straight_line() -> None:
    # 90,000 steps laid out as 112,500: at the last one four fifths of the way are over.
    assert momentum_at(0, 0.998, 1.0) == 0.998
    assert momentum_at(0.8, 0.998, 1.0) == pytest.approx(0.9996)
    assert momentum_at(1, 0.998, 1.0) == 1.0


def test_an_update_by_hand() -> None:
    target, online = Pair(1.0, 5.0), Pair(3.0, 7.0)
    follow(target, online, 0.99, GOOD)  # 0.99 · 1 + 0.01 · 3
    torch.testing.assert_close(target.learned.data, torch.tensor([1.02, 2.04]))
    assert target.fixed.item() == 5.0, "what does not learn is not followed"
    assert online.learned.tolist() == [3.0, 6.0]
    follow(target, online, 0.5, GOOD)
    torch.testing.assert_close(target.learned.data, torch.tensor([2.01, 4.02]))


def test_a_bad_step_changes_nothing() -> None:
    target, online = Pair(1 / 3, 5.0), Pair(3.0, 7.0)
    before = copy.deepcopy(target.state_dict())
    follow(target, online, 0.0, BAD)
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())


def test_momentum_at_its_ends() -> None:
    target, online = Pair(1 / 3, 5.0), Pair(3.0, 7.0)
    follow(target, online, 1.0, GOOD)
    assert torch.equal(target.learned.data, Pair(1 / 3, 0.0).learned.data)
    follow(target, online, 0.0, GOOD)
    assert torch.equal(target.learned.data, online.learned.data)


def test_doubles_are_followed_in_double_precision() -> None:
    target, online = Pair(1.0, 5.0).double(), Pair(3.0, 7.0).double()
    follow(target, online, 0.9, GOOD)
    assert target.learned[0].item() == pytest.approx(1.2, rel=1e-14)


def test_distance_by_hand() -> None:
    # |(3, 6) - (1, 2)| / |(1, 2)| = 2; the fixed weight does not count.
    assert relative_distance(Pair(1.0, 5.0), Pair(3.0, 70.0)).item() == pytest.approx(2)
    assert relative_distance(Pair(1.0, 5.0), Pair(1.0, 5.0)) == 0
