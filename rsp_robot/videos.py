"""Videos to learn from, whatever they are stored in, behind one small contract."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from rsp_robot.demonstrations import DemonstrationFile
from rsp_robot.errors import UserError

HDF5_SUFFIXES = (".hdf5", ".h5")
VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".gif")


class VideoSource(Protocol):
    """A collection of videos."""

    def __len__(self) -> int:
        """Number of videos."""

    def length(self, video: int) -> int:
        """Frames in one video."""

    def fps(self, video: int) -> float:
        """Frames per second of one video; 0 if unknown."""

    def read(self, video: int, frames: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return the frames at these indices: uint8 ``(K, H, W, 3)``, RGB, upright."""


class DemonstrationVideos:
    """One camera of an HDF5 demonstration file."""

    def __init__(self, path: str | os.PathLike[str], camera: str | None = None) -> None:
        """Open the file; the first camera if none is named.

        Raises:
            UserError: the file is missing or damaged, or has no such camera.
        """
        self.file = DemonstrationFile(path)
        cameras = self.file.cameras
        if not cameras:
            raise UserError(f"{path} holds no pictures; record demonstrations with a camera")
        if camera is not None and camera not in cameras:
            raise UserError(f"{path} has no camera {camera!r}; it has {', '.join(cameras)}")
        self.camera = camera or cameras[0]

    def __len__(self) -> int:
        return len(self.file)

    def length(self, video: int) -> int:
        """Frames in one demonstration."""
        return int(self.file.lengths[video])

    def fps(self, video: int) -> float:
        """Frames per simulated second."""
        return self.file.info.fps

    def read(self, video: int, frames: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return uint8 ``(K, H, W, 3)``."""
        return self.file.read_frames(video, self.camera, frames)


class VideoFiles:
    """A folder tree of video files, decoded when they are first read and kept in memory."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """Find the video files below a folder, or take a single one.

        Raises:
            UserError: there is no video file.
        """
        root = Path(folder)
        found = (
            [root]
            if root.is_file()
            else [path for path in root.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file()]
        )
        if not found:
            raise UserError(f"no video files below {folder}; it needs one of {', '.join(VIDEO_SUFFIXES)}")
        self.paths = sorted(found)
        self._decoded: dict[int, tuple[np.ndarray, float]] = {}

    def __len__(self) -> int:
        return len(self.paths)

    def length(self, video: int) -> int:
        """Frames in one video."""
        return len(self._decode(video)[0])

    def fps(self, video: int) -> float:
        """Frames per second by the file's own account."""
        return self._decode(video)[1]

    def read(self, video: int, frames: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return uint8 ``(K, H, W, 3)``.

        Raises:
            IndexError: a frame number is not in ``[0, T)``.
        """
        decoded = self._decode(video)[0]
        wanted = np.asarray(frames, dtype=np.int64)
        if wanted.size and (wanted.min() < 0 or wanted.max() >= len(decoded)):
            raise IndexError(f"frames {wanted.min()} to {wanted.max()} of a video of {len(decoded)}")
        return decoded[wanted]

    def _decode(self, video: int) -> tuple[np.ndarray, float]:
        if video not in self._decoded:
            import av

            path = self.paths[video]
            try:
                with av.open(str(path)) as container:
                    if not container.streams.video:
                        raise ValueError("no picture in it")
                    stream = container.streams.video[0]
                    stream.thread_type = "AUTO"
                    fps = float(stream.average_rate or 0)
                    frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])
            except (OSError, av.FFmpegError, ValueError) as error:  # ValueError: no frames, or of different sizes
                raise UserError(f"cannot decode {path} ({error}); remove it or convert it to mp4") from None
            self._decoded[video] = frames, fps
        return self._decoded[video]


def open_videos(spec: str | os.PathLike[str], camera: str | None = None) -> VideoSource:
    """Open whatever holds pictures: an HDF5 demonstration file, a video file, or a folder of video files.

    Args:
        spec: the path.
        camera: which camera of a demonstration file; the first by default.

    Raises:
        UserError: nothing readable is there.
    """
    path = Path(spec)
    if not path.exists():
        raise UserError(f"{path} does not exist; give an HDF5 demonstration file or a folder of videos")
    if path.suffix.lower() in HDF5_SUFFIXES:
        return DemonstrationVideos(path, camera)
    if path.is_file() and path.suffix.lower() not in VIDEO_SUFFIXES:
        raise UserError(f"{path} is neither HDF5 nor video; it needs {', '.join((*HDF5_SUFFIXES, *VIDEO_SUFFIXES))}")
    return VideoFiles(path)
