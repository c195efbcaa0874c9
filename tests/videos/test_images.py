from __future__ import annotations

import json
import os
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rsp_robot.videos.formats.images import Images
from rsp_robot.videos.info import UnreadableVideo, VideoInfo

FORMAT = Images()


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def folder(path: Path, frames: np.ndarray, name: str = "frame{}.png") -> Path:
    path.mkdir(exist_ok=True)
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(path / name.format(number))
    return path


def only(path: Path) -> VideoInfo:
    (video,) = FORMAT.inspect(path)
    assert isinstance(video, VideoInfo)
    return video


def test_a_folder_with_pictures_and_no_videos_is_claimed(tmp_path: Path) -> None:
    claimed = folder(tmp_path / "a", noise(3, 4, 6, 3), "{}.PNG")
    assert FORMAT.claims(claimed)
    assert not FORMAT.claims(tmp_path)
    assert not FORMAT.claims(claimed / "0.PNG")
    assert not FORMAT.claims(tmp_path / "gone")
    (claimed / "poses.npy").touch()
    (claimed / "deeper").mkdir()
    assert FORMAT.claims(claimed)
    for name in ("film.MP4", "demos.hdf5", "anim.gif"):
        (claimed / name).touch()
        assert not FORMAT.claims(claimed)
        (claimed / name).unlink()


def test_arrays_with_a_preview_are_no_pictures(tmp_path: Path) -> None:
    path = folder(tmp_path / "a", noise(1, 4, 6, 3))
    (path / "0.npy").touch()
    assert not FORMAT.claims(path)


def test_hidden_pictures_do_not_count(tmp_path: Path) -> None:
    for name in (".hidden.png", "._frame.png"):
        (tmp_path / name).write_bytes(b"no picture")
    assert not FORMAT.claims(tmp_path)
    with pytest.raises(UnreadableVideo, match="holds no pictures"):
        list(FORMAT.inspect(tmp_path))
    assert only(folder(tmp_path, noise(2, 4, 6, 3))).frames == 2


def test_pictures_come_in_natural_order(tmp_path: Path) -> None:
    frames = noise(12, 4, 6, 3)
    video = only(folder(tmp_path / "a", frames))
    assert video == VideoInfo(
        format="images",
        path=str(tmp_path / "a"),
        key="",
        frames=12,
        height=4,
        width=6,
        digest=video.digest,
        detail={"names": [f"frame{number}.png" for number in range(12)]},
    )
    json.dumps(vars(video))
    wanted = [11, 2, 10, 10, 0, 2]
    found = FORMAT.read(video, np.array(wanted))
    np.testing.assert_array_equal(found, frames[wanted])
    assert found.dtype == np.uint8
    assert FORMAT.read(video, np.array([], int)).shape == (0, 4, 6, 3)
    for bad in ([12], [-1]):
        with pytest.raises(IndexError):
            FORMAT.read(video, np.array(bad))


def test_the_digest_follows_contents_and_names(tmp_path: Path) -> None:
    frames = noise(3, 4, 6, 3)
    first = only(folder(tmp_path / "a", frames)).digest
    assert only(folder(tmp_path / "b", frames)).digest == first and len(first) == 32
    os.rename(tmp_path / "b" / "frame2.png", tmp_path / "b" / "frame3.png")
    assert only(tmp_path / "b").digest != first
    assert only(folder(tmp_path / "c", frames[[1, 0, 2]])).digest != first


@pytest.mark.parametrize("suffix", [".png", ".webp", ".bmp", ".ppm", ".tif", ".tiff", ".jpg", ".JPEG"])
def test_every_kind_of_picture_is_read(tmp_path: Path, suffix: str) -> None:
    frames = np.stack([np.full((16, 16, 3), colour, np.uint8) for colour in ((200, 30, 60), (20, 90, 250))])
    for number, frame in enumerate(frames):
        options: dict[str, Any] = {"lossless": True} if suffix == ".webp" else {}
        Image.fromarray(frame).save(tmp_path / f"{number}{suffix}", **options)
    found = FORMAT.read(only(tmp_path), np.array([1, 0])).astype(int)
    assert np.abs(found - frames[[1, 0]]).max() <= (3 if suffix.lower() in (".jpg", ".jpeg") else 0)


