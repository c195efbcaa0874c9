"""HDF5: every camera of every demonstration in robomimic's layout, or else every array of pictures in the file.

robomimic's layout is described in :mod:`rsp_robot.demonstrations`. Where that module refuses a file for one bad
demonstration, here that demonstration is left out and the others are used.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import h5py
import numpy as np

from rsp_robot.videos.formats.common import forkable_lock, unreadable
from rsp_robot.videos.formats.pictures import WANTED, Layout, layout, placed, reason, why_not
from rsp_robot.videos.info import Quarantined, VideoInfo, checked_indices, file_digest, is_file_named

SUFFIXES = (".hdf5", ".h5")
OPEN_FILES = 16
"""Files kept open in a process."""
DAMAGE = (OSError, RuntimeError, KeyError, ValueError)
"""What h5py raises for a file that is not what it should be."""
AGAIN = "write or download it again"

# A handle must not be closed while another thread reads from it, nor a fork find the library in the middle of a read.
_LOCK = forkable_lock()


class HDF5:
    """Demonstrations in robomimic's layout, and plain files of pictures."""

    name: ClassVar[str] = "hdf5"

    def claims(self, path: Path) -> bool:
        """By the suffix, so that a file which only has the name of HDF5 is refused with a reason."""
        return is_file_named(path, SUFFIXES)

    def inspect(self, path: Path) -> Iterator[VideoInfo | Quarantined]:
        """Yield the videos, episode by episode; the first and the last frame of each are read.

        Raises:
            UnreadableVideo: not HDF5, truncated, or no demonstration can be used.
            OSError: it is gone, or this user may not read it.
        """
        with open(path, "rb"):  # says better than HDF5 that a file is gone or forbidden
            pass
        try:
            with _LOCK:
                if not h5py.is_hdf5(path):
                    raise unreadable(path, f"is not an HDF5 file; {AGAIN}, or remove it")
                with h5py.File(path, "r") as file:
                    found = _inspect(path, file)
        except DAMAGE as error:
            raise unreadable(path, f"is truncated or damaged ({reason(error)}); {AGAIN}") from None
        if not any(isinstance(entry, VideoInfo) for entry in found):
            left_out = [entry for entry in found if isinstance(entry, Quarantined)]
            why = f"; {left_out[0].key} {left_out[0].reason}" if left_out else ""
            raise unreadable(path, f"holds no pictures that can be used, {WANTED}{why}")
        digest = file_digest(path)
        return (replace(entry, digest=digest) if isinstance(entry, VideoInfo) else entry for entry in found)

    def read(self, video: VideoInfo, frames: np.ndarray) -> np.ndarray:
        """Return frames as uint8 ``(K, H, W, 3)``; see :class:`rsp_robot.videos.info.Format`."""
        wanted = checked_indices(frames, video.frames)
        key = video.detail["dataset"]
        with _LOCK:
            try:
                dataset = _HANDLES.get(video.path).get(key)
                form = layout(dataset.shape, dataset.dtype) if _is_pictures(dataset) else None
                if form is None or (form.height, form.width) != (video.height, video.width):
                    raise unreadable(video.name, "has changed since it was inspected; index the videos again")
                if form.frames < video.frames:
                    raise unreadable(video.name, "is shorter than when it was inspected; index the videos again")
                return _read(dataset, form, wanted)
            except (FileNotFoundError, PermissionError):
                raise
            except DAMAGE as error:
                _HANDLES.drop(video.path)
                raise unreadable(video.name, f"is damaged ({reason(error)}); {AGAIN}") from None


