"""What to draw from: any picture or video, and the moments chosen in it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from rsp_robot.errors import UserError
from rsp_robot.pretrain.sampling import PairSpec
from rsp_robot.videos import Group, VideoInfo, VideoSource, open_videos

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


class StillPicture:
    """A single picture as a video of one frame."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Decode the picture, upright and in RGB.

        Raises:
            UserError: it cannot be decoded.
        """
        try:
            with Image.open(path) as picture:
                self.frames = np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))[None]
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # SyntaxError: broken PNG
            raise UserError(f"cannot decode {path} ({error}); convert it to PNG or give another") from None
        height, width = self.frames.shape[1:3]
        self.videos = (VideoInfo("picture", os.fspath(path), "", 1, height, width),)
        self.groups = (Group("", 0, 1, None),)

    def __len__(self) -> int:
        return 1

    def read(self, video: int, frames: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return uint8 ``(K, H, W, 3)``."""
        return self.frames[list(frames)]


class Moment(NamedTuple):
    """A place in a video."""

    video: int
    frame: int
    length: int
    """Frames in the video."""


def open_pictures(
    spec: str, cameras: Sequence[str] = (), tasks: Sequence[str] = (), episodes: Sequence[str] = ()
) -> VideoSource:
    """Open a picture, or whatever :func:`rsp_robot.videos.open_videos` opens.

    Raises:
        UserError: nothing readable is there.
    """
    if Path(spec).is_file() and Path(spec).suffix.lower() in PICTURE_SUFFIXES:
        return StillPicture(spec)
    return open_videos(spec, cameras, tasks, episodes)


def default_gap(longest: int, trained: PairSpec) -> int | None:
    """Return the largest gap that was trained and leaves half of a video of ``longest`` frames to play, or None.

    In videos shorter than that it is the smallest trained gap, or what there is; None where no frame follows another.

    >>> [default_gap(longest, PairSpec(4, 48)) for longest in (200, 60, 6, 3, 1)]
    [48, 30, 4, 2, None]
    """
    if longest < 2:
        return None
    return int(min(trained.max_gap, max(longest // 2, min(trained.min_gap, longest - 1))))


def choose_moments(
    source: VideoSource, rows: int, gap: int | None, trained: PairSpec, seed: int, before: int = 0
) -> tuple[list[Moment], int | None]:
    """Pick current frames from different videos where possible.

    Args:
        source: the videos; one of a single frame is a picture without a future.
        rows: how many moments; of single pictures each is taken once at most.
        gap: frames that have to follow; see :func:`default_gap`.
        trained: gaps that the run was trained with, in frames.
        seed: decides videos and frames.
        before: frames that have to come before the current one.

    Returns:
        The moments, and the gap: None where there are only single pictures.

    Raises:
        UserError: there is no video, or none is long enough for the gap.
    """
    if len(source) == 0:
        raise UserError("there is no video to draw from; check --data")
    rng = np.random.default_rng(seed)
    # Of a video that is long enough, what is left when the frames before are taken away is chosen from.
    lengths = {video: source.videos[video].frames - before for video in rng.permutation(len(source)).tolist()}
    enough = 2 * trained.max_gap if gap is None else gap + 1
    if sum(length >= enough for length in lengths.values()) >= rows:  # short ones only where there are no others
        lengths = {video: length for video, length in lengths.items() if length >= enough}
    longest = max(lengths.values())
    gap = default_gap(longest, trained) if gap is None else gap
    if gap is None:
        return [Moment(video, 0, 1) for video in list(lengths)[:rows]], None
    fitting = [video for video, length in lengths.items() if length > gap]
    if not fitting:
        also = f" and the {before} before it" if before else ""
        raise UserError(
            f"no video is longer than the gap of {gap} frames{also}, the longest has {longest + before}; lower --gap"
        )
    chosen = [fitting[row % len(fitting)] for row in range(rows)]
    starts = [before + int(rng.integers(0, lengths[video] - gap)) for video in chosen]
    return [Moment(video, start, source.videos[video].frames) for video, start in zip(chosen, starts, strict=True)], gap
