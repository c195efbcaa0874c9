"""What a LeRobot data set says of itself: its cameras, its episodes, and the files that should hold them.

Versions 2.0 and 2.1 keep one parquet file and, per camera, one mp4 for each episode::

    meta/info.json  meta/episodes.jsonl  meta/tasks.jsonl
    data/chunk-000/episode_000000.parquet
    videos/chunk-000/<feature>/episode_000000.mp4

Version 3.0 puts many episodes in one file and notes where each begins and ends::

    meta/info.json  meta/episodes/chunk-000/file-000.parquet  meta/tasks.parquet
    data/chunk-000/file-000.parquet
    videos/<feature>/chunk-000/file-000.mp4

Source: ``lerobot.datasets`` of lerobot 0.3.3 (v2.1) and 0.4.4 (v3.0).
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Formatter
from typing import Any

from rsp_robot.videos.formats.common import unreadable
from rsp_robot.videos.formats.pictures import reason
from rsp_robot.videos.info import Quarantined, UnreadableVideo

INFO = "meta/info.json"
VERSIONS = ("v2.0", "v2.1", "v3.0")
PREFIX = "observation.images."
DATA_PATH = {
    2: "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
    3: "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
}
VIDEO_PATH = {
    2: "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    3: "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
}
CHUNK = 1000  # episodes per folder in version 2, where info.json does not say
SPEC = re.compile(r"(0?\d{1,2}d?)?|d")


@dataclass(frozen=True)
class Camera:
    """A feature that is pictures."""

    feature: str
    """Its name in the data set, as ``observation.images.front``."""
    film: bool
    """Stored as mp4; otherwise as encoded pictures in the parquet files."""

    @property
    def name(self) -> str:
        """The feature's name without the part that all cameras share."""
        return self.feature.removeprefix(PREFIX)


@dataclass(frozen=True)
class Stretch:
    """Where one episode lies in a film."""

    file: str
    """The mp4, relative to the data set."""
    start: float | None = None
    """Seconds; None: the film is the episode."""
    stop: float | None = None
    """Seconds, where the next episode starts."""


@dataclass(frozen=True)
class Episode:
    """One episode as the data set describes it."""

    index: int
    length: int
    """Frames."""
    task: str
    data: str
    """Its parquet file, relative to the data set."""
    rows: tuple[int, int] | None
    """First row and the one after the last, counted over the whole data set; None where the file is the episode."""
    films: Mapping[str, Stretch]
    """By feature; a feature that has none here is missing."""

    @property
    def name(self) -> str:
        """What it is called in keys."""
        return f"episode_{self.index:06d}"


@dataclass(frozen=True)
class Meta:
    """A data set's description of itself."""

    fps: float
    cameras: tuple[Camera, ...]
    episodes: tuple[Episode, ...]
    problems: tuple[Quarantined, ...]
    """What is left out before a film was looked at."""


def load_meta(root: Path) -> Meta:
    """Read ``meta/``.

    Raises:
        UnreadableVideo: it is damaged, of an unknown version, or leads outside the data set.
        OSError: it is gone.
    """
    info = _load_info(root)
    version = str(info.get("codebase_version"))
    if version not in VERSIONS:
        raise unreadable(
            root,
            f"is a LeRobot data set of version {version}, supported are {', '.join(VERSIONS)}; "
            "convert it with lerobot's own scripts",
        )
    major = int(version[1])
    cameras, problems = _cameras(root, info["features"])
    rows, listing = _rows_v2(root, problems) if major == 2 else _rows_v3(root, problems)
    tasks: dict[int, str] | None = None
    episodes: dict[int, Episode] = {}
    for place, row in rows:
        try:
            index, length = int(row["episode_index"]), int(row["length"])
            if tasks is None and any(isinstance(task, int) for task in _listed(row.get("tasks"))):
                tasks = _tasks(root, major)
            task = "; ".join(str((tasks or {}).get(task, task)) for task in _listed(row.get("tasks")))
            build = _episode_v2 if major == 2 else _episode_v3
            episodes[index] = build(info, cameras, row, index, length, task)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            problems.append(Quarantined(str(root), place, f"no usable description of an episode ({reason(error)})"))
    total = info.get("total_episodes")
    if isinstance(total, int) and total > len(rows):
        problems.append(
            Quarantined(
                str(root), listing, f"{INFO} counts {total} episodes, {listing} lists {len(rows)}; download it again"
            )
        )
    rate = info.get("fps")
    return Meta(
        fps=float(rate) if isinstance(rate, int | float) and rate > 0 else 0.0,
        cameras=tuple(cameras),
        episodes=tuple(episodes[index] for index in sorted(episodes)),
        problems=tuple(problems),
    )


