"""NumPy files: an array of frames in a .npy, several in a .npz.

Frames are read from where they lie in the file, so that neither its size nor its being cut short while in use matters
(a memory map of a file that shrinks ends the process). Only a compressed member of a .npz has to be unpacked for that;
the last ones are kept, up to a number of bytes.
"""

from __future__ import annotations

import math
import os
import struct
import tokenize
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import IO, ClassVar

import numpy as np

from rsp_robot.videos.formats.common import forkable_lock, unreadable
from rsp_robot.videos.formats.pictures import Layout, layout, placed, reason, why_not
from rsp_robot.videos.info import Quarantined, VideoInfo, checked_indices, file_digest, is_file_named

SUFFIXES = (".npy", ".npz")
DECODED_BYTES = 2**28
"""How much of compressed members is kept decoded in a process."""
BLOCK = 2**20
DAMAGE: tuple[type[Exception], ...] = (
    *(OSError, SyntaxError, ValueError, EOFError, KeyError, TypeError, OverflowError, MemoryError, RuntimeError),
    *(NotImplementedError, tokenize.TokenError, struct.error, zipfile.BadZipFile, zlib.error),
)
"""What a broken file may raise in numpy's header, in the zip container, or in a compressed stream."""
AGAIN = "write or download it again"

Stamp = tuple[int, int, int, int]


class _NoVideoError(ValueError):
    """An array that is whole but no video."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype) -> None:
        super().__init__(why_not(shape, dtype))
        self.aside = len(shape) < 3 and not dtype.hasobject
        """Numbers that nobody would take for pictures, as actions."""


@dataclass(frozen=True)
class _Stored:
    """Where the frames of an array lie."""

    form: Layout
    """Of one of its videos."""
    videos: int | None
    """How many videos; None: the array is one."""
    offset: int
    """Of the first byte of the pictures: in the file, or in the unpacked member."""
    fortran: bool
    """First index fastest: a frame's bytes are scattered over the array."""
    packed: bool = False
    """Compressed in a .npz."""

    @property
    def shape(self) -> tuple[int, ...]:
        """With axes of one for what is missing: neither order of storage minds them."""
        return self.videos or 1, self.form.frames, *self.form.frame

    @property
    def size(self) -> int:
        """Bytes of all pictures."""
        return math.prod(self.shape)


