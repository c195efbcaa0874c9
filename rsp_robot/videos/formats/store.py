"""The frame store that ``rsp-robot pack`` writes: decoded frames at training size, read without decoding.

A folder of ``frames-<height>x<width>.bin`` (raw uint8 frames of one size, one after the other), ``videos.jsonl`` (one
row for each video: where its frames lie, what it was, its hash) and ``store.json``, written last.

Frames are read with ``pread``, not through a memory map: with cold files that is ten times as fast for single frames,
and a file that was cut short is an error instead of a crash of the process.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar

import numpy as np

from rsp_robot.errors import UserError
from rsp_robot.files import read_json, read_jsonl
from rsp_robot.videos.info import Quarantined, UnreadableVideo, VideoInfo, checked_indices

VERSION = 1
STORE_FILE, UNFINISHED_FILE, VIDEOS_FILE, QUARANTINE_FILE = (
    "store.json",
    "unfinished.json",
    "videos.jsonl",
    "quarantine.txt",
)
VERIFY_BYTES = 16 * 2**20


def shard_name(height: int, width: int) -> str:
    """File of the frames of one size."""
    return f"frames-{height}x{width}.bin"


def pixel_hash() -> hashlib.blake2b:
    """Return the hash that takes in a video's pixels, frame after frame."""
    return hashlib.blake2b(digest_size=16)