def fill(template: str, fields: Mapping[str, int | str]) -> str:
    """Fill in a path template of ``info.json``: known fields only, and the path stays within the data set.

    >>> fill("data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet", {"chunk_index": 0, "file_index": 12})
    'data/chunk-000/file-012.parquet'

    Raises:
        UnreadableVideo: the template is malformed or leads elsewhere.
    """
    # Taken apart rather than formatted at once: str.format would follow attributes and honour any width.
    try:
        parts = list(Formatter().parse(template))
    except (ValueError, TypeError):
        raise UnreadableVideo(f"{INFO} has a malformed path template {template!r}; correct it") from None
    text = ""
    for literal, name, spec, conversion in parts:
        text += literal
        if name is None:
            continue
        if name not in fields or conversion or not SPEC.fullmatch(spec or ""):
            raise UnreadableVideo(
                f"{INFO} has a path template {template!r} that asks for {{{name}}}; "
                f"it may use {', '.join(sorted(fields))}"
            )
        try:
            text += format(fields[name], spec or "")
        except ValueError:
            raise UnreadableVideo(f"{INFO} has a malformed path template {template!r}; correct it") from None
    path = posixpath.normpath(text)
    if posixpath.isabs(path) or path.split("/")[0] == ".." or "\\" in path or "\0" in path:
        raise UnreadableVideo(f"{INFO} has a path template {template!r} that leads outside the data set; correct it")
    return path


def _load_info(root: Path) -> dict[str, Any]:
    try:
        info = json.loads((root / INFO).read_text(encoding="utf-8"))
    except ValueError as error:  # not JSON, or not text
        raise unreadable(root / INFO, f"is damaged ({reason(error)}); download the data set again") from None
    if not isinstance(info, dict) or not isinstance(info.get("features"), dict):
        raise unreadable(root / INFO, "describes no features; download the data set again")
    return info


def _cameras(root: Path, features: Mapping[str, Any]) -> tuple[list[Camera], list[Quarantined]]:
    """The pictures among the features; depth maps are no pictures and are reported."""
    cameras, problems = [], []
    for feature, about in features.items():
        if not isinstance(about, dict) or about.get("dtype") not in ("video", "image"):
            continue
        notes = about.get("info") or about.get("video_info") or {}
        if isinstance(notes, dict) and (notes.get("is_depth_map") or notes.get("video.is_depth_map")):
            problems.append(Quarantined(str(root), feature, "holds depth, not colour; leave this camera out"))
        else:
            cameras.append(Camera(feature, about["dtype"] == "video"))
    if not cameras:
        raise unreadable(root, "has no camera; record it with one")
    return cameras, problems


def _rows_v2(root: Path, problems: list[Quarantined]) -> tuple[list[tuple[str, dict[str, Any]]], str]:
    listing = "meta/episodes.jsonl"
    rows = []
    try:
        lines = (root / listing).read_bytes().splitlines()
    except FileNotFoundError:
        lines = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        place = f"{listing}:{number}"
        try:
            rows.append((place, json.loads(line)))
        except ValueError:
            problems.append(Quarantined(str(root), place, "is not JSON; download the data set again"))
    if not rows:
        raise unreadable(root / listing, "lists no episode; download the data set again")
    return rows, listing


