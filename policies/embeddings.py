"""Embeddings of pictures: of a demonstration file, computed once and kept on disk, and of what a policy sees."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch

from rsp_robot.errors import UserError
from rsp_robot.machine import available_cores
from rsp_robot.policies.embedding_cache import EmbeddingCache
from rsp_robot.policies.embedding_entry import Identity
from rsp_robot.progress import Progress
from rsp_robot.threads import kept_threads, one_thread

if TYPE_CHECKING:
    from rsp_robot.demonstrations import DemonstrationFile
    from rsp_robot.encoder import FrozenEncoder

DATA_BATCH = 32
"""Pictures per forward pass over a demonstration file; the last batch is padded, so that every pass has one shape."""
READ_FRAMES = 256
"""Pictures read from a demonstration file at a time."""
LARGEST_HALF = float(np.finfo(np.float16).max)
ACT_BATCH = 8
"""The same for acting on an accelerator. On the CPU pictures are encoded one by one."""


def encoder_device(encoder: FrozenEncoder) -> torch.device:
    """Return the device that the encoder's weights are on."""
    return next(encoder.parameters()).device


def embedding_shape(encoder: FrozenEncoder) -> tuple[int, ...]:
    """Return the shape of one embedding: ``(dim,)``, or ``(N, D)`` of an encoder that gives all its tokens."""
    return tuple(encoder.embedding_shape)


def _encode_padded(encoder: FrozenEncoder, frames: np.ndarray, size: int) -> np.ndarray:
    """Encode at most ``size`` frames ``(B, H, W, 3)`` in one pass of exactly ``size``; return float32 rows."""
    count = len(frames)
    if count < size:
        frames = np.concatenate([frames, np.zeros((size - count, *frames.shape[1:]), frames.dtype)])
    with one_thread(), torch.inference_mode():
        embeddings = encoder(np.ascontiguousarray(frames))
    return np.asarray(embeddings[:count].float().cpu().numpy())


def encode_rows(encoder: FrozenEncoder, frames: np.ndarray) -> np.ndarray:
    """Encode frames so that a row depends on its own picture alone, to the last bit, whatever the batch it comes in.

    How a matrix product is split up depends on its shape, so every forward pass has one fixed shape: a single picture
    on the CPU (where nothing is promised about rows of a batch, and a batch of small pictures is hardly faster), a
    padded batch elsewhere.

    Args:
        encoder: the frozen encoder.
        frames: uint8 RGB ``(B, H, W, 3)``.

    Returns:
        float32 ``(B, *encoder.embedding_shape)``.
    """
    on_cpu = encoder_device(encoder).type == "cpu"
    size = 1 if on_cpu else ACT_BATCH
    pieces = [frames[start : start + size] for start in range(0, len(frames), size)]
    several = on_cpu and min(len(pieces), available_cores()) > 1
    with kept_threads():
        parts = list((_threads().map if several else map)(lambda piece: _encode_padded(encoder, piece, size), pieces))
    return np.concatenate(parts) if parts else np.zeros((0, *embedding_shape(encoder)), np.float32)


@cache
def _threads() -> ThreadPoolExecutor:
    """Threads that encode one picture each; they last as long as the process."""
    return ThreadPoolExecutor(available_cores(), "encode", torch.set_num_threads, (1,))


def _rechunk(arrays: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """Cut a stream of ``(T, H, W, 3)`` videos into consecutive pieces of ``size`` frames, across their borders."""
    held: list[np.ndarray] = []
    count = 0
    for array in arrays:
        while count + len(array) >= size:
            missing = size - count
            yield np.concatenate([*held, array[:missing]])
            held, count, array = [], 0, array[missing:]
        held.append(array)
        count += len(array)
    if count:
        yield np.concatenate(held)


def encode_stream(
    encoder: FrozenEncoder, videos: Iterable[np.ndarray], threads: int | None = None
) -> Iterator[np.ndarray]:
    """Encode a stream of videos; yield float32 ``(<= 32, *encoder.embedding_shape)`` pieces in order.

    On the CPU several batches are encoded at a time, each on one thread: faster than many threads on one small batch,
    and the result does not depend on their number.

    Args:
        encoder: the frozen encoder.
        videos: uint8 RGB ``(T, H, W, 3)`` each.
        threads: batches in work at a time; by default the cores this process may use.
    """
    if encoder_device(encoder).type != "cpu":
        threads = 1
    elif threads is None:
        threads = available_cores()
    waiting: deque[Future[np.ndarray]] = deque()
    with kept_threads(), ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for frames in _rechunk(videos, DATA_BATCH):
            waiting.append(pool.submit(_encode_padded, encoder, frames, DATA_BATCH))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def content_hash(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file's bytes (64 hex digits)."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def embed_demonstrations(
    data: DemonstrationFile,
    data_hash: str,
    encoder: FrozenEncoder,
    camera: str,
    cache: EmbeddingCache | None = None,
    *,
    half: bool = False,
    threads: int | None = None,
) -> np.ndarray:
    """Return the embedding of every frame of one camera, from the cache or computed into it.

    An entry is addressed by what the embeddings depend on: the encoder's fingerprint, the data's content, the camera,
    the precision they are stored in, and the kind of device. Work that was cut short goes on where it stopped.

    Args:
        data: the demonstrations.
        data_hash: :func:`content_hash` of their file.
        encoder: the frozen encoder.
        camera: whose pictures.
        cache: where embeddings are kept; the user's own cache by default.
        half: keep float16: half the bytes, and some 3 digits.
        threads: see :func:`encode_stream`.

    Returns:
        float32 or float16 ``(sum of the demonstrations' lengths, *encoder.embedding_shape)``, read-only memory map,
        demonstrations one after the other.

    Raises:
        UserError: an embedding is not finite, or too large for half precision.
    """
    cache = EmbeddingCache.default() if cache is None else cache
    frames = int(sum(data.lengths))
    dtype = "float16" if half else "float32"
    device = encoder_device(encoder).type
    identity = Identity(encoder.fingerprint, data_hash, camera, (frames, *embedding_shape(encoder)), dtype, device)

    def encode(start: int) -> Iterator[np.ndarray]:
        with Progress(f"embed {camera}", total=frames, unit="frames", done=start) as bar:
            for piece in encode_stream(encoder, _read_from(data, camera, start), threads):
                yield _stored(piece, dtype)
                bar.update(len(piece))

    return cache.fetch(identity, encode, source=str(encoder.source or ""), data=data.path.name)


def _read_from(data: DemonstrationFile, camera: str, start: int) -> Iterator[np.ndarray]:
    """Yield the frames of all demonstrations from row ``start`` on, some at a time."""
    for index, length in enumerate(data.lengths):
        for first in range(min(start, length), length, READ_FRAMES):
            yield data.read_frames(index, camera, np.arange(first, min(first + READ_FRAMES, length)))
        start = max(0, start - length)


def _stored(piece: np.ndarray, dtype: str) -> np.ndarray:
    """Return embeddings as they are kept.

    Raises:
        UserError: they are not finite, or are not in half precision.
    """
    if not np.isfinite(piece).all():
        raise UserError("the encoder gives embeddings that are not finite; its weights are damaged, train it again")
    largest = float(np.abs(piece).max(initial=0.0))
    if dtype == "float16" and largest > LARGEST_HALF:
        raise UserError(
            f"the encoder gives embeddings up to {largest:.3g}, half precision ends at {LARGEST_HALF:g}; leave half off"
        )
    return piece.astype(dtype, copy=False)
