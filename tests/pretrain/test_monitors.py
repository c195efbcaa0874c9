from __future__ import annotations

import math

import pytest
import torch

from rsp_robot.pretrain.monitors import rank_me, token_ranks


def cross(*radii: float) -> torch.Tensor:
    """Points at ± each radius on an axis of its own: zero mean, singular values √2 · radius."""
    axes = torch.diag(torch.tensor(radii))
    return torch.cat([axes, -axes])


@pytest.mark.parametrize("dimensions", [1, 2, 7])
def test_equal_spread_along_n_axes_has_rank_n(dimensions: int) -> None:
    assert rank_me(cross(*[2.5] * dimensions)) == pytest.approx(dimensions, rel=1e-4)


def test_unequal_spread_counts_by_entropy() -> None:
    # Shares 3/4 and 1/4 of the singular values: exp(0.5623) = 1.755.
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert rank_me(cross(3.0, 1.0)) == pytest.approx(math.exp(entropy), rel=1e-4)


def test_rank_knows_no_scale_rotation_or_offset() -> None:
    features = cross(3.0, 1.0, 2.0)
    rank = rank_me(features)
    rotation, _ = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0)))
    assert rank_me(100 * features) == pytest.approx(rank, rel=1e-4)
    assert rank_me(features @ rotation) == pytest.approx(rank, rel=1e-4)
    assert rank_me(features + torch.tensor([50.0, -20.0, 5.0])) == pytest.approx(rank, rel=1e-3)


def test_collapsed_features_have_rank_one_and_no_nan() -> None:
    line = torch.arange(10.0)[:, None] * torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    assert rank_me(line) == pytest.approx(1.0, abs=1e-3)
    assert rank_me(torch.ones(10, 4)) == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_features_that_are_no_numbers_have_no_rank(bad: float) -> None:
    features = cross(1.0, 1.0)
    features[1, 0] = bad
    assert math.isnan(rank_me(features))


def test_half_precision_is_measured_in_single() -> None:
    assert rank_me(cross(1.0, 1.0, 1.0).bfloat16()) == pytest.approx(3.0, rel=1e-4)


def test_class_token_and_patches_are_measured_apart() -> None:
    """Class tokens on a line; patches along two axes, of which a half is the same for the whole batch."""
    tokens = torch.zeros(4, 3, 5)
    tokens[:, 0, 0] = torch.tensor([1.0, -1.0, 2.0, -2.0])
    tokens[:, 1, 1] = torch.tensor([1.0, -1.0, 1.0, -1.0])
    tokens[:, 2, 2] = torch.tensor([1.0, -1.0, 1.0, -1.0])
    found = token_ranks(tokens)
    assert set(found) == {"rank_cls", "rank_patches"}
    assert found["rank_cls"] == pytest.approx(1.0, abs=1e-3)
    assert found["rank_patches"] == pytest.approx(2.0, rel=1e-3)


def test_many_patches_are_sampled_from_every_place_and_alike_at_every_call() -> None:
    """16384 patches on a 32 x 32 raster: even columns vary along one axis, odd ones along another."""
    tokens = torch.zeros(16, 1 + 1024, 2)
    signs = torch.tensor([1.0, -1.0]).repeat(8)[:, None]
    tokens[:, 1::2, 0], tokens[:, 2::2, 1] = signs, signs
    found = token_ranks(tokens)["rank_patches"]
    assert found == pytest.approx(2.0, rel=1e-2)  # a regular stride would see one kind of column only
    assert token_ranks(tokens)["rank_patches"] == found
