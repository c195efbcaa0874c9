from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rsp_robot.errors import UserError
from rsp_robot.pretrain.moments import StillPicture, choose_moments, default_gap, open_pictures
from rsp_robot.pretrain.sampling import PairSpec
from rsp_robot.videos import Videos

TRAINED = PairSpec(2, 4)


def test_moments_come_from_different_videos_that_are_long_enough(make_videos: Any) -> None:
    videos = make_videos([9, 3, 7, 8])
    moments, gap = choose_moments(videos, 3, 5, TRAINED, seed=0)
    assert gap == 5
    assert sorted(moment.video for moment in moments) == [0, 2, 3]
    for seed in range(20):
        for video, frame, length in choose_moments(videos, 7, 5, TRAINED, seed)[0]:
            assert length == videos.videos[video].frames and frame in range(length - 5)
    counts = np.bincount([moment.video for moment in choose_moments(videos, 7, 5, TRAINED, 0)[0]])
    assert sorted(counts[[0, 2, 3]]) == [2, 2, 3], "every video in turn"
    last = {choose_moments(videos, 1, 8, TRAINED, seed)[0][0] for seed in range(5)}
    assert last == {(0, 0, 9)}, "a video that just holds the gap starts at its first frame"


def test_the_seed_decides_videos_and_frames(make_videos: Any) -> None:
    videos = make_videos([40] * 30)
    first, again, other = (choose_moments(videos, 4, 3, TRAINED, seed)[0] for seed in (0, 0, 1))
    assert first == again != other
    assert len({moment.frame for moment in first}) > 1


def test_short_videos_are_taken_only_where_there_are_no_others(make_videos: Any) -> None:
    for seed in range(20):
        moments, gap = choose_moments(make_videos([20, 7, 7, 30]), 2, None, TRAINED, seed)
        assert gap == 4 and {moment.video for moment in moments} == {0, 3}
    assert {moment.video for moment in choose_moments(make_videos([20, 7, 7]), 3, None, TRAINED, 0)[0]} == {0, 1, 2}


@pytest.mark.parametrize(
    ("longest", "gap"), [(100, 4), (8, 4), (7, 3), (5, 2), (4, 2), (3, 2), (2, 1), (1, None), (0, None)]
)
def test_gap_leaves_half_of_a_short_video_to_play(longest: int, gap: int | None) -> None:
    assert default_gap(longest, TRAINED) == gap


def test_pictures_are_taken_once_and_have_no_gap(make_videos: Any) -> None:
    moments, gap = choose_moments(make_videos([1, 1, 1]), 5, None, TRAINED, seed=0)
    assert gap is None
    assert sorted(moments) == [(0, 0, 1), (1, 0, 1), (2, 0, 1)]
    assert len(choose_moments(make_videos([1, 1, 1]), 2, None, TRAINED, seed=0)[0]) == 2


def test_gap_longer_than_any_video_and_nothing_at_all(make_videos: Any) -> None:
    with pytest.raises(UserError, match="no video is longer than the gap of 8 frames, the longest has 8; lower --gap"):
        choose_moments(make_videos([3, 8]), 1, 8, TRAINED, 0)
    with pytest.raises(UserError, match="no video is longer than the gap of 1 frames, the longest has 1"):
        choose_moments(make_videos([1]), 1, 1, TRAINED, 0)
    with pytest.raises(UserError, match="there is no video to draw from; check --data"):
        choose_moments(make_videos([]), 1, None, TRAINED, 0)


@pytest.mark.parametrize("suffix", ["png", "JPG", "webp", "bmp"])
def test_a_picture_is_a_video_of_one_frame(tmp_path: Path, suffix: str) -> None:
    shown = np.zeros((20, 30, 3), np.uint8)
    shown[:, :15] = (250, 120, 10)
    Image.fromarray(shown).save(tmp_path / f"a.{suffix}")
    source = open_pictures(tmp_path / f"a.{suffix}")
    assert isinstance(source, StillPicture)
    assert (len(source), source.videos[0].frames, source.videos[0].fps) == (1, 1, 0.0)
    read = source.read(0, [0])
    assert read.shape == (1, 20, 30, 3) and read.dtype == np.uint8
    assert np.abs(read[0, :, :12].astype(int) - (250, 120, 10)).max() < 12, "RGB, not BGR"


def test_grey_transparent_and_turned_pictures_become_upright_rgb(tmp_path: Path) -> None:
    Image.new("L", (3, 2), 77).save(tmp_path / "grey.png")
    Image.new("RGBA", (3, 2), (1, 2, 3, 255)).save(tmp_path / "alpha.png")
    turned = Image.new("RGB", (3, 2))
    turned.putpixel((0, 0), (255, 0, 0))
    exif = turned.getexif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise
    turned.save(tmp_path / "turned.png", exif=exif)
    assert (StillPicture(tmp_path / "grey.png").frames == 77).all()
    assert StillPicture(tmp_path / "alpha.png").frames[0, 0, 0].tolist() == [1, 2, 3]
    upright = StillPicture(tmp_path / "turned.png").frames[0]
    assert upright.shape == (3, 2, 3) and upright[0, 1].tolist() == [255, 0, 0]


def test_a_broken_picture_is_named(tmp_path: Path) -> None:
    whole = tmp_path / "whole.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(whole)
    for name, content in {"text.png": b"no picture", "empty.jpg": b"", "cut.png": whole.read_bytes()[:3000]}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=f"cannot decode .*{name} .*; convert it to PNG or give another") as error:
            open_pictures(tmp_path / name)
        assert "\n" not in str(error.value)


def test_videos_are_left_to_their_reader(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.gif")
    assert isinstance(open_pictures(tmp_path / "a.gif"), Videos)
    assert isinstance(open_pictures(tmp_path), Videos)
    with pytest.raises(UserError, match="does not exist"):
        open_pictures(tmp_path / "absent.png")


def test_frames_that_have_to_come_before_are_there(make_videos: Any) -> None:
    for seed in range(20):
        moments, gap = choose_moments(make_videos([9, 20, 8]), 3, 3, TRAINED, seed, before=5)
        assert gap == 3 and {moment.video for moment in moments} == {0, 1}, "8 frames are too few: 5, the current, 3"
        assert all(5 <= frame < length - 3 for _, frame, length in moments)
        assert all(length in (9, 20) for _, _, length in moments), "the whole length"
    moments, gap = choose_moments(make_videos([9]), 1, None, TRAINED, 0, before=5)
    assert gap == 2 and moments[0].frame in (5, 6), "of nine frames four can be played"
    with pytest.raises(UserError, match="longer than the gap of 3 frames and the 5 before it, the longest has 8"):
        choose_moments(make_videos([8]), 1, 3, TRAINED, 0, before=5)
