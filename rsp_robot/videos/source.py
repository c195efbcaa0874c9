"""The videos of one place or of several, chosen by camera, task and episode."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rsp_robot.errors import UserError
from rsp_robot.files import write_text
from rsp_robot.videos.formats import FORMATS
from rsp_robot.videos.info import Quarantined, UnreadableVideo, VideoInfo, checked_indices


class Group(NamedTuple):
    """The videos of one place: ``videos[start:stop]``."""

    name: str
    start: int
    stop: int
    weight: float | None
    """Share of the samples, or None where every video counts alike."""


@dataclass(frozen=True)
class Choice:
    """Which videos are wanted; patterns as in a shell. A video that has no camera, task or episode passes."""

    cameras: tuple[str, ...] = ()
    """Patterns of camera names; all by default."""
    tasks: tuple[str, ...] = ()
    """Patterns of tasks; all by default."""
    episodes: tuple[str, ...] = ()
    """Patterns of episode names; all by default."""

    def of(self, videos: Sequence[VideoInfo]) -> list[VideoInfo]:
        """Return those that are wanted.

        Raises:
            UserError: a pattern fits none of the videos.
        """
        kept = list(videos)
        for kind in ("camera", "task", "episode"):
            patterns: tuple[str, ...] = getattr(self, f"{kind}s")
            known = sorted({getattr(video, kind) for video in videos} - {""})
            for pattern in patterns:
                if not any(fnmatchcase(name, pattern) for name in known):
                    some = ", ".join(known[:10]) + (", ..." if len(known) > 10 else "")
                    raise UserError(f"no video has the {kind} {pattern!r}; there are: {some or 'none with a name'}")
            if patterns:
                kept = [video for video in kept if _fits(getattr(video, kind), patterns)]
        if not kept:
            raise UserError("no video fits all of --cameras, --tasks and --episodes; loosen one of them")
        return kept


def _fits(name: str, patterns: Iterable[str]) -> bool:
    return not name or any(fnmatchcase(name, pattern) for pattern in patterns)


class Videos:
    """Videos in a fixed order, whatever they are stored in.

    Attributes:
        videos: what is known of each.
        groups: which of them come from which place.
        quarantined: what was left out, and why.
    """

    def __init__(
        self, videos: Sequence[VideoInfo], groups: Sequence[Group] = (), quarantined: Sequence[Quarantined] = ()
    ) -> None:
        """Take videos as they are; one group of all of them by default."""
        self.videos = tuple(videos)
        self.groups = tuple(groups) or (Group("", 0, len(self.videos), None),)
        self.quarantined = tuple(quarantined)

    def __len__(self) -> int:
        return len(self.videos)

    def read(self, video: int, frames: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return the frames at these indices: uint8 ``(K, H, W, 3)``, RGB, upright. Safe from several threads at once.

        Raises:
            IndexError: a frame number is not in ``[0, T)``.
            UnreadableVideo: the file is gone, damaged, or no longer what it was.
        """
        info = self.videos[video]
        wanted = checked_indices(frames, info.frames)
        try:
            read = FORMATS[info.format].read(info, wanted)
        except OSError as error:
            raise UnreadableVideo(f"{info.name} cannot be read any more ({error.strerror or error})") from None
        if read.shape != (len(wanted), info.height, info.width, 3):
            raise UnreadableVideo(f"{info.name} is no longer {info.width}x{info.height}; start again to look anew")
        return read

    def selected(self, keep: Callable[[VideoInfo], bool]) -> Videos:
        """Return a source of those videos only for which ``keep`` is true."""
        chosen: list[VideoInfo] = []
        groups: list[Group] = []
        for group in self.groups:
            part = [video for video in self.videos[group.start : group.stop] if keep(video)]
            groups.append(group._replace(start=len(chosen), stop=len(chosen) + len(part)))
            chosen += part
        return Videos(chosen, groups, self.quarantined)

    def summary(self) -> str:
        """Say in one line what is there."""
        frames, seconds = sum(video.frames for video in self.videos), sum(video.duration for video in self.videos)
        text = f"{len(self):,} video{'s' * (len(self) != 1)}, {frames:,} frames"
        if seconds:
            text += f", {_duration(seconds)}"
        cameras = sorted({video.camera for video in self.videos} - {""})
        if len(cameras) > 1:
            text += f", {len(cameras)} cameras"
        if len(self.groups) > 1:
            text += f", from {len(self.groups)} places"
        return text


def _duration(seconds: float) -> str:
    """Say a length of time.

    >>> _duration(42), _duration(600), _duration(9000)
    ('42 s', '10 min', '2.5 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def with_fps(videos: Iterable[VideoInfo], fps: float | None) -> list[VideoInfo]:
    """Give videos of unknown frame rate this one."""
    return [replace(video, fps=fps) if fps and not video.fps else video for video in videos]


def write_quarantine(path: Path, quarantined: Sequence[Quarantined]) -> None:
    """Write what was left out, a line for each: the name, and why."""
    lines = (" ".join(f"{row.name}: {row.reason}".splitlines()) for row in quarantined)
    write_text(path, "".join(f"{line}\n" for line in lines).encode("utf-8", "backslashreplace").decode("utf-8"))
