"""Minari data sets: the pictures among the observations of each episode.

Layout, as ``minari.dataset._storages.hdf5_storage`` of Minari 0.5.3 writes it::

    <dataset>/data/metadata.json           dataset_id, total_episodes, data_format, env_spec
    <dataset>/data/main_data.hdf5
        episode_0                          attrs: id, seed, total_steps
        episode_0/observations             what was seen before each of T actions and after the last: T + 1 rows;
                                           Dict spaces are groups, Tuple spaces groups of _index_0, _index_1, ...
        episode_0/infos                    the same, for what the environment told beside
        episode_0/rewards                  (T,)

A picture is a JPEG file: rows of uint8, of one length or of various. Older versions, and pictures with alpha, are
plain uint8 ``(T + 1, H, W, C)``.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import h5py
import numpy as np
from PIL import Image

from rsp_robot.videos.formats.common import unreadable
from rsp_robot.videos.formats.pictures import reason
from rsp_robot.videos.info import Quarantined, UnreadableVideo, VideoInfo, checked_indices, file_digest

MAIN = "main_data.hdf5"
METADATA = "metadata.json"
JPEG = b"\xff\xd8\xff"
MIN_SIDE = 8
"""Smaller arrays are no pictures: MiniGrid's observations are 7 x 7 codes of what is where."""
MIN_GREY_SIDE = 32
"""The same for arrays without a colour axis, where Minari itself draws the line at 32."""
MAX_DEPTH = 8  # groups in groups; hard links in HDF5 can form a loop
MAX_COUNT = 1_000_000  # no more missing episodes than this are looked for
HDF5_ERRORS = (OSError, KeyError, RuntimeError, ValueError, TypeError, IndexError)
PIL_ERRORS = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


@dataclass(frozen=True)
class _Pictures:
    """A data set of pictures within an episode."""

    camera: str
    place: str
    """Its path in the file."""
    frames: int
    height: int
    width: int


class Minari:
    """Data sets of Minari, stored as HDF5."""

    name: ClassVar[str] = "minari"

    def claims(self, path: Path) -> bool:
        """Whether this is a data set's folder, the folder ``data`` within, or its ``main_data.hdf5``."""
        return _main_file(path) is not None or _data_format(path) is not None

    def inspect(self, path: Path) -> Iterator[VideoInfo | Quarantined]:
        """Look at the pictures of every episode.

        Raises:
            UnreadableVideo: the file is damaged, has no pictures, or is stored in Minari's other formats.
            OSError: it is gone.
        """
        main = _main_file(path)
        if main is None:
            stored = _data_format(path)
            if stored is None:
                raise FileNotFoundError(f"{path} holds no Minari data set any more")
            raise unreadable(path, f"is stored as {stored}; write it again with data_format='hdf5'")
        metadata = _metadata(main.parent)
        digest, size = file_digest(main), main.stat().st_size
        shared: dict[str, Any] = {
            "format": self.name,
            "path": str(path),
            "fps": _fps(metadata),
            "task": str(metadata.get("dataset_id", "")),
            "digest": digest,
        }
        where = {"file": main.relative_to(path).as_posix() if path.is_dir() else "", "bytes": size}
        videos, seen = 0, dict[str, None]()
        try:
            file = h5py.File(main, "r")
        except OSError as error:
            main.stat()  # gone is not damaged
            raise unreadable(main, f"is damaged ({reason(error)}); download or record it again") from None
        with file:
            for episode in _episodes(file, metadata):
                try:
                    found, steps = _look(file, episode)
                except (*HDF5_ERRORS, UnreadableVideo) as error:
                    yield Quarantined(str(path), episode, _complaint(error))
                    continue
                for camera in seen.keys() - {pictures.camera for pictures in found}:
                    yield Quarantined(
                        str(path), f"{episode}/{camera}", "these pictures are missing in this episode only"
                    )
                for pictures in found:
                    seen[pictures.camera] = None
                    # The environment may tell of its reset, or not.
                    allowed = {steps + 1, steps} if pictures.camera.startswith("infos/") else {steps + 1}
                    if (steps >= 0 and pictures.frames not in allowed) or not pictures.frames:
                        why = f"{steps} steps but {pictures.frames} pictures, {steps + 1} expected; record it again"
                        yield Quarantined(str(path), pictures.place, why)
                        continue
                    videos += 1
                    yield VideoInfo(
                        **shared,
                        key=pictures.place,
                        frames=pictures.frames,
                        height=pictures.height,
                        width=pictures.width,
                        camera=pictures.camera,
                        episode=episode,
                        detail=where,
                    )
        if not videos and not seen:
            raise unreadable(path, "holds no pictures; record it with image observations")

    def read(self, video: VideoInfo, frames: np.ndarray) -> np.ndarray:
        """Return the frames at these indices: int ``(K,)`` -> uint8 ``(K, H, W, 3)``.

        Raises:
            UnreadableVideo: the file has changed or is damaged.
            OSError: the file is gone.
        """
        wanted = checked_indices(frames, video.frames)
        path = Path(video.path) / video.detail["file"]
        if path.stat().st_size != video.detail["bytes"]:
            raise unreadable(path, "has changed since it was inspected; index the videos again")
        rows, order = np.unique(wanted, return_inverse=True)
        pictures = np.empty((len(rows), video.height, video.width, 3), np.uint8)
        try:
            # Opened for each read: a handle kept would not survive a fork, and opening takes a millisecond.
            with h5py.File(path, "r") as file:
                dataset = file[video.key]
                for position, row in enumerate(rows):
                    pictures[position] = _rgb(dataset[int(row)])
        except FileNotFoundError:
            raise
        except HDF5_ERRORS as error:
            raise unreadable(video.name, f"cannot be read ({reason(error)}); record it again") from None
        return pictures[order]


