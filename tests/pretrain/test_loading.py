from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rsp_robot.errors import UserError
from rsp_robot.pretrain import loading
from rsp_robot.pretrain.config import PretrainConfig, Residence
from rsp_robot.pretrain.loading import load_data
from rsp_robot.videos import open_videos
from rsp_robot.videos.pack import pack_videos

CPU = torch.device("cpu")


@pytest.fixture
def arrays(tmp_path: Path) -> Path:
    """Four videos; the red channel of a frame tells its video, the green one its index."""
    (tmp_path / "arrays").mkdir()
    for video, length in enumerate((20, 30, 1, 25)):
        frames = np.zeros((length, 12, 16, 3), np.uint8)
        frames[..., 0], frames[..., 1] = video, np.arange(length)[:, None, None]
        np.save(tmp_path / "arrays" / f"{video}.npy", frames)
    return tmp_path / "arrays"


@pytest.fixture
def config(arrays: Path, tmp_path: Path) -> PretrainConfig:
    return PretrainConfig(str(arrays), tmp_path / "run", image_size=16, workers=2)


def rows_of(config: PretrainConfig) -> tuple[str | None, torch.Tensor]:
    data = load_data(config, CPU, quiet=True)
    resident = data.samples.resident
    frames = data.samples.read(data.samples.draw(0, 12)).frames
    return (None if resident is None else resident.residence), frames


def test_small_videos_are_decoded_once_and_large_ones_when_needed(
    config: PretrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    bytes_of_training = (20 + 30 + 25) * 12 * 16 * 3
    monkeypatch.setattr(loading, "SMALL", bytes_of_training)
    kept, frames = rows_of(config)
    monkeypatch.setattr(loading, "SMALL", bytes_of_training - 1)
    read, same = rows_of(config)
    assert kept == "device" and read is None
    assert torch.equal(frames, same)


@pytest.mark.parametrize("keep", ["auto", "device", "host", "disk", "source"])
def test_packed_frames_are_the_same_wherever_they_live(
    config: PretrainConfig, arrays: Path, tmp_path: Path, keep: Residence
) -> None:
    pack_videos(open_videos(arrays), tmp_path / "packed", quiet=True)
    _, expected = rows_of(replace(config, keep_frames="source"))
    where, frames = rows_of(replace(config, data=str(tmp_path / "packed"), keep_frames=keep))
    assert where == {"auto": "device", "source": None}.get(keep, keep)
    assert torch.equal(frames, expected)


def test_what_is_left_out_is_told(config: PretrainConfig, arrays: Path) -> None:
    (arrays / "4.npy").write_bytes(b"no array")
    data = load_data(replace(config, holdout=0.3), CPU)
    assert [Path(row.path).name for row in data.quarantined] == ["4.npy", "2.npy"]
    assert "too short: 1 frame" in data.quarantined[1].reason
    assert (data.training, data.held_out) == ([0, 1], [3])
    with pytest.raises(UserError, match=r"4.npy: .*mend it, or leave out --strict"):
        load_data(replace(config, strict=True), CPU)
    (arrays / "4.npy").unlink()
    with pytest.raises(UserError, match=r"2.npy: too short.*; leave it out of --data, or leave out --strict"):
        load_data(replace(config, strict=True), CPU)


def test_a_video_that_breaks_before_it_is_decoded_is_left_out(
    config: PretrainConfig, arrays: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = loading.find_videos(config)
    monkeypatch.setattr(loading, "find_videos", lambda config: found)
    (arrays / "1.npy").unlink()
    data = load_data(config, CPU, quiet=True)
    assert data.training == [0, 3] and [Path(row.path).name for row in data.quarantined] == ["2.npy", "1.npy"]
    frames = data.samples.read(data.samples.draw(0, 12)).frames
    assert set(frames[..., 0, 0, 0].ravel().tolist()) == {0, 3}
    for name in ("0.npy", "3.npy"):
        (arrays / name).unlink()
    with pytest.raises(UserError, match="npy"):
        load_data(config, CPU, quiet=True)


def test_pictures_are_reduced_to_one_and_a_half_times_the_input(config: PretrainConfig) -> None:
    def size(**settings: Any) -> tuple[int, ...]:
        return tuple(rows_of(replace(config, **settings))[1].shape[2:4])

    assert size() == (12, 16)
    assert size(image_size=4, patch_size=4) == size(image_size=4, keep_frames="source") == (6, 8)
    assert size(short_side=9) == (9, 12)


def test_videos_that_are_not_packed_cannot_stay_on_the_disk(config: PretrainConfig) -> None:
    with pytest.raises(UserError, match="pack"):
        load_data(replace(config, keep_frames="disk"), CPU)


def test_the_mixture_reaches_the_samples(config: PretrainConfig, arrays: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    np.save(tmp_path / "other" / "a.npy", np.full((10, 12, 16, 3), 99, np.uint8))
    data = load_data(replace(config, data=f"{arrays}=1,{tmp_path / 'other'}=3"), CPU)
    drawn = data.samples.draw(0, 1000)
    frames: Callable[[int], np.ndarray] = lambda row: data.samples.read(drawn[row : row + 1]).frames.numpy()  # noqa: E731
    assert (drawn[:, 0] == 3).sum() == 750
    assert frames(int(np.flatnonzero(drawn[:, 0] == 3)[0])).flat[0] == 99