class _Handles:
    """Open files of this process, the least recently used closed first. Only used under the lock."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._open: OrderedDict[str, tuple[h5py.File, tuple[int, ...]]] = OrderedDict()
        self._owner = 0

    def get(self, path: str) -> h5py.File:
        """Open the file, unless it is open and still the same file.

        Raises:
            OSError: it is gone, or cannot be opened.
        """
        if self._owner != os.getpid():  # handles do not survive a fork
            self._open, self._owner = OrderedDict(), os.getpid()
        try:
            status = os.stat(path)
        except OSError:
            self.drop(path)
            raise
        stamp = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        held = self._open.get(path)
        if held is None or held[1] != stamp:
            self.drop(path)
            while len(self._open) >= self.capacity:
                self._open.popitem(last=False)[1][0].close()
            held = self._open[path] = h5py.File(path, "r"), stamp
        self._open.move_to_end(path)
        return held[0]

    def drop(self, path: str) -> None:
        """Close the file if it is open."""
        held = self._open.pop(path, None)
        if held is not None:
            held[0].close()


_HANDLES = _Handles(OPEN_FILES)


def _is_pictures(item: object) -> bool:
    """Four axes: three are as likely something else than grey pictures."""
    return isinstance(item, h5py.Dataset) and item.ndim == 4 and layout(item.shape, item.dtype) is not None


def _read(dataset: h5py.Dataset, form: Layout, wanted: np.ndarray) -> np.ndarray:
    """Read each wanted frame once: neighbours, and those that share chunks, in one slice."""
    rows, where = np.unique(wanted, return_inverse=True)
    stored = np.empty((len(rows), *dataset.shape[1:]), np.uint8)
    step = dataset.chunks[0] if dataset.chunks else 1
    apart = (np.diff(rows) > 1) & (np.diff(rows // step) > 0)
    start = 0
    for run in np.split(rows, np.flatnonzero(apart) + 1) if len(rows) else []:
        first = int(run[0])
        stored[start : start + len(run)] = dataset[first : int(run[-1]) + 1][run - first]
        start += len(run)
    return placed(form.to_rgb(stored), where)


def _inspect(path: Path, file: h5py.File) -> list[VideoInfo | Quarantined]:
    data = file.get("data")
    if isinstance(data, h5py.Group):
        names = sorted((name for name in data if not _is_dataset(data, name)), key=_number)
        demonstrations = {name: _cameras(data, name) for name in names}
        if any(isinstance(cameras, dict) for cameras in demonstrations.values()):
            return list(_demonstrations(path, data, demonstrations))
    return list(_plain(path, file))


def _is_dataset(group: h5py.Group, name: str) -> bool:
    try:
        return group.get(name, getclass=True) is h5py.Dataset
    except DAMAGE:
        return False


def _cameras(data: h5py.Group, name: str) -> dict[str, Layout] | str:
    """Return the pictures of one demonstration by camera, or why it cannot be used."""
    try:
        group = data[name].get("obs")
        if not isinstance(group, h5py.Group):
            return "has no obs"
        found: dict[str, Layout] = {}
        for key, item in _datasets(group).items():
            form = layout(item.shape, item.dtype) if item.ndim == 4 else None
            if form is not None:
                found[key] = form
        return found
    except (*DAMAGE, AttributeError) as error:
        return f"is damaged ({reason(error)}); {AGAIN}"


def _datasets(group: h5py.Group) -> dict[str, h5py.Dataset]:
    """Every dataset below a group by its path; each once, however often it is linked to."""
    found: dict[str, h5py.Dataset] = {}

    def visit(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = item

    group.visititems(visit)
    for name in group:  # links to elsewhere, which a visit passes by
        if name not in found:
            visit(name, group.get(name))
    return found


def _demonstrations(
    path: Path, data: h5py.Group, demonstrations: Mapping[str, dict[str, Layout] | str]
) -> Iterator[VideoInfo | Quarantined]:
    """Yield the videos of a file in robomimic's layout; a camera counts as missing if half of the others have it."""
    readable = [cameras for cameras in demonstrations.values() if isinstance(cameras, dict)]
    counts = Counter(camera for cameras in readable for camera in cameras)
    usual = {camera for camera, count in counts.items() if 2 * count >= len(readable)}
    order, task, fps = _about(data)
    rank = {camera: place for place, camera in enumerate(order)}
    for name, cameras in demonstrations.items():
        why = cameras if isinstance(cameras, str) else _fault(data[name], cameras, usual)
        if isinstance(cameras, str) or why:
            yield Quarantined(str(path), name, why)
            continue
        for camera in sorted(cameras, key=lambda camera: (rank.get(camera, len(rank)), camera)):
            key = f"{name}/obs/{camera}"
            yield _video(path, key, f"data/{key}", cameras[camera], camera, name, task, fps)


