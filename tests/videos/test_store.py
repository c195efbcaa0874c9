from __future__ import annotations

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from rsp_robot.videos.formats import store
from rsp_robot.videos.formats.store import ShardFile, Store, verify
from rsp_robot.videos.info import Quarantined, UnreadableVideo, VideoInfo
from rsp_robot.videos.pack import pack_videos

LENGTHS = (6, 4)


class Numbered:
    """Two videos of 4x5 pictures: frame t of video v is filled with 100 v + t."""

    quarantined: Sequence[Quarantined] = ()

    def __init__(self) -> None:
        self.videos = [
            VideoInfo(
                "fake", f"/data/{v}.mp4", "", length, 4, 5, fps=20.0, camera="front", task="push", episode=f"e{v}"
            )
            for v, length in enumerate(LENGTHS)
        ]

    def read(self, video: int, frames: Sequence[int] | np.ndarray) -> np.ndarray:
        values = (100 * video + np.asarray(frames)).astype(np.uint8)
        return np.broadcast_to(values[:, None, None, None], (len(values), 4, 5, 3))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pack_videos(Numbered(), tmp_path / "store", quiet=True)
    return tmp_path / "store"


def inspect(folder: Path) -> list[VideoInfo]:
    return [video for video in Store().inspect(folder) if isinstance(video, VideoInfo)]


def change(folder: Path, **values: object) -> None:
    header = json.loads((folder / "store.json").read_text())
    (folder / "store.json").write_text(json.dumps(header | values))


def test_a_store_says_what_is_in_it(folder: Path) -> None:
    assert Store().claims(folder)
    videos = inspect(folder)
    assert [(v.format, v.path, v.key, v.frames, v.height, v.width, v.fps) for v in videos] == [
        ("store", str(folder), "000000", 6, 4, 5, 20.0),
        ("store", str(folder), "000001", 4, 4, 5, 20.0),
    ]
    assert [(v.camera, v.task, v.episode) for v in videos] == [("front", "push", "e0"), ("front", "push", "e1")]
    assert videos[1].detail == {"shard": "frames-4x5.bin", "first": 6, "shard_frames": 10, "origin": "/data/1.mp4"}
    json.dumps(dict(videos[1].detail))


@pytest.mark.parametrize("present", [(), ("store.json",), ("unfinished.json",), ("videos.jsonl",)])
def test_other_folders_are_not_claimed(tmp_path: Path, present: tuple[str, ...]) -> None:
    for name in present:
        (tmp_path / name).write_text("{}")
    assert not Store().claims(tmp_path)
    assert not Store().claims(tmp_path / "absent")


@pytest.mark.parametrize("frames", [[3], [0, 1, 2, 3], [3, 0, 0, 2, 1], [2, 3, 0, 1], []])
def test_frames_come_in_the_order_asked_for(folder: Path, frames: list[int]) -> None:
    read = Store().read(inspect(folder)[1], np.array(frames, np.int64))
    assert read.shape == (len(frames), 4, 5, 3) and read.dtype == np.uint8
    assert read[:, 3, 4, 2].tolist() == read[:, 0, 0, 0].tolist() == [100 + t for t in frames]


@pytest.mark.parametrize("frame", [-1, 4])
def test_a_frame_outside_the_video_is_an_error(folder: Path, frame: int) -> None:
    with pytest.raises(IndexError):
        Store().read(inspect(folder)[1], np.array([0, frame]))


def test_threads_read_at_the_same_time(folder: Path) -> None:
    videos, reader = inspect(folder), Store()

    def read(seed: int) -> bool:
        rng = np.random.default_rng(seed)
        v = int(rng.integers(2))
        wanted = rng.integers(0, LENGTHS[v], 5)
        return bool((reader.read(videos[v], wanted)[:, 1, 1, 1] == 100 * v + wanted).all())

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(400)))


def test_reading_leaves_no_file_open(folder: Path) -> None:
    video, reader = inspect(folder)[0], Store()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        reader.read(video, np.array([0]))
    with pytest.raises(UnreadableVideo):
        ShardFile(folder / "frames-4x5.bin", 4, 5, 11)
    assert len(os.listdir("/proc/self/fd")) == before


def test_short_reads_are_completed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = os.preadv
    monkeypatch.setattr(
        store.os, "preadv", lambda file, buffers, offset: whole(file, [buffer[:7] for buffer in buffers], offset)
    )
    assert Store().read(inspect(folder)[0], np.array([0, 1, 2, 5]))[:, 3, 4, 2].tolist() == [0, 1, 2, 5]


