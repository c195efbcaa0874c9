from __future__ import annotations

import re

import pytest
import torch

from rsp_robot.errors import UserError
from rsp_robot.pooling import pool, pooled_width


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
    message = re.escape(f"unknown pooling '{pooling}'; choose cls, mean, cls+mean or grid<k> such as grid2")
    with pytest.raises(UserError, match=message):
        pooled_width(pooling, 6)
    with pytest.raises(UserError, match=message):
        pool(torch.zeros(1, 5, 6), pooling)
