"""The parquet files of a LeRobot data set: a row for each frame, pictures among the columns."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rsp_robot.videos.formats.common import unreadable
from rsp_robot.videos.formats.pictures import reason
from rsp_robot.videos.info import UnreadableVideo, file_digest

AGAIN = "download or record it again"
PIL_ERRORS = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


@dataclass(frozen=True)
class Table:
    """A parquet file."""

    rows: int
    spans: Mapping[int, tuple[int, int, bool]] | None
    """By episode: first row, number of rows, and whether they lie together. None: there is no such column."""
    sizes: Mapping[str, np.ndarray]
    """By feature: height and width of the picture in each row, ``(rows, 2)``; 0 where there is none."""
    digest: str
    bytes: int


def inspect_table(path: Path, pictures: Sequence[str]) -> Table:
    """Look at a parquet file: its rows, whose they are, and the head of every picture.

    Raises:
        UnreadableVideo: it is damaged.
        OSError: it is gone.
    """
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    size = path.stat().st_size
    try:
        with ParquetFile(path) as file:
            names, rows = set(file.schema_arrow.names), file.metadata.num_rows
            spans, sizes = None, {}
            if "episode_index" in names:
                spans = _spans(file.read(columns=["episode_index"], use_threads=False).column(0).to_numpy())
            for feature in names.intersection(pictures):
                found = []
                # In small batches: a column of pictures can be larger than the memory.
                for batch in file.iter_batches(64, columns=[feature], use_threads=False):
                    found += [_picture_size(value) for value in batch.column(feature).to_pylist()]
                sizes[feature] = np.asarray(found, dtype=np.int64).reshape(rows, 2)
    except (ArrowException, OSError, ValueError) as error:
        path.stat()  # gone is not damaged
        raise UnreadableVideo(f"{reason(error)}; {AGAIN}") from None
    return Table(rows, spans, sizes, file_digest(path) if sizes else "", size)


def _spans(episodes: np.ndarray) -> dict[int, tuple[int, int, bool]]:
    """Return first row, number of rows, and whether they lie together, by episode."""
    names, first, rows = np.unique(episodes, return_index=True, return_counts=True)
    together = episodes[first + rows - 1] == names
    return {
        int(name): (int(at), int(n), bool(ok)) for name, at, n, ok in zip(names, first, rows, together, strict=True)
    }


def _picture_size(value: Any) -> tuple[int, int]:
    """Height and width of an encoded picture by its head; 0 and 0 if there is none."""
    try:
        with Image.open(io.BytesIO(_encoded(value))) as picture:
            return picture.height, picture.width
    except PIL_ERRORS:
        return 0, 0


def _encoded(value: Any) -> bytes:
    """The bytes of a picture: parquet holds ``{"bytes": ..., "path": ...}`` or the bytes themselves."""
    content = value.get("bytes") if isinstance(value, dict) else value
    return content if isinstance(content, bytes) else b""


def read_pictures(path: Path, feature: str, wanted: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Decode the pictures in these rows: int ``(K,)`` -> uint8 ``(K, H, W, 3)``."""
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    rows, order = np.unique(wanted, return_inverse=True)
    pictures = np.empty((len(rows), *size, 3), np.uint8)
    try:
        with ParquetFile(path) as file:
            counts = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
            ends = np.cumsum(counts)
            groups = np.searchsorted(ends, rows, side="right")
            for group in np.unique(groups):
                column = file.read_row_group(int(group), columns=[feature], use_threads=False).column(feature)
                for position in np.flatnonzero(groups == group):
                    value = column[int(rows[position] - (ends[group] - counts[group]))].as_py()
                    with Image.open(io.BytesIO(_encoded(value))) as picture:
                        pictures[position] = np.asarray(picture.convert("RGB"))
    except FileNotFoundError:
        raise
    except (ArrowException, IndexError, KeyError, *PIL_ERRORS) as error:
        raise unreadable(path, f"holds {feature} that cannot be read ({reason(error)}); {AGAIN}") from None
    return pictures[order]