@pytest.mark.filterwarnings("error")
def test_grey_palette_alpha_and_16_bits_become_rgb(tmp_path: Path) -> None:
    grey, rgb, alpha = noise(4, 6), noise(4, 6, 3), noise(4, 6, 1)
    deep = np.random.default_rng(1).integers(0, 65536, (4, 6)).astype(np.uint16)
    palette = Image.fromarray(grey % 4, "P")
    palette.putpalette([0, 0, 0, 250, 0, 0, 0, 250, 0, 0, 0, 250])
    repeated = np.repeat(grey[..., None], 3, axis=-1)
    deep_rgb = np.repeat((deep >> 8).astype(np.uint8)[..., None], 3, axis=-1)
    colours = np.array([[0, 0, 0], [250, 0, 0], [0, 250, 0], [0, 0, 250]], np.uint8)[grey % 4]
    cases: list[tuple[Image.Image, str, dict[str, Any], np.ndarray]] = [
        (Image.fromarray(grey), ".png", {}, repeated),
        (Image.fromarray(np.concatenate([rgb, alpha], axis=-1)), ".png", {}, rgb),
        (Image.fromarray(np.concatenate([grey[..., None], alpha], axis=-1)), ".png", {}, repeated),
        (palette, ".png", {}, colours),
        (palette, ".png", {"transparency": b"\x00\x40\xff"}, colours),
        (Image.fromarray(deep), ".png", {}, deep_rgb),
        (Image.fromarray(deep), ".tif", {}, deep_rgb),
        (Image.fromarray(deep.astype(np.int32)), ".ppm", {}, deep_rgb),
        (Image.fromarray(grey > 127), ".png", {}, np.where(repeated > 127, 255, 0)),
    ]
    for number, (image, suffix, options, expected) in enumerate(cases):
        path = tmp_path / str(number)
        path.mkdir()
        image.save(path / f"a{suffix}", **options)
        np.testing.assert_array_equal(FORMAT.read(only(path), np.array([0]))[0], expected, err_msg=str(number))


def test_floating_point_pictures_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((4, 6), np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(UnreadableVideo, match=r"a\.tif cannot be decoded \(its pixels are floating-point.*; "):
        only(tmp_path)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp"])
def test_turned_pictures_stand_upright(tmp_path: Path, suffix: str, orientation: int) -> None:
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:8, :16, 0], upright[:8, 16:, 1], upright[8:, :16, 2] = 240, 240, 240
    # What a camera stores, by the definition of EXIF's Orientation (where row 0 and column 0 of it belong).
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    image = Image.fromarray(np.ascontiguousarray(stored))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, Any] = {"quality": 95} if suffix == ".jpg" else {"lossless": True} if suffix == ".webp" else {}
    for number in range(2):
        image.save(tmp_path / f"{number}{suffix}", exif=exif, **options)
    video = only(tmp_path)
    assert (video.height, video.width) == (16, 32)
    found = FORMAT.read(video, np.array([0]))[0]
    for rows in (slice(2, 6), slice(10, 14)):
        for columns in (slice(2, 14), slice(18, 30)):
            assert np.abs(found[rows, columns].astype(int) - upright[rows, columns]).max() < 40


def test_one_picture_is_a_video_of_one_frame(tmp_path: Path) -> None:
    video = only(folder(tmp_path / "a", noise(1, 4, 6, 3)))
    assert video.frames == 1
    np.testing.assert_array_equal(FORMAT.read(video, np.array([0, 0])), noise(1, 4, 6, 3)[[0, 0]])


def test_pictures_of_different_sizes_are_refused_by_name(tmp_path: Path) -> None:
    path = folder(tmp_path / "a", noise(3, 4, 6, 3))
    Image.fromarray(noise(6, 4, 3)).save(path / "frame1.png")
    with pytest.raises(UnreadableVideo, match=r"frame1\.png is 4x6, but frame0\.png is 6x4; "):
        only(path)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_picture_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = folder(tmp_path / "a", noise(3, 4, 6, 3))
    (path / "frame1.png").write_bytes(content)
    with pytest.raises(UnreadableVideo, match=r"frame1\.png is not a picture \(.*\); ") as error:
        only(path)
    assert "0x" not in str(error.value)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_truncated_pictures_are_found_at_the_ends_and_else_when_they_are_read(tmp_path: Path, suffix: str) -> None:
    path = folder(tmp_path / "a", noise(5, 40, 60, 3), "frame{}." + suffix)

    def cut(number: int) -> None:
        file = path / f"frame{number}.{suffix}"
        file.write_bytes(file.read_bytes()[:-800])

    cut(2)
    video = only(path)
    FORMAT.read(video, np.array([1, 3]))
    with pytest.raises(UnreadableVideo, match=rf"frame2\.{suffix} cannot be decoded \(.*\); "):
        FORMAT.read(video, np.array([1, 2]))
    cut(4)
    with pytest.raises(UnreadableVideo, match=rf"frame4\.{suffix} cannot be decoded"):
        only(path)