def _rows_v3(root: Path, problems: list[Quarantined]) -> tuple[list[tuple[str, dict[str, Any]]], str]:
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    rows, listing = [], "meta/episodes"
    for path in sorted((root / listing).glob("*/*.parquet")):
        place = path.relative_to(root).as_posix()
        try:
            with ParquetFile(path) as file:
                # The statistics of every feature lie beside, and are most of the file.
                columns = [name for name in file.schema_arrow.names if not name.startswith("stats/")]
                found = file.read(columns=columns, use_threads=False).to_pylist()
        except (ArrowException, OSError, ValueError) as error:
            why = f"is damaged ({reason(error)}), its episodes are left out; download it again"
            problems.append(Quarantined(str(root), place, why))
            continue
        rows += [(f"{place}:{number}", row) for number, row in enumerate(found)]
    if not rows:
        raise unreadable(root / listing, "lists no episode; download the data set again")
    return rows, listing


def _episode_v2(
    info: Mapping[str, Any], cameras: Iterable[Camera], row: Mapping[str, Any], index: int, length: int, task: str
) -> Episode:
    fields: dict[str, int | str] = {
        "episode_index": index,
        "episode_chunk": index // int(info.get("chunks_size") or CHUNK),
        "total_episodes": int(info.get("total_episodes") or 0),
    }
    template = info.get("video_path") or VIDEO_PATH[2]
    films = {
        camera.feature: Stretch(fill(template, fields | {"video_key": camera.feature}))
        for camera in cameras
        if camera.film
    }
    return Episode(index, length, task, fill(info.get("data_path") or DATA_PATH[2], fields), None, films)


def _episode_v3(
    info: Mapping[str, Any], cameras: Iterable[Camera], row: Mapping[str, Any], index: int, length: int, task: str
) -> Episode:
    films = {}
    for camera in cameras:
        names = [
            f"videos/{camera.feature}/{key}" for key in ("chunk_index", "file_index", "from_timestamp", "to_timestamp")
        ]
        about = [row.get(name) for name in names]
        if camera.film and None not in about:
            chunk, file, start, stop = map(float, about)  # type: ignore[arg-type]
            fields: dict[str, int | str] = {
                "video_key": camera.feature,
                "chunk_index": int(chunk),
                "file_index": int(file),
            }
            films[camera.feature] = Stretch(fill(info.get("video_path") or VIDEO_PATH[3], fields), start, stop)
    data = {"chunk_index": int(row["data/chunk_index"]), "file_index": int(row["data/file_index"])}
    return Episode(
        index,
        length,
        task,
        fill(info.get("data_path") or DATA_PATH[3], data),
        (int(row["dataset_from_index"]), int(row["dataset_to_index"])),
        films,
    )


def _tasks(root: Path, major: int) -> dict[int, str]:
    """Texts by number, for data sets whose episodes give numbers; empty if there is no usable list."""
    try:
        if major == 2:
            lines = (root / "meta/tasks.jsonl").read_text(encoding="utf-8").splitlines()
            return {int(row["task_index"]): str(row["task"]) for row in map(json.loads, filter(str.strip, lines))}
        from pyarrow.parquet import read_table

        # pandas writes its index, the texts, as the column __index_level_0__.
        columns = read_table(root / "meta/tasks.parquet", use_threads=False).to_pydict()
        numbers = columns.pop("task_index")
        return dict(zip(numbers, map(str, next(iter(columns.values()))), strict=True))
    except (OSError, ValueError, KeyError, TypeError, StopIteration):
        return {}


def _listed(tasks: Any) -> list[Any]:
    if tasks is None:
        return []
    return tasks if isinstance(tasks, list) else [tasks]
