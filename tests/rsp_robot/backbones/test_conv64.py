from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rsp_robot.backbones.conv64 import Conv64, Conv64Config, Conv64Decoder, StepwiseBatchNorm, commit_statistics
from rsp_robot.backbones.registry import BACKBONES
from rsp_robot.encoder import FrozenEncoder
from rsp_robot.errors import UserError
from rsp_robot.preprocessing import Preprocessing

SKIPPED, TAKEN = torch.ones(()), torch.zeros(())


def make(**settings: Any) -> Conv64:
    torch.manual_seed(0)
    return Conv64(Conv64Config(**{"filters": 4, "width": 6, "tokens": "code", **settings}))


def pictures(seed: int = 0, batch: int = 5) -> torch.Tensor:
    return torch.rand(batch, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("architecture", ["dcgan", "vgg"])
@pytest.mark.parametrize("channels", [1, 3])
def test_codes_feature_maps_and_tokens_have_their_sizes(architecture: str, channels: int) -> None:
    model = make(architecture=architecture, channels=channels)
    coded = model.encode(pictures()[:, :channels])
    assert coded.code.shape == (5, 6) and float(coded.code.detach().abs().max()) < 1
    sides = (4, 8, 16, 32) if architecture == "dcgan" else (8, 16, 32, 64)
    expected = [(5, 4 * factor, side, side) for factor, side in zip((8, 4, 2, 1), sides, strict=True)]
    assert [maps.shape for maps in coded.stages] == expected
    assert model(pictures()).shape == (5, 1, 6) and (model.grid, model.width) == (1, 6)
    whole = make(architecture=architecture, channels=channels, tokens="map")
    assert whole(pictures()).shape == (5, sides[0] ** 2, 32) and (whole.grid, whole.width) == (sides[0], 32)


@pytest.mark.parametrize("architecture", ["dcgan", "vgg"])
@pytest.mark.parametrize("skip", [True, False])
def test_decoder_gives_pictures_and_takes_skip_connections(architecture: str, skip: bool) -> None:
    model = make(architecture=architecture)
    decoder = Conv64Decoder(model.config, inputs=7, skip=skip)
    stages = model.encode(pictures()).stages
    vectors = torch.randn(5, 7)
    decoded = decoder(vectors, stages if skip else None)
    assert decoded.shape == (5, 3, 64, 64) and 0 < decoded.min().item() < decoded.max().item() < 1
    for i in range(4):
        other = decoder(vectors, [torch.zeros_like(maps) if j == i else maps for j, maps in enumerate(stages)])
        assert torch.allclose(other, decoded) == (not skip)


def test_a_raster_keeps_rows_and_columns() -> None:
    model = make(tokens="map").eval()
    changed = pictures(batch=1)
    changed[..., :16, 48:] = 0  # top right
    before, after = (
        model(Preprocessing(64).normalise(255 * pictures(batch=1))),
        model(Preprocessing(64).normalise(255 * changed)),
    )
    moved = (after - before).abs().sum(dim=-1).view(4, 4)
    assert moved.argmax() == 3


def test_the_backbone_undoes_the_normalisation() -> None:
    raw, normalised = pictures(), Preprocessing(64).normalise(255 * pictures())
    torch.testing.assert_close(make().pixels(normalised), raw, atol=1e-6, rtol=0)
    grey = make(channels=1)
    torch.testing.assert_close(grey.pixels(normalised), raw.mean(dim=1, keepdim=True), atol=1e-6, rtol=0)
    grey.eval()
    torch.testing.assert_close(grey(normalised)[:, 0], grey.encode(raw.mean(dim=1, keepdim=True)).code)


def test_training_normalises_by_the_batch_and_the_backbone_never_does() -> None:
    model, frames = make(), Preprocessing(64).normalise(255 * pictures())
    pixels = model.pixels(frames)
    assert not torch.allclose(model.encode(pixels).code[:2], model.encode(pixels[:2]).code)
    torch.testing.assert_close(model(frames)[:2], model(frames[:2]))
    assert model.training and model.conv[1].training, "looking leaves it in training mode"


def test_running_statistics_move_only_with_a_step_that_was_taken() -> None:
    model, like = StepwiseBatchNorm(3), torch.nn.BatchNorm2d(3)
    maps = torch.randn(4, 3, 5, 5) * 2 + 1
    torch.testing.assert_close(model(maps), like(maps))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert set(before) == set(like.state_dict()), "checkpoints hold what they always held"
    assert torch.equal(before["running_mean"], torch.zeros(3)), "a pass alone moves nothing"
    commit_statistics(model, TAKEN)
    for name, value in like.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value)
    after = {name: value.clone() for name, value in model.state_dict().items()}
    model(maps * torch.nan)
    commit_statistics(model, SKIPPED)
    assert all(torch.equal(value, after[name]) for name, value in model.state_dict().items())
    model.eval()
    torch.testing.assert_close(model(maps), like.eval()(maps))


def test_an_encoder_folder_holds_it(tmp_path: Path) -> None:
    model = make(architecture="vgg", channels=1, tokens="map")
    model.encode(pictures()[:, :1])
    commit_statistics(model, TAKEN)
    frames = np.random.default_rng(0).integers(0, 255, (2, 40, 50, 3), np.uint8)
    encoder = FrozenEncoder(model)
    loaded = FrozenEncoder.load(encoder.save(tmp_path / "encoder"), pooling="grid2")
    np.testing.assert_array_equal(loaded(frames), encoder.with_pooling("grid2")(frames))
    assert loaded.embedding_shape == (4 * 32,)
    assert isinstance(BACKBONES["conv64"](model.describe()), Conv64)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"architecture": "resnet"}, "unknown convolutional architecture 'resnet'"),
        ({"tokens": "maps"}, "unknown kind of tokens 'maps'; did you mean map?"),
        ({"filters": 0}, "filters of a convolutional encoder must be at least 1, not 0"),
    ],
)
def test_settings_that_mean_nothing(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said.replace("?", r"\?")):
        Conv64Config(**settings)