@pytest.mark.filterwarnings("ignore:::PIL.*")
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".bmp", ".ppm"])
def test_bytes_written_over_a_picture_never_end_in_another_error(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    Image.fromarray(noise(8, 8, 3)).save(path)
    content = path.read_bytes()
    draw = np.random.default_rng(0)
    for _ in range(200):
        broken = bytearray(content)
        start = int(draw.integers(0, min(len(content) - 2, 300)))
        broken[start : start + 2] = draw.bytes(2)
        path.write_bytes(broken)
        try:
            FORMAT.read(only(tmp_path), np.array([0]))
        except UnreadableVideo as error:
            assert "\n" not in str(error)


def huge_png(path: Path, side: int) -> None:
    """A picture of ``side`` x ``side`` by its head, of nothing by its content."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    packed = chunk(b"IDAT", zlib.compress(bytes(1000)))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + packed + chunk(b"IEND", b""))


@pytest.mark.parametrize("side", [10_000, 60_000])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_decompression_bomb_is_refused(tmp_path: Path, side: int) -> None:
    huge_png(tmp_path / "bomb.png", side)
    with pytest.raises(UnreadableVideo, match=r"bomb\.png has more than \d+ pixels; "):
        only(tmp_path)


def test_a_picture_that_vanishes_is_reported_gone_and_one_of_another_size_has_changed(tmp_path: Path) -> None:
    path = folder(tmp_path / "a", noise(3, 4, 6, 3))
    video = only(path)
    Image.fromarray(noise(5, 5, 3)).save(path / "frame1.png")
    with pytest.raises(UnreadableVideo, match=r"frame1\.png has changed since it was inspected"):
        FORMAT.read(video, np.array([0, 1]))
    (path / "frame1.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"frame1\.png"):
        FORMAT.read(video, np.array([0, 1]))
    assert FORMAT.read(video, np.array([2])).shape == (1, 4, 6, 3)
    with pytest.raises(FileNotFoundError):
        list(FORMAT.inspect(tmp_path / "gone"))


def test_a_link_that_leads_nowhere_or_in_a_circle_is_not_dropped_in_silence(tmp_path: Path) -> None:
    for target in ("nowhere.png", "frame1.png"):
        path = folder(tmp_path / target, noise(3, 4, 6, 3))
        (path / "frame1.png").unlink()
        (path / "frame1.png").symlink_to(path / target)
        assert FORMAT.claims(path)
        with pytest.raises(OSError, match=r"frame1\.png"):
            only(path)


def test_names_may_be_long_and_of_any_script(tmp_path: Path) -> None:
    frames = noise(3, 4, 6, 3)
    path = folder(tmp_path / ("фильм\n" + "f" * 200), frames, "картина²_" + "n" * 200 + "_{}.png")
    video = only(path)
    np.testing.assert_array_equal(FORMAT.read(video, np.array([2, 0])), frames[[2, 0]])
    Image.fromarray(noise(5, 5, 3)).save(path / video.detail["names"][1])
    with pytest.raises(UnreadableVideo) as error:
        only(path)
    assert "\n" not in str(error.value)


def test_a_thousand_reads_leave_no_file_open(tmp_path: Path) -> None:
    path = folder(tmp_path / "a", noise(5, 4, 6, 3))
    video = only(path)
    (path / "frame4.png").write_bytes(b"broken")
    before = len(os.listdir("/proc/self/fd"))
    for turn in range(1000):
        if turn % 5 == 4:
            with pytest.raises(UnreadableVideo):
                FORMAT.read(video, np.array([4]))
        else:
            FORMAT.read(video, np.array([turn % 5]))
    assert len(os.listdir("/proc/self/fd")) == before


def test_threads_reading_at_once_get_the_frames_they_asked_for(tmp_path: Path) -> None:
    frames = noise(10, 8, 8, 3)
    video = only(folder(tmp_path / "a", frames))

    def work(seed: int) -> bool:
        draw = np.random.default_rng(seed)
        for _ in range(20):
            wanted = draw.integers(0, 10, 5)
            if not np.array_equal(FORMAT.read(video, wanted), frames[wanted]):
                return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))
