from __future__ import annotations

import re

import pytest
import torch

from rsp_robot.errors import UserError
from rsp_robot.pooling import pool, pooled_shape, pooled_width, spatial_softmax


@pytest.fixture
def tokens() -> torch.Tensor:
    """One picture, class token (-1, -2), and a 4 x 4 raster whose patch (row, column) is (10 row + column, 1)."""
    raster = torch.tensor([[10.0 * row + column, 1.0] for row in range(4) for column in range(4)])
    return torch.cat([torch.tensor([[-1.0, -2.0]]), raster])[None]


def test_cls_and_mean_by_hand(tokens: torch.Tensor) -> None:
    assert pool(tokens, "cls").tolist() == [[-1.0, -2.0]]
    assert pool(tokens, "mean").tolist() == [[16.5, 1.0]]  # 10 * 1.5 + 1.5; the class token is no patch
    assert pool(tokens, "cls+mean").tolist() == [[-1.0, -2.0, 16.5, 1.0]]


def test_grid2_by_hand(tokens: torch.Tensor) -> None:
    # Mean over rows {0, 1} and columns {0, 1} is 5 + 0.5; two columns further + 2; two rows further + 20.
    assert pool(tokens, "grid2").tolist() == [[5.5, 1.0, 7.5, 1.0, 25.5, 1.0, 27.5, 1.0]]


def test_grid_of_one_cell_is_the_mean_and_of_every_patch_is_all_patches(tokens: torch.Tensor) -> None:
    assert torch.equal(pool(tokens, "grid1"), pool(tokens, "mean"))
    assert torch.equal(pool(tokens, "grid4"), tokens[:, 1:].flatten(1))


def test_pictures_of_a_batch_are_pooled_apart(tokens: torch.Tensor) -> None:
    both = torch.cat([tokens, tokens + 100])
    for pooling in ("cls", "mean", "cls+mean", "grid2"):
        found = pool(both, pooling)
        assert torch.equal(found[:1], pool(tokens, pooling))
        torch.testing.assert_close(found[1:], pool(tokens, pooling) + 100)


@pytest.mark.parametrize(
    ("pooling", "width"), [("cls", 6), ("mean", 6), ("cls+mean", 12), ("grid1", 6), ("grid2", 24), ("grid3", 54)]
)
def test_the_width_is_what_pooling_gives(pooling: str, width: int) -> None:
    assert pooled_width(pooling, 6) == width
    assert pool(torch.zeros(2, 1 + 36, 6), pooling).shape == (2, width)


@pytest.mark.parametrize("pooling", ["max", "grid", "grid0", "grid-1", "grid2x", "mean+cls", "CLS", ""])
def test_an_unknown_pooling_is_refused(pooling: str) -> None:
    message = re.escape(f"unknown pooling '{pooling}'; choose cls, mean, cls+mean, grid<k> such as grid2, spatial")
    with pytest.raises(UserError, match=message):
        pooled_width(pooling, 6)
    with pytest.raises(UserError, match=message):
        pool(torch.zeros(1, 5, 6), pooling)


# -- spatial softmax -------------------------------------------------------------------------------------------------


def test_the_expected_position_of_a_sharp_channel_is_its_place() -> None:
    raster = torch.zeros(1, 9, 3)
    raster[0, 2, 0] = 50  # first row, last column
    raster[0, 3, 1] = 50  # second row, first column
    # The third channel is flat: its expectation is the middle.
    torch.testing.assert_close(spatial_softmax(raster), torch.tensor([[1.0, -1.0, -1.0, 0.0, 0.0, 0.0]]))


def test_spatial_softmax_by_hand() -> None:
    # Two patches of e^a = 2 at the right, two of 1 at the left: x = (2 + 2 - 1 - 1) / 6.
    channel = torch.tensor([1.0, 2.0, 1.0, 2.0]).log()
    torch.testing.assert_close(spatial_softmax(channel[None, :, None]), torch.tensor([[1 / 3, 0.0]]))


def test_spatial_softmax_ignores_the_class_token_and_stays_in_range(tokens: torch.Tensor) -> None:
    wild = 100 * torch.randn(5, 1 + 16, 6, generator=torch.Generator().manual_seed(0))
    found = pool(wild, "spatial-softmax")
    assert found.shape == (5, 12) and float(found.abs().max()) <= 1 + 1e-6
    wild[:, 0] = 1e6
    assert torch.equal(pool(wild, "spatial-softmax"), found)


# -- backbones without class token, and all tokens ---------------------------------------------------------------------


def test_without_a_class_token_every_token_is_a_patch(tokens: torch.Tensor) -> None:
    patches = tokens[:, 1:]
    for pooling in ("mean", "grid2", "spatial-softmax"):
        assert torch.equal(pool(patches, pooling, class_token=False), pool(tokens, pooling))


def test_tokens_are_returned_as_they_are(tokens: torch.Tensor) -> None:
    assert pool(tokens, "tokens") is tokens


@pytest.mark.parametrize("class_token", [True, False])
@pytest.mark.parametrize("pooling", ["cls", "mean", "cls+mean", "grid2", "spatial-softmax", "tokens"])
def test_the_shape_is_what_pooling_gives(pooling: str, class_token: bool) -> None:
    if pooling.startswith("cls") and not class_token:
        with pytest.raises(UserError, match=re.escape(f"pooling {pooling} needs a class token, and this backbone has")):
            pooled_shape(pooling, 6, 4, class_token)
        return
    found = pool(torch.zeros(2, int(class_token) + 16, 6), pooling, class_token)
    assert found.shape[1:] == pooled_shape(pooling, 6, 4, class_token)


def test_poolings_that_give_no_vector_or_need_a_raster_say_so() -> None:
    with pytest.raises(UserError, match="pooling tokens gives no one vector; choose cls, mean"):
        pooled_width("tokens", 6)
    with pytest.raises(UserError, match="spatial-softmax needs a raster of patches, and this backbone has 1 x 1"):
        pooled_shape("spatial-softmax", 6, 1, class_token=False)
