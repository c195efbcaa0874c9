"""Any frame of a video file by its number, exactly, with as little decoding as its codec allows.

Frames are numbered in the order in which they are shown. A stretch is decoded from the key frame before a wanted frame
up to the packet of that frame, whatever the rate, the start time and the order of packets. On the way to it frames that
no other frame refers to are skipped where that is known to leave the others exact.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from rsp_robot.videos.formats.structure import unusable
from rsp_robot.videos.info import checked_indices

SKIPPABLE = frozenset({"h264", "mpeg4", "mpeg2video"})
"""Decoders that may leave out frames nobody refers to, one by one. Not HEVC: what is no reference within its temporal
layer may be one for the next; the others cannot skip while they run."""
UNPROBED = {"codec_whitelist": "none", "probesize": "32"}
"""Lest FFmpeg decode a frame at every opening to tell the format of pixels: it is the larger part of opening a file."""


@dataclass(frozen=True)
class Layout:
    """Where the frames of a film are."""

    demuxer: str
    """FFmpeg's name of the container."""
    stream: int
    """Number of the stream of pictures."""
    size: int
    """Of the file in bytes, to notice that it has changed."""
    frames: int
    """How many there are."""
    times: np.ndarray | None
    """When each is shown, int64 ``(T,)`` in ticks, increasing; None where frames can only be counted."""
    keys: np.ndarray
    """Frames at which decoding can begin, int64, increasing."""
    height: int
    """Of a frame in pixels, upright."""
    width: int
    """Of a frame in pixels, upright."""

    def detail(self, step: Fraction | None = None) -> dict[str, Any]:
        """Put it into plain values for JSON; ``step`` is the likely number of ticks between frames."""
        return {
            "demuxer": self.demuxer,
            "stream": self.stream,
            "size": self.size,
            "frames": self.frames,
            "times": None if self.times is None else pack_series(self.times, step),
            "keys": pack_series(self.keys),
            "shape": [self.height, self.width],
        }

    @classmethod
    def of(cls, detail: Mapping[str, Any]) -> Layout:
        """Undo :meth:`detail`."""
        times = None if detail["times"] is None else unpack_series(detail["times"])
        plain = {name: detail[name] for name in ("demuxer", "stream", "size", "frames")}
        height, width = detail["shape"]
        return cls(**plain, times=times, keys=unpack_series(detail["keys"]), height=height, width=width)


def pack_series(values: np.ndarray, step: Fraction | None = None) -> dict[str, Any] | list[int]:
    """Describe increasing integers: by start, step (a fraction, rounded to the nearest) and count if that is exact.

    >>> pack_series(np.array([0, 33, 67, 100]))
    {'start': 0, 'step': [100, 3], 'count': 4}
    >>> pack_series(np.array([0, 30, 67, 100]))
    [0, 30, 67, 100]
    """
    if len(values) > 1:
        mean = Fraction(int(values[-1] - values[0]), len(values) - 1)
        for candidate in (mean, *([step] if step else [])):
            even = {
                "start": int(values[0]),
                "step": [candidate.numerator, candidate.denominator],
                "count": len(values),
            }
            if np.array_equal(unpack_series(even), values):
                return even
    return [int(value) for value in values]


def unpack_series(series: Mapping[str, Any] | list[int]) -> np.ndarray:
    """Undo :func:`pack_series`: int64."""
    if isinstance(series, list):
        return np.array(series, dtype=np.int64)
    numerator, denominator = series["step"]
    steps = np.arange(series["count"], dtype=np.int64) * numerator
    return series["start"] + (2 * steps + denominator) // (2 * denominator)


