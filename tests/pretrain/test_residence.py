from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rsp_robot.errors import UserError
from rsp_robot.pretrain import residence
from rsp_robot.pretrain.residence import choose_residence, decode, from_store, resident_bytes
from rsp_robot.pretrain.resident import Location, MemoryShard, ResidentFrames
from rsp_robot.videos.formats.store import Store
from rsp_robot.videos.info import Quarantined, UnreadableVideo, VideoInfo
from rsp_robot.videos.pack import pack_videos
from rsp_robot.videos.sizes import reduce

CPU = torch.device("cpu")
ALIKE = [(9, 12, 16), (5, 12, 16), (7, 12, 16)]
MIXED = [(9, 12, 16), (5, 20, 7), (7, 12, 16), (4, 6, 30)]
"""Frames, height, width; rows of 12x16x3 bytes divide into 8, of 20x7x3 into 4, of 6x30x3 into 4."""


class Noise:
    """Videos of noise."""

    quarantined: Sequence[Quarantined] = ()

    def __init__(self, shapes: Sequence[tuple[int, int, int]], gone: Sequence[int] = ()) -> None:
        rng = np.random.default_rng(0)
        self.pixels = [rng.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in shapes]
        self.videos = [VideoInfo("fake", f"/data/{i}", "", *shape) for i, shape in enumerate(shapes)]
        self.gone = gone

    def read(self, video: int, frames: Sequence[int] | np.ndarray) -> np.ndarray:
        if video in self.gone:
            raise UnreadableVideo("it is gone")
        return self.pixels[video][frames]


def packed(folder: Path, source: Noise) -> list[VideoInfo]:
    pack_videos(source, folder, quiet=True)
    return [video for video in Store().inspect(folder) if isinstance(video, VideoInfo)]


