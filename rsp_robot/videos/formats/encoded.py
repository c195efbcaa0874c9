"""Video files, one video each: MP4, QuickTime, Matroska, WebM, AVI and GIF."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import ClassVar

import numpy as np
from av.container import InputContainer
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from rsp_robot.videos.formats.decoding import Layout, opened, pictures, read_frames, resized, upright
from rsp_robot.videos.formats.structure import check_whole, unusable
from rsp_robot.videos.info import Quarantined, VideoInfo, file_digest, is_file_named

__all__ = ["SUFFIXES", "Encoded", "inspect_file", "read_frames"]

SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".gif")
FAITHFUL = frozenset(
    ["h264", "hevc", "av1", "vp9", "mpeg4", "mpeg2video", "mjpeg", "ffv1", "gif", "png", "prores", "qtrle", "rawvideo"]
)
"""Codecs of which every packet is one frame, shown when the packet says; others are decoded once to see."""
CHECKED_KEYS = 8


class Encoded:
    """Video files."""

    name: ClassVar[str] = "file"

    def claims(self, path: Path) -> bool:
        """Whether this is a file with the suffix of a video."""
        return is_file_named(path, SUFFIXES)

    def inspect(self, path: Path) -> Iterator[VideoInfo | Quarantined]:
        """Look at the video in there.

        Raises:
            UnreadableVideo: it cannot be used.
            OSError: it is gone, or this user may not read it.
        """
        yield inspect_file(path)

    def read(self, video: VideoInfo, frames: np.ndarray) -> np.ndarray:
        """Return the frames at these indices: int ``(K,)`` -> uint8 ``(K, H, W, 3)``.

        Raises:
            UnreadableVideo: the file has changed or is damaged.
            OSError: the file is gone.
        """
        return read_frames(Path(video.path), video.detail, frames)


def inspect_file(path: Path) -> VideoInfo:
    """Look at a video file: whether it is whole, what its packets say, and whether samples of it can be decoded.

    Raises:
        UnreadableVideo: it is damaged, or has no pictures, or pictures of several sizes.
        OSError: it is gone, or this user may not read it.
    """
    demuxer = check_whole(path)
    size = path.stat().st_size
    with opened(path, demuxer) as (container, film):
        times, keys = _survey(path, container, film)
        rate, tick = film.average_rate, film.time_base
        faithful = demuxer != "avi" and _codec(film) in FAITHFUL
        stream = film.index
    if times is None or not faithful:
        layout = _counted(path, Layout(demuxer, stream, size, 0, times, keys, 0, 0))
    else:
        layout = _sampled(path, Layout(demuxer, stream, size, len(times), times, keys, 0, 0))
    fps = _mean_rate(layout, rate, tick)
    return VideoInfo(
        format=Encoded.name,
        path=str(path),
        key="",
        frames=layout.frames,
        height=layout.height,
        width=layout.width,
        fps=float(fps),
        digest=file_digest(path),
        detail=layout.detail(1 / (Fraction(rate) * tick) if rate and tick else None),
    )


def _codec(film: VideoStream) -> str:
    name = film.codec_context.codec.name
    return "av1" if name in ("libdav1d", "libaom-av1") else name


def _survey(path: Path, container: InputContainer, film: VideoStream) -> tuple[np.ndarray | None, np.ndarray]:
    """Return the times of the frames, increasing, or None if they cannot be told apart by them; and the key frames."""
    packets = [packet for packet in container.demux(film) if packet.size]
    if not packets:
        raise unusable(path, "has no frames in it", "remove it")
    if any(packet.is_corrupt for packet in packets):
        raise unusable(path, "is damaged: it lacks part of a frame")
    times = [packet.pts for packet in packets if packet.pts is not None]
    keys = [packet.pts for packet in packets if packet.pts is not None and packet.is_keyframe]
    if len(times) < len(packets) or len(set(times)) < len(times) or not keys:
        return None, np.empty(0, np.int64)
    # What leads up to the first key frame refers to frames that were cut off; what is discarded only serves others.
    shown = sorted(
        time for time, packet in zip(times, packets, strict=True) if time >= keys[0] and not packet.is_discard
    )
    if not shown:
        return None, np.empty(0, np.int64)
    shown_times = np.array(shown, np.int64)
    return shown_times, np.flatnonzero(np.isin(shown_times, keys)).astype(np.int64)


def _sampled(path: Path, layout: Layout) -> Layout:
    """Decode the first frame, the last, and a few key frames between them."""
    keys = layout.keys[np.linspace(0, len(layout.keys) - 1, min(CHECKED_KEYS, len(layout.keys))).round().astype(int)]
    samples = np.unique(np.concatenate([[0], keys, [layout.frames - 1]]))
    shape = (0, 0)
    for number, picture in pictures(path, layout, samples):
        shape = _same(path, number, picture, shape)
    return replace(layout, height=shape[0], width=shape[1])


def _counted(path: Path, layout: Layout) -> Layout:
    """Decode everything; the times are kept if they are those of the packets, in order."""
    times, shape, convert = [], (0, 0), VideoReformatter()
    with opened(path, layout.demuxer, layout.stream) as (container, film):
        for number, frame in enumerate(container.decode(film)):
            shape = _same(path, number, upright(frame, convert), shape)
            times.append(frame.pts)
    if not times:
        raise unusable(path, "is damaged: none of its frames can be decoded")
    if layout.times is None or times != layout.times.tolist():
        layout = replace(layout, times=None, keys=np.empty(0, np.int64))
    return replace(layout, frames=len(times), height=shape[0], width=shape[1])


def _same(path: Path, number: int, picture: np.ndarray, shape: tuple[int, int]) -> tuple[int, int]:
    height, width = picture.shape[:2]
    if shape[0] and shape != (height, width):
        raise resized(path, number, picture.shape, shape)
    return height, width


def _mean_rate(layout: Layout, rate: Fraction | None, tick: Fraction | None) -> Fraction:
    """Frames per second by the times of the frames; as the container states it where the two agree."""
    stated = Fraction(rate or 0)
    if layout.times is None or layout.frames < 2 or not tick:
        return stated
    mean = (layout.frames - 1) / (int(layout.times[-1] - layout.times[0]) * Fraction(tick))
    return stated if abs(stated - mean) < mean / 100 else mean
