"""A folder of pictures is one video, in the natural order of their names: ``frame2`` before ``frame10``."""

from __future__ import annotations

import hashlib
import os
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, ClassVar

import numpy as np
from PIL import ExifTags, Image

from rsp_robot.videos.formats.arrays import SUFFIXES as ARRAY_SUFFIXES
from rsp_robot.videos.formats.common import unreadable
from rsp_robot.videos.formats.hdf5 import SUFFIXES as HDF5_SUFFIXES
from rsp_robot.videos.formats.pictures import placed, reason
from rsp_robot.videos.info import Quarantined, UnreadableVideo, VideoInfo, checked_indices

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm", ".tif", ".tiff")
VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".gif", *HDF5_SUFFIXES)
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes a picture upright, by EXIF's Orientation."""
LYING = (5, 6, 7, 8)
"""Orientations for which height and width change places."""
DAMAGE: tuple[type[Exception], ...] = (
    *(OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError, MemoryError),
    *(RuntimeError, NotImplementedError, AttributeError, struct.error, zlib.error),
)
"""What Pillow raises for a file that is not what it should be; each of its decoders has its own habits."""
BOMB = (Image.DecompressionBombError, Image.DecompressionBombWarning)
AGAIN = "write or download it again"


class Images:
    """Folders of pictures."""

    name: ClassVar[str] = "images"

    def claims(self, path: Path) -> bool:
        """A folder with pictures but no videos in it; what lies deeper does not count.

        An array may be what goes with the pictures, as their poses, but a picture of every array is a preview of it.
        """
        if not path.is_dir():
            return False
        suffixes = [os.path.splitext(name)[1].lower() for name in _files(path)]
        pictures = sum(suffix in SUFFIXES for suffix in suffixes)
        arrays = sum(suffix in ARRAY_SUFFIXES for suffix in suffixes)
        return pictures > arrays and not any(suffix in VIDEO_SUFFIXES for suffix in suffixes)

    def inspect(self, path: Path) -> Iterator[VideoInfo | Quarantined]:
        """Yield the video; the head of every picture is read, the first and the last are decoded.

        Raises:
            UnreadableVideo: there is no picture, one cannot be read, or their sizes differ.
            OSError: one of them is gone, or this user may not read it.
        """
        names = sorted((name for name in _files(path) if name.lower().endswith(SUFFIXES)), key=_natural)
        if not names:
            raise unreadable(path, f"holds no pictures; it needs one of {', '.join(SUFFIXES)}")
        whole = hashlib.blake2b(digest_size=16)
        height = width = 0
        for place, name in enumerate(names):
            with open(path / name, "rb") as file:
                size = _size(path / name, file)
                if place == 0:
                    height, width = size
                if size != (height, width):
                    raise unreadable(
                        path / name,
                        f"is {size[1]}x{size[0]}, but {names[0]} is {width}x{height}; "
                        "give the pictures of one video one size",
                    )
                if place in (0, len(names) - 1):
                    _decode(path / name, file)
                file.seek(0)
                content = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).digest()
            whole.update(os.fsencode(name) + b"\0" + content)
        yield VideoInfo(
            format=self.name,
            path=str(path),
            key="",
            frames=len(names),
            height=height,
            width=width,
            digest=whole.hexdigest(),
            detail={"names": names},
        )

    def read(self, video: VideoInfo, frames: np.ndarray) -> np.ndarray:
        """Return frames as uint8 ``(K, H, W, 3)``; see :class:`rsp_robot.videos.info.Format`."""
        rows, where = np.unique(checked_indices(frames, video.frames), return_inverse=True)
        found = np.empty((len(rows), video.height, video.width, 3), np.uint8)
        for place, row in enumerate(rows):
            path = Path(video.path) / video.detail["names"][row]
            with open(path, "rb") as file:
                picture = _decode(path, file)
            if picture.shape != found.shape[1:]:
                raise unreadable(path, "has changed since it was inspected; index the videos again")
            found[place] = picture
        return placed(found, where)


def _files(folder: Path) -> list[str]:
    """Names of what is not a folder; a link that leads nowhere counts, and is found out when it is opened."""
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries if not entry.name.startswith(".") and not _is_folder(entry)]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads in a circle
        return False


def _natural(name: str) -> tuple[list[tuple[str, int]], str]:
    """Order by text and numbers in turn.

    >>> sorted(["b10.png", "b9.png", "a11.png"], key=_natural)
    ['a11.png', 'b9.png', 'b10.png']
    """
    parts = re.split(r"(\d+)", name.lower())
    return [(text, int(digits)) for text, digits in zip(parts[::2], [*parts[1::2], "-1"], strict=True)], name


def _open(path: Path, file: IO[bytes]) -> Image.Image:
    """Read the head of a picture.

    Raises:
        UnreadableVideo: it is none, or is larger than Pillow's limit.
    """
    file.seek(0)
    try:
        image = Image.open(file)
    except BOMB:
        raise _too_large(path) from None
    except DAMAGE as error:
        raise unreadable(path, f"is not a picture ({_told(error)}); {AGAIN}, or remove it") from None
    if Image.MAX_IMAGE_PIXELS is not None and image.width * image.height > Image.MAX_IMAGE_PIXELS:
        raise _too_large(path)
    return image


def _too_large(path: Path) -> UnreadableVideo:
    return unreadable(path, f"has more than {Image.MAX_IMAGE_PIXELS} pixels; remove it, or make it smaller")


def _told(error: BaseException) -> str:
    """Pillow names the open file by its address."""
    return "of no known kind" if isinstance(error, Image.UnidentifiedImageError) else reason(error)


def _orientation(image: Image.Image) -> int:
    """Return EXIF's Orientation, 1 to 8, as far as the head tells; 1 is upright."""
    if image.format == "TIFF":  # Pillow turns those itself
        return 1
    if image.format == "PNG" and "exif" not in image.info:  # Pillow would decode all of it to look for it
        return 1
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except DAMAGE:  # EXIF that cannot be read is none
        return 1


def _size(path: Path, file: IO[bytes]) -> tuple[int, int]:
    """Height and width of a picture when it stands upright, without decoding it."""
    image = _open(path, file)
    lying = _orientation(image) in LYING
    return (image.width, image.height) if lying else (image.height, image.width)


def _decode(path: Path, file: IO[bytes]) -> np.ndarray:
    """Decode a picture, upright: uint8 ``(H, W, 3)``.

    Raises:
        UnreadableVideo: it is damaged, or its pixels are not of 8 or 16 bits.
    """
    image = _open(path, file)
    try:
        turn = TURNS.get(_orientation(image))
        image.load()
        return _rgb(image if turn is None else image.transpose(turn))
    except BOMB:
        raise _too_large(path) from None
    except DAMAGE as error:
        raise unreadable(path, f"cannot be decoded ({_told(error)}); {AGAIN}, or remove it") from None


def _rgb(image: Image.Image) -> np.ndarray:
    """Grey is repeated, a palette looked up, alpha dropped; of 16 bits the upper 8 are taken."""
    if image.mode == "I" or image.mode.startswith("I;16"):
        grey = (np.clip(np.asarray(image).astype(np.int64), 0, 65535) >> 8).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=-1)
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers; store 8 bits")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return np.asarray(image.convert("RGB"))
