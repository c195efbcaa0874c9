from __future__ import annotations

from functools import cache
from pathlib import Path

import av
import imageio.v3 as iio
import numpy as np
import pytest

from rsp_robot.demonstrations import Demonstration, DemonstrationInfo, write_demonstrations
from rsp_robot.errors import UserError
from rsp_robot.videos import DemonstrationVideos, VideoFiles, VideoSource, open_videos

CAMERAS = ("front", "back")


def demonstration(length: int, cameras: tuple[str, ...] = CAMERAS) -> Demonstration:
    """Frame t of camera c is filled with 100 c + t."""
    steps = np.arange(length)
    pictures = np.broadcast_to(steps[:, None, None, None], (length, 4, 4, 3)).astype(np.uint8)
    return Demonstration(
        observations={
            **{camera: pictures + np.uint8(100 * index) for index, camera in enumerate(cameras)},
            "proprio": np.zeros((length, 2), np.float32),
        },
        actions=np.zeros((length, 2), np.float32),
        rewards=np.zeros(length, np.float32),
        dones=steps == length - 1,
        states=np.zeros((length, 1)),
    )


def write(path: Path, lengths: tuple[int, ...] = (3, 5), cameras: tuple[str, ...] = CAMERAS) -> Path:
    info = DemonstrationInfo(task="toy/reach", cameras=cameras, image_size=4 if cameras else 0, fps=20.0)
    write_demonstrations(path, [demonstration(length, cameras) for length in lengths], info)
    return path


def picture_book(length: int, red: int = 0) -> np.ndarray:
    """Frames ``(length, 32, 48, 3)``: the top half's green grows by 30 a frame, the bottom right quarter is blue."""
    frames = np.zeros((length, 32, 48, 3), np.uint8)
    frames[..., 0] = red
    frames[:, :16, :, 1] = 30 * np.arange(length)[:, None, None]
    frames[:, 16:, 24:, 2] = 200
    return frames


@cache
def encoded(suffix: str, length: int, fps: int, red: int) -> bytes:
    frames = picture_book(length, red)
    if suffix == ".gif":
        return iio.imwrite("<bytes>", frames, extension=suffix, plugin="pillow", duration=1000 / fps, loop=0)
    return iio.imwrite("<bytes>", frames, extension=suffix, plugin="pyav", codec="libx264", fps=fps)


def record(path: Path, length: int, fps: int = 12, red: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(path.suffix.lower(), length, fps, red))
    return path


# -- demonstration files ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".hdf5", ".h5", ".HDF5"])
def test_demonstrations_are_videos_of_one_camera(tmp_path: Path, suffix: str) -> None:
    videos = open_videos(write(tmp_path / f"demos{suffix}"), camera="back")
    assert isinstance(videos, DemonstrationVideos)
    assert len(videos) == 2
    assert [videos.length(index) for index in range(2)] == [3, 5]
    assert videos.fps(1) == 20.0
    frames = videos.read(1, [4, 0, 4])
    assert frames.shape == (3, 4, 4, 3) and frames.dtype == np.uint8
    assert frames[:, 1, 2, 0].tolist() == [104, 100, 104]


def test_the_first_camera_is_taken_if_none_is_named(tmp_path: Path) -> None:
    videos = open_videos(str(write(tmp_path / "demos.hdf5")))
    assert isinstance(videos, DemonstrationVideos) and videos.camera == "front"
    assert videos.read(0, np.array([2]))[0, 0, 0].tolist() == [2, 2, 2]


def test_a_camera_the_file_has_not_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "demos.hdf5")
    with pytest.raises(UserError, match=r"demos.hdf5 has no camera 'side'; it has front, back"):
        open_videos(tmp_path / "demos.hdf5", camera="side")


def test_demonstrations_without_pictures_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "blind.hdf5", cameras=())
    with pytest.raises(UserError, match=r"blind.hdf5 holds no pictures; record demonstrations with a camera"):
        open_videos(tmp_path / "blind.hdf5")


def test_a_file_that_is_hdf5_by_name_only_is_refused(tmp_path: Path) -> None:
    (tmp_path / "demos.hdf5").write_bytes(b"not HDF5")
    with pytest.raises(UserError, match=r"demos.hdf5 is not an HDF5 file"):
        open_videos(tmp_path / "demos.hdf5")


# -- video files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["clip.mp4", "clip.gif", "clip.mkv", "CLIP.MP4"])
def test_a_video_file_comes_back_upright_in_rgb(tmp_path: Path, name: str) -> None:
    videos = open_videos(record(tmp_path / name, 6, fps=10))
    assert len(videos) == 1 and videos.length(0) == 6
    assert videos.fps(0) == pytest.approx(10.0, rel=0.01)
    frames = videos.read(0, range(6))
    assert frames.shape == (6, 32, 48, 3) and frames.dtype == np.uint8
    difference = np.abs(frames.astype(int) - picture_book(6))[:, 4:-4, 4:-4]
    inside = np.delete(np.delete(difference, slice(8, 16), axis=1), slice(16, 24), axis=2)  # compression blurs edges
    assert inside.max() <= 8


