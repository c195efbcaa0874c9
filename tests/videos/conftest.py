"""Films made on the spot: numbered moving pictures, and a recorder for every container, codec and time base."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

CODECS = {".webm": "libvpx-vp9", ".gif": "gif"}
PIXELS = {"gif": "rgb8", "mjpeg": "yuvj420p", "png": "rgb24"}


def numbered_frames(length: int, height: int = 32, width: int = 48) -> np.ndarray:
    """Pictures ``(T, H, W, 3)``: the upper half's green grows by 5 a frame, below a bright square moves over blue."""
    frames = np.zeros((length, height, width, 3), np.uint8)
    frames[:, : height // 2, :, 1] = (40 + 5 * np.arange(length) % 200)[:, None, None]
    frames[:, height // 2 :, :, 2] = 120
    size = max(height // 4, 1)
    for number, frame in enumerate(frames):
        column = (3 * number) % max(width - size, 1)
        frame[-size:, column : column + size] = 230
    return frames


def encode_film(
    path: Path,
    frames: np.ndarray | int,
    fps: float = 12,
    codec: str = "libx264",
    *,
    pix_fmt: str | None = None,
    source_format: str = "rgb24",
    times: Sequence[int] | None = None,
    time_base: Fraction | None = None,
    container_options: dict[str, str] | None = None,
    audio: bool = False,
    **options: Any,
) -> Path:
    """Write a film; the container follows from the suffix.

    Args:
        path: where to; folders are made.
        frames: pictures uint8 ``(T, H, W, 3)`` (or whatever ``source_format`` takes), or how many numbered ones.
        fps: frames per second.
        codec: encoder; ``.webm`` and ``.gif`` have their own unless another is named.
        pix_fmt: what is stored; by default yuv420p, or yuv444p for odd sizes.
        source_format: what ``frames`` are: "rgb24", "rgba", "gray".
        times: presentation times in ticks of ``time_base``; frame numbers over ``fps`` by default.
        time_base: the tick, in seconds.
        container_options: of the muxer.
        audio: add a silent sound track.
        options: of the encoder, e.g. ``bf=3, g=12``.
    """
    pictures = numbered_frames(frames) if isinstance(frames, int) else frames
    if codec == "libx264":
        codec = CODECS.get(path.suffix.lower(), codec)
    height, width = pictures.shape[1:3]
    path.parent.mkdir(parents=True, exist_ok=True)
    rate = Fraction(fps).limit_denominator(1001)
    with av.open(str(path), "w", options=container_options or {}) as container:
        settings = {"threads": "1"} | ({"x265-params": "log-level=none"} if codec == "libx265" else {})
        stream: Any = container.add_stream(codec, rate=rate, options=settings | {k: str(v) for k, v in options.items()})
        stream.width, stream.height = width, height
        stream.pix_fmt = pix_fmt or PIXELS.get(codec) or ("yuv444p" if height % 2 or width % 2 else "yuv420p")
        tick = time_base or 1 / rate
        stream.codec_context.time_base = tick
        sound: Any = container.add_stream("aac", rate=16000, layout="mono") if audio else None
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format=source_format)
            frame.pts, frame.time_base = (number if times is None else times[number]), tick
            container.mux(stream.encode(frame))
        if sound is not None:
            silence = np.zeros((1, 1024), np.float32)
            for number in range(int(len(pictures) * 16000 / fps / 1024) + 1):
                samples = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
                samples.sample_rate, samples.pts, samples.time_base = 16000, 1024 * number, Fraction(1, 16000)
                container.mux(sound.encode(samples))
            container.mux(sound.encode(None))
        container.mux(stream.encode(None))
    return path


def decode_film(path: Path) -> np.ndarray:
    """Every frame in presentation order, by plain decoding from start to end: uint8 ``(T, H, W, 3)``."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


@pytest.fixture
def record() -> Callable[..., Path]:
    """``record(path, frames, fps=12, codec="libx264", **options) -> path``; see :func:`encode_film`."""
    return encode_film


@pytest.fixture
def numbered() -> Callable[..., np.ndarray]:
    """``numbered(length, height=32, width=48)``; see :func:`numbered_frames`."""
    return numbered_frames


@pytest.fixture
def decode_all() -> Callable[[Path], np.ndarray]:
    """``decode_all(path)``; see :func:`decode_film`."""
    return decode_film


@pytest.fixture
def damaged() -> Callable[[Path, Iterable[tuple[int, int]]], Path]:
    """``damaged(path, [(start, stop), ...])``: keep these stretches of a file's bytes and drop the rest."""

    def keep(path: Path, stretches: Iterable[tuple[int, int]]) -> Path:
        content = path.read_bytes()
        path.write_bytes(b"".join(content[start:stop] for start, stop in stretches))
        return path

    return keep