def draw(source: Noise, rows: int, frames: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    videos = rng.integers(0, len(source.videos), rows)
    return np.array([(v, *rng.integers(0, source.videos[v].frames, frames)) for v in videos])


def check(resident: ResidentFrames, source: Noise, rows: np.ndarray) -> None:
    """Whether a batch is what the source itself gives, in the top left of a black canvas."""
    frames, sizes = resident.gather(rows)
    assert frames.dtype == torch.uint8 and sizes.dtype == torch.int64 and sizes.device == CPU
    assert sizes.tolist() == [list(source.pixels[row[0]].shape[1:3]) for row in rows]
    assert frames.shape == (len(rows), rows.shape[1] - 1, *sizes.amax(0).tolist(), 3)
    for row, picked, (h, w) in zip(rows, frames.numpy(), sizes.tolist(), strict=True):
        np.testing.assert_array_equal(picked[:, :h, :w], source.read(row[0], row[1:]))
        assert not picked[:, h:].any() and not picked[:, :, w:].any()


@pytest.mark.parametrize("shapes", [ALIKE, MIXED])
@pytest.mark.parametrize("where", ["device", "host", "disk"])
@pytest.mark.parametrize("frames", [1, 2, 5])
def test_a_batch_is_what_the_source_gives(
    tmp_path: Path, shapes: list[tuple[int, int, int]], where: str, frames: int
) -> None:
    source = Noise(shapes)
    resident = from_store(packed(tmp_path / "s", source), CPU, where, quiet=True)
    assert resident.residence == where and len(resident) == len(shapes) and resident.device == CPU
    assert resident.bytes == sum(pixels.nbytes for pixels in source.pixels)
    check(resident, source, draw(source, 24, frames))
    check(resident, source, draw(source, 1, frames))


@pytest.mark.parametrize("where", ["device", "host"])
def test_decoded_videos_are_what_the_source_gives(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rsp_robot.videos.sizes.PIECE_BYTES", 4 * 12 * 16 * 3)
    source = Noise(MIXED)
    check(decode(source, range(4), 256, CPU, where, workers=3, quiet=True), source, draw(source, 24, 2))


def test_videos_are_reduced_as_they_are_decoded() -> None:
    source = Noise(MIXED)
    resident = decode(source, [2, 1], 6, CPU, "device", quiet=True)
    frames, sizes = resident.gather(np.array([[1, 3, 4], [0, 6, 0]]))
    assert sizes.tolist() == [[17, 6], [6, 8]]
    np.testing.assert_array_equal(frames[0, :, :17, :6], reduce(source.pixels[1], 6)[[3, 4]])
    np.testing.assert_array_equal(frames[1, :, :6, :8], reduce(source.pixels[2], 6)[[6, 0]])


def test_a_batch_of_small_ones_has_a_small_canvas(tmp_path: Path) -> None:
    resident = from_store(packed(tmp_path / "s", Noise(MIXED)), CPU, "disk")
    assert resident.gather(np.array([[3, 0, 1], [3, 2, 3]]))[0].shape == (2, 2, 6, 30, 3)
    assert resident.gather(np.array([[3, 0, 1], [1, 2, 3]]))[0].shape == (2, 2, 20, 30, 3)


def test_only_the_videos_asked_for_are_in_memory(tmp_path: Path) -> None:
    source = Noise(ALIKE)
    videos = packed(tmp_path / "s", source)
    resident = from_store([videos[2], videos[1]], CPU, "device", quiet=True)
    assert [len(shard) for shard in resident.shards if isinstance(shard, MemoryShard)] == [12]
    assert resident.locations == (Location(0, 0, 7), Location(0, 7, 5))
    frames, _ = resident.gather(np.array([[0, 6], [1, 4]]))
    np.testing.assert_array_equal(frames[:, 0], np.stack([source.pixels[2][6], source.pixels[1][4]]))


def test_stores_of_one_size_share_their_memory(tmp_path: Path) -> None:
    a, b = Noise(ALIKE), Noise([(3, 12, 16)])
    videos = [*packed(tmp_path / "a", a), *packed(tmp_path / "b", b)]
    for where, shards in (("device", 1), ("disk", 2)):
        resident = from_store(videos, CPU, where, quiet=True)
        assert len(resident.shards) == shards
        frames, sizes = resident.gather(np.array([[3, 2], [0, 8]]))
        np.testing.assert_array_equal(frames[:, 0], np.stack([b.pixels[0][2], a.pixels[0][8]]))


def test_a_batch_may_be_changed_and_kept(tmp_path: Path) -> None:
    source = Noise(ALIKE)
    videos, rows = packed(tmp_path / "s", source), np.array([[0, 1], [2, 3]])
    for where in ("device", "host", "disk"):
        resident = from_store(videos, CPU, where, quiet=True)
        first, _ = resident.gather(rows)
        first.zero_()
        check(resident, source, rows)
        assert not first.any()


def test_threads_gather_at_the_same_time(tmp_path: Path) -> None:
    source = Noise(MIXED)
    resident = from_store(packed(tmp_path / "s", source), CPU, "disk")

    def work(seed: int) -> None:
        for i in range(10):
            check(resident, source, draw(source, 6, 2, seed * 100 + i))

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))


# -- what goes wrong ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", [[0, 9, 0], [0, 0, -1], [3, 0, 0], [-1, 0, 0]])
def test_a_frame_that_there_is_not_is_an_error(tmp_path: Path, row: list[int]) -> None:
    resident = from_store(packed(tmp_path / "s", Noise(ALIKE)), CPU, "device", quiet=True)
    with pytest.raises(IndexError):
        resident.gather(np.array([[1, 0, 0], row]))


def test_a_video_that_cannot_be_read_is_lost_and_named(capsys: pytest.CaptureFixture[str]) -> None:
    source = Noise(ALIKE, gone=[1])
    resident = decode(source, [0, 1, 2], 256, CPU, "device")
    assert resident.lost == {1: Quarantined("/data/1", "", "it is gone")}
    assert resident.locations[1] is None and resident.bytes == 16 * 12 * 16 * 3
    assert "left out /data/1: it is gone" in capsys.readouterr().err
    check(resident, source, np.array([[2, 6, 0], [0, 8, 1]]))
    with pytest.raises(IndexError, match="frame 0 of video 1, which has 0"):
        resident.gather(np.array([[1, 0]]))


