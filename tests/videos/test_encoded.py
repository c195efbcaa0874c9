from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from rsp_robot.videos.formats import decoding
from rsp_robot.videos.formats.encoded import Encoded, inspect_file
from rsp_robot.videos.info import VideoInfo

Record = Callable[..., Path]
Decode = Callable[[Path], np.ndarray]
Numbered = Callable[..., np.ndarray]

FILE = Encoded()
X265 = "log-level=none:keyint=10:min-keyint=5:open-gop=1:bframes=4:b-adapt=0"
IRREGULAR = [int(tick) for tick in 700 + np.cumsum(np.random.default_rng(0).integers(10, 80, 40))]
B3: dict[str, Any] = {"x264-params": "bframes=3:b-adapt=0:scenecut=0"}
FILMS: dict[str, dict[str, Any]] = {
    "h264.mp4": B3,
    "sound.mp4": B3 | {"audio": True, "g": 12},
    "pyramid.mkv": {"g": 12, "x264-params": "bframes=5:b-adapt=0:b-pyramid=normal"},
    "open.mp4": {"x264-params": "bframes=3:b-adapt=0:open-gop=1:b-pyramid=normal:keyint=8:min-keyint=4:scenecut=0"},
    "refresh.mp4": {"x264-params": "intra-refresh=1:keyint=10:bframes=0"},
    "forward.mov": {"bf": 0, "g": 9},
    "intra.mp4": {"g": 1},
    "fragments.mp4": B3 | {"g": 10, "container_options": {"movflags": "frag_keyframe+empty_moov"}},
    "irregular.mp4": B3 | {"times": IRREGULAR, "time_base": Fraction(1, 1000), "g": 10},
    "irregular.mkv": B3 | {"times": IRREGULAR, "time_base": Fraction(1, 1000), "g": 10},
    "h265.mp4": {"codec": "libx265", "x265-params": X265},
    "layers.mp4": {"codec": "libx265", "x265-params": X265 + ":temporal-layers=3:b-pyramid=1"},
    "vp9.webm": {"g": 10},
    "vp8.webm": {"codec": "libvpx", "g": 10, "auto-alt-ref": 1, "lag-in-frames": 16, "arnr-maxframes": 5},
    "av1.mp4": {"codec": "libsvtav1", "g": 2},
    "mpeg2.mkv": {"codec": "mpeg2video", "bf": 2, "g": 8},
    "mpeg4.mp4": {"codec": "mpeg4", "bf": 2, "g": 10},
    "mpeg4.avi": {"codec": "mpeg4", "g": 10},
    "reordered.avi": {"codec": "mpeg4", "bf": 2, "g": 10},
    "h264.avi": B3 | {"codec": "h264", "g": 10},
    "sound.avi": {"codec": "mpeg4", "audio": True, "g": 10},
    "wmv.avi": {"codec": "wmv2"},
    "jpegs.avi": {"codec": "mjpeg"},
    "pngs.mov": {"codec": "png"},
    "ffv1.mkv": {"codec": "ffv1", "pix_fmt": "yuv420p"},
    "moving.gif": {},
}


def seen(path: Path) -> VideoInfo:
    """What is found in a file, after a round through JSON."""
    (info,) = FILE.inspect(path)
    assert isinstance(info, VideoInfo)
    return VideoInfo(**json.loads(json.dumps(asdict(info))))


def count_openings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    paths: list[str] = []
    original = av.open

    def counted(path: str, *args: Any, **kwargs: Any) -> Any:
        paths.append(path)
        return original(path, *args, **kwargs)

    monkeypatch.setattr(av, "open", counted)
    return paths


