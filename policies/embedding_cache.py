"""The cache of embeddings: one folder per entry, resumable, bounded in size, safe among processes.

Whoever makes an entry locks it alone; whoever reads it shares the lock for as long as its memory map lives, so that an
entry in use is never cleared away. Deleting the whole folder loses nothing but time.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rsp_robot.cache import cache_folder
from rsp_robot.errors import UserError
from rsp_robot.files import write_json
from rsp_robot.policies.embedding_entry import (
    ABOUT,
    ARRAY,
    Identity,
    describe,
    now,
    open_array,
    read_about,
    write_missing,
)
from rsp_robot.policies.file_lock import FileLock, alone, lock, remove_folder, try_lock

DEFAULT_LIMIT_GB = 20.0
LOCK = "lock"


@dataclass(frozen=True)
class CacheEntry:
    """One entry as it is found on the disk."""

    folder: Path
    """Its place; the name is the key."""
    bytes: int
    """What its files take."""
    made: float
    """When it was begun, seconds since 1970."""
    last_used: float
    """When it was last opened or written to, seconds since 1970."""
    encoder: str = ""
    """Fingerprint; empty, like what follows, where ``about.json`` is damaged."""
    source: str = ""
    """What the encoder was loaded from, where that is known."""
    data: str = ""
    """Name of the demonstration file."""
    camera: str = ""
    """Whose pictures."""
    frames: int = 0
    """How many there are to be."""
    frames_done: int = 0
    """How many there are; fewer where the work was cut short, or is going on."""
    dtype: str = ""
    """float32 or float16."""


class Cleared(NamedTuple):
    """What was removed."""

    entries: int
    bytes: int
    in_use: int
    """Entries that were to go but are in use."""


def limit_from_environment() -> int:
    """Return the bytes that ``$RSP_ROBOT_CACHE_GB`` allows, 20 GB by default.

    Raises:
        UserError: it is no number, or a negative one.
    """
    given = os.environ.get("RSP_ROBOT_CACHE_GB") or str(DEFAULT_LIMIT_GB)
    try:
        limit = float(given)
    except ValueError:
        limit = -1.0
    if not 0 <= limit < float("inf"):
        raise UserError(f"RSP_ROBOT_CACHE_GB is {given!r}; give a number of gigabytes, such as {DEFAULT_LIMIT_GB:g}")
    return int(limit * 1e9)


class EmbeddingCache:
    """Embeddings on disk, addressed by what they depend on; the least recently used go when there are too many.

    Attributes:
        folder: where the entries are.
        limit_bytes: bytes that they may take together.
    """

    def __init__(self, folder: str | os.PathLike[str], limit_bytes: int | None = None) -> None:
        """Use a folder, which need not exist yet and belongs to the cache alone.

        Args:
            folder: where the entries are.
            limit_bytes: bytes that they may take together; what ``$RSP_ROBOT_CACHE_GB`` says by default.
        """
        self.folder = Path(folder)
        self.limit_bytes = limit_from_environment() if limit_bytes is None else limit_bytes

    @classmethod
    def default(cls) -> EmbeddingCache:
        """Return the user's own: ``embeddings`` in :func:`~rsp_robot.cache.cache_folder`."""
        return cls(cache_folder() / "embeddings")

    def fetch(
        self, identity: Identity, encode: Callable[[int], Iterable[np.ndarray]], *, source: str = "", data: str = ""
    ) -> np.ndarray:
        """Return an entry; what is missing of it is computed first.

        A second process that wants the same entry waits for the first one, and goes on in its place should it die.

        Args:
            identity: which embeddings.
            encode: called with the first row that is missing; yields the rows from there on, in order.
            source: what the encoder was loaded from, for people.
            data: name of the demonstration file, for people.

        Returns:
            a read-only memory map of the identity's shape and dtype.

        Raises:
            UserError: ``encode`` refused; nothing is kept of the entry then.
        """
        folder = self.folder / identity.key
        waiting = f"another process is encoding {data or 'the same pictures'}; waiting for it"
        while True:
            with lock(folder / LOCK, exclusive=False, say=waiting) as held:
                about = read_about(folder, identity)
                if about is None and (folder / ARRAY).exists():
                    self._discard(folder, held)  # not below: somebody may have it mapped, and shares the lock
                elif about is not None and about["frames_done"] == identity.shape[0]:
                    array = self._open(folder, identity, held)
                    if array is not None:
                        return array
                    self._discard(folder, held)
            with lock(folder / LOCK, exclusive=True, say=waiting) as held:
                about = read_about(folder, identity)
                if about is not None and about["frames_done"] == identity.shape[0]:
                    continue  # another process was quicker
                self._make_room(identity)
                try:
                    write_missing(folder, identity, about or describe(identity, source, data), encode)
                except UserError:
                    self._discard(folder, held)
                    raise
                held.share()
                array = self._open(folder, identity, held)
                if array is not None:
                    return array
                self._discard(folder, held)
                raise OSError(errno.EIO, "embeddings cannot be read back as they were written", str(folder))

    def entries(self) -> list[CacheEntry]:
        """Return what there is, the least recently used first."""
        if not self.folder.is_dir():
            return []
        folders = [path for path in self.folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
        found = [entry for entry in map(_read_entry, folders) if entry is not None]
        return sorted(found, key=lambda entry: entry.last_used)

    def clear(self, entries: Sequence[CacheEntry] | None = None) -> Cleared:
        """Remove entries, all by default, but for those in use."""
        chosen = self.entries() if entries is None else entries
        gone = [entry for entry in chosen if self._remove(entry)]
        self._sweep()
        return Cleared(len(gone), sum(entry.bytes for entry in gone), len(chosen) - len(gone))

    def _open(self, folder: Path, identity: Identity, held: FileLock) -> np.ndarray | None:
        """Map a finished entry and hold its lock for as long as that lasts; None where it is damaged."""
        about = read_about(folder, identity)
        array = None if about is None else open_array(folder, identity, about)
        if about is None or array is None:
            return None
        with suppress(OSError):  # a cache that one may only read serves as well
            write_json(folder / ABOUT, about | {"last_used": now()})
        held.hold_for(array._mmap)  # type: ignore[attr-defined]  # outlives the array in views of it
        return array

    def _make_room(self, identity: Identity) -> None:
        """Remove the least recently used entries until a new one fits, as far as they are not in use."""
        if identity.bytes > self.limit_bytes:
            print(
                f"these embeddings take {identity.bytes / 1e9:.3g} GB and the cache may hold "
                f"{self.limit_bytes / 1e9:.3g} GB; they are kept all the same, $RSP_ROBOT_CACHE_GB sets the limit",
                file=sys.stderr,
            )
        self._sweep()
        others = [entry for entry in self.entries() if entry.folder.name != identity.key]
        total = identity.bytes + sum(entry.bytes for entry in others)
        for entry in others:
            if total > self.limit_bytes and self._remove(entry):
                total -= entry.bytes

    def _remove(self, entry: CacheEntry) -> bool:
        """Remove an entry unless it is in use."""
        with alone(self.folder / ".lock"):
            held = try_lock(entry.folder / LOCK)
            if held is None:
                return False
            with held:
                remove_folder(entry.folder)
        return True

    def _sweep(self) -> None:
        """Remove what a process was about to remove when it was killed."""
        if self.folder.is_dir():
            with alone(self.folder / ".lock"):
                for left in self.folder.glob(".*.removed"):
                    shutil.rmtree(left, ignore_errors=True)

    def _discard(self, folder: Path, held: FileLock) -> None:
        """Remove a damaged entry, unless another process has done so; those who have it mapped keep what they have."""
        with alone(self.folder / ".lock"):
            if held.valid:
                remove_folder(folder)


def _read_entry(folder: Path) -> CacheEntry | None:
    try:
        size = sum(path.stat().st_size for path in folder.iterdir())
        changed = folder.stat().st_mtime
    except OSError:  # removed that moment
        return None
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        return CacheEntry(
            folder,
            size,
            made=datetime.fromisoformat(about["made"]).timestamp(),
            last_used=datetime.fromisoformat(about["last_used"]).timestamp(),
            encoder=str(about["encoder"]["fingerprint"]),
            source=str(about["encoder"]["source"]),
            data=str(about["data"]),
            camera=str(about["camera"]),
            frames=int(about["frames"]),
            frames_done=int(about["frames_done"]),
            dtype=str(about["dtype"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return CacheEntry(folder, size, changed, changed)
