from __future__ import annotations

import math

import pytest
import torch

from rsp_robot.backbones.positions import sincos_1d, sincos_2d, sincos_3d


def test_one_dimension_by_hand() -> None:
    # Frequencies of a width of 4: 10000^0 = 1 and 10000^(-1/2) = 0.01.
    table = sincos_1d(4, torch.tensor([0.0, 1.0, 2.5]))
    assert table.dtype == torch.float64
    wanted = [[math.sin(p), math.sin(p / 100), math.cos(p), math.cos(p / 100)] for p in (0.0, 1.0, 2.5)]
    torch.testing.assert_close(table, torch.tensor(wanted, dtype=torch.float64), rtol=1e-12, atol=1e-12)


def test_whole_numbers_are_taken_as_positions() -> None:
    assert torch.equal(sincos_1d(8, torch.arange(3)), sincos_1d(8, torch.tensor([0.0, 1.0, 2.0])))


def test_two_dimensions_by_hand() -> None:
    table = sincos_2d(4, 3)
    assert table.shape == (1, 10, 4) and table.dtype == torch.float32
    assert table[0, 0].tolist() == [0.0, 0.0, 0.0, 0.0]
    for row in range(3):
        for column in range(3):
            wanted = [math.sin(column), math.cos(column), math.sin(row), math.cos(row)]  # the column comes first
            torch.testing.assert_close(table[0, 1 + 3 * row + column], torch.tensor(wanted))


def test_without_a_class_token_the_rest_is_the_same() -> None:
    assert torch.equal(sincos_2d(8, 4, class_token=False), sincos_2d(8, 4)[:, 1:])


def test_every_patch_has_a_place_of_its_own() -> None:
    table = sincos_2d(32, 8, class_token=False)[0]
    distances = torch.cdist(table, table) + 10 * torch.eye(64)
    assert float(distances.min()) > 0.1


def test_the_other_dimension_does_not_leak() -> None:
    raster = sincos_2d(16, 5, class_token=False)[0].reshape(5, 5, 16)
    assert torch.equal(raster[:, :, :8], raster[:1, :, :8].expand(5, 5, 8))
    assert torch.equal(raster[:, :, 8:], raster[:, :1, 8:].expand(5, 5, 8))


@pytest.mark.parametrize("dim", [1, 2, 6, 30])
def test_a_width_not_divisible_by_four_is_refused(dim: int) -> None:
    with pytest.raises(ValueError, match=f"divisible by 4, got {dim}"):
        sincos_2d(dim, 2)


# -- three dimensions --------------------------------------------------------------------------------------------------


def test_time_row_and_column_by_hand() -> None:
    # Width 8: three parts of 4, frequencies 1 and 0.01, of which the last part loses what is over 8.
    table = sincos_3d(8, 2, 2)
    assert table.shape == (1, 8, 8) and table.dtype == torch.float32
    still, moved = [0.0, 0.0, 1.0, 1.0], [math.sin(1), math.sin(0.01), math.cos(1), math.cos(0.01)]
    assert table[0, 0].tolist() == still + still
    assert table[0, 5].tolist() == pytest.approx(moved + still), "one step later, first row; the column is cut off"
    assert table[0, 2].tolist() == pytest.approx(still + moved)
    column = sincos_3d(12, 2, 1)[0, 1]
    assert column.tolist() == pytest.approx(still + still + moved)


def test_unequal_parts_give_time_half_of_the_width() -> None:
    table = sincos_3d(8, 3, 2, uniform=False)[0]
    assert torch.equal(table[:, :4], sincos_1d(4, torch.arange(18) // 9).float())
    assert torch.equal(table[:, 4:6], sincos_1d(2, torch.arange(18) // 3 % 3).float())
    assert torch.equal(table[:, 6:], sincos_1d(2, torch.arange(18) % 3).float())
    with pytest.raises(ValueError, match="a width divisible by 8, got 12"):
        sincos_3d(12, 2, 2, uniform=False)