class ShardFile:
    """Frames of one size in a file, open for reading; serves several threads at once."""

    def __init__(self, path: Path, height: int, width: int, frames: int) -> None:
        """Open the file.

        Raises:
            UnreadableVideo: it does not hold ``frames`` frames of this size.
            OSError: it is gone.
        """
        self.path, self.height, self.width, self.frames = path, height, width, frames
        self.frame_bytes = height * width * 3
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        size = os.fstat(self._descriptor).st_size
        if size != frames * self.frame_bytes:
            self.close()
            raise _wrong_size(path, size, frames * self.frame_bytes)

    def read(self, places: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Return the frames at these places of the file: int64 ``(K,)`` -> uint8 ``(K, H, W, 3)``.

        Args:
            places: in ``[0, frames)``, in any order.
            out: uint8, contiguous, as many bytes as the result: where to put it.

        Raises:
            UnreadableVideo: the file was cut short meanwhile.
        """
        result = np.empty((len(places), self.height, self.width, 3), np.uint8) if out is None else out
        assert (
            result.dtype == np.uint8 and result.flags.c_contiguous and result.nbytes == len(places) * self.frame_bytes
        )
        buffer = result.reshape(-1).data
        # Neighbours in one read; a whole video is one.
        cuts = np.flatnonzero(np.diff(places) != 1) + 1
        bounds = [0, *cuts.tolist(), len(places)] if len(places) else [0]
        runs = [
            (int(places[a]) * self.frame_bytes, a * self.frame_bytes, b * self.frame_bytes) for a, b in pairwise(bounds)
        ]
        if len(runs) > 1 and hasattr(os, "posix_fadvise"):
            # The disk fetches all of them at once while the first is copied.
            for offset, start, stop in runs:
                os.posix_fadvise(self._descriptor, offset, stop - start, os.POSIX_FADV_WILLNEED)
        for offset, start, stop in runs:
            self._fill(buffer[start:stop], offset)
        return result

    def _fill(self, buffer: memoryview, offset: int) -> None:
        done = 0
        while done < len(buffer):  # one call moves at most 2 GiB
            got = os.preadv(self._descriptor, [buffer[done:]], offset + done)
            if not got:
                raise _wrong_size(self.path, os.fstat(self._descriptor).st_size, self.frames * self.frame_bytes)
            done += got

    def close(self) -> None:
        """Close the file; twice is once."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1

    def __enter__(self) -> ShardFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_descriptor", -1) >= 0:
            self.close()


def _wrong_size(path: Path, size: int, expected: int) -> UnreadableVideo:
    return UnreadableVideo(
        f"{path} has {size} bytes where its store has {expected}; delete the store and pack the videos again"
    )


class Store:
    """Frame stores written by ``rsp-robot pack``."""

    name: ClassVar[str] = "store"

    def claims(self, path: Path) -> bool:
        """Whether it is a folder that ``pack`` wrote, or began to."""
        if not (path / VIDEOS_FILE).is_file():
            return False
        return (path / STORE_FILE).is_file() or (path / UNFINISHED_FILE).is_file()

    def inspect(self, path: Path) -> Iterator[VideoInfo | Quarantined]:
        """Yield the videos in it, without reading a frame.

        Raises:
            UnreadableVideo: it is unfinished, of another version, or not whole.
        """
        header, rows = read_store(path)
        for name, frames in header["shards"].items():
            _open_shard(path, name, frames).close()
        for place, row in enumerate(rows):
            yield _info(path, place, row, header["shards"][row["shard"]])

    def read(self, video: VideoInfo, frames: np.ndarray) -> np.ndarray:
        """Return frames: int ``(K,)`` -> uint8 ``(K, H, W, 3)``.

        Raises:
            UnreadableVideo: the file they lie in changed.
            OSError: it is gone.
        """
        wanted = checked_indices(frames, video.frames)
        with open_shard(video) as shard:
            return shard.read(wanted + video.detail["first"])


def open_shard(video: VideoInfo) -> ShardFile:
    """Open the file that a packed video lies in; its first frame there is ``video.detail["first"]``.

    Raises:
        UnreadableVideo: it changed since it was inspected.
        OSError: it is gone.
    """
    path = Path(video.path) / video.detail["shard"]
    return ShardFile(path, video.height, video.width, video.detail["shard_frames"])


def verify(path: Path) -> list[Quarantined]:
    """Compute the hash of every packed video again; return those whose frames are not what was packed.

    Raises:
        UnreadableVideo: the store is unfinished, or its files do not fit together.
    """
    bad = []
    for video in Store().inspect(path):
        assert isinstance(video, VideoInfo)
        digest, step = pixel_hash(), max(1, VERIFY_BYTES // (video.height * video.width * 3))
        with open_shard(video) as shard:
            for start in range(0, video.frames, step):
                places = np.arange(start, min(start + step, video.frames)) + video.detail["first"]
                digest.update(shard.read(places).data)
        if digest.hexdigest() != video.digest:
            reason = f"its frames are not those packed from {video.detail['origin']}; delete the store and pack again"
            bad.append(Quarantined(video.path, video.key, reason))
    return bad


def read_store(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Read ``store.json`` and the rows of ``videos.jsonl``, and check that they agree.

    Raises:
        UnreadableVideo: they do not, or one is missing.
    """
    if not (path / STORE_FILE).is_file():
        raise UnreadableVideo(f"{path} is not finished; run the same rsp-robot pack again, it continues")
    try:
        header, rows = read_json(path / STORE_FILE), read_jsonl(path / VIDEOS_FILE)
        if header["version"] > VERSION:
            raise UnreadableVideo(f"{path} is of a newer version ({header['version']}); update rsp-robot")
        whole = len(rows) == header["videos"] and all(_fits(row, header["shards"]) for row in rows)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from None
    except UserError as error:
        raise error if isinstance(error, UnreadableVideo) else _damaged(path, str(error)) from None
    if not whole:
        raise _damaged(path, f"{VIDEOS_FILE} is not what {STORE_FILE} says")
    return header, rows


def _fits(row: dict[str, Any], shards: dict[str, int]) -> bool:
    """Whether a row names frames that its shard has; a shard is nothing but a name in the folder itself."""
    last = row["first"] + row["frames"]
    return (
        row["shard"] == shard_name(row["height"], row["width"])
        and row["frames"] >= 1
        and 0 <= row["first"] < last <= shards[row["shard"]]
        and all(isinstance(row[name], str) for name in ("camera", "task", "episode", "digest", "origin"))
        and isinstance(row["fps"], int | float)
    )


def _damaged(path: Path, what: str) -> UnreadableVideo:
    return UnreadableVideo(f"the frame store {path} is damaged ({what}); delete it and pack the videos again")


def _open_shard(folder: Path, name: str, frames: int) -> ShardFile:
    try:
        height, width = (int(number) for number in name.removeprefix("frames-").removesuffix(".bin").split("x"))
    except ValueError:
        raise _damaged(folder, f"{name} in {STORE_FILE}") from None
    try:
        return ShardFile(folder / shard_name(height, width), height, width, frames)
    except FileNotFoundError:
        raise _damaged(folder, f"{name} is missing") from None


def _info(folder: Path, place: int, row: dict[str, Any], shard_frames: int) -> VideoInfo:
    return VideoInfo(
        format=Store.name,
        path=str(folder),
        key=f"{place:06d}",
        frames=row["frames"],
        height=row["height"],
        width=row["width"],
        fps=row["fps"],
        camera=row["camera"],
        task=row["task"],
        episode=row["episode"],
        digest=row["digest"],
        detail={
            "shard": row["shard"],
            "first": row["first"],
            "shard_frames": shard_frames,
            "origin": row["origin"],
        },
    )
