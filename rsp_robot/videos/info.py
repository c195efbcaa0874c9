"""What is known of a video without decoding it, and what a format of videos has to offer."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

from rsp_robot.errors import UserError


class UnreadableVideo(UserError):  # noqa: N818 - it says what happened, as UserError does
    """A video, or all of a file, that cannot be used; the message says why in one line."""


@dataclass(frozen=True)
class VideoInfo:
    """One video: where it is, and what is in it. Plain values only, so that it can be kept as JSON."""

    format: str
    """Name of the format that reads it, a key of :data:`rsp_robot.videos.formats.FORMATS`."""
    path: str
    """The file or folder that holds it."""
    key: str
    """Which of the videos in there; empty where the path is one video."""
    frames: int
    """How many frames it has; at least 1."""
    height: int
    """Of its frames in pixels, upright."""
    width: int
    """Of its frames in pixels, upright."""
    fps: float = 0.0
    """Frames per second, the mean where the rate varies; 0 if unknown."""
    camera: str = ""
    """Name of the camera, where the format has one."""
    task: str = ""
    """What is done in it, where the format says so (for plain files: the folder below the root, as in Kinetics)."""
    episode: str = ""
    """Name of the episode, where the format has episodes; the cameras of one episode share it."""
    digest: str = ""
    """Hash of the content it was read from; see :func:`file_digest`."""
    detail: Mapping[str, Any] = field(default_factory=dict)
    """What the format needs to find its frames again: numbers, text and lists of them."""

    @property
    def name(self) -> str:
        """What to call it in messages."""
        return f"{self.path}:{self.key}" if self.key else self.path

    @property
    def duration(self) -> float:
        """Seconds; 0 if the frame rate is unknown."""
        return self.frames / self.fps if self.fps else 0.0

    @property
    def bytes(self) -> int:
        """Size of all its frames, decoded."""
        return self.frames * self.height * self.width * 3


@dataclass(frozen=True)
class Quarantined:
    """A video that is left out, and why."""

    path: str
    """The file or folder."""
    key: str
    """Which video in it; empty for all of it."""
    reason: str
    """One line: the cause, and what to do where that is known."""

    @property
    def name(self) -> str:
        """What to call it in messages."""
        return f"{self.path}:{self.key}" if self.key else self.path


class Format(Protocol):
    """How one kind of file or folder holds videos. One object serves all threads at once."""

    name: ClassVar[str]

    def claims(self, path: Path) -> bool:
        """Whether this file or folder is of this format, by its name and, where needed, a glance into it."""

    def inspect(self, path: Path) -> Iterator[VideoInfo | Quarantined]:
        """Look at every video in there: openable, whole, how long, how large.

        Raises:
            UnreadableVideo: none of it can be used.
            OSError: it is gone, or this user may not read it.
        """

    def read(self, video: VideoInfo, frames: np.ndarray) -> np.ndarray:
        """Return the frames at these indices: int ``(K,)`` in ``[0, T)`` -> uint8 ``(K, H, W, 3)``, RGB, upright.

        Indices come in any order and may repeat.

        Raises:
            UnreadableVideo: the frames cannot be read any more.
            OSError: the file is gone.
        """


def file_digest(path: Path) -> str:
    """Hash of a file's content: BLAKE2b, 16 bytes, as hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def checked_indices(frames: Sequence[int] | np.ndarray, length: int) -> np.ndarray:
    """Return frame numbers as int64 ``(K,)``.

    Raises:
        IndexError: one is not in ``[0, length)``.
    """
    wanted = np.asarray(frames, dtype=np.int64).reshape(-1)
    if wanted.size and (wanted.min() < 0 or wanted.max() >= length):
        raise IndexError(f"frames {wanted.min()} to {wanted.max()} of a video of {length}")
    return wanted


def is_file_named(path: Path, suffixes: Sequence[str]) -> bool:
    """Whether this is a file with such a suffix, or a link to one that is gone: it has to be told, not passed by."""
    return path.suffix.lower() in suffixes and (path.is_file() or (path.is_symlink() and not path.exists()))