def _main_file(path: Path) -> Path | None:
    if path.name == MAIN and path.is_file():
        return path
    return next((file for file in (path / "data" / MAIN, path / MAIN) if file.is_file()), None)


def _data_format(path: Path) -> str | None:
    """The storage that a folder without an HDF5 file names; None if it is no data set of Minari."""
    stored = next((_metadata(folder).get("data_format") for folder in (path / "data", path)), None)
    return stored if isinstance(stored, str) else None


def _metadata(folder: Path) -> Mapping[str, Any]:
    """What is noted beside the data; empty if that is missing or damaged, as it only names things."""
    try:
        metadata = json.loads((folder / METADATA).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return metadata if isinstance(metadata, dict) else {}


def _fps(metadata: Mapping[str, Any]) -> float:
    """Frames per second if the environment was made with one; 0 otherwise, Minari does not store it."""
    try:
        options = json.loads(metadata.get("env_spec") or "{}").get("kwargs") or {}
        rates = [options[key] for key in ("render_fps", "fps") if isinstance(options.get(key), int | float)]
    except (ValueError, TypeError, AttributeError):
        return 0.0
    return max(float(rates[0]), 0.0) if rates else 0.0


def _episodes(file: h5py.File, metadata: Mapping[str, Any]) -> list[str]:
    """Names of the episodes that are there or should be, in order."""
    there = {
        int(number)
        for kind, _, number in (name.partition("_") for name in file)
        if kind == "episode" and number.isdecimal()
    }
    total = metadata.get("total_episodes")
    expected = range(min(total, MAX_COUNT)) if isinstance(total, int) else ()
    return [f"episode_{number}" for number in sorted(there.union(expected))]


def _look(file: h5py.File, episode: str) -> tuple[list[_Pictures], int]:
    """Return an episode's pictures and its steps, -1 if unknown."""
    if episode not in file:
        raise UnreadableVideo(f"is missing, though {METADATA} counts it; download the data set again")
    group = file[episode]
    if "observations" not in group:
        raise UnreadableVideo("has no observations; record it again")
    steps = len(group["rewards"]) if "rewards" in group else int(group.attrs.get("total_steps", -1))
    found = list(_walk(group["observations"], "observations"))
    if "infos" in group:
        found += _walk(group["infos"], "infos")
    return [pictures for pictures in found if pictures is not None], steps


def _walk(node: Any, camera: str, depth: int = 0) -> Iterator[_Pictures]:
    if isinstance(node, h5py.Group):
        for name in node if depth < MAX_DEPTH else ():
            # The cameras of a Dict space go by their own names; only what is not an observation says so.
            below = name if camera == "observations" and not depth else f"{camera}/{name}"
            yield from _walk(node[name], below, depth + 1)
    elif isinstance(node, h5py.Dataset) and (size := _size(node)) is not None:
        yield _Pictures(camera, node.name.lstrip("/"), len(node), *size)


def _size(dataset: h5py.Dataset) -> tuple[int, int] | None:
    """Height and width if these are pictures."""
    shape = dataset.shape
    if dataset.dtype == np.uint8 and len(shape) == 4 and shape[3] in (1, 3, 4):
        return shape[1:3] if min(shape[1:3]) >= MIN_SIDE else None
    if dataset.dtype == np.uint8 and len(shape) == 3:
        return shape[1:3] if min(shape[1:3]) >= MIN_GREY_SIDE else None
    various = len(shape) == 1 and h5py.check_vlen_dtype(dataset.dtype) == np.uint8
    if not (various or (dataset.dtype == np.uint8 and len(shape) == 2)) or not shape[0]:
        return None
    first = dataset[0].tobytes()
    if not first.startswith(JPEG):
        return None
    height, width = _rgb(dataset[0]).shape[:2]
    return (height, width) if min(height, width) >= MIN_SIDE else None


def _rgb(stored: np.ndarray) -> np.ndarray:
    """Return one picture as uint8 ``(H, W, 3)``: from the bytes of a file, or from pixels ``(H, W[, C])``."""
    if stored.ndim == 1:
        try:
            with Image.open(io.BytesIO(stored.tobytes())) as picture:
                return np.asarray(picture.convert("RGB"))
        except PIL_ERRORS as error:
            raise ValueError(f"damaged picture, {reason(error)}") from None
    if stored.ndim == 2:
        stored = stored[:, :, None]
    return np.broadcast_to(stored[:, :, :3], (*stored.shape[:2], 3))


def _complaint(error: Exception) -> str:
    return str(error) if isinstance(error, UnreadableVideo) else f"is damaged ({reason(error)}); record it again"
