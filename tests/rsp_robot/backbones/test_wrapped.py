from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from rsp_robot.encoder import FrozenEncoder
from rsp_robot.errors import UserError

HALVES = (0.5, 0.5, 0.5)


def frames(count: int = 2, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 20, 20, 3), dtype=np.uint8)


def convolution(activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 4, stride=4), nn.BatchNorm2d(6), activation())


class Tokens(nn.Module):
    """Patches of a convolution, with other tokens before them."""

    def __init__(self, before: int) -> None:
        super().__init__()
        self.convolution, self.before = convolution(), before

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        patches = self.convolution(images).flatten(2).transpose(1, 2)
        return torch.cat([patches.new_ones(len(patches), self.before, 6), patches], dim=1)


def test_two_lines_make_an_encoder_of_any_module() -> None:
    module = nn.Sequential(convolution(), nn.Flatten(), nn.Linear(6 * 16, 5))
    encoder = FrozenEncoder.wrap(module, 16, HALVES, HALVES)
    assert encoder.embedding_shape == (5,) and encoder.pooling == "mean" and encoder.backbone.grid == 1
    images = encoder.preprocessing(frames(), torch.device("cpu"))
    torch.testing.assert_close(encoder(frames()), module(images))
    assert encoder.preprocessing.mean == HALVES and encoder.image_size == 16


def test_a_feature_map_is_a_raster_of_patches() -> None:
    module = convolution()
    encoder = FrozenEncoder.wrap(module, 16, pooling="tokens")
    images = encoder.preprocessing(frames(), torch.device("cpu"))
    assert encoder.embedding_shape == (16, 6)
    torch.testing.assert_close(encoder(frames()), module(images).permute(0, 2, 3, 1).reshape(2, 16, 6))


def test_tokens_have_a_class_token_where_the_others_are_a_square() -> None:
    with_class, without = FrozenEncoder.wrap(Tokens(1), 16), FrozenEncoder.wrap(Tokens(0), 16)
    assert with_class.pooling == "cls" and torch.equal(with_class(frames()), torch.ones(2, 6))
    assert without.pooling == "mean" and with_class.backbone.grid == without.backbone.grid == 4
    assert torch.equal(with_class.with_pooling("mean")(frames()), without(frames()))
    with pytest.raises(UserError, match="Tokens gives 20 tokens; needed is a square of patches"):
        FrozenEncoder.wrap(Tokens(4), 16)


def test_wrapping_freezes_and_leaves_weights_and_statistics_alone() -> None:
    module = convolution().train()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    encoder = FrozenEncoder.wrap(module, 16).train()
    encoder(frames())
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert not any(parameter.requires_grad for parameter in module.parameters()) and not module.training


def test_the_fingerprint_tells_weights_classes_and_pictures_apart() -> None:
    usual = FrozenEncoder.wrap(convolution(), 16)
    assert FrozenEncoder.wrap(convolution(), 16).fingerprint == usual.fingerprint
    other = convolution()
    with torch.no_grad():
        other[0].bias[0] += 1

    class Renamed(nn.Sequential):
        pass

    prints = {
        usual.fingerprint,
        FrozenEncoder.wrap(other, 16).fingerprint,
        FrozenEncoder.wrap(convolution(nn.GELU), 16).fingerprint,  # has the same weights
        FrozenEncoder.wrap(Renamed(*convolution()), 16).fingerprint,
        FrozenEncoder.wrap(convolution(), 32).fingerprint,
        FrozenEncoder.wrap(convolution(), 16, HALVES).fingerprint,
        usual.with_pooling("grid2").fingerprint,
    }
    assert len(prints) == 7


def test_a_module_without_weights_is_an_encoder_too() -> None:
    encoder = FrozenEncoder.wrap(nn.AvgPool2d(4), 16)
    assert encoder(frames()).shape == (2, 3) and encoder.device == torch.device("cpu") and encoder.fingerprint


def test_it_cannot_be_saved(tmp_path: Path) -> None:
    encoder = FrozenEncoder.wrap(convolution(), 16)
    with pytest.raises(UserError, match="a wrapped Sequential cannot be saved: only your program can build it again"):
        encoder.save(tmp_path / "encoder")
    assert not (tmp_path / "encoder").exists()


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Flatten(0), r"Flatten gives \(768,\); needed is \(B, D\), \(B, N, D\) or \(B, C, h, w\)"),
        (nn.AvgPool2d((2, 4)), "AvgPool2d gives a feature map of 8 x 4; needed is a square one"),
        (nn.Linear(7, 7), r"Linear does not take pictures \(1, 3, 16, 16\) \(.*mat1 and mat2.*give another image_size"),
        (nn.MaxPool2d(2, return_indices=True), "MaxPool2d gives a tuple; wrap it in a module that returns one tensor"),
    ],
    ids=["flat", "wide", "misfit", "tuple"],
)
def test_a_module_that_gives_something_else_is_refused(module: nn.Module, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        FrozenEncoder.wrap(module, 16)
    assert "\n" not in str(caught.value)