class Arrays:
    """Arrays of uint8 pictures, one video each, or several where there are five axes."""

    name: ClassVar[str] = "array"

    def claims(self, path: Path) -> bool:
        """By the suffix, so that a file which only has the name of an array is refused with a reason."""
        return is_file_named(path, SUFFIXES)

    def inspect(self, path: Path) -> Iterator[VideoInfo | Quarantined]:
        """Yield the videos of every array; members of a .npz are unpacked once to check them.

        Members of fewer than three axes, as actions, are passed by where there are videos beside them.

        Raises:
            UnreadableVideo: not an array, truncated, of another type than uint8, or not pictures.
            OSError: it is gone, or this user may not read it.
        """
        with open(path, "rb") as file:
            magic = file.read(6)
        if magic == b"\x93NUMPY":
            found: list[VideoInfo | Quarantined] = list(_videos(path, "", "", _located(path, "")))
        elif magic[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
            found = _members(path)
        else:
            kind = "a pickle, which is never loaded" if magic[:1] == b"\x80" else "not a NumPy file"
            raise unreadable(path, f"is {kind}; write it with numpy.save or numpy.savez, or remove it")
        digest = file_digest(path)
        return (replace(entry, digest=digest) if isinstance(entry, VideoInfo) else entry for entry in found)

    def read(self, video: VideoInfo, frames: np.ndarray) -> np.ndarray:
        """Return frames as uint8 ``(K, H, W, 3)``; see :class:`rsp_robot.videos.info.Format`."""
        wanted = checked_indices(frames, video.frames)
        member, item = str(video.detail.get("member", "")), int(video.detail.get("item", 0))
        with open(video.path, "rb") as file:
            stamp = _stamp(file)
            stored = _found_again(video.path, member, stamp)
            form = stored.form
            if (form.height, form.width) != (video.height, video.width):
                raise unreadable(video.name, "has changed since it was inspected; index the videos again")
            if form.frames < video.frames or item >= (stored.videos or 1):
                raise unreadable(video.name, "is shorter than when it was inspected; index the videos again")
            rows, where = np.unique(wanted, return_inverse=True)
            try:
                if stored.packed:
                    found = _unpacked(video.path, member, stamp, stored, item, rows)
                else:
                    found = _picked(file, stored, item, rows)
            except FileNotFoundError:
                raise
            except DAMAGE as error:
                raise unreadable(video.name, f"is truncated or damaged ({reason(error)}); {AGAIN}") from None
        return placed(form.to_rgb(found), where)


def _stamp(file: IO[bytes]) -> Stamp:
    status = os.fstat(file.fileno())
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


@lru_cache(maxsize=4096)
def _found_again(path: str, member: str, stamp: Stamp) -> _Stored:
    """Find an array; once for as long as its file stays as it is."""
    return _located(Path(path), member)


def _located(path: Path, member: str) -> _Stored:
    """Find an array, and check that all its bytes are there.

    Raises:
        UnreadableVideo: it is damaged, or no video.
        OSError: the file is gone.
    """
    name = f"{path}:{member.removesuffix('.npy')}" if member else str(path)
    try:
        if member:
            with zipfile.ZipFile(path) as archive:
                return _in_archive(archive, archive.getinfo(member))
        with open(path, "rb") as file:
            stored = _header(file)
            there = os.fstat(file.fileno()).st_size - stored.offset
            if there < stored.size:
                raise ValueError(f"{there} of {stored.size} bytes are there")
            return stored
    except _NoVideoError as error:
        raise unreadable(name, f"{error}") from None
    except (FileNotFoundError, PermissionError):
        raise
    except DAMAGE as error:
        raise unreadable(name, f"is truncated or damaged ({reason(error)}); {AGAIN}") from None


def _header(file: IO[bytes]) -> _Stored:
    """Read the header of the .npy that starts here; afterwards the file stands at its first picture.

    Raises:
        _NoVideoError: it holds something else.
        ValueError: it is damaged.
    """
    version = np.lib.format.read_magic(file)
    readers: dict[tuple[int, int], Callable[..., tuple[tuple[int, ...], bool, np.dtype]]] = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise ValueError(f"version {version[0]}.{version[1]}, which numpy writes for named fields only")
    shape, fortran, dtype = readers[version](file)
    several = len(shape) == 5 and shape[0] > 0
    form = layout(shape[1:] if several else shape, dtype)
    if form is None:
        raise _NoVideoError(shape, dtype)
    return _Stored(form, shape[0] if several else None, file.tell(), fortran)


def _in_archive(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> _Stored:
    """Find a member of a .npz: in the file if it is stored as it is, else in its unpacked bytes."""
    with archive.open(info) as unpacked:
        stored = _header(unpacked)
        if info.file_size - stored.offset < stored.size:
            raise ValueError(f"{info.file_size - stored.offset} of {stored.size} bytes are there")
    if info.compress_type != zipfile.ZIP_STORED:
        return replace(stored, packed=True)
    assert archive.fp is not None
    archive.fp.seek(info.header_offset)
    local = archive.fp.read(30)  # the local header may be longer than the directory says, so its own lengths count
    name, extra = struct.unpack("<HH", local[26:30])
    return replace(stored, offset=stored.offset + info.header_offset + 30 + name + extra)


def _members(path: Path) -> list[VideoInfo | Quarantined]:
    found: list[VideoInfo | Quarantined] = []
    aside: list[Quarantined] = []
    try:
        with zipfile.ZipFile(path) as archive:
            for member in dict.fromkeys(archive.namelist()):
                key = member.removesuffix(".npy")
                try:
                    stored = _in_archive(archive, archive.getinfo(member))
                    _drain(archive, member)
                    found += _videos(path, member, key, stored)
                except _NoVideoError as error:
                    (aside if error.aside else found).append(Quarantined(str(path), key, str(error)))
                except DAMAGE as error:
                    found.append(Quarantined(str(path), key, f"is truncated or damaged ({reason(error)}); {AGAIN}"))
    except (FileNotFoundError, PermissionError):
        raise
    except DAMAGE as error:
        raise unreadable(path, f"is truncated or damaged ({reason(error)}); {AGAIN}") from None
    if not any(isinstance(entry, VideoInfo) for entry in found):
        left_out = [entry for entry in (*found, *aside) if isinstance(entry, Quarantined)]
        why = f"; {left_out[0].key} {left_out[0].reason}" if left_out else "; it is empty"
        raise unreadable(path, f"holds no pictures that can be used{why}")
    return found


def _drain(archive: zipfile.ZipFile, member: str) -> None:
    """Unpack a member to nowhere: at its end its checksum is compared."""
    with archive.open(member) as unpacked:
        while unpacked.read(BLOCK):
            pass


def _videos(path: Path, member: str, key: str, stored: _Stored) -> Iterator[VideoInfo]:
    for item in range(stored.videos or 1):
        parts = [key] if key else []
        parts += [] if stored.videos is None else [str(item)]
        yield VideoInfo(
            format=Arrays.name,
            path=str(path),
            key="/".join(parts),
            frames=stored.form.frames,
            height=stored.form.height,
            width=stored.form.width,
            detail={"member": member, "item": item},
        )


def _picked(file: IO[bytes], stored: _Stored, item: int, rows: np.ndarray) -> np.ndarray:
    """Read frames from where they lie, uint8 ``(K, ...)``; rows are increasing."""
    form = stored.form
    if stored.fortran:
        return np.array(np.memmap(file, np.uint8, "r", stored.offset, stored.shape, "F")[item][rows])
    found = np.empty((len(rows), *form.frame), np.uint8)
    for place, row in enumerate(rows):
        file.seek(stored.offset + (item * form.frames + int(row)) * form.frame_bytes)
        _fill(file, found[place])
    return found


def _fill(file: IO[bytes], frame: np.ndarray) -> None:
    data = file.read(frame.nbytes)
    if len(data) < frame.nbytes:
        raise EOFError("it ends early")
    frame[...] = np.frombuffer(data, np.uint8).reshape(frame.shape)


class _Decoded:
    """Unpacked members, the least recently used forgotten first. Only used under the lock."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._kept: OrderedDict[tuple[str, str, Stamp], bytes] = OrderedDict()

    def get(self, path: str, member: str, stamp: Stamp) -> bytes:
        """Return the bytes of a member, unpacked now or before."""
        key = path, member, stamp
        if key not in self._kept:
            with zipfile.ZipFile(path) as archive:
                size = archive.getinfo(member).file_size
                while self._kept and size + sum(map(len, self._kept.values())) > self.limit:
                    self._kept.popitem(last=False)
                self._kept[key] = archive.read(member)
        self._kept.move_to_end(key)
        return self._kept[key]


_LOCK = forkable_lock()
_DECODED = _Decoded(DECODED_BYTES)


def _unpacked(path: str, member: str, stamp: Stamp, stored: _Stored, item: int, rows: np.ndarray) -> np.ndarray:
    """Read frames of a compressed member, uint8 ``(K, ...)``; one too large to keep only up to the last of them."""
    if stored.offset + stored.size > _DECODED.limit and not stored.fortran:
        with zipfile.ZipFile(path) as archive, archive.open(member) as stream:
            return _picked(stream, stored, item, rows)
    with _LOCK:
        data = _DECODED.get(path, member, stamp)
    flat = np.frombuffer(data, np.uint8, stored.size, stored.offset)
    return flat.reshape(stored.shape, order="F" if stored.fortran else "C")[item][rows]