def _fault(group: h5py.Group, cameras: Mapping[str, Layout], usual: set[str]) -> str:
    """Say why a demonstration cannot be used; empty if it can."""
    for camera in sorted(usual - set(cameras)):
        item = group["obs"].get(camera)
        if isinstance(item, h5py.Dataset):
            return f"has obs/{camera} which {why_not(item.shape, item.dtype)}"
        return f"has no obs/{camera}, which other demonstrations have; record it again"
    if not cameras:
        return _no_pictures(group["obs"])
    try:
        actions = group.get("actions")
        steps = actions.shape[0] if isinstance(actions, h5py.Dataset) and actions.ndim else 0
        for camera, form in cameras.items():
            if form.frames < steps:
                return f"has {form.frames} frames of obs/{camera} for {steps} actions; record it again"
            damage = _damage(group[f"obs/{camera}"])
            if damage:
                return f"has obs/{camera} which {damage}"
    except DAMAGE as error:
        return f"is damaged ({reason(error)}); {AGAIN}"
    return ""


def _no_pictures(obs: h5py.Group) -> str:
    for key, item in _datasets(obs).items():
        if item.ndim == 4:
            return f"has obs/{key} which {why_not(item.shape, item.dtype)}"
    return "has no pictures in obs; record with a camera, or extract them with robomimic's dataset_states_to_obs.py"


def _damage(dataset: h5py.Dataset) -> str:
    """Read the first and the last frame."""
    try:
        dataset[0], dataset[-1]
    except DAMAGE as error:
        return f"is damaged ({reason(error)}); {AGAIN}"
    return ""


def _plain(path: Path, file: h5py.File) -> Iterator[VideoInfo | Quarantined]:
    """Yield every array of pictures; those of one group are taken for the cameras of one episode."""
    datasets = {key: item for key, item in _datasets(file).items() if item.ndim == 4}
    videos = {key for key, item in datasets.items() if _is_pictures(item)}
    for key in sorted(datasets, key=lambda key: [_number(part) for part in key.split("/")]):
        item = datasets[key]
        form = layout(item.shape, item.dtype)
        damage = _damage(item) if form is not None else why_not(item.shape, item.dtype)
        if form is not None and not damage:
            episode, _, camera = key.rpartition("/")
            yield _video(path, key, key, form, camera if episode else "", episode, "", 0.0)
        elif item.dtype == np.uint8 or not videos:  # beside videos, other numbers are something else, as depth
            yield Quarantined(str(path), key, damage)


def _video(
    path: Path, key: str, dataset: str, form: Layout, camera: str, episode: str, task: str, fps: float
) -> VideoInfo:
    return VideoInfo(
        format=HDF5.name,
        path=str(path),
        key=key,
        frames=form.frames,
        height=form.height,
        width=form.width,
        fps=fps,
        camera=camera,
        task=task,
        episode=episode,
        detail={"dataset": dataset},
    )


def _about(data: h5py.Group) -> tuple[list[str], str, float]:
    """Return the order of the cameras, the task and the frame rate, as far as the file says."""
    env_args, ours = _json(data, "env_args"), _json(data, "info")
    kwargs = env_args.get("env_kwargs")
    control = kwargs.get("control_freq") if isinstance(kwargs, dict) else None
    cameras = ours.get("cameras")
    order = [str(camera) for camera in cameras] if isinstance(cameras, list) else []
    return order, str(env_args.get("env_name") or ours.get("task") or ""), _rate(control) or _rate(ours.get("fps"))


def _json(data: h5py.Group, name: str) -> dict[str, Any]:
    try:
        text = data.attrs.get(name, "")
        found = json.loads(text) if isinstance(text, str | bytes) else {}
    except (*DAMAGE, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _rate(value: object) -> float:
    rate = float(value) if isinstance(value, int | float) else 0.0
    return rate if math.isfinite(rate) and rate > 0 else 0.0


def _number(name: str) -> tuple[int, str]:
    digits = name.rpartition("_")[2]
    return (int(digits), name) if digits.isdecimal() else (-1, name)
