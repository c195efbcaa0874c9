from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from rsp_robot.errors import UserError
from rsp_robot.files import read_json, read_jsonl
from rsp_robot.videos import pack
from rsp_robot.videos.formats.store import Store, verify
from rsp_robot.videos.info import Quarantined, UnreadableVideo, VideoInfo
from rsp_robot.videos.layout import fingerprint, layout
from rsp_robot.videos.pack import pack_videos
from rsp_robot.videos.sizes import reduce, reduced_pieces, reduced_size

SHAPES = [(12, 20, 30), (7, 20, 30), (9, 16, 12), (5, 64, 96)]
"""Frames, height, width of the videos of a source; at a short side of 32 the last one is reduced."""


class FakeVideos:
    """Videos of noise; ``before`` is called ahead of every read."""

    def __init__(
        self,
        shapes: Sequence[tuple[int, int, int]] = SHAPES,
        before: Callable[[int, np.ndarray], None] = lambda video, frames: None,
        quarantined: Sequence[Quarantined] = (),
    ) -> None:
        rng = np.random.default_rng(0)
        self.pixels = [rng.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in shapes]
        self.videos = [
            VideoInfo("fake", f"/data/video{i}", "", *shape, fps=10.0 + i, camera="front", task="push", episode=f"e{i}")
            for i, shape in enumerate(shapes)
        ]
        self.before, self.quarantined = before, quarantined

    def read(self, video: int, frames: Sequence[int] | np.ndarray) -> np.ndarray:
        self.before(video, np.asarray(frames))
        return self.pixels[video][frames]


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def packed(folder: Path) -> list[VideoInfo]:
    videos = list(Store().inspect(folder))
    assert all(isinstance(video, VideoInfo) for video in videos)
    return videos  # type: ignore[return-value]


# -- sizes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("height", "width", "short", "expected"),
    [
        (480, 640, 256, (256, 341)),  # 341.33
        (640, 480, 256, (341, 256)),
        (360, 480, 270, (270, 360)),
        (256, 340, 256, (256, 340)),
        (100, 80, 256, (100, 80)),
        (2, 3, 1, (1, 2)),  # 1.5 is rounded up
        (1, 500, 1, (1, 500)),
        (1000, 1001, 1, (1, 1)),
    ],
)
def test_the_short_side_is_reduced_and_proportions_are_kept(
    height: int, width: int, short: int, expected: tuple[int, int]
) -> None:
    assert reduced_size(height, width, short) == expected


def test_a_size_below_a_pixel_is_refused() -> None:
    for size in ((0, 5, 1), (5, 5, 0)):
        with pytest.raises(ValueError, match="cannot have a short side"):
            reduced_size(*size)


@pytest.mark.parametrize("size", [(48, 64), (90, 31), (480, 640)])
def test_frames_are_reduced_as_pillow_reduces_them(size: tuple[int, int]) -> None:
    # Not up to 0 and 255: where bicubic overshoots those, the two cut at different stages.
    frames = np.random.default_rng(1).integers(64, 192, (3, *size, 3), dtype=np.uint8)
    height, width = reduced_size(*size, 24)
    expected = np.stack(
        [np.asarray(Image.fromarray(f).resize((width, height), Image.Resampling.BICUBIC)) for f in frames]
    )
    got = reduce(frames, 24)
    assert got.shape == (3, height, width, 3) and got.flags.c_contiguous
    assert np.abs(got.astype(int) - expected).max() <= 1
    assert reduce(frames[:0], 24).shape == (0, height, width, 3)


def test_frames_that_are_small_enough_are_not_copied() -> None:
    frames = np.zeros((2, 24, 30, 3), np.uint8)
    assert reduce(frames, 24) is frames


def test_a_long_video_is_read_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rsp_robot.videos.sizes.PIECE_BYTES", 4 * 20 * 30 * 3)
    asked: list[list[int]] = []
    source = FakeVideos(before=lambda video, frames: asked.append(frames.tolist()))
    pieces = list(reduced_pieces(lambda frames: source.read(1, frames), source.videos[1], 256))
    assert asked == [[0, 1, 2, 3], [4, 5, 6]]
    np.testing.assert_array_equal(np.concatenate(pieces), source.pixels[1])


# -- packing -----------------------------------------------------------------------------------------------------------


