"""Where every video goes in a frame store, and the rows of ``videos.jsonl`` that say so."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rsp_robot.files import read_jsonl, write_text
from rsp_robot.videos.formats.store import VIDEOS_FILE, shard_name
from rsp_robot.videos.info import VideoInfo
from rsp_robot.videos.sizes import reduced_size


class Place(NamedTuple):
    """Where the frames of a video go."""

    shard: str
    first: int
    height: int
    width: int

    @property
    def frame_bytes(self) -> int:
        """Size of a frame."""
        return self.height * self.width * 3


def layout(videos: Sequence[VideoInfo], short_side: int) -> tuple[list[Place], dict[str, int]]:
    """Give every video its place; also return the number of frames in each file."""
    places, shards = [], dict[str, int]()
    for video in videos:
        height, width = reduced_size(video.height, video.width, short_side)
        name = shard_name(height, width)
        places.append(Place(name, shards.get(name, 0), height, width))
        shards[name] = places[-1].first + video.frames
    return places, shards


def fingerprint(videos: Sequence[VideoInfo]) -> str:
    """Hash of which videos these are: where they lie, how large they are, what they hold."""
    known = [
        (os.path.abspath(v.path), v.key, v.frames, v.height, v.width, v.fps, v.camera, v.task, v.episode, v.digest)
        for v in videos
    ]
    return hashlib.blake2b(json.dumps(known).encode(), digest_size=16).hexdigest()


def surviving_rows(folder: Path, sizes: dict[str, int]) -> dict[int, dict[str, Any]]:
    """Rows of videos whose frames are there: all that were written, unless somebody removed a file."""
    whole = {
        name for name, size in sizes.items() if (folder / name).is_file() and (folder / name).stat().st_size == size
    }
    return {row["video"]: row for row in read_jsonl(folder / VIDEOS_FILE) if row["shard"] in whole}


def make_row(video: int, info: VideoInfo, place: Place, digest: str) -> dict[str, Any]:
    """Say what a packed video is, where it came from, and where its frames lie."""
    return {
        "video": video,
        "origin": info.name,
        "format": info.format,
        "camera": info.camera,
        "task": info.task,
        "episode": info.episode,
        "fps": info.fps,
        "frames": info.frames,
        "height": place.height,
        "width": place.width,
        "shard": place.shard,
        "first": place.first,
        "digest": digest,
        "origin_digest": info.digest,
    }


def as_line(row: dict[str, Any]) -> str:
    """Write a row as JSON on one line."""
    # ASCII: a file name need not be valid UTF-8.
    return json.dumps(row) + "\n"


def write_rows(folder: Path, rows: dict[int, dict[str, Any]]) -> None:
    """Write all rows, in the order of the videos."""
    write_text(folder / VIDEOS_FILE, "".join(as_line(rows[video]) for video in sorted(rows)))
