"""Decode videos once, into a frame store: resumable, hashed, the same bytes whatever the number of workers.

Every video has its place in a file from the start, so threads finish in any order and a kill costs only the videos that
were being decoded: their rows are missing from ``videos.jsonl``, and the same command decodes them again.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np

from rsp_robot.errors import UserError
from rsp_robot.files import read_json, write_json
from rsp_robot.machine import available_cores
from rsp_robot.progress import Progress
from rsp_robot.videos.formats.store import (
    QUARANTINE_FILE,
    STORE_FILE,
    UNFINISHED_FILE,
    VERSION,
    VIDEOS_FILE,
    Store,
    pixel_hash,
)
from rsp_robot.videos.info import Quarantined, UnreadableVideo, VideoInfo
from rsp_robot.videos.layout import Place, as_line, fingerprint, layout, make_row, surviving_rows, write_rows
from rsp_robot.videos.sizes import reduced_pieces
from rsp_robot.videos.source import Videos, write_quarantine

COMMIT_EVERY_S = 1.0
"""Rows of finished videos wait this long for others: not each of thousands of short ones waits for the disk alone."""
BLANK_BYTES = 8 * 2**20


@dataclass(frozen=True)
class Packed:
    """A finished frame store."""

    path: Path
    """Its folder."""
    videos: int
    """Videos in it."""
    frames: int
    """Frames of all of them."""
    bytes: int
    """Size of its frames."""
    quarantined: int
    """Videos left out; ``quarantine.txt`` in the folder says why."""


def pack_videos(
    source: Videos,
    out: str | os.PathLike[str],
    short_side: int = 256,
    *,
    spec: str = "",
    workers: int | None = None,
    strict: bool = False,
    quiet: bool = False,
) -> Packed:
    """Write the frames of all videos into a frame store; continue one that was interrupted.

    A video that cannot be read is left out and listed in ``quarantine.txt``.

    Args:
        source: the videos.
        out: folder of the store.
        short_side: frames are reduced to it, in pixels, never enlarged.
        spec: what the source was opened by, for the record.
        workers: threads that decode; as many as there are cores by default.
        strict: stop at the first video that cannot be read.
        quiet: show no progress.

    Raises:
        UserError: the folder holds something else or is in use, the disk is too small, nothing can be read, or, if
            ``strict``, something cannot.
    """
    folder = Path(out)
    if not source.videos:
        raise UserError("there are no videos to pack; check --data")
    places, shards = layout(source.videos, short_side)
    header = {
        "version": VERSION,
        "short_side": short_side,
        "source": os.fsencode(spec).decode("utf-8", "replace"),
        "fingerprint": fingerprint(source.videos),
        "shards": shards,
    }
    folder.mkdir(parents=True, exist_ok=True)
    with _alone_in(folder):
        if _is_finished(folder, header):
            return _finished(folder)
        packing = _Packing(source, folder, short_side, places, shards)
        packing.check_space()
        try:
            packing.begin(header)
            failed = packing.run(workers or available_cores(), strict, quiet)
            return _finish(folder, header, packing.rows, [*source.quarantined, *failed])
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise UserError(
                f"no space left on the disk of {folder}; free some and run the same command again"
            ) from None


class _Packing:
    """The work of one call of :func:`pack_videos`."""

    def __init__(
        self, source: Videos, folder: Path, short_side: int, places: list[Place], shards: dict[str, int]
    ) -> None:
        self.source, self.folder, self.short_side, self.places = source, folder, short_side, places
        self.sizes = {place.shard: shards[place.shard] * place.frame_bytes for place in places}
        self.rows = surviving_rows(folder, self.sizes)
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._waiting: list[dict[str, Any]] = []
        self._committed = time.monotonic()

    @property
    def missing(self) -> list[int]:
        """Videos that are still to be packed."""
        return [video for video in range(len(self.places)) if video not in self.rows]

    def check_space(self) -> None:
        """Refuse to begin what cannot end.

        Raises:
            UserError: the frames to come need more than is free.
        """
        needed = sum(self.source.videos[video].frames * self.places[video].frame_bytes for video in self.missing)
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise UserError(
                f"the frames need {needed / 1e9:.3g} GB, the disk of {self.folder} has {free / 1e9:.3g} GB free; "
                "free some, lower --short-side, or give another --out"
            )

    def begin(self, header: dict[str, Any]) -> None:
        """Make the folder an unfinished store: as large as it will be, with the rows that are done."""
        write_json(self.folder / UNFINISHED_FILE, header)
        write_rows(self.folder, self.rows)  # closes a line that a kill cut, forgets rows whose frames are gone
        for name, size in self.sizes.items():
            with _opened(self.folder / name, os.O_CREAT) as file:
                os.ftruncate(file, size)

    def run(self, workers: int, strict: bool, quiet: bool) -> list[Quarantined]:
        """Pack what is missing; return what could not be read."""
        missing, failed = self.missing, list[Quarantined]()
        total = sum(video.frames for video in self.source.videos)
        done = total - sum(self.source.videos[video].frames for video in missing)
        with Progress("pack", total, "frames", done, quiet) as bar, ThreadPoolExecutor(workers, "pack") as pool:
            started = time.monotonic()

            def advance(frames: int) -> None:
                with self._lock:
                    rate = (bar.done + frames - done) / max(time.monotonic() - started, 1e-3)
                    bar.update(frames, **{"frames/s": rate})

            finished: SimpleQueue[Future[dict[str, Any] | Quarantined | None]] = SimpleQueue()
            try:
                for video in missing:
                    pool.submit(self._pack, video, advance).add_done_callback(finished.put)
                left = len(missing)
                while left:
                    try:
                        result = finished.get(timeout=COMMIT_EVERY_S).result()
                    except Empty:
                        self._commit()
                        continue
                    left -= 1
                    if isinstance(result, Quarantined):
                        failed.append(result)
                        bar.say(f"left out {result.name}: {result.reason}")
                        if strict:
                            raise UnreadableVideo(f"{result.name}: {result.reason}; mend it, or leave out --strict")
                    elif result is not None:
                        self._keep(result)
            except BaseException:
                self._stop.set()
                pool.shutdown(wait=True, cancel_futures=True)
                raise
            finally:
                self._commit()
        order = {video.name: place for place, video in enumerate(self.source.videos)}
        return sorted(failed, key=lambda row: order[row.name])

    def _pack(self, video: int, advance: Callable[[int], None]) -> dict[str, Any] | Quarantined | None:
        """Decode one video to its place; return its row, or why there is none (None: told to stop)."""
        info, place = self.source.videos[video], self.places[video]
        start, digest, done = place.first * place.frame_bytes, pixel_hash(), 0
        pieces = reduced_pieces(lambda frames: self.source.read(video, frames), info, self.short_side)
        # A file of its own for every thread: videos of a thousand sizes would need more than may be open at once.
        with _opened(self.folder / place.shard) as file:
            while not self._stop.is_set():
                try:
                    piece = next(pieces, None)
                except (UserError, OSError) as error:
                    _blank(file, start, info.frames * place.frame_bytes)
                    advance(info.frames - done)
                    return Quarantined(info.path, info.key, _why(error))
                if piece is None:
                    return make_row(video, info, place, digest.hexdigest())
                digest.update(piece.data)
                _write(file, piece.reshape(-1), start + done * place.frame_bytes)
                done += len(piece)
                advance(len(piece))
        return None

    def _keep(self, row: dict[str, Any]) -> None:
        self.rows[row["video"]] = row
        self._waiting.append(row)
        if time.monotonic() - self._committed > COMMIT_EVERY_S:
            self._commit()

    def _commit(self) -> None:
        """Make the rows of finished videos last: their frames reach the disk first."""
        waiting, self._waiting = self._waiting, []
        for name in {row["shard"] for row in waiting}:
            _sync(self.folder / name)
        if waiting:
            with open(self.folder / VIDEOS_FILE, "ab") as file:
                file.write("".join(map(as_line, waiting)).encode())
                file.flush()
                os.fsync(file.fileno())
        self._committed = time.monotonic()


def _is_finished(folder: Path, header: dict[str, Any]) -> bool:
    """Whether the store is there already.

    Raises:
        UserError: the folder holds another store, or something else.
    """
    kept = next((folder / name for name in (STORE_FILE, UNFINISHED_FILE) if (folder / name).is_file()), None)
    if kept is None:
        if any(not path.name.startswith(".") for path in folder.iterdir()):
            raise UserError(f"{folder} is not empty and no frame store; give a new folder")
        return False
    before = read_json(kept)
    for key, what in (
        ("version", "by another version of rsp-robot"),
        ("short_side", "with another --short-side"),
        ("fingerprint", "from other videos, or they changed since"),
    ):
        if not isinstance(before, dict) or before.get(key) != header[key]:
            raise UserError(f"{folder} was packed {what}; give another --out, or delete it")
    return kept.name == STORE_FILE


def _finish(
    folder: Path, header: dict[str, Any], rows: dict[int, dict[str, Any]], left_out: list[Quarantined]
) -> Packed:
    """Write what makes a store of the frames."""
    if not rows:
        raise UserError(f"none of the videos could be packed: {left_out[-1].name}: {left_out[-1].reason}")
    write_rows(folder, rows)
    for name in header["shards"]:
        _sync(folder / name)
    (folder / QUARANTINE_FILE).unlink(missing_ok=True)
    if left_out:
        write_quarantine(folder / QUARANTINE_FILE, left_out)
    for path in folder.glob(".*.tmp"):  # what a kill left of an atomic write
        path.unlink()
    counts = {"videos": len(rows), "frames": sum(row["frames"] for row in rows.values()), "quarantined": len(left_out)}
    write_json(folder / STORE_FILE, header | counts)
    return _finished(folder)


def _finished(folder: Path) -> Packed:
    videos = [video for video in Store().inspect(folder) if isinstance(video, VideoInfo)]
    (folder / UNFINISHED_FILE).unlink(missing_ok=True)
    quarantined = read_json(folder / STORE_FILE)["quarantined"]
    return Packed(folder, len(videos), sum(v.frames for v in videos), sum(v.bytes for v in videos), quarantined)


@contextmanager
def _opened(path: Path, flags: int = 0) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | flags, 0o666)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _sync(path: Path) -> None:
    with _opened(path) as file:
        os.fsync(file)


def _write(file: int, data: np.ndarray, offset: int) -> None:
    view, done = data.data, 0
    while done < len(view):  # one call moves at most 2 GiB
        done += os.pwrite(file, view[done:], offset + done)


def _blank(file: int, offset: int, size: int) -> None:
    """Set bytes to zero that are not, so that a video that failed half-way leaves no trace."""
    for start in range(offset, offset + size, BLANK_BYTES):
        count = min(BLANK_BYTES, offset + size - start)
        if os.pread(file, count, start).count(0) < count:
            os.pwrite(file, bytes(count), start)


def _why(error: Exception) -> str:
    reason = f"{error.strerror or error}" if isinstance(error, OSError) else str(error)
    return " ".join(reason.split())


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Hold a lock on the folder; it ends with the process, however that ends.

    Raises:
        UserError: another process holds it.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another process is packing into {folder}; wait for it or give another --out") from None
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(descriptor)
