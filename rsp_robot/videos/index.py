"""The index of a source: what every video in it is, found out once and kept until the files change."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from rsp_robot.cache import cache_folder
from rsp_robot.files import write_text
from rsp_robot.machine import available_cores
from rsp_robot.progress import Progress
from rsp_robot.videos.discover import Found, discover, signature
from rsp_robot.videos.formats import FORMATS
from rsp_robot.videos.info import Quarantined, UnreadableVideo, VideoInfo

VERSION = 1
"""Of what is kept; another one is made anew."""
SAVE_EVERY_S = 30.0
SHOWN_FROM = 20
"""Fewer new files than this are looked at without a progress bar."""


class Entry(NamedTuple):
    """What was found in one file or folder."""

    signature: str
    videos: tuple[VideoInfo, ...]
    quarantined: tuple[Quarantined, ...]


def build_index(root: Path, workers: int | None = None) -> list[Entry]:
    """Look at everything below ``root``, or only at what is new or changed since the last time.

    Args:
        root: a file or a folder.
        workers: threads that look; as many as there are cores by default.

    Returns:
        One entry for each file or folder that holds videos, in the order of their names.
    """
    kept_in = index_file(root)
    known = _load(kept_in)
    found = list(discover(root))
    entries: dict[str, Entry] = {}
    missing: list[tuple[Found, str]] = []
    for item in found:
        try:
            sign = f"{item.format.name}-{signature(item.path)}"
        except OSError as error:
            entries[str(item.path)] = _refused(item, "", error)
            continue
        entry = known.get(str(item.path))
        if entry is not None and entry.signature == sign:
            entries[str(item.path)] = entry
        else:
            missing.append((item, sign))
    if missing or known.keys() != entries.keys():
        _look(missing, entries, kept_in, workers or available_cores())
        _save(kept_in, entries)
    return [entries[str(item.path)] for item in found]


def index_file(root: Path) -> Path:
    """Where the index of a file or folder is kept."""
    place = str(root.resolve())
    return cache_folder() / "index" / f"{hashlib.blake2b(os.fsencode(place), digest_size=12).hexdigest()}.json"


def _look(missing: list[tuple[Found, str]], entries: dict[str, Entry], kept_in: Path, workers: int) -> None:
    saved = time.monotonic()
    quiet = len(missing) < SHOWN_FROM
    with ThreadPoolExecutor(workers) as pool, Progress("index", len(missing), "files", quiet=quiet) as bar:
        waiting = {pool.submit(inspect, item, sign): item for item, sign in missing}
        try:
            for done in as_completed(waiting):
                entries[str(waiting[done].path)] = done.result()
                bar.update(1)
                if time.monotonic() - saved > SAVE_EVERY_S:  # a kill loses half a minute, not hours
                    _save(kept_in, entries)
                    saved = time.monotonic()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def inspect(item: Found, sign: str) -> Entry:
    """Look at one file or folder."""
    videos: list[VideoInfo] = []
    quarantined: list[Quarantined] = []
    try:
        for row in item.format.inspect(item.path):
            if isinstance(row, VideoInfo):
                videos.append(row)
            else:
                quarantined.append(row)
    except (UnreadableVideo, OSError) as error:
        return _refused(item, sign, error)
    if not videos and not quarantined:
        quarantined.append(Quarantined(str(item.path), "", "holds no videos"))
    return Entry(sign, tuple(videos), tuple(quarantined))


def _refused(item: Found, sign: str, error: Exception) -> Entry:
    if isinstance(error, OSError):
        reason = f"cannot be read ({error.strerror or error})"
        sign = ""  # the next look may succeed: such a finding is not kept
    else:
        reason = " ".join(str(error).removeprefix(f"{item.path} ").split())
    return Entry(sign, (), (Quarantined(str(item.path), "", reason),))


def _save(path: Path, entries: dict[str, Entry]) -> None:
    kept = [
        {
            "path": name,
            "signature": entry.signature,
            "videos": [asdict(video) for video in entry.videos],
            "quarantined": [asdict(row) for row in entry.quarantined],
        }
        for name, entry in entries.items()
        if entry.signature
    ]
    with contextlib.suppress(OSError):  # no room or no right to keep it: it is made again the next time
        write_text(path, json.dumps({"version": VERSION, "entries": kept}))


def _load(path: Path) -> dict[str, Entry]:
    try:
        stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if stored["version"] != VERSION:
            return {}
        return {row["path"]: _entry(row) for row in stored["entries"] if _formats(row["videos"]) <= FORMATS.keys()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _entry(row: dict[str, Any]) -> Entry:
    videos = tuple(VideoInfo(**video) for video in row["videos"])
    return Entry(row["signature"], videos, tuple(Quarantined(**left) for left in row["quarantined"]))


def _formats(videos: Iterable[dict[str, Any]]) -> set[str]:
    return {video["format"] for video in videos}
