from __future__ import annotations

import io
import json
import os
import pickle
import tracemalloc
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rsp_robot.videos.formats import arrays
from rsp_robot.videos.formats.arrays import Arrays
from rsp_robot.videos.info import Quarantined, UnreadableVideo, VideoInfo, file_digest

FORMAT = Arrays()
SAVERS: dict[str, Callable[..., None]] = {"npz": np.savez, "npz packed": np.savez_compressed}


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def save(path: Path, array: Any) -> Path:
    np.save(path, array)
    return path


def inspected(path: Path) -> tuple[list[VideoInfo], list[Quarantined]]:
    found = list(FORMAT.inspect(path))
    videos = [entry for entry in found if isinstance(entry, VideoInfo)]
    return videos, [entry for entry in found if isinstance(entry, Quarantined)]


def only(path: Path) -> VideoInfo:
    videos, left_out = inspected(path)
    assert len(videos) == 1 and not left_out
    return videos[0]


def test_files_are_claimed_by_their_suffix_alone(tmp_path: Path) -> None:
    (tmp_path / "text.NPY").write_text("hello")
    (tmp_path / "folder.npz").mkdir()
    assert FORMAT.claims(tmp_path / "text.NPY")
    assert not FORMAT.claims(tmp_path / "folder.npz")
    assert not FORMAT.claims(tmp_path / "gone.npy")
    with pytest.raises(UnreadableVideo, match=r"text\.NPY is not a NumPy file; write it with"):
        list(FORMAT.inspect(tmp_path / "text.NPY"))


