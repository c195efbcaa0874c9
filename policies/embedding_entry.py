"""One entry of the embedding cache on disk: ``embeddings.npy`` and ``about.json``, written block by block.

A block's rows are on the disk before ``about.json`` says so: after a kill the work goes on behind the last block.
Each block has a checksum, so that rows which are not what was written are computed again.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from rsp_robot.files import write_json

FORMAT = 1
ARRAY, ABOUT = "embeddings.npy", "about.json"
FLUSH_S = 5.0
"""Seconds of work that a kill may lose."""
CHECKED_BYTES = 2**30
"""A finished entry is checked when it is opened: whole up to about this size, evenly spaced blocks of it beyond."""


@dataclass(frozen=True)
class Identity:
    """What the embeddings of an entry depend on, and how they are stored."""

    encoder: str
    """Fingerprint: weights, preprocessing and pooling."""
    data_sha256: str
    """Content of the demonstration file."""
    camera: str
    """Whose pictures."""
    shape: tuple[int, ...]
    """Frames, then the shape of one embedding."""
    dtype: str
    """float32 or float16."""
    device: str
    """Kind of device that computes: another kind rounds differently."""

    @property
    def key(self) -> str:
        """Name of the entry's folder."""
        return hashlib.sha256(json.dumps([FORMAT, *asdict(self).values()]).encode()).hexdigest()[:20]

    @property
    def row_bytes(self) -> int:
        """Bytes of one embedding."""
        return int(np.prod(self.shape[1:], dtype=np.int64)) * np.dtype(self.dtype).itemsize

    @property
    def bytes(self) -> int:
        """Bytes of all embeddings."""
        return self.shape[0] * self.row_bytes


def now() -> str:
    """Return the time as ``about.json`` has it: ISO 8601, UTC, to the microsecond."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def describe(identity: Identity, source: str, data: str) -> dict[str, Any]:
    """Return ``about.json`` of an entry that nothing has been written of.

    Args:
        identity: which embeddings.
        source: what the encoder was loaded from, for people.
        data: name of the demonstration file, for people.
    """
    begun = now()
    where = f"camera {identity.camera!r} of {data or 'demonstrations'}"
    return {
        "format": FORMAT,
        "what": f"embeddings of every frame of {where} by encoder {source or identity.encoder}",
        "encoder": {"source": source, "fingerprint": identity.encoder},
        "data": data,
        "data_sha256": identity.data_sha256,
        "camera": identity.camera,
        "frames": identity.shape[0],
        "shape": list(identity.shape),
        "dtype": identity.dtype,
        "device": identity.device,
        "bytes": identity.bytes,
        "made": begun,
        "last_used": begun,
        "frames_done": 0,
        "blocks": [],
    }


def read_about(folder: Path, identity: Identity) -> dict[str, Any] | None:
    """Return what the entry says of itself; None where it says nothing, or nothing that can be believed."""
    try:
        about: dict[str, Any] = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        found = [about["format"], about["encoder"]["fingerprint"], about["shape"], about["dtype"]]
        ends = [0, *(int(end) for end, _ in about["blocks"])]
        in_order = all(a < b for a, b in pairwise(ends))
        if found != [FORMAT, identity.encoder, list(identity.shape), identity.dtype] or not in_order:
            return None
        return about if ends[-1] == about["frames_done"] <= identity.shape[0] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_missing(
    folder: Path, identity: Identity, about: dict[str, Any], encode: Callable[[int], Iterable[np.ndarray]]
) -> None:
    """Bring an entry to its end, from the first row that is missing or damaged.

    Args:
        folder: the entry's.
        identity: which embeddings.
        about: what :func:`read_about` or :func:`describe` returned.
        encode: called with the first row wanted; yields the rows from there on, in order.
    """
    header = _header(identity)
    with open(folder / ARRAY, "ab+") as file:
        blocks = _sound_blocks(file, header, identity.row_bytes, about["blocks"])
        done = blocks[-1][0] if blocks else 0
        file.truncate(len(header) + done * identity.row_bytes if done else 0)
        if not done:
            file.write(header)
        write_json(folder / ABOUT, about | {"blocks": blocks, "frames_done": done, "last_used": now()})
        for count, crc in _append(file, encode(done), identity):
            done += count
            blocks.append([done, crc])
            write_json(folder / ABOUT, about | {"blocks": blocks, "frames_done": done, "last_used": now()})
    if done != identity.shape[0]:
        raise RuntimeError(f"{done} rows were encoded, not {identity.shape[0]}")


def _append(file: BinaryIO, pieces: Iterable[np.ndarray], identity: Identity) -> Iterator[tuple[int, int]]:
    """Append pieces; after each flush to the disk yield how many rows it was, and their checksum."""
    count, crc, flushed = 0, 0, time.monotonic()
    for piece in pieces:
        raw = np.ascontiguousarray(piece, identity.dtype).tobytes()
        file.write(raw)
        count, crc = count + len(piece), zlib.crc32(raw, crc)
        if time.monotonic() - flushed >= FLUSH_S:
            _to_disk(file)
            yield count, crc
            count, crc, flushed = 0, 0, time.monotonic()
    if count:
        _to_disk(file)
        yield count, crc


def _to_disk(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sound_blocks(file: BinaryIO, header: bytes, row_bytes: int, blocks: list[list[int]]) -> list[list[int]]:
    """Return the blocks before the first one that is not as it was written."""
    file.seek(0)
    if file.read(len(header)) != header:
        return []
    start = 0
    for number, (end, crc) in enumerate(blocks):
        if zlib.crc32(file.read((end - start) * row_bytes)) != crc:
            return blocks[:number]
        start = end
    return list(blocks)


def _header(identity: Identity) -> bytes:
    header = BytesIO()
    description = {"descr": np.dtype(identity.dtype).str, "fortran_order": False, "shape": identity.shape}
    np.lib.format.write_array_header_1_0(header, description)
    return header.getvalue()


def open_array(folder: Path, identity: Identity, about: dict[str, Any]) -> np.memmap | None:
    """Map a finished entry, read-only; None where it is damaged."""
    try:
        array = np.load(folder / ARRAY, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError):
        return None
    if not isinstance(array, np.memmap) or array.shape != identity.shape or array.dtype != identity.dtype:
        return None
    ends = [0, *(end for end, _ in about["blocks"])]
    stride = max(1, -(-identity.bytes // CHECKED_BYTES))
    for number in range(0, len(about["blocks"]), stride):
        end, crc = about["blocks"][number]
        if zlib.crc32(array[ends[number] : end].data) != crc:
            return None
    return array
