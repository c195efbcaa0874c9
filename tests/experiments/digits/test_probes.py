from __future__ import annotations

import numpy as np
import pytest
import torch

from rsp_robot.backbones.vit import ViTConfig
from rsp_robot.encoder import FrozenEncoder
from rsp_robot.experiments.digits.probes import (
    embedder,
    probe_speed,
    ridge,
    spread_of,
    tell_ways,
)
from rsp_robot.pretrain.monitors import rank_me

pytest.importorskip("sklearn")


def centre_of_light(frames: np.ndarray) -> torch.Tensor:
    """An encoder that knows where the digit is: ``(N, S, S, 3)`` -> ``(N, 2)``."""
    light = torch.from_numpy(frames[..., 0]).double()
    places = torch.arange(light.shape[1]).double()
    total = light.sum(dim=(1, 2))
    return torch.stack([light.sum(dim=1) @ places / total, light.sum(dim=2) @ places / total], dim=1)


def blind(frames: np.ndarray) -> torch.Tensor:
    return torch.zeros(len(frames), 4)


def test_ridge_finds_a_linear_map_and_passes_constant_features_by() -> None:
    rng = np.random.default_rng(0)
    inputs, unseen = rng.normal(size=(200, 5)), rng.normal(size=(50, 5))
    weights = rng.normal(size=(5, 2))
    found = ridge(np.c_[inputs, np.full(200, 3.0)], inputs @ weights + 1, np.c_[unseen, np.full(50, 9.0)])
    assert np.abs(found - (unseen @ weights + 1)).max() < 0.01


def test_ridge_shrinks_what_is_only_noise() -> None:
    rng = np.random.default_rng(0)
    inputs, targets, unseen = rng.normal(size=(60, 50)), rng.normal(size=(60, 1)), rng.normal(size=(500, 50))
    found = ridge(inputs, targets, unseen)
    assert np.square(found - targets.mean()).mean() < 0.3  # unpenalised least squares gives about 5


def test_a_linear_probe_tells_classes_that_can_be_told() -> None:
    rng = np.random.default_rng(0)
    ways = rng.integers(3, size=400)
    inputs = np.eye(3)[ways] @ rng.normal(size=(3, 6)) + 0.1 * rng.normal(size=(400, 6))
    assert (tell_ways(inputs[:300], ways[:300], inputs[300:]) == ways[300:]).mean() > 0.95
    noise = rng.normal(size=(400, 6))
    assert (tell_ways(noise[:300], ways[:300], noise[300:]) == ways[300:]).mean() < 0.55


def test_the_velocity_is_told_by_an_encoder_that_sees_where_the_digit_is_and_not_by_a_blind_one() -> None:
    seeing, dark = (probe_speed(encode, 32, train=100, test=60) for encode in (centre_of_light, blind))
    assert seeing.errors.shape == (60,)
    assert 1 - seeing.errors.mean() / seeing.variance > 0.95
    assert abs(1 - dark.errors.mean() / dark.variance) < 0.1
    assert 3 < dark.variance < 8  # uniform in ±4 pixels per frame on a canvas of 64: 16/3


def test_velocities_do_not_depend_on_the_size_of_the_canvas() -> None:
    small, large = (probe_speed(blind, size, train=20, test=30).variance for size in (32, 64))
    assert small == pytest.approx(large, rel=1e-5)


def test_rank_me_as_published_by_hand() -> None:
    features = torch.diag(torch.tensor([3.0, 1.0]))
    expected = np.exp(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25)))
    assert rank_me(features, centre=False) == pytest.approx(expected, rel=1e-4)


def test_a_collapse_shows_although_its_tiny_differences_have_full_rank() -> None:
    generator = torch.Generator().manual_seed(0)
    healthy = torch.randn(200, 16, generator=generator)
    collapsed = torch.randn(16, generator=generator) + 1e-3 * healthy
    assert rank_me(collapsed, centre=False) < 1.2 and rank_me(collapsed) > 15  # centred, only the differences count
    assert rank_me(healthy, centre=False) > 15


def test_the_spread_of_embeddings_has_a_rank_for_every_set_of_frames() -> None:
    found = spread_of(centre_of_light, 32, frames=20)
    assert len(found.ranks) == 8 and all(1 < rank <= 2 for rank in found.ranks) and found.std > 1
    assert spread_of(blind, 32, frames=20).std == 0


def test_probes_see_the_class_token_and_every_quarter() -> None:
    encoder = FrozenEncoder.random(ViTConfig(32, 8, 16, 1, 2))
    frames = np.random.default_rng(0).integers(256, size=(3, 32, 32, 3), dtype=np.uint8)
    assert embedder(encoder)(frames).shape == (3, 16 + 4 * 16)
