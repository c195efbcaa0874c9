"""Locks among processes: ``flock`` on a file in the folder that it guards. The kernel drops those of a dead process."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import sys
import uuid
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}
"""Some network file systems have no locks: there, everybody gets on without."""


class FileLock:
    """A lock that is held until the ``with`` block ends, or, once handed over, until an object is gone."""

    def __init__(self, file: int, path: Path) -> None:
        self._file: int | None = file
        self._path = path

    @property
    def valid(self) -> bool:
        """Whether the file locked is still the one of that name: the folder may have been removed and made again."""
        assert self._file is not None
        try:
            return os.path.samestat(os.fstat(self._file), os.stat(self._path))
        except FileNotFoundError:
            return False

    def share(self) -> None:
        """Let others share the lock from now on."""
        assert self._file is not None
        _flock(self._file, fcntl.LOCK_SH)

    def hold_for(self, owner: object) -> None:
        """Hold the lock until ``owner`` is garbage, and no longer than the process lives."""
        assert self._file is not None
        weakref.finalize(owner, os.close, self._file)
        self._file = None

    def __enter__(self) -> FileLock:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def lock(path: Path, exclusive: bool, say: str = "") -> FileLock:
    """Lock a file, which is made together with its folder if need be; wait for as long as another holds it.

    Args:
        path: the file; only its identity matters.
        exclusive: alone, or shared with others that share it.
        say: printed to stderr before waiting, if one has to.
    """
    kind = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = os.open(path, os.O_RDONLY | os.O_CREAT, 0o666)
        except FileNotFoundError:  # the folder was removed that moment
            continue
        held = FileLock(file, path)
        try:
            if not _flock(file, kind | fcntl.LOCK_NB):
                if say:
                    print(say, file=sys.stderr, flush=True)
                    say = ""
                _flock(file, kind)
            if held.valid:
                return held
        except BaseException:
            os.close(file)
            raise
        os.close(file)


def try_lock(path: Path) -> FileLock | None:
    """Lock a file alone; None where another has it in any way, or where its folder is gone."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CREAT, 0o666)
    except FileNotFoundError:
        return None
    held = FileLock(file, path)
    if _flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB) and held.valid:
        return held
    os.close(file)
    return None


def remove_folder(folder: Path) -> None:
    """Remove a folder at once for everybody else: it steps aside under a hidden name, then goes."""
    aside = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.removed")
    os.replace(folder, aside)
    shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Be the only one within such a block for ``path``."""
    with lock(path, exclusive=True):
        yield


def _flock(file: int, kind: int) -> bool:
    """Return False where the lock is not to be had at once and one did not want to wait."""
    try:
        fcntl.flock(file, kind)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
    return True