@contextmanager
def opened(path: Path, demuxer: str, stream: int | None = None) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a file and its first film, or the stream of this number; one thread decodes, since several files are read.

    Raises:
        UnreadableVideo: it cannot be opened, or what is done with it fails.
        OSError: it is gone, or this user may not read it.
    """
    try:
        # "file:" lest a colon in the name be taken for a protocol
        with av.open(f"file:{path}", format=demuxer, options=UNPROBED) as container:
            films = [film for film in container.streams.video if not film.disposition & Disposition.attached_pic]
            film = next((film for film in films if stream in (None, film.index)), None)
            if film is None:
                sound = "only sound" if container.streams.audio else "no stream that can be shown"
                raise unusable(path, f"has no pictures in it ({sound})", "remove it")
            film.codec_context.thread_count = 1
            yield container, film
    except (FileNotFoundError, PermissionError):
        raise
    except (av.FFmpegError, UnicodeError) as error:
        raise unusable(path, f"cannot be decoded ({getattr(error, 'strerror', error)})") from None


def read_frames(path: Path, detail: Mapping[str, Any], frames: np.ndarray) -> np.ndarray:
    """Return frames of a file: int ``(K,)`` in ``[0, T)``, in any order -> uint8 ``(K, H, W, 3)``, RGB, upright.

    Args:
        path: the file.
        detail: what :func:`rsp_robot.videos.formats.encoded.inspect_file` found in it.
        frames: their numbers, counted over the whole file.

    Raises:
        IndexError: there is no such frame.
        UnreadableVideo: the file has changed or is damaged.
        OSError: it is gone.
    """
    layout = Layout.of(detail)
    wanted = checked_indices(frames, layout.frames)
    if path.stat().st_size != layout.size:
        raise changed(path, f"it has {path.stat().st_size} bytes, not {layout.size}")
    if not wanted.size:
        return np.empty((0, layout.height, layout.width, 3), np.uint8)
    found: dict[int, np.ndarray] = {}
    for number, picture in pictures(path, layout, np.unique(wanted)):
        if picture.shape[:2] != (layout.height, layout.width):
            raise resized(path, number, picture.shape, (layout.height, layout.width))
        found[number] = picture
    return np.stack([found[number] for number in wanted.tolist()])


def pictures(path: Path, layout: Layout, wanted: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Decode frames: distinct numbers, increasing -> each number and uint8 ``(H, W, 3)``, in order of decoding.

    Raises:
        UnreadableVideo: one of them is not there.
        OSError: the file is gone.
    """
    missing = set(wanted.tolist())
    convert = VideoReformatter()  # one for all: making its tables costs more than converting a small frame
    with opened(path, layout.demuxer, layout.stream) as (container, film):
        found = (
            _by_count(container, film, missing) if layout.times is None else _by_key(container, film, layout, wanted)
        )
        for number, frame in found:
            missing.discard(number)
            yield number, upright(frame, convert)
    if missing and layout.times is not None:  # a key frame that was none (intra refresh), or a seek that went astray
        numbers = {int(layout.times[number]): number for number in missing}
        with opened(path, layout.demuxer, layout.stream) as (container, film):
            for frame in container.decode(film):
                if frame.pts in numbers:
                    number = numbers.pop(frame.pts)
                    missing.discard(number)
                    yield number, upright(frame, convert)
                    if not missing:
                        break
    if missing:
        raise unusable(path, f"is damaged: its frame {min(missing)} of {layout.frames} cannot be decoded")


def _by_count(container: InputContainer, film: VideoStream, wanted: set[int]) -> Iterator[tuple[int, VideoFrame]]:
    last = max(wanted)
    for number, frame in enumerate(container.decode(film)):
        if number in wanted:
            yield number, frame
        if number == last:
            break


def _by_key(
    container: InputContainer, film: VideoStream, layout: Layout, wanted: np.ndarray
) -> Iterator[tuple[int, VideoFrame]]:
    assert layout.times is not None
    groups = np.maximum(np.searchsorted(layout.keys, wanted, side="right") - 1, 0)
    for group in np.unique(groups).tolist():
        numbers = {int(layout.times[number]): number for number in wanted[groups == group].tolist()}
        key = int(layout.times[layout.keys[group]]) if group > 0 else None
        if key is not None:
            container.seek(key, stream=film)
        for frame in _stretch(container, film, key, set(numbers)):
            if frame.pts in numbers:
                yield numbers.pop(frame.pts), frame


def _stretch(container: InputContainer, film: VideoStream, key: int | None, times: set[int]) -> Iterator[VideoFrame]:
    """Decode from a key frame (from here if None) until the packets of these times are through."""
    codec = film.codec_context
    skips = codec.codec.name in SKIPPABLE
    skipping = False
    codec.flush_buffers()
    codec.skip_frame = "DEFAULT"
    started = key is None
    for packet in container.demux(film):
        if not started:
            if packet.pts != key:
                if packet.is_keyframe and packet.pts is not None and key is not None and packet.pts > key:
                    return
                continue
            started = True
        if packet.pts is None:
            break
        if skips and skipping == (packet.pts in times):
            skipping = not skipping
            codec.skip_frame = "NONREF" if skipping else "DEFAULT"
        times.discard(packet.pts)
        yield from codec.decode(packet)
        if not times:
            break
    yield from codec.decode(None)  # what it holds back in case that earlier frames follow


def upright(frame: VideoFrame, convert: VideoReformatter) -> np.ndarray:
    """Return a frame as RGB, uint8 ``(H, W, 3)``, turned and mirrored as its container says.

    A pixel ``(x, y)`` is shown at ``(a x + c y, b x + d y)``: the display matrix of ISO/IEC 14496-12, 6.2.2.
    """
    picture = convert.reformat(frame, format="rgb24").to_ndarray()
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return picture
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()
    if abs(b) > abs(a):
        picture = picture.transpose(1, 0, 2)
        right, down = c, b
    else:
        right, down = a, d
    return np.ascontiguousarray(picture[:: -1 if down < 0 else 1, :: -1 if right < 0 else 1])


def changed(path: Path, how: str) -> Exception:
    """Build the error for a file that is not what was looked at."""
    return unusable(path, f"has changed since it was looked at: {how}", "start again, and it will be looked at anew")


def resized(path: Path, number: int, shape: tuple[int, ...], first: tuple[int, int]) -> Exception:
    """Build the error for a film whose pictures change size."""
    sizes = f"{first[1]}x{first[0]} becomes {shape[1]}x{shape[0]} by frame {number}"
    return unusable(path, f"has pictures of more than one size ({sizes})", "cut it there, or scale it to one size")
