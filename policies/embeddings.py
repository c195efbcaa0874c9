"""Embeddings of pictures: of a demonstration file, computed once and kept on disk, and of what a policy sees."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from rsp_robot.errors import UserError
from rsp_robot.files import atomic_path
from rsp_robot.machine import available_cores
from rsp_robot.policies.threads import one_thread
from rsp_robot.progress import Progress

if TYPE_CHECKING:
    from rsp_robot.demonstrations import DemonstrationFile
    from rsp_robot.encoder import FrozenEncoder

DATA_BATCH = 32
"""Pictures per forward pass over a demonstration file; the last batch is padded, so that every pass has one shape."""
ACT_BATCH = 8
"""The same for acting on an accelerator. On the CPU pictures are encoded one by one."""


def encoder_device(encoder: FrozenEncoder) -> torch.device:
    """Return the device that the encoder's weights are on."""
    return next(encoder.parameters()).device


def _encode_padded(encoder: FrozenEncoder, frames: np.ndarray, size: int) -> np.ndarray:
    """Encode at most ``size`` frames ``(B, H, W, 3)`` in one pass of exactly ``size``; return float32 ``(B, dim)``."""
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
        float32 ``(B, dim)``.
    """
    size = 1 if encoder_device(encoder).type == "cpu" else ACT_BATCH
    parts = [_encode_padded(encoder, frames[start : start + size], size) for start in range(0, len(frames), size)]
    return np.concatenate(parts) if parts else np.zeros((0, encoder.dim), np.float32)


def _rechunk(arrays: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """Cut a stream of ``(T, H, W, 3)`` videos into consecutive pieces of ``size`` frames, across their borders."""
    held: list[np.ndarray] = []
    count = 0
    for array in arrays:
        held.append(array)
        count += len(array)
        while count >= size:
            joined = np.concatenate(held)
            yield joined[:size]
            held, count = [joined[size:]], count - size
    if count:
        yield np.concatenate(held)


def encode_stream(
    encoder: FrozenEncoder, videos: Iterable[np.ndarray], threads: int | None = None
) -> Iterator[np.ndarray]:
    """Encode a stream of videos; yield float32 ``(<= 32, dim)`` pieces in order.

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
    own_threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for frames in _rechunk(videos, DATA_BATCH):
                waiting.append(pool.submit(_encode_padded, encoder, frames, DATA_BATCH))
                if len(waiting) > 2 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
    finally:
        # The setting is kept per thread, but the last one made is also the default of threads started later.
        torch.set_num_threads(own_threads)


def content_hash(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file's bytes (64 hex digits)."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_cached(path: Path, shape: tuple[int, int]) -> np.ndarray | None:
    """Return the cached array where it is whole and of the shape expected, else None."""
    if not path.is_file():
        return None
    try:
        cached = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError):
        return None
    return cached if cached.shape == shape and cached.dtype == np.float32 else None


def embed_demonstrations(
    data: DemonstrationFile, data_hash: str, encoder: FrozenEncoder, camera: str, cache: str | os.PathLike[str]
) -> np.ndarray:
    """Return the embedding of every frame of one camera, from the cache or computed into it.

    The cache file is named by what the embeddings depend on: the encoder's fingerprint, the data's content, the camera,
    and the kind of device. It is written atomically; deleting the cache folder loses nothing but time.

    Args:
        data: the demonstrations.
        data_hash: :func:`content_hash` of their file.
        encoder: the frozen encoder.
        camera: whose pictures.
        cache: folder of the cache.

    Returns:
        float32 ``(sum of the demonstrations' lengths, dim)``, read-only memory map, demonstrations one after the other.

    Raises:
        UserError: an embedding is not finite.
    """
    device = encoder_device(encoder).type
    key = hashlib.sha256(f"{encoder.fingerprint}|{data_hash}|{camera}|{device}".encode()).hexdigest()[:20]
    path = Path(cache) / f"{key}.npy"
    shape = (int(sum(data.lengths)), int(encoder.dim))
    cached = _read_cached(path, shape)
    if cached is not None:
        return cached
    videos = (data.read_frames(i, camera, np.arange(length)) for i, length in enumerate(data.lengths))
    with atomic_path(path) as temporary, Progress(f"embed {camera}", total=shape[0], unit="frames") as bar:
        out = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float32, shape=shape)
        start = 0
        for piece in encode_stream(encoder, videos):
            if not np.isfinite(piece).all():
                raise UserError(
                    "the encoder gives embeddings that are not finite; its weights are damaged, train it again"
                )
            out[start : start + len(piece)] = piece
            start += len(piece)
            bar.update(len(piece))
        out.flush()
        del out
    result: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    return result