def test_every_video_comes_back(tmp_path: Path) -> None:
    source = FakeVideos()
    result = pack_videos(source, tmp_path / "s", 32, quiet=True)
    videos = packed(tmp_path / "s")
    assert (result.videos, result.frames, result.quarantined) == (4, 33, 0)
    assert result.bytes == 3 * (19 * 20 * 30 + 9 * 16 * 12 + 5 * 32 * 48)
    assert sorted(content(tmp_path / "s")) == [
        "frames-16x12.bin",
        "frames-20x30.bin",
        "frames-32x48.bin",
        "store.json",
        "videos.jsonl",
    ]
    for i, video in enumerate(videos):
        expected = reduce(source.pixels[i], 32)
        np.testing.assert_array_equal(Store().read(video, np.arange(video.frames)), expected)
        assert video.digest == hashlib.blake2b(expected.tobytes(), digest_size=16).hexdigest()
        assert (video.fps, video.camera, video.task, video.episode) == (10.0 + i, "front", "push", f"e{i}")
        assert video.key == f"{i:06d}" and video.detail["origin"] == f"/data/video{i}"
    assert verify(tmp_path / "s") == []


def test_frames_of_one_size_lie_one_after_the_other(tmp_path: Path) -> None:
    source = FakeVideos()
    pack_videos(source, tmp_path / "s", 32, quiet=True)
    frames = np.memmap(tmp_path / "s" / "frames-20x30.bin", np.uint8, "r").reshape(-1, 20, 30, 3)
    np.testing.assert_array_equal(frames, np.concatenate(source.pixels[:2]))


def test_a_finished_store_is_not_packed_again(tmp_path: Path) -> None:
    first = pack_videos(FakeVideos(), tmp_path / "s", 32, quiet=True)

    def forbidden(video: int, frames: np.ndarray) -> None:
        raise AssertionError("read again")

    assert pack_videos(FakeVideos(before=forbidden), tmp_path / "s", 32, quiet=True) == first


def test_the_bytes_do_not_depend_on_the_number_of_workers(tmp_path: Path) -> None:
    pack_videos(FakeVideos(), tmp_path / "one", 32, workers=1, quiet=True)
    rng = np.random.default_rng(2)
    slow = FakeVideos(before=lambda video, frames: time.sleep(float(rng.uniform(0, 0.02))))
    pack_videos(slow, tmp_path / "four", 32, workers=4, quiet=True)
    assert content(tmp_path / "one") == content(tmp_path / "four")


def test_threads_decode_at_the_same_time(tmp_path: Path) -> None:
    together = threading.Barrier(3, timeout=20)
    source = FakeVideos(SHAPES[:3], before=lambda video, frames: together.wait() and None)
    assert pack_videos(source, tmp_path / "s", 32, workers=3, quiet=True).videos == 3


# -- interrupted -------------------------------------------------------------------------------------------------------


def test_an_interrupted_store_is_continued_and_ends_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rsp_robot.videos.sizes.PIECE_BYTES", 4 * 20 * 30 * 3)  # several pieces for a video
    pack_videos(FakeVideos(), tmp_path / "whole", 32, quiet=True)

    def interrupt(video: int, frames: np.ndarray) -> None:
        if video == 3 and frames[0] > 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack_videos(FakeVideos(before=interrupt), tmp_path / "s", 32, workers=1, quiet=True)
    assert [row["video"] for row in read_jsonl(tmp_path / "s" / "videos.jsonl")] == [0, 1, 2]
    with pytest.raises(UnreadableVideo, match="is not finished; run the same rsp-robot pack again"):
        list(Store().inspect(tmp_path / "s"))

    read: set[int] = set()
    pack_videos(FakeVideos(before=lambda video, frames: read.add(video)), tmp_path / "s", 32, quiet=True)
    assert read == {3}
    assert content(tmp_path / "s") == content(tmp_path / "whole")


def test_a_line_that_a_kill_cut_costs_no_other_row(tmp_path: Path) -> None:
    def interrupted(at: int) -> list[int]:
        def interrupt(video: int, frames: np.ndarray) -> None:
            if video == at:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            pack_videos(FakeVideos(before=interrupt), tmp_path / "s", 32, workers=1, quiet=True)
        return [row["video"] for row in read_jsonl(tmp_path / "s" / "videos.jsonl")]

    assert interrupted(at=1) == [0]
    with open(tmp_path / "s" / "videos.jsonl", "ab") as file:
        file.write(b'{"video": 3, "shard": "fra')
    assert interrupted(at=3) == [0, 1, 2]


KILLED = """
import sys, time
sys.path.insert(0, sys.argv[1])
from test_pack import FakeVideos
from rsp_robot.videos import pack, sizes
pack.COMMIT_EVERY_S = 0.0
sizes.PIECE_BYTES = 2 * 20 * 30 * 3
def before(video, frames):
    time.sleep(0.02)
    print(video, flush=True)
pack.pack_videos(FakeVideos([(20, 20, 30)] * 12, before), sys.argv[2], 32, workers=2, quiet=True)
"""