# -- exactness -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILMS)
def test_every_frame_is_exactly_what_full_decoding_gives(
    tmp_path: Path,
    record: Record,
    decode_all: Decode,
    numbered: Numbered,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    frames = numbered(40, 64, 96)
    frames[:, 40:] += np.random.default_rng(0).integers(0, 25, (24, 96, 3)).astype(np.uint8)
    path = record(tmp_path / name, frames, **FILMS[name])
    whole = decode_all(path)
    video = seen(path)
    assert (video.frames, video.height, video.width) == whole.shape[:3] == (40, 64, 96)
    openings = count_openings(monkeypatch)
    for number in range(video.frames):
        np.testing.assert_array_equal(FILE.read(video, np.array([number]))[0], whole[number], err_msg=str(number))
    if name != "refresh.mp4":  # whose key frames are none: it takes a second attempt from the start
        assert len(openings) == video.frames
    generator = np.random.default_rng(1)
    for size in (2, 2, 2, 3, 8, 8):
        wanted = generator.integers(0, video.frames, size)
        np.testing.assert_array_equal(FILE.read(video, wanted), whole[wanted], err_msg=str(wanted))
    np.testing.assert_array_equal(FILE.read(video, np.arange(5, 21)), whole[5:21])


def test_what_was_cut_off_by_an_edit_list_is_not_counted(tmp_path: Path, record: Record, decode_all: Decode) -> None:
    whole = record(tmp_path / "whole.mp4", 40, g=20, bf=2, b_strategy=0)
    path = tmp_path / "cut.mp4"
    with av.open(str(whole)) as source, av.open(str(path), "w") as target:
        film: Any = source.streams.video[0]
        copy = target.add_stream_from_template(film)
        for packet in source.demux(film):
            if packet.size and packet.pts is not None and packet.dts is not None:
                packet.pts, packet.dts = packet.pts - 7 * 1024, packet.dts - 7 * 1024  # before zero: not to be shown
                packet.stream = copy
                target.mux(packet)
    expected = decode_all(path)
    np.testing.assert_array_equal(expected, decode_all(whole)[7:])
    video = seen(path)
    assert video.frames == 33
    for number in (0, 5, 12, 13, 30):
        np.testing.assert_array_equal(FILE.read(video, np.array([number, 32])), expected[[number, 32]])


def test_frames_come_as_asked_for_and_may_repeat(tmp_path: Path, record: Record, decode_all: Decode) -> None:
    path = record(tmp_path / "film.mp4", 30, g=10)
    video, whole = seen(path), decode_all(path)
    wanted = np.array([29, 3, 3, 15, 0, 29])
    np.testing.assert_array_equal(FILE.read(video, wanted), whole[wanted])
    assert FILE.read(video, np.array([], np.int64)).shape == (0, 32, 48, 3)
    for outside in (-1, 30):
        with pytest.raises(IndexError, match=r"frames .* of a video of 30"):
            FILE.read(video, np.array([0, outside]))


def test_decoding_begins_at_the_key_frame_before_the_wanted_one(
    tmp_path: Path, record: Record, decode_all: Decode
) -> None:
    path = record(tmp_path / "film.mp4", 30, g=10, bf=0, **{"x264-params": "scenecut=0"})
    video, whole = seen(path), decode_all(path)
    with av.open(str(path)) as container:
        spans = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    content = bytearray(path.read_bytes())
    for position, size in spans[:20]:  # all before the last key frame is ruined, and what follows frame 25
        content[position + 4 : position + size] = bytes(size - 4)
    for position, size in spans[26:]:
        content[position + 4 : position + size] = bytes(size - 4)
    path.write_bytes(content)
    np.testing.assert_array_equal(FILE.read(video, np.array([22, 25])), whole[[22, 25]])


def test_threads_may_share_a_format(tmp_path: Path, record: Record, decode_all: Decode) -> None:
    path = record(tmp_path / "film.mp4", 30, g=10)
    video, whole = seen(path), decode_all(path)
    wanted = [np.random.default_rng(seed).integers(0, 30, 3) for seed in range(60)]
    with ThreadPoolExecutor(4) as pool:
        for numbers, frames in zip(wanted, pool.map(lambda numbers: FILE.read(video, numbers), wanted), strict=True):
            np.testing.assert_array_equal(frames, whole[numbers])


# -- what is known without decoding ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["film.mp4", "film.mkv", "film.webm", "film.mov", "film.gif"])
def test_rate_and_size_are_found(tmp_path: Path, record: Record, name: str) -> None:
    video = seen(record(tmp_path / name, 20, fps=25))
    assert (video.format, video.key, video.path) == ("file", "", str(tmp_path / name))
    assert (video.frames, video.height, video.width, video.fps) == (20, 32, 48, 25.0)
    assert len(json.dumps(video.detail)) < 250


def test_the_rate_of_a_film_with_varying_rate_is_the_mean(tmp_path: Path, record: Record) -> None:
    for name in ("film.mp4", "film.mkv"):
        video = seen(record(tmp_path / name, 4, times=[500, 600, 900, 1500], time_base=Fraction(1, 1000)))
        assert video.fps == pytest.approx(3.0, rel=1e-6) and video.frames == 4


def test_a_film_of_one_frame_is_a_video(tmp_path: Path, record: Record) -> None:
    for name in ("film.mp4", "film.gif", "film.avi", "film.webm"):
        video = seen(record(tmp_path / name, 1, codec="mpeg4" if name.endswith("avi") else "libx264"))
        assert video.frames == 1 and FILE.read(video, np.array([0, 0])).shape == (2, 32, 48, 3)


def test_the_digest_follows_the_content(tmp_path: Path, record: Record) -> None:
    first, other = record(tmp_path / "first.mp4", 5), record(tmp_path / "other.mp4", 6)
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(first.read_bytes())
    assert seen(first).digest == seen(copy).digest != seen(other).digest
    assert len(seen(first).digest) == 32


def test_a_series_is_described_in_short_where_it_is_even() -> None:
    for values, step in (
        ([5], None),
        ([0, 512, 1024], None),
        ([0, 33, 67, 100], None),
        ([0, 33, 67], Fraction(100, 3)),
        ([-3, 1, 9], None),
    ):
        series = decoding.pack_series(np.array(values), step)
        assert isinstance(series, dict) == (values not in ([5], [-3, 1, 9]))
        assert decoding.unpack_series(series).tolist() == values


# -- colours, sizes, orientation -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("film.mp4", {"pix_fmt": "yuv444p", "crf": 1}),
        ("film.mkv", {"codec": "ffv1", "pix_fmt": "bgr0"}),
        ("film.avi", {"codec": "mjpeg", "pix_fmt": "yuvj444p"}),
        ("film.mov", {"codec": "png"}),
        ("film.gif", {}),
    ],
)
def test_odd_sizes_are_kept(tmp_path: Path, record: Record, numbered: Numbered, name: str, options: Any) -> None:
    frames = numbered(6, 33, 47)
    video = seen(record(tmp_path / name, frames, **options))
    assert (video.height, video.width) == (33, 47)
    read = FILE.read(video, np.array([4, 1]))
    assert read.shape == (2, 33, 47, 3)
    tolerance = 45 if name.endswith("gif") else 12  # 256 colours for all
    assert np.abs(read.astype(int) - frames[[4, 1]]).mean() < tolerance