def test_frames_come_in_the_order_asked_for(tmp_path: Path) -> None:
    videos = open_videos(record(tmp_path / "clip.mp4", 7))
    green = videos.read(0, np.array([6, 0, 3, 3]))[:, 4, 12, 1].astype(int)
    np.testing.assert_allclose(green, [180, 0, 90, 90], atol=6)
    assert videos.read(0, []).shape == (0, 32, 48, 3)


@pytest.mark.parametrize("frame", [-1, 7])
def test_a_frame_outside_the_video_is_an_error_in_every_source(tmp_path: Path, frame: int) -> None:
    for path in (record(tmp_path / "clip.mp4", 7), write(tmp_path / "demos.hdf5", lengths=(7,))):
        with pytest.raises(IndexError):
            open_videos(path).read(0, [0, frame])


def test_a_folder_is_searched_to_the_bottom_in_the_order_of_names(tmp_path: Path) -> None:
    record(tmp_path / "b.gif", 2, red=200)
    record(tmp_path / "deep" / "er" / "c.mp4", 4, red=100)
    record(tmp_path / "a.mp4", 3, red=50)
    (tmp_path / "notes.txt").write_text("no video")
    (tmp_path / "folder.mp4").mkdir()
    videos = open_videos(tmp_path)
    assert isinstance(videos, VideoFiles)
    assert [path.name for path in videos.paths] == ["a.mp4", "b.gif", "c.mp4"]
    assert [videos.length(index) for index in range(len(videos))] == [3, 2, 4]
    reds = [int(videos.read(index, [0])[0, 24, 12, 0]) for index in range(3)]
    np.testing.assert_allclose(reds, [50, 200, 100], atol=6)


def test_a_video_is_decoded_once(tmp_path: Path) -> None:
    path = record(tmp_path / "clip.mp4", 3)
    videos = open_videos(tmp_path)
    assert videos.length(0) == 3
    path.unlink()
    assert videos.read(0, [2]).shape == (1, 32, 48, 3) and videos.fps(0) == 12.0


def test_sources_keep_the_contract(tmp_path: Path) -> None:
    sources: list[VideoSource] = [
        open_videos(write(tmp_path / "demos.hdf5")),
        open_videos(record(tmp_path / "clip.mp4", 2)),
    ]
    for source in sources:
        for video in range(len(source)):
            frames = source.read(video, [source.length(video) - 1])
            assert isinstance(source.length(video), int) and isinstance(source.fps(video), float)
            assert frames.dtype == np.uint8 and frames.ndim == 4 and frames.shape[::3] == (1, 3)


def test_a_file_with_sound_alone_is_refused(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux([*stream.encode(frame), *stream.encode(None)])
    with pytest.raises(UserError, match=r"cannot decode .*sound.mp4 \(no picture in it\)"):
        open_videos(tmp_path).length(0)


# -- what cannot be opened -------------------------------------------------------------------------------------------


def test_a_path_that_is_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="absent.mp4 does not exist; give an HDF5 demonstration file or a folder"):
        open_videos(tmp_path / "absent.mp4")


@pytest.mark.parametrize("name", ["notes.txt", "archive.zip", "clip", "clip.mp4.part"])
def test_a_file_with_another_suffix_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(UserError, match=f"{name} is neither HDF5 nor video; it needs .hdf5, .h5, .mp4, .*.gif"):
        open_videos(tmp_path / name)


def test_a_folder_without_videos_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no video")
    with pytest.raises(UserError, match="no video files below .*; it needs one of .mp4, .*.gif"):
        open_videos(tmp_path)


@pytest.mark.parametrize("damage", ["empty.mp4", "text.mp4", "text.avi", "half.mp4", "head.gif"])
def test_a_file_that_cannot_be_decoded_is_named_in_one_line(tmp_path: Path, damage: str) -> None:
    kind, suffix = damage.split(".")
    whole = b"hello" * 100 if kind == "text" else record(tmp_path / "whole" / f"clip.{suffix}", 7).read_bytes()
    keep = {"empty": 0, "text": 500, "half": len(whole) // 2, "head": 20}[kind]
    (tmp_path / damage).write_bytes(whole[:keep])
    videos = open_videos(tmp_path / damage)
    for ask in (lambda: videos.length(0), lambda: videos.fps(0), lambda: videos.read(0, [0])):
        with pytest.raises(UserError, match=f"cannot decode .*{damage} .*; remove it or convert it to mp4") as caught:
            ask()
        assert "\n" not in str(caught.value)
