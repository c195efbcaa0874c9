"""Videos to learn from, whatever they are stored in, behind one small contract."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np

from rsp_robot.errors import UserError
from rsp_robot.videos.formats import KNOWN
from rsp_robot.videos.index import build_index
from rsp_robot.videos.info import Quarantined, UnreadableVideo, VideoInfo
from rsp_robot.videos.moving_digits import MovingDigits
from rsp_robot.videos.source import Choice, Group, Videos, with_fps, write_quarantine
from rsp_robot.videos.spec import is_digits, parse_spec, resolved

__all__ = [
    "Group",
    "MovingDigits",
    "Quarantined",
    "UnreadableVideo",
    "VideoInfo",
    "VideoSource",
    "Videos",
    "open_videos",
    "resolved",
    "write_quarantine",
]


class VideoSource(Protocol):
    """A collection of videos."""

    @property
    def videos(self) -> Sequence[VideoInfo]:
        """What is known of each video: its frames, rate, size and origin."""

    @property
    def groups(self) -> Sequence[Group]:
        """Which of them come from which place, and how much each place counts."""

    def __len__(self) -> int:
        """Number of videos."""

    def read(self, video: int, frames: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return the frames at these indices: uint8 ``(K, H, W, 3)``, RGB, upright."""


def open_videos(
    spec: str | os.PathLike[str],
    cameras: Sequence[str] = (),
    tasks: Sequence[str] = (),
    episodes: Sequence[str] = (),
    fps: float | None = None,
    strict: bool = False,
    workers: int | None = None,
) -> Videos:
    """Open whatever holds videos: a file, a folder tree, a data set, or several of these with weights.

    Video files, folders of pictures, NumPy arrays, HDF5 demonstrations, LeRobot and Minari data sets and packed frames
    are told apart by what is on disk; moving digits are made on the fly. The first time everything is looked at; the
    findings are kept in the user's cache, so that the next time only what changed is looked at again.

    Args:
        spec: ``PATH``, ``PATH,PATH`` or ``PATH=0.7,PATH=0.3``; ``digits:<motion>[:digits][/videos][xframes][@size]
            [#seed]`` in the place of a path (see :mod:`rsp_robot.videos.moving_digits`).
        cameras: patterns of cameras to take, such as ``front`` or ``*wrist*``; all by default.
        tasks: patterns of tasks to take.
        episodes: patterns of episodes to take.
        fps: frame rate of videos that do not know theirs.
        strict: refuse a source of which anything is unreadable, instead of leaving it out.
        workers: threads that look at new files; as many as there are cores by default.

    Raises:
        UserError: nothing readable is there, or no video fits.
    """
    videos: list[VideoInfo] = []
    quarantined: list[Quarantined] = []
    counts: list[int] = []
    parts = parse_spec(spec)
    for part in parts:
        found, left_out = _look_into(part.path, workers)
        videos += found
        quarantined += left_out
        counts.append(len(found))
    if strict and quarantined:
        more = f" (and {len(quarantined) - 1} more)" if len(quarantined) > 1 else ""
        raise UserError(f"{quarantined[0].name}: {quarantined[0].reason}{more}; mend it, or leave out --strict")
    if not videos:
        raise UserError(f"{quarantined[0].name}: {quarantined[0].reason}")
    groups, start = [], 0
    for part, count in zip(parts, counts, strict=True):
        groups.append(Group(str(part.path), start, start + count, part.weight))
        start += count
    everything = Videos(with_fps(videos, fps), groups, quarantined)
    choice = Choice(tuple(cameras), tuple(tasks), tuple(episodes))
    kept = {id(video) for video in choice.of(everything.videos)}
    chosen = everything.selected(lambda video: id(video) in kept)
    for group in chosen.groups:
        if group.weight and group.start == group.stop:
            raise UserError(f"{group.name} has a weight and no video that can be used; leave it out of --data")
    return chosen


def _look_into(root: Path, workers: int | None) -> tuple[list[VideoInfo], list[Quarantined]]:
    if is_digits(root):
        return MovingDigits.parse(str(root)).infos(), []
    if not root.exists():
        raise UserError(f"{root} does not exist; give a video, a folder of videos or a demonstration file")
    entries = build_index(root, workers)
    if not entries and root.is_file():
        raise UserError(f"{root} is no file of videos; it would end in one of {KNOWN}")
    if not entries:
        raise UserError(f"there are no videos below {root}; it needs a data set, pictures, or one of {KNOWN}")
    videos = [_with_class(video, root) for entry in entries for video in entry.videos]
    return videos, [row for entry in entries for row in entry.quarantined]


def _with_class(video: VideoInfo, root: Path) -> VideoInfo:
    """Name the task of a plain file after the folder it is in, below the root: the classes of Kinetics."""
    if video.task or video.key:
        return video
    parts = Path(video.path).relative_to(root).parts
    return replace(video, task=parts[0]) if len(parts) > 1 else video