def test_greyscale_becomes_rgb(tmp_path: Path, record: Record) -> None:
    frames = np.repeat(np.arange(20, 180, 20, dtype=np.uint8), 32 * 48).reshape(8, 32, 48)
    for name, codec in (("film.mp4", "libx264"), ("film.mkv", "ffv1"), ("film.mov", "png")):
        video = seen(record(tmp_path / name, frames, codec=codec, pix_fmt="gray", source_format="gray"))
        read = FILE.read(video, np.array([7, 2]))
        assert (read == read[..., :1]).all()
        # H.264 without a note on its range is taken to use 16 to 235
        assert np.abs(read.astype(int) - np.array([160, 60])[:, None, None, None]).max() <= (
            9 if codec == "libx264" else 1
        )


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("film.webm", {"pix_fmt": "yuva420p", "auto-alt-ref": 0}),
        ("film.mov", {"codec": "png", "pix_fmt": "rgba"}),
        ("film.mkv", {"codec": "ffv1", "pix_fmt": "bgra"}),
    ],
)
def test_transparency_is_dropped(tmp_path: Path, record: Record, name: str, options: Any) -> None:
    frames = np.full((6, 32, 48, 4), (200, 60, 30, 255), np.uint8)
    frames[..., 24:, 3] = 0
    video = seen(record(tmp_path / name, frames, source_format="rgba", **options))
    read = FILE.read(video, np.array([5]))
    assert read.shape == (1, 32, 48, 3)
    assert np.abs(read.astype(int) - [200, 60, 30]).max() <= 6


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        ((0, 1, -1, 0), lambda frames: np.rot90(frames, -1, axes=(1, 2))),  # as a telephone held upright writes it
        ((-1, 0, 0, -1), lambda frames: frames[:, ::-1, ::-1]),
        ((0, -1, 1, 0), lambda frames: np.rot90(frames, 1, axes=(1, 2))),
        ((-1, 0, 0, 1), lambda frames: frames[:, :, ::-1]),  # mirrored
        ((1, 0, 0, 1), lambda frames: frames),
    ],
)
def test_pictures_are_turned_upright(
    tmp_path: Path,
    record: Record,
    decode_all: Decode,
    matrix: tuple[int, int, int, int],
    expected: Callable[[np.ndarray], np.ndarray],
) -> None:
    path = record(tmp_path / "film.mp4", 12, g=5)
    plain = decode_all(path)
    content = bytearray(path.read_bytes())
    start = content.index(b"tkhd") + 44
    a, b, c, d = (part << 16 for part in matrix)
    content[start : start + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    upright = expected(plain)
    video = seen(path)
    assert (video.height, video.width) == upright.shape[1:3]
    np.testing.assert_array_equal(FILE.read(video, np.array([8, 1])), upright[[8, 1]])


# -- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "a b.mp4",
        "Übung läuft.MP4",
        "拿起杯子.mkv",
        "https:film.mp4",
        "%03d.mp4",
        "é" * 125 + "a.mp4",
        os.fsdecode(b"\xff.mp4"),
    ],
    ids=["space", "umlaut", "chinese", "colon", "pattern", "longest", "bytes"],
)
def test_any_file_name_will_do(tmp_path: Path, record: Record, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path(name)
    record(Path("plain" + path.suffix.lower()), 5).rename(path)
    assert FILE.claims(path)
    assert FILE.read(inspect_file(path), np.array([4])).shape == (1, 32, 48, 3)


def test_files_are_told_by_their_suffix_and_folders_are_none(tmp_path: Path) -> None:
    (tmp_path / "folder.mp4").mkdir()
    for name in ("a.mp4", "b.MKV", "c.webm", "d.avi", "e.mov", "f.gif", "g.txt", "h", "i.mp4.part"):
        (tmp_path / name).touch()
    claimed = [path.name for path in sorted(tmp_path.iterdir()) if FILE.claims(path)]
    assert claimed == ["a.mp4", "b.MKV", "c.webm", "d.avi", "e.mov", "f.gif"]


# -- what is left behind ---------------------------------------------------------------------------------------------


def resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_ten_thousand_openings_leave_neither_memory_nor_handles_behind(tmp_path: Path, record: Record) -> None:
    good = record(tmp_path / "film.mp4", np.zeros((4, 16, 16, 3), np.uint8), g=2, bf=0)
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(good.read_bytes()[:-8])
    damaged = tmp_path / "damaged.mp4"
    video = seen(good)
    content = bytearray(good.read_bytes())
    start = content.index(b"mdat") + 4
    content[start : start + 200] = bytes(200)
    damaged.write_bytes(content)
    ruined = VideoInfo(**{**asdict(video), "path": str(damaged)})

    def work(rounds: int) -> None:
        for _ in range(rounds):
            for _ in range(8):
                FILE.read(video, np.array([3]))
            with pytest.raises(Exception, match=r"cut short"):
                inspect_file(bad)
            with pytest.raises(Exception, match=r"damaged.mp4"):
                FILE.read(ruined, np.array([0]))

    work(50)
    memory, handles = resident(), len(os.listdir("/proc/self/fd"))
    work(1000)
    assert resident() - memory < 12 * 2**20
    assert len(os.listdir("/proc/self/fd")) == handles
