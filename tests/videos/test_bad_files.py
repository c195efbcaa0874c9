from __future__ import annotations

import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from rsp_robot.videos.formats.encoded import Encoded, inspect_file
from rsp_robot.videos.info import UnreadableVideo

Record = Callable[..., Path]
FILE = Encoded()
FAST = {"movflags": "faststart"}


def refused(path: Path) -> str:
    with pytest.raises(UnreadableVideo) as caught:
        list(FILE.inspect(path))
    message = str(caught.value)
    assert message.startswith(f"{path} ") and "\n" not in message and "; " in message
    return message.removeprefix(f"{path} ")


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm", ".avi", ".mov", ".gif"])
def test_an_empty_file_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"film{suffix}"
    path.touch()
    assert refused(path) == "is empty (0 bytes); copy it again or remove it"


@pytest.mark.parametrize(
    "content",
    [
        b"hello " * 100,
        b"ffconcat version 1.0\nfile /etc/passwd\n",
        b"#EXTM3U\n#EXTINF:1,\nother.mp4\n",
        b"\0" * 50,
        b"x",
    ],
    ids=["text", "concat", "playlist", "zeros", "byte"],
)
@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".gif"])
def test_something_else_under_the_name_of_a_video_is_refused(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"film{suffix}"
    path.write_bytes(content)
    assert refused(path).startswith("is no video: by its content neither MP4, QuickTime, Matroska, WebM, AVI nor GIF; ")


def test_a_film_under_the_suffix_of_another_container_is_read(tmp_path: Path, record: Record) -> None:
    path = record(tmp_path / "film.mkv", 5).rename(tmp_path / "film.mp4")
    assert inspect_file(path).frames == 5


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.999])
@pytest.mark.parametrize(
    "name", ["fast.mp4", "film.mp4", "fragments.mp4", "film.mkv", "film.webm", "film.avi", "film.gif"]
)
def test_a_file_cut_in_the_middle_is_refused(tmp_path: Path, record: Record, name: str, share: float) -> None:
    options = {"fast": FAST, "fragments": {"movflags": "frag_keyframe+empty_moov"}}.get(name.split(".")[0])
    path = record(tmp_path / name, 30, codec="mpeg4" if name.endswith("avi") else "libx264", container_options=options)
    assert inspect_file(path).frames == 30
    os.truncate(path, int(path.stat().st_size * share))
    assert refused(path).startswith("is cut short: ")


def test_the_two_ways_to_cut_an_mp4_are_told_apart(tmp_path: Path, record: Record) -> None:
    first = record(tmp_path / "first.mp4", 30, container_options=FAST)
    assert first.read_bytes().index(b"moov") < first.read_bytes().index(b"mdat")
    os.truncate(first, first.stat().st_size - 100)
    assert refused(first) == "is cut short: 100 bytes are missing at the end; copy it again or remove it"
    last = record(tmp_path / "last.mp4", 30)
    os.truncate(last, last.read_bytes().index(b"moov") - 4)
    assert refused(last) == "is cut short: the index of its frames (moov) is missing; copy it again or remove it"


def test_a_stream_without_sizes_is_read_and_its_cut_is_seen(tmp_path: Path, record: Record) -> None:
    path = record(tmp_path / "film.mkv", 30, container_options={"live": "1"})
    assert inspect_file(path).frames == 30
    os.truncate(path, path.stat().st_size - 3)
    assert refused(path).startswith("is cut short: ")


def test_what_was_appended_does_no_harm(tmp_path: Path, record: Record) -> None:
    for name in ("film.mp4", "film.mkv", "film.avi", "film.gif"):
        path = record(tmp_path / name, 6, codec="mpeg4" if name.endswith("avi") else "libx264")
        path.write_bytes(path.read_bytes() + b"\0" * 37)
        assert inspect_file(path).frames == 6


def test_sound_alone_is_refused(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux([*stream.encode(frame), *stream.encode(None)])
    assert refused(tmp_path / "sound.mp4") == "has no pictures in it (only sound); remove it"


@pytest.mark.parametrize("name", ["film.avi", "film.mkv"])
@pytest.mark.parametrize("order", [(0, 1), (0, 1, 0)])
def test_pictures_that_change_size_are_refused(tmp_path: Path, name: str, order: tuple[int, ...]) -> None:
    sizes = [(48, 32), (64, 32)]
    path = tmp_path / name
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=10)
        stream.width, stream.height, stream.pix_fmt = *sizes[0], "yuvj420p"
        number = 0
        for which in order:
            encoder = av.CodecContext.create("mjpeg", "w")
            encoder.width, encoder.height = sizes[which]
            encoder.pix_fmt, encoder.time_base = "yuvj420p", Fraction(1, 10)
            for _ in range(3):
                frame = av.VideoFrame(*sizes[which], "yuvj420p")
                frame.pts, frame.time_base = number, encoder.time_base
                for packet in encoder.encode(frame):
                    packet.stream, packet.time_base = stream, Fraction(1, 10)
                    container.mux(packet)
                number += 1
    assert refused(path).startswith("has pictures of more than one size (48x32 becomes 64x32 by frame 3); ")


def test_damage_inside_is_refused(tmp_path: Path, record: Record) -> None:
    path = record(tmp_path / "film.mp4", 12)
    content = bytearray(path.read_bytes())
    start = content.index(b"mdat") + 4
    content[start : content.index(b"moov") - 4] = bytes(content.index(b"moov") - 4 - start)
    path.write_bytes(content)
    assert "be decoded" in refused(path)


def test_a_name_of_two_lines_makes_a_message_of_one(tmp_path: Path) -> None:
    path = tmp_path / "two\nlines.mp4"
    path.touch()
    with pytest.raises(UnreadableVideo) as caught:
        inspect_file(path)
    assert str(caught.value).endswith("two lines.mp4 is empty (0 bytes); copy it again or remove it")


# -- between the look and the read -----------------------------------------------------------------------------------


def test_a_file_that_is_gone_is_an_error_of_the_system(tmp_path: Path, record: Record) -> None:
    path = record(tmp_path / "film.mp4", 12)
    video = inspect_file(path)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        FILE.read(video, np.array([3]))
    with pytest.raises(FileNotFoundError):
        list(FILE.inspect(path))


def test_a_file_that_changed_is_refused(tmp_path: Path, record: Record) -> None:
    path = record(tmp_path / "film.mp4", 12)
    video = inspect_file(path)
    os.truncate(path, path.stat().st_size - 200)
    with pytest.raises(
        UnreadableVideo, match=r"film.mp4 has changed since it was looked at: it has \d+ bytes, not \d+; "
    ):
        FILE.read(video, np.array([3]))


def test_other_content_of_the_same_size_is_refused(tmp_path: Path, record: Record) -> None:
    path = record(tmp_path / "film.mp4", 12)
    video = inspect_file(path)
    shorter = record(tmp_path / "other.mp4", 6).read_bytes()
    path.write_bytes(shorter + bytes(path.stat().st_size - len(shorter)))
    with pytest.raises(UnreadableVideo, match=r"film.mp4 is damaged: its frame 11 of 12 cannot be decoded; "):
        FILE.read(video, np.array([11, 2]))
    path.write_bytes(b"x" * path.stat().st_size)
    with pytest.raises(UnreadableVideo, match=r"film.mp4 cannot be decoded \(Invalid data"):
        FILE.read(video, np.array([3]))