def test_a_video_of_another_size_than_announced_is_lost() -> None:
    source = Noise(ALIKE)
    source.videos[0] = replace(source.videos[0], width=15)
    assert list(decode(source, range(3), 256, CPU, "host", quiet=True).lost) == [0]


def test_a_store_that_is_cut_under_a_run_is_an_error_not_a_crash(tmp_path: Path) -> None:
    videos = packed(tmp_path / "s", Noise(ALIKE))
    resident = from_store(videos, CPU, "disk")
    with open(tmp_path / "s" / "frames-12x16.bin", "r+b") as file:
        file.truncate(1000)
    with pytest.raises(UnreadableVideo, match="has 1000 bytes"):
        resident.gather(np.array([[2, 6]]))
    (tmp_path / "s" / "frames-12x16.bin").unlink()
    with pytest.raises(UnreadableVideo, match="cannot be read any more"):
        resident.gather(np.array([[2, 6]]))
    with pytest.raises(UnreadableVideo, match="cannot be read any more"):
        from_store(videos, CPU, "disk")
    assert set(from_store(videos, CPU, "device", quiet=True).lost) == {0, 1, 2}


def test_only_packed_frames_can_live_on_the_disk() -> None:
    with pytest.raises(UserError, match="rsp-robot pack"):
        decode(Noise(ALIKE), [0], 256, CPU, "disk")
    with pytest.raises(ValueError, match="only packed videos"):
        from_store(Noise(ALIKE).videos, CPU, "disk")


# -- where they live ---------------------------------------------------------------------------------------------------


@pytest.fixture
def thousand(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with 1,000 bytes free on the host, 500 on the GPU."""
    monkeypatch.setattr(residence, "available_memory", lambda: 1000)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (500, 600))


@pytest.mark.parametrize(
    ("size", "device", "expected"),
    [
        (300, "cpu", "device"),
        (301, "cpu", "host"),
        (500, "cpu", "host"),
        (501, "cpu", "disk"),
        (150, "cuda", "device"),
        (151, "cuda", "host"),
        (501, "cuda", "disk"),
    ],
)
def test_frames_live_as_near_as_they_fit(thousand: None, size: int, device: str, expected: str) -> None:
    assert choose_residence(size, torch.device(device)) == expected


def test_the_share_of_the_device_is_a_choice(thousand: None) -> None:
    assert choose_residence(400, torch.device("cuda"), share=0.8) == "device"


def test_a_person_may_insist_as_long_as_it_fits(thousand: None) -> None:
    assert choose_residence(450, torch.device("cuda"), asked="device") == "device"
    assert choose_residence(900, torch.device("cuda"), asked="host") == "host"
    assert choose_residence(10**9, torch.device("cuda"), asked="disk") == "disk"
    with pytest.raises(UserError, match=r"need 4\.51e-07 GB, of which device memory has 5e-07 GB free"):
        choose_residence(451, torch.device("cuda"), asked="device")
    with pytest.raises(UserError, match="of which host memory has 1e-06 GB free"):
        choose_residence(901, torch.device("cuda"), asked="host")
    with pytest.raises(UserError, match="cannot live in 'attic'; choose auto, device, host, disk"):
        choose_residence(1, CPU, asked="attic")


def test_the_size_is_known_before_anything_is_read() -> None:
    videos = Noise([(10, 480, 640), (2, 100, 80)]).videos
    assert resident_bytes(videos, 256) == 10 * 256 * 341 * 3 + 2 * 100 * 80 * 3
    assert resident_bytes(videos) == 10 * 480 * 640 * 3 + 2 * 100 * 80 * 3
