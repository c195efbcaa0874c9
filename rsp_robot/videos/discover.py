"""Find everything that holds videos below a folder."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from rsp_robot.videos.formats import format_of
from rsp_robot.videos.info import Format


class Found(NamedTuple):
    """A file or folder that holds one video or more."""

    path: Path
    format: Format


def discover(root: Path) -> Iterator[Found]:
    """Walk a folder tree in the order of names, or look at a single file.

    A data set (LeRobot, Minari, a frame store) is one thing found; what lies below it belongs to it. Names that begin
    with a dot are passed over, and no folder is entered twice, however it is linked.
    """
    yield from _walk(root, set())


def _walk(path: Path, seen: set[tuple[int, int]]) -> Iterator[Found]:
    if path.is_dir():
        stat = path.stat()
        if (stat.st_dev, stat.st_ino) in seen:
            return
        seen.add((stat.st_dev, stat.st_ino))
    claimed = format_of(path)
    if claimed is not None:
        yield Found(path, claimed)
    if path.is_dir() and (claimed is None or claimed.name == "images"):
        for name in sorted(os.listdir(path)):
            if not name.startswith("."):
                yield from _walk(path / name, seen)


def signature(path: Path) -> str:
    """Return what changes when a file, or any file below a folder, is written, added or removed: sizes and times."""
    if not path.is_dir():
        return _signature_of_file(path)
    digest = hashlib.blake2b(digest_size=16)
    for folder, folders, files in os.walk(path):
        folders.sort()
        for name in sorted(files):
            full = Path(folder, name)
            digest.update(os.fsencode(f"{full.relative_to(path)} {_signature_of_file(full)}\n"))
    return digest.hexdigest()


def _signature_of_file(path: Path) -> str:
    stat = path.stat()
    return f"{stat.st_size}-{stat.st_mtime_ns}"
