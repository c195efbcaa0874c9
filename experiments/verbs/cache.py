"""``rsp-robot cache``: what is kept to save time, how much room it takes, and making room."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from rsp_robot.cache import cache_folder
from rsp_robot.errors import UserError
from rsp_robot.policies.embedding_cache import CacheEntry, EmbeddingCache

DAY_S = 86400.0


@dataclass(frozen=True)
class CacheCommand:
    """What to show, and whether to remove it."""

    clear: bool = False
    """Remove what would be shown, but for what is in use; it is made again when it is needed."""
    older_than_days: float | None = None
    """Only what was last used longer ago."""
    encoder: tuple[str, ...] = ()
    """Only embeddings by encoders of these fingerprints, or beginnings of them."""


@dataclass(frozen=True)
class IndexFile:
    """What was found out about the videos of one place."""

    path: Path
    bytes: int
    last_used: float
    """When it was written last, seconds since 1970."""


def show_cache(command: CacheCommand) -> int:
    """Print what is in the cache, or remove it and say how much was freed; return 0.

    Raises:
        UserError: the age is negative, or there are no embeddings of such an encoder.
    """
    cache, now = EmbeddingCache.default(), time.time()
    entries, indexes = select(cache.entries(), command, now), []
    if not command.encoder:
        oldest = _oldest(command, now)
        indexes = [index for index in find_indexes(cache_folder() / "index") if index.last_used <= oldest]
    if command.clear:
        clear(cache, entries, indexes)
    else:
        print_cache(cache, entries, indexes, now, Console())
    return 0


def select(entries: Sequence[CacheEntry], command: CacheCommand, now: float) -> list[CacheEntry]:
    """Return the entries that the command is about.

    Raises:
        UserError: the age is negative, or there are none of such an encoder.
    """
    if command.older_than_days is not None and not command.older_than_days >= 0:
        raise UserError(f"--older-than-days is {command.older_than_days:g}; give 0 or more")
    known = sorted({entry.encoder for entry in entries if entry.encoder})
    for wanted in command.encoder:
        if not any(fingerprint.startswith(wanted) for fingerprint in known):
            there = f"there are: {', '.join(known)}" if known else "there are none of any"
            raise UserError(f"the cache holds no embeddings of encoder {wanted!r}; {there}")
    chosen = [entry for entry in entries if not command.encoder or entry.encoder.startswith(command.encoder)]
    return [entry for entry in chosen if entry.last_used <= _oldest(command, now)]


def _oldest(command: CacheCommand, now: float) -> float:
    """Return the time before which something was last used to be meant."""
    return now if command.older_than_days is None else now - DAY_S * command.older_than_days


def find_indexes(folder: Path) -> list[IndexFile]:
    """Return the indexes of videos in a folder."""
    found = []
    for path in sorted(folder.glob("*.json")):
        status = path.stat()
        found.append(IndexFile(path, status.st_size, status.st_mtime))
    return found


def clear(cache: EmbeddingCache, entries: Sequence[CacheEntry], indexes: Sequence[IndexFile]) -> None:
    """Remove entries and indexes, and say on stderr what that freed."""
    cleared = cache.clear(entries)
    for index in indexes:
        index.path.unlink(missing_ok=True)
    freed = cleared.bytes + sum(index.bytes for index in indexes)
    line = f"freed {size(freed)}: {count(cleared.entries, 'entry', 'entries')} of embeddings, "
    line += count(len(indexes), "index", "indexes") + " of videos"
    if cleared.in_use:
        line += f"; kept {count(cleared.in_use, 'entry that is', 'entries that are')} in use"
    print(line, file=sys.stderr)


def print_cache(
    cache: EmbeddingCache, entries: Sequence[CacheEntry], indexes: Sequence[IndexFile], now: float, console: Console
) -> None:
    """Print a line per entry, the latest used first, then the totals."""
    if entries:
        table = Table(box=None, pad_edge=False)
        for title in ("size", "last used", "frames"):
            table.add_column(title, justify="right", no_wrap=True)
        table.add_column("fingerprint", no_wrap=True)
        for title in ("encoder", "data", "camera"):
            table.add_column(title, overflow="fold")
        for entry in reversed(entries):
            table.add_row(*cells(entry, now))
        console.print(table, highlight=False, markup=False)
        console.print()
    total = sum(entry.bytes for entry in entries)
    lines = [
        f"embeddings: {count(len(entries), 'entry', 'entries')}, {size(total)} of {size(cache.limit_bytes)} "
        f"($RSP_ROBOT_CACHE_GB) in {cache.folder}",
        f"indexes of videos: {len(indexes):,}, {size(sum(index.bytes for index in indexes))} "
        f"in {cache_folder() / 'index'}",
    ]
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def cells(entry: CacheEntry, now: float) -> list[str]:
    """Return one row of the table."""
    if not entry.encoder:
        return [size(entry.bytes), age(now - entry.last_used), "damaged", "", "", "", ""]
    frames = f"{entry.frames:,}"
    if entry.frames_done < entry.frames:
        frames = f"{entry.frames_done:,} of {frames}"
    return [
        size(entry.bytes),
        age(now - entry.last_used),
        frames + (" halves" if entry.dtype == "float16" else ""),
        entry.encoder[:8],
        entry.source or "-",
        entry.data,
        entry.camera,
    ]


def size(number: int) -> str:
    """A number of bytes, to three digits.

    >>> size(0), size(950), size(20_000_000_000), size(1_234_567)
    ('0 B', '950 B', '20 GB', '1.23 MB')
    """
    value, units = float(number), ["B", "kB", "MB", "GB", "TB"]
    while value >= 999.5 and len(units) > 1:
        value /= 1000
        units.pop(0)
    return f"{value:.3g} {units[0]}"


def age(seconds: float) -> str:
    """A time that has passed, in the unit that fits.

    >>> age(5), age(200), age(7300), age(3 * 86400)
    ('5 s ago', '3 min ago', '2 h ago', '3 days ago')
    """
    seconds = max(0.0, seconds)
    for length, unit in ((2 * DAY_S, "days"), (3600.0, "h"), (60.0, "min")):
        if seconds >= length:
            return f"{seconds / min(length, DAY_S):.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


def count(number: int, one: str, many: str) -> str:
    """A number with its noun."""
    return f"{number:,} {one if number == 1 else many}"
