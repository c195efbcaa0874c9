from __future__ import annotations

from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest

from rsp_robot.films import write_mp4


def test_mp4_holds_the_pictures(tmp_path: Path) -> None:
    frames = np.zeros((9, 33, 48, 3), np.uint8)
    frames[..., 0] = (np.arange(9) * 20)[:, None, None]
    frames[:, :, 24:, 1] = 200
    write_mp4(tmp_path / "film.mp4", frames, 12)
    read = iio.imread(tmp_path / "film.mp4", plugin="pyav")
    assert read.shape == (9, 32, 48, 3)
    assert np.abs(read.astype(int) - frames[:, :32]).mean() < 6
    assert iio.immeta(tmp_path / "film.mp4", plugin="pyav")["fps"] == 12
    assert b"avc1" in (tmp_path / "film.mp4").read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["film.mp4"]


@pytest.mark.parametrize(
    "frames", [np.zeros((0, 8, 8, 3), np.uint8), np.zeros((2, 8, 8, 3)), np.zeros((8, 8, 3), np.uint8)]
)
def test_mp4_refuses_other_arrays(tmp_path: Path, frames: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected uint8 frames"):
        write_mp4(tmp_path / "film.mp4", frames, 12)