# -- changed since it was inspected ------------------------------------------------------------------------------------


def test_a_store_that_is_gone_is_an_error(folder: Path) -> None:
    video = inspect(folder)[0]
    (folder / "frames-4x5.bin").unlink()
    with pytest.raises(FileNotFoundError):
        Store().read(video, np.array([0]))
    with pytest.raises(UnreadableVideo, match=r"is damaged \(frames-4x5.bin is missing\); delete it and pack"):
        inspect(folder)


@pytest.mark.parametrize("size", [0, 599, 601])
def test_a_file_of_another_size_is_named(folder: Path, size: int) -> None:
    video = inspect(folder)[0]
    os.truncate(folder / "frames-4x5.bin", size)
    expected = rf"frames-4x5.bin has {size} bytes where its store has 600; delete the store and pack the videos again"
    with pytest.raises(UnreadableVideo, match=expected):
        Store().read(video, np.array([0]))
    with pytest.raises(UnreadableVideo, match=expected):
        inspect(folder)


def test_a_file_cut_while_it_is_open_is_no_crash(folder: Path) -> None:
    with ShardFile(folder / "frames-4x5.bin", 4, 5, 10) as shard:
        os.truncate(folder / "frames-4x5.bin", 90)
        assert shard.read(np.array([0]))[0, 0, 0, 0] == 0
        with pytest.raises(UnreadableVideo, match="has 90 bytes"):
            shard.read(np.array([9]))


# -- damaged -----------------------------------------------------------------------------------------------------------


def test_an_unfinished_store_says_what_to_do(folder: Path) -> None:
    os.rename(folder / "store.json", folder / "unfinished.json")
    assert Store().claims(folder)
    with pytest.raises(UnreadableVideo, match="is not finished; run the same rsp-robot pack again, it continues"):
        inspect(folder)


def test_a_store_of_a_newer_version_is_refused(folder: Path) -> None:
    change(folder, version=2)
    with pytest.raises(UnreadableVideo, match=r"of a newer version \(2\); update rsp-robot"):
        inspect(folder)


@pytest.mark.parametrize(
    "row",
    [
        {"shard": "../../etc/passwd"},
        {"frames": 5},
        {"frames": 0},
        {"first": -1},
        {"height": 2},
        {"height": None},
        {"camera": 3},
        {"fps": "fast"},
    ],
)
def test_rows_that_do_not_fit_the_files_are_refused(folder: Path, row: dict[str, object]) -> None:
    lines = [json.loads(line) for line in (folder / "videos.jsonl").read_text().splitlines()]
    lines[1] |= row
    (folder / "videos.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(UnreadableVideo, match="is damaged .*; delete it and pack the videos again"):
        inspect(folder)


@pytest.mark.parametrize("text", ["", "[]", "[1]\n[2]", "null", "{", '{"shard": 1}\n{"shard": 2}'])
def test_a_store_whose_lists_are_damaged_is_refused(folder: Path, text: str) -> None:
    (folder / "videos.jsonl").write_text(text)
    with pytest.raises(UnreadableVideo, match="is damaged"):
        inspect(folder)


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "{}", '{"version": "x"}', '{"version": 1, "videos": 2, "shards": 3}']
)
def test_a_store_whose_header_is_damaged_is_refused(folder: Path, text: str) -> None:
    (folder / "store.json").write_text(text)
    with pytest.raises(UnreadableVideo, match="is damaged"):
        inspect(folder)


def test_a_file_name_that_is_none_is_refused(folder: Path) -> None:
    change(folder, shards={"frames-4x5.bin": 10, "../secret": 3})
    with pytest.raises(UnreadableVideo, match=r"is damaged \(../secret in store.json\)"):
        inspect(folder)


def test_bytes_that_changed_are_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "VERIFY_BYTES", 130)  # two frames at a time
    assert verify(folder) == []
    with open(folder / "frames-4x5.bin", "r+b") as file:
        file.seek(599)
        file.write(b"\x00")
    bad = verify(folder)
    assert [(video.path, video.key) for video in bad] == [(str(folder), "000001")]
    assert bad[0].reason == "its frames are not those packed from /data/1.mp4; delete the store and pack again"


def test_a_folder_that_was_moved_is_still_whole(folder: Path) -> None:
    moved = folder.rename(folder.with_name("moved"))
    assert verify(moved) == []
    assert [video.path for video in inspect(moved)] == [str(moved)] * 2