def test_an_array_is_a_video(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npy", noise(5, 6, 8, 3))
    video = only(path)
    assert video == VideoInfo(
        format="array",
        path=str(path),
        key="",
        frames=5,
        height=6,
        width=8,
        digest=file_digest(path),
        detail={"member": "", "item": 0},
    )
    json.dumps(vars(video))


@pytest.mark.parametrize("wanted", [[4], [4, 0], [2, 2, 1, 2], [0, 1, 2, 3, 4], []])
@pytest.mark.parametrize("kind", ["npy", "npy by columns", *SAVERS])
def test_frames_come_in_any_order_and_as_often_as_asked(tmp_path: Path, kind: str, wanted: list[int]) -> None:
    frames = noise(5, 6, 8, 3)
    if kind in SAVERS:
        path = tmp_path / "a.npz"
        SAVERS[kind](path, frames=frames)
    else:
        path = save(tmp_path / "a.npy", np.asfortranarray(frames) if "columns" in kind else frames)
    found = FORMAT.read(only(path), np.array(wanted, np.int64))
    np.testing.assert_array_equal(found, frames[np.array(wanted, int)])
    assert found.dtype == np.uint8 and found.flags.c_contiguous and found.flags.writeable


def test_frame_numbers_outside_the_video_are_refused(tmp_path: Path) -> None:
    video = only(save(tmp_path / "a.npy", noise(3, 6, 8, 3)))
    for wanted in ([3], [-1]):
        with pytest.raises(IndexError):
            FORMAT.read(video, np.array(wanted))


@pytest.mark.parametrize(
    ("stored", "upright"),
    [
        (lambda rgb: rgb[..., 0], lambda rgb: np.repeat(rgb[..., :1], 3, axis=-1)),
        (lambda rgb: rgb[..., :1], lambda rgb: np.repeat(rgb[..., :1], 3, axis=-1)),
        (lambda rgb: np.concatenate([rgb, 255 - rgb[..., :1]], axis=-1), lambda rgb: rgb),
        (lambda rgb: rgb.transpose(0, 3, 1, 2), lambda rgb: rgb),
        (lambda rgb: rgb.transpose(0, 3, 1, 2).copy(), lambda rgb: rgb),
    ],
    ids=["grey", "grey with an axis", "alpha", "channels first", "channels first, copied"],
)
@pytest.mark.parametrize("length", [1, 4])
def test_grey_alpha_and_channels_first_become_rgb(
    tmp_path: Path,
    stored: Callable[[np.ndarray], np.ndarray],
    upright: Callable[[np.ndarray], np.ndarray],
    length: int,
) -> None:
    rgb = noise(length, 6, 8, 3)
    video = only(save(tmp_path / "a.npy", stored(rgb)))
    assert (video.frames, video.height, video.width) == (length, 6, 8)
    wanted = [length - 1, 0]
    np.testing.assert_array_equal(FORMAT.read(video, np.array(wanted)), upright(rgb)[wanted])


@pytest.mark.parametrize("by_columns", [False, True])
@pytest.mark.parametrize("suffix", ["npy", *SAVERS])
def test_five_axes_are_several_videos(tmp_path: Path, suffix: str, by_columns: bool) -> None:
    frames = noise(3, 4, 6, 8, 3)
    stored = np.asfortranarray(frames) if by_columns else frames
    if suffix in SAVERS:
        path = tmp_path / "a.npz"
        SAVERS[suffix](path, film=stored)
        keys = ["film/0", "film/1", "film/2"]
    else:
        path, keys = save(tmp_path / "a.npy", stored), ["0", "1", "2"]
    videos, left_out = inspected(path)
    assert not left_out and [video.key for video in videos] == keys
    for number, video in enumerate(videos):
        np.testing.assert_array_equal(FORMAT.read(video, np.array([3, 1])), frames[number][[3, 1]])


@pytest.mark.parametrize("saver", list(SAVERS))
def test_members_of_an_npz_differ_in_length_and_bad_ones_are_left_out(tmp_path: Path, saver: str) -> None:
    path = tmp_path / "a.npz"
    ragged = np.empty(2, object)
    members = {
        "one": noise(2, 6, 8, 3),
        "deux/é": noise(5, 4, 4, 3, seed=1),
        "real": np.zeros((3, 6, 8, 3), np.float32),
        "picture": noise(6, 8, 3),
        "objects": ragged,
        "actions": np.zeros((5, 7), np.float32),
        "none": np.zeros((0, 4, 4, 3), np.uint8),
    }
    SAVERS[saver](path, **members)
    videos, left_out = inspected(path)
    assert [(video.key, video.frames, video.height) for video in videos] == [("one", 2, 6), ("deux/é", 5, 4)]
    np.testing.assert_array_equal(FORMAT.read(videos[1], np.array([4, 0])), members["deux/é"][[4, 0]])
    reasons = {entry.key: entry.reason for entry in left_out}
    assert set(reasons) == {"real", "picture", "objects", "none"}
    assert reasons["real"] == "is float32; store uint8 in [0, 255] of shape (T, H, W, 3)"
    assert "is one picture, of shape (6, 8, 3)" in reasons["picture"]
    assert "pickle" in reasons["objects"] and "never loaded" in reasons["objects"]
    assert "is empty" in reasons["none"]


def test_an_npz_without_pictures_is_refused_with_the_reason(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", actions=np.zeros((5, 7)))
    with pytest.raises(UnreadableVideo, match="holds no pictures that can be used; actions is float64"):
        list(FORMAT.inspect(tmp_path / "a.npz"))
    np.savez(tmp_path / "b.npz")
    with pytest.raises(UnreadableVideo, match="holds no pictures that can be used; it is empty"):
        list(FORMAT.inspect(tmp_path / "b.npz"))


@pytest.mark.parametrize(
    ("array", "why"),
    [
        (np.zeros((3, 4, 4, 3), np.float32), r"is float32; store uint8 in \[0, 255\]"),
        (np.zeros((3, 4, 4, 3), bool), "is bool"),
        (np.zeros((4, 4, 3), np.uint8), "is one picture"),
        (np.zeros((3, 5, 4, 6), np.uint8), r"has shape \(3, 5, 4, 6\)"),
        (np.zeros((0, 4, 4, 3), np.uint8), "is empty"),
        (np.zeros((0, 3, 4, 4, 3), np.uint8), "is empty"),
        (np.zeros(3, np.dtype([("a", "u1"), ("b", "u1")])), "store uint8"),
        (np.zeros((), np.uint8), r"has shape \(\)"),
    ],
)
def test_what_is_no_video_is_refused_with_the_cause_and_the_fix(tmp_path: Path, array: np.ndarray, why: str) -> None:
    with pytest.raises(UnreadableVideo, match=why):
        list(FORMAT.inspect(save(tmp_path / "a.npy", array)))


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


def test_pickles_are_refused_without_being_loaded(tmp_path: Path) -> None:
    trap = Trap(str(tmp_path / "sprung"))
    held = np.empty(1, object)
    held[0] = trap
    np.save(tmp_path / "objects.npy", held, allow_pickle=True)
    np.savez(tmp_path / "objects.npz", held=held)
    (tmp_path / "pickle.npy").write_bytes(pickle.dumps(trap))
    for name in ("objects.npy", "objects.npz", "pickle.npy"):
        with pytest.raises(UnreadableVideo, match=r"pickle.*never loaded.*; "):
            list(FORMAT.inspect(tmp_path / name))
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
@pytest.mark.parametrize("suffix", ["npy", *SAVERS])
def test_truncated_files_are_refused(tmp_path: Path, suffix: str, share: float) -> None:
    path = tmp_path / f"a.{suffix[:3]}"
    SAVERS.get(suffix, np.save)(path, noise(5, 6, 8, 3))
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(UnreadableVideo, match="is (truncated or damaged|not a NumPy file).*; "):
        list(FORMAT.inspect(path))


@pytest.mark.parametrize("saver", list(SAVERS))
def test_a_damaged_member_is_left_out(tmp_path: Path, saver: str) -> None:
    path = tmp_path / "a.npz"
    SAVERS[saver](path, whole=noise(3, 6, 8, 3), broken=noise(30, 6, 8, 3))
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("broken.npy")
    content = bytearray(path.read_bytes())
    middle = info.header_offset + info.compress_size // 2
    content[middle : middle + 40] = b"\xff" * 40
    path.write_bytes(content)
    videos, left_out = inspected(path)
    assert [video.key for video in videos] == ["whole"]
    assert left_out[0].key == "broken" and "is truncated or damaged" in left_out[0].reason


@pytest.mark.parametrize("suffix", ["npy", *SAVERS])
def test_bytes_written_over_a_file_never_end_in_another_error(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix[:3]}"
    SAVERS.get(suffix, np.save)(path, noise(3, 4, 4, 3))
    content = path.read_bytes()
    draw = np.random.default_rng(0)
    for _ in range(300):
        broken = bytearray(content)
        start = int(draw.integers(0, len(content) - 2))
        broken[start : start + 2] = draw.bytes(2)
        path.write_bytes(broken)
        try:
            videos, _ = inspected(path)
            for video in videos:
                FORMAT.read(video, np.arange(video.frames))
        except UnreadableVideo as error:
            assert "\n" not in str(error)


def test_an_archive_with_something_in_front_of_it_is_read(tmp_path: Path) -> None:
    frames = noise(3, 4, 4, 3)
    buffer = io.BytesIO()
    np.save(buffer, frames)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("readme.txt", "no array")
        archive.writestr("frames.npy", buffer.getvalue())
    videos, left_out = inspected(tmp_path / "a.npz")
    assert [entry.key for entry in left_out] == ["readme.txt"]
    np.testing.assert_array_equal(FORMAT.read(videos[0], np.array([2, 0])), frames[[2, 0]])


def test_names_may_be_long_and_of_any_script(tmp_path: Path) -> None:
    key = "видео_" + "k" * 300
    path = tmp_path / ("配列_" + "n" * 200 + ".npz")
    np.savez(path, **{key: noise(2, 4, 4, 3)})
    video = only(path)
    assert video.key == key
    np.testing.assert_array_equal(FORMAT.read(video, np.array([1])), noise(2, 4, 4, 3)[[1]])


@pytest.mark.parametrize("suffix", ["npy", *SAVERS])
def test_a_file_that_vanishes_is_reported_gone_and_a_new_one_in_its_place_is_read(tmp_path: Path, suffix: str) -> None:
    path, other = tmp_path / f"a.{suffix[:3]}", tmp_path / f"b.{suffix[:3]}"

    def write(*shape: int, seed: int = 0) -> None:
        SAVERS.get(suffix, np.save)(other, noise(*shape, seed=seed))
        os.replace(other, path)

    write(4, 6, 8, 3)
    video = only(path)
    FORMAT.read(video, np.array([1]))
    path.unlink()
    with pytest.raises(FileNotFoundError):
        FORMAT.read(video, np.array([1]))
    with pytest.raises(FileNotFoundError):
        list(FORMAT.inspect(path))
    write(4, 6, 8, 3, seed=1)
    np.testing.assert_array_equal(FORMAT.read(video, np.array([1])), noise(4, 6, 8, 3, seed=1)[[1]])
    write(4, 9, 9, 3)
    with pytest.raises(UnreadableVideo, match="has changed since it was inspected"):
        FORMAT.read(video, np.array([1]))
    write(3, 6, 8, 3)
    with pytest.raises(UnreadableVideo, match="is shorter than"):
        FORMAT.read(video, np.array([1]))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UnreadableVideo, match="is truncated or damaged"):
        FORMAT.read(video, np.array([1]))


def test_a_large_file_is_never_in_memory_as_a_whole(tmp_path: Path) -> None:
    shape = (2000, 256, 256, 3)  # 393 MB, without a block on the disk
    path = tmp_path / "a.npy"
    with open(path, "wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + int(np.prod(shape)))
    video = VideoInfo("array", str(path), "", *shape[:3])
    tracemalloc.start()
    try:
        for frame in range(0, 2000, 20):
            assert FORMAT.read(video, np.array([frame])).shape == (1, 256, 256, 3)
        assert tracemalloc.get_traced_memory()[1] < 5e6
    finally:
        tracemalloc.stop()


def test_members_too_large_to_keep_are_read_without_being_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = noise(10, 6, 8, 3)
    np.savez_compressed(tmp_path / "a.npz", frames)
    video = only(tmp_path / "a.npz")
    kept = arrays._Decoded(1000)
    monkeypatch.setattr(arrays, "_DECODED", kept)
    np.testing.assert_array_equal(FORMAT.read(video, np.array([9, 0, 4, 4])), frames[[9, 0, 4, 4]])
    assert not kept._kept


def test_what_is_kept_of_members_stays_within_its_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = {str(number): noise(4, 6, 8, 3, seed=number) for number in range(5)}  # 704 bytes each with the header
    np.savez_compressed(tmp_path / "a.npz", **frames)
    kept = arrays._Decoded(1500)
    monkeypatch.setattr(arrays, "_DECODED", kept)
    videos, _ = inspected(tmp_path / "a.npz")
    for video in [*videos, *videos]:
        np.testing.assert_array_equal(FORMAT.read(video, np.array([3])), frames[video.key][[3]])
        assert len(kept._kept) <= 2
    assert [key[1] for key in kept._kept] == ["3.npy", "4.npy"]
    monkeypatch.setattr(zipfile.ZipFile, "read", None)  # what is kept is not unpacked again
    np.testing.assert_array_equal(FORMAT.read(videos[3], np.array([1])), frames["3"][[1]])


@pytest.mark.parametrize("suffix", ["npy", "npy by columns", *SAVERS])
def test_a_thousand_reads_leave_no_file_open(tmp_path: Path, suffix: str) -> None:
    path, frames = tmp_path / f"a.{suffix[:3]}", noise(5, 6, 8, 3)
    SAVERS.get(suffix, np.save)(path, np.asfortranarray(frames) if "columns" in suffix else frames)
    video = only(path)
    before = len(os.listdir("/proc/self/fd"))
    for turn in range(1000):
        FORMAT.read(video, np.array([turn % 5]))
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("suffix", ["npy", *SAVERS])
def test_threads_reading_at_once_get_the_frames_they_asked_for(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrays, "_DECODED", arrays._Decoded(20_000))
    frames = [noise(10, 6, 8, 3, seed=number) for number in range(4)]
    videos = []
    for number in range(4):
        SAVERS.get(suffix, np.save)(tmp_path / f"{number}.{suffix[:3]}", frames[number])
        videos.append(only(tmp_path / f"{number}.{suffix[:3]}"))

    def work(seed: int) -> bool:
        draw = np.random.default_rng(seed)
        for _ in range(60):
            number, wanted = int(draw.integers(4)), draw.integers(0, 10, 5)
            if not np.array_equal(FORMAT.read(videos[number], wanted), frames[number][wanted]):
                return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))