def test_a_store_survives_kill_9(tmp_path: Path) -> None:
    shapes = [(20, 20, 30)] * 12
    pack_videos(FakeVideos(shapes), tmp_path / "whole", 32, quiet=True)
    command = [sys.executable, "-c", KILLED, str(Path(__file__).parent), str(tmp_path / "s")]
    done = []
    for reads in (35, 25):
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            for _ in range(reads):
                process.stdout.readline()
            process.send_signal(signal.SIGKILL)
            process.wait()
        done.append(len(read_jsonl(tmp_path / "s" / "videos.jsonl")))
    assert 0 < done[0] < done[1] < 12
    (tmp_path / "s" / ".store.json.0123abcd.tmp").write_text("{")
    with open(tmp_path / "s" / "videos.jsonl", "ab") as file:
        file.write(b'{"video": 11, "shard": "fra')  # cut
    read: set[int] = set()
    pack_videos(FakeVideos(shapes, lambda video, frames: read.add(video)), tmp_path / "s", 32, quiet=True)
    assert len(read) == 12 - done[1]
    assert content(tmp_path / "s") == content(tmp_path / "whole")


def test_frames_that_were_removed_meanwhile_are_packed_again(tmp_path: Path) -> None:
    pack_videos(FakeVideos(), tmp_path / "whole", 32, quiet=True)
    pack_videos(FakeVideos(), tmp_path / "s", 32, quiet=True)
    os.rename(tmp_path / "s" / "store.json", tmp_path / "s" / "unfinished.json")
    (tmp_path / "s" / "frames-20x30.bin").unlink()
    os.truncate(tmp_path / "s" / "frames-16x12.bin", 100)
    read: set[int] = set()
    pack_videos(FakeVideos(before=lambda video, frames: read.add(video)), tmp_path / "s", 32, quiet=True)
    assert read == {0, 1, 2}
    assert content(tmp_path / "s") == content(tmp_path / "whole")


# -- refused -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("finished", [True, False])
def test_another_store_in_the_folder_is_refused(tmp_path: Path, finished: bool) -> None:
    pack_videos(FakeVideos(), tmp_path / "s", 32, quiet=True)
    if not finished:
        os.rename(tmp_path / "s" / "store.json", tmp_path / "s" / "unfinished.json")
    before = content(tmp_path / "s")
    with pytest.raises(UserError, match="was packed with another --short-side; give another --out, or delete it"):
        pack_videos(FakeVideos(), tmp_path / "s", 16, quiet=True)
    with pytest.raises(UserError, match="was packed from other videos, or they changed since"):
        pack_videos(FakeVideos(SHAPES[:3]), tmp_path / "s", 32, quiet=True)
    assert content(tmp_path / "s") == before


def test_a_folder_with_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(UserError, match="is not empty and no frame store; give a new folder"):
        pack_videos(FakeVideos(), tmp_path, 32, quiet=True)
    assert sorted(content(tmp_path)) == ["thesis.tex"]


def test_a_source_without_videos_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no videos to pack"):
        pack_videos(FakeVideos([]), tmp_path / "s", quiet=True)


def test_two_processes_do_not_pack_into_one_folder(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    other = os.open(tmp_path / "s", os.O_RDONLY)
    try:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another process is packing into"):
            pack_videos(FakeVideos(), tmp_path / "s", 32, quiet=True)
    finally:
        os.close(other)
    assert pack_videos(FakeVideos(), tmp_path / "s", 32, quiet=True).videos == 4


def test_a_disk_that_is_too_small_is_refused_with_both_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack.shutil, "disk_usage", lambda path: SimpleNamespace(free=40_000))
    with pytest.raises(UserError, match=r"need 6\.24e-05 GB, the disk of .* has 4e-05 GB free"):
        pack_videos(FakeVideos(), tmp_path / "s", 32, quiet=True)
    # Nothing is left that would be in the way of a smaller one.
    assert pack_videos(FakeVideos(), tmp_path / "s", 8, quiet=True).videos == 4


def test_a_full_disk_is_told_in_one_line_and_packing_goes_on_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack_videos(FakeVideos(), tmp_path / "whole", 32, quiet=True)
    write, left = os.pwrite, [2]

    def full(file: int, data: memoryview, offset: int) -> int:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, data, offset)

    with monkeypatch.context() as patch, pytest.raises(UserError, match="no space left on the disk of .*s; free some"):
        patch.setattr(pack.os, "pwrite", full)
        pack_videos(FakeVideos(), tmp_path / "s", 32, workers=1, quiet=True)
    assert len(read_jsonl(tmp_path / "s" / "videos.jsonl")) == 2
    pack_videos(FakeVideos(), tmp_path / "s", 32, quiet=True)
    assert content(tmp_path / "s") == content(tmp_path / "whole")


def test_short_writes_are_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pack_videos(FakeVideos(), tmp_path / "whole", 32, quiet=True)
    write = os.pwrite
    monkeypatch.setattr(pack.os, "pwrite", lambda file, data, offset: write(file, data[:1000], offset))
    pack_videos(FakeVideos(), tmp_path / "s", 32, quiet=True)
    assert content(tmp_path / "s") == content(tmp_path / "whole")


