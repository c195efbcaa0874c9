from __future__ import annotations

import numpy as np
import pytest
import torch

from rsp_robot.pretrain.drawing import draw_grid, heat, peak_of, to_bytes


def test_grid_puts_columns_side_by_side_and_zooms_without_blur() -> None:
    red, blue = np.zeros((2, 2, 64, 64, 3), np.uint8)
    red[..., 0], blue[0, ..., 2] = 255, 255
    blue[1, 0, 0, 2] = 255
    picture = draw_grid({"a": red, "b": blue})
    # Each 64 pixels shown at 128, 4 apart, below 22 for the names.
    assert picture.shape == (22 + 128 + 4 + 128, 128 + 4 + 128, 3)
    assert (picture[22:150, :128] == (255, 0, 0)).all() and (picture[154:, :128] == (255, 0, 0)).all()
    assert (picture[22:150, 132:] == (0, 0, 255)).all()
    assert (picture[154:156, 132:134] == (0, 0, 255)).all()
    assert (picture[156:, 132:] == 0).all() and (picture[154:, 134:] == 0).all()
    assert (picture[:, 128:132] == 255).all() and (picture[150:154] == 255).all()
    assert (picture[:22, :128] < 128).any() and (picture[:22, 132:] < 128).any(), "the names stand above"


@pytest.mark.parametrize(("size", "side"), [(16, 128), (96, 192), (129, 129), (224, 224)])
def test_sides_are_even_and_no_picture_is_tiny(size: int, side: int) -> None:
    picture = draw_grid({"a": np.zeros((1, size, size, 3), np.uint8)})
    assert picture.shape == ((22 + side) + (22 + side) % 2, side + side % 2, 3)
    assert (picture[22 : 22 + side, :side] == 0).all()


def test_bytes_are_rounded() -> None:
    images = torch.tensor([0.0, 0.5, 1.0])[None, :, None, None].expand(2, 3, 4, 4)
    assert to_bytes(images).shape == (2, 4, 4, 3) and to_bytes(images)[0, 0, 0].tolist() == [0, 128, 255]


def test_heat_grows_lighter_up_to_its_peak() -> None:
    levels = np.array([0.0, 5.0, 10.0, 20.0, 40.0]) / 255
    coloured = heat(levels, peak=20.0)
    assert coloured.shape == (5, 3) and coloured.dtype == np.uint8
    light = coloured.astype(int).sum(axis=-1)
    assert light[0] < 10 and (np.diff(light[:4]) > 0).all() and light[3] > 500
    assert (coloured[3] == coloured[4]).all()


def test_scale_ends_where_one_pixel_in_a_hundred_exceeds_it() -> None:
    assert peak_of(np.linspace(0, 1, 101)) == pytest.approx(0.99 * 255)
    assert peak_of(np.zeros((2, 3))) == peak_of(np.full(4, 1e-7)) == 1.0, "rounding errors are not shown as a spread"