# -- videos that fail --------------------------------------------------------------------------------------------------


def failing(video: int, frames: np.ndarray) -> None:
    if video == 1 and frames[0] > 0:
        raise UnreadableVideo("it broke off\nhere")
    if video == 2:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "/data/video2")


def test_videos_that_fail_are_left_out_with_their_reasons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("rsp_robot.videos.sizes.PIECE_BYTES", 4 * 20 * 30 * 3)
    early = [Quarantined("/data/empty.mp4", "", "holds no picture")]
    source = FakeVideos(before=failing, quarantined=early)
    result = pack_videos(source, tmp_path / "s", 32)
    assert (result.videos, result.frames, result.quarantined) == (2, 17, 3)
    assert (tmp_path / "s" / "quarantine.txt").read_text().splitlines() == [
        "/data/empty.mp4: holds no picture",
        "/data/video1: it broke off here",
        "/data/video2: No such file or directory",
    ]
    assert "left out /data/video1: it broke off here" in capsys.readouterr().err
    assert [video.detail["origin"] for video in packed(tmp_path / "s")] == ["/data/video0", "/data/video3"]
    assert verify(tmp_path / "s") == []
    shard = (tmp_path / "s" / "frames-20x30.bin").read_bytes()
    assert shard[: 12 * 1800] == source.pixels[0].tobytes() and not any(shard[12 * 1800 :])


def test_a_video_that_failed_is_tried_again_after_an_interruption(tmp_path: Path) -> None:
    pack_videos(FakeVideos(), tmp_path / "whole", 32, quiet=True)
    with pytest.raises(UnreadableVideo, match="/data/video1: it broke; mend it, or leave out --strict"):

        def broken(video: int, frames: np.ndarray) -> None:
            if video == 1:
                raise UnreadableVideo("it broke")

        pack_videos(FakeVideos(before=broken), tmp_path / "s", 32, workers=1, strict=True, quiet=True)
    pack_videos(FakeVideos(), tmp_path / "s", 32, strict=True, quiet=True)
    assert content(tmp_path / "s") == content(tmp_path / "whole")


def test_frames_of_another_size_than_announced_are_left_out(tmp_path: Path) -> None:
    source = FakeVideos()
    source.pixels[1] = source.pixels[1][:, :10]
    assert pack_videos(source, tmp_path / "s", 32, quiet=True).videos == 3
    assert "changed" in (tmp_path / "s" / "quarantine.txt").read_text()


def test_a_source_of_which_nothing_can_be_read_is_refused(tmp_path: Path) -> None:
    def broken(video: int, frames: np.ndarray) -> None:
        raise UnreadableVideo("it broke")

    with pytest.raises(UserError, match="none of the videos could be packed: /data/video3: it broke"):
        pack_videos(FakeVideos(before=broken), tmp_path / "s", 32, quiet=True)
    assert pack_videos(FakeVideos(), tmp_path / "s", 32, quiet=True).videos == 4


def test_names_that_are_not_valid_text_are_kept(tmp_path: Path) -> None:
    source = FakeVideos()
    name = os.fsdecode(b"/data/caf\xe9/\xff.mp4")
    source.videos[0] = VideoInfo("fake", name, "", *SHAPES[0], task="größe")
    pack_videos(source, tmp_path / "s", 32, spec=name, quiet=True)
    assert packed(tmp_path / "s")[0].detail["origin"] == name and packed(tmp_path / "s")[0].task == "größe"


# -- what is written ---------------------------------------------------------------------------------------------------


def test_the_places_of_videos_follow_from_their_sizes() -> None:
    places, shards = layout(FakeVideos().videos, 32)
    assert [(place.shard, place.first) for place in places] == [
        ("frames-20x30.bin", 0),
        ("frames-20x30.bin", 12),
        ("frames-16x12.bin", 0),
        ("frames-32x48.bin", 0),
    ]
    assert shards == {"frames-20x30.bin": 19, "frames-16x12.bin": 9, "frames-32x48.bin": 5}
    assert fingerprint(FakeVideos().videos) != fingerprint(FakeVideos().videos[::-1])


def test_the_store_says_what_it_is_made_of(tmp_path: Path) -> None:
    pack_videos(FakeVideos(), tmp_path / "s", 32, spec="demos,more", quiet=True)
    header = read_json(tmp_path / "s" / "store.json")
    assert header["source"] == "demos,more" and header["short_side"] == 32 and header["version"] == 1
    assert (header["videos"], header["frames"], header["quarantined"]) == (4, 33, 0)
    row = json.loads((tmp_path / "s" / "videos.jsonl").read_text().splitlines()[1])
    assert row["origin"] == "/data/video1" and row["format"] == "fake" and row["first"] == 12 and row["frames"] == 7
