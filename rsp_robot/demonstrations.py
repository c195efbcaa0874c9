"""Demonstration files: HDF5 in robomimic's layout, so that robomimic reads ours and we read robomimic's.

Layout::

    data                     attrs: total, env_args (JSON), info (JSON, ours)
    data/demo_0              attrs: num_samples, seed, first_success
    data/demo_0/obs/<key>    (T, ...)   pictures are uint8 (T, H, W, 3), everything else is a vector per step
    data/demo_0/actions      (T, A)     what was executed
    data/demo_0/rewards      (T,)       dones (T,), states (T, S)
    data/demo_0/expert_actions  (T, A)  what the expert wanted before noise was added (ours, optional)
    mask/train, mask/valid   names of demonstrations
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np

from rsp_robot.errors import UserError
from rsp_robot.files import atomic_path

FORMAT = 1
VALID_EVERY = 10
"""Every tenth demonstration is held out in ``mask/valid``."""
GYM_ENV_TYPE = 2  # robomimic's EnvType.GYM_TYPE


@dataclass(frozen=True)
class Demonstration:
    """One episode of ``T`` steps. Row ``t`` holds what was seen before action ``t`` and what that action brought."""

    observations: dict[str, np.ndarray]
    """``{camera: uint8 (T, H, W, 3)}``, ``"proprio"``: float32 ``(T, P)``, and for oracles ``"state"``: ``(T, S)``."""
    actions: np.ndarray
    """Executed actions, float32 ``(T, A)`` within [-1, 1]."""
    rewards: np.ndarray
    """float32 ``(T,)``."""
    dones: np.ndarray
    """bool ``(T,)``; True at the last step."""
    states: np.ndarray
    """Simulator states before each action, float64 ``(T, S)``; ``S`` may be 0."""
    seed: int = -1
    """``env.reset(seed=seed)`` starts this episode; -1 if unknown."""
    first_success: int | None = None
    """First step whose action led to success; None if none did or it is unknown."""
    expert_actions: np.ndarray | None = None
    """What the expert chose before noise was added, float32 ``(T, A)``; None if it was not recorded."""

    def __len__(self) -> int:
        return len(self.actions)


@dataclass(frozen=True)
class DemonstrationInfo:
    """How the demonstrations of a file were made. Unknown fields of foreign files keep their defaults."""

    task: str = ""
    """Task id, ``suite/task``."""
    cameras: tuple[str, ...] = ()
    """Observation keys that hold pictures."""
    image_size: int = 0
    """Height of the pictures in pixels."""
    quality: str = ""
    """Renderer quality, ``lean`` or ``full``."""
    vary: dict[str, float] = field(default_factory=dict)
    """How much camera, light and colours differ from episode to episode, each up to 1; empty for not at all."""
    action_noise: float = 0.0
    """Standard deviation of the noise added to the expert's actions."""
    horizon: int = 0
    """Steps after which an attempt was given up."""
    fps: float = 0.0
    """Steps per simulated second."""
    seed: int = 0
    """First seed tried."""
    keep_failures: bool = False
    """Whether episodes that did not succeed are among them."""
    steps_after_success: int = 0
    """Steps recorded after the first success."""
    attempts: int = 0
    """Episodes it took to get the successful ones in this file."""
    expert: str = ""
    """Who demonstrated."""
    versions: dict[str, str] = field(default_factory=dict)
    """Versions of Python and the packages that made the file."""


def write_demonstrations(
    path: str | os.PathLike[str], demonstrations: Iterable[Demonstration], info: DemonstrationInfo
) -> None:
    """Write a demonstration file atomically: afterwards ``path`` is complete, or as it was before.

    Raises:
        UserError: no demonstrations, parts of different lengths, or pictures of different sizes.
    """
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        data = file.create_group("data")
        total, names = 0, []
        shapes: dict[str, tuple[int, ...]] = {}
        for index, demonstration in enumerate(demonstrations):
            name = f"demo_{index}"
            for key, array in demonstration.observations.items():
                if shapes.setdefault(key, array.shape[1:]) != array.shape[1:]:
                    raise UserError(
                        f"{name} has {key} of shape {array.shape[1:]}, others have {shapes[key]}; record all alike"
                    )
            _write_one(data.create_group(name), name, demonstration)
            total += len(demonstration)
            names.append(name)
        if not names:
            raise UserError(f"there are no demonstrations to write to {path}; collect at least one")
        data.attrs["total"] = total
        data.attrs["env_args"] = json.dumps(_env_args(info))
        data.attrs["info"] = json.dumps({"format": FORMAT, **asdict(info)})
        train, valid = _split(names)
        mask = file.create_group("mask")
        mask["train"] = np.array(train, dtype="S")
        mask["valid"] = np.array(valid, dtype="S")


def _split(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Hold out the last of every ten, and at least one where there are two."""
    valid = list(names[VALID_EVERY - 1 :: VALID_EVERY]) or (list(names[-1:]) if len(names) > 1 else [])
    return [name for name in names if name not in set(valid)], valid


def _env_args(info: DemonstrationInfo) -> dict[str, Any]:
    kwargs = {
        "cameras": list(info.cameras),
        "image_size": info.image_size,
        "quality": info.quality,
        "horizon": info.horizon,
    }
    return {
        "env_name": info.task,
        "env_version": info.versions.get("rsp-robot", ""),
        "type": GYM_ENV_TYPE,
        "env_kwargs": kwargs,
    }


def _write_one(group: h5py.Group, name: str, demonstration: Demonstration) -> None:
    length = len(demonstration)
    arrays: dict[str, np.ndarray] = {f"obs/{key}": value for key, value in demonstration.observations.items()}
    arrays |= {"actions": demonstration.actions, "rewards": demonstration.rewards}
    arrays |= {"dones": demonstration.dones.astype(np.uint8), "states": demonstration.states}
    if demonstration.expert_actions is not None:
        arrays["expert_actions"] = demonstration.expert_actions
    for key, array in arrays.items():
        if len(array) != length or length == 0:
            raise UserError(f"{name} has {len(array)} rows of {key} for {length} actions; record one of each per step")
        if _is_picture(array):  # one chunk per frame: any frame is read alone
            group.create_dataset(key, data=array, chunks=(1, *array.shape[1:]), compression="gzip", compression_opts=1)
        else:
            group.create_dataset(key, data=array)
    group.attrs["num_samples"] = length
    group.attrs["seed"] = demonstration.seed
    group.attrs["first_success"] = -1 if demonstration.first_success is None else demonstration.first_success


def _is_picture(array: np.ndarray | h5py.Dataset) -> bool:
    return array.ndim == 4 and array.dtype == np.uint8 and array.shape[-1] == 3


class DemonstrationFile:
    """Reads a demonstration file, ours or robomimic's.

    The file is opened on first use in each process, so that the object may be pickled and used after a fork.

    Attributes:
        path: the file.
        info: how it was made, as far as the file says.
        cameras: observation keys that hold pictures.
        names: of the demonstrations, ``demo_0`` and so on.
        lengths: steps of each demonstration.
        train, valid: indices of the demonstrations in the two masks (without masks: all are in ``train``).
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Check the whole file's structure.

        Raises:
            UserError: missing, not HDF5, truncated, without demonstrations, incomplete, or pictures of different sizes.
        """
        self.path = Path(path)
        self._file: h5py.File | None = None
        self._owner = 0
        try:
            self._inspect(self._open())
        except (OSError, RuntimeError, KeyError) as error:
            reason = str(error).strip("'\"").splitlines()[0][:200]
            raise UserError(f"{self.path} is damaged ({reason}); collect or download it again") from None
        finally:
            self.close()

    def _open(self) -> h5py.File:
        if self._file is not None and self._owner == os.getpid():
            return self._file
        if not self.path.exists():
            raise UserError(f"{self.path} does not exist; check the path, or collect it first")
        if self.path.is_dir() or not h5py.is_hdf5(self.path):
            raise UserError(f"{self.path} is not an HDF5 file; give a demonstration file (.hdf5)")
        try:
            self._file = h5py.File(self.path, "r")
        except OSError as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{self.path} is truncated or damaged ({reason}); collect or download it again") from None
        self._owner = os.getpid()
        return self._file

    def _inspect(self, file: h5py.File) -> None:
        data = file.get("data")
        names = [name for name in data if isinstance(data[name], h5py.Group)] if isinstance(data, h5py.Group) else []
        if not names:
            raise UserError(
                f"{self.path} holds no demonstrations (no data/demo_0); was it made by `rsp-robot collect`?"
            )
        self.names = sorted(names, key=_number)
        shapes: dict[str, tuple[int, ...]] = {}
        self.lengths: tuple[int, ...] = ()
        for name in self.names:
            self.lengths += (self._inspect_one(name, data[name], shapes),)
        self.cameras = tuple(shapes)
        self._shapes = shapes
        self.info = self._read_info(data)
        self.train, self.valid = self._read_masks(file)

    def _inspect_one(self, name: str, group: h5py.Group, shapes: dict[str, tuple[int, ...]]) -> int:
        if "actions" not in group or "obs" not in group:
            raise UserError(f"{self.path} has no actions or obs in {name}; collect or download it again")
        length = int(group["actions"].shape[0])
        pictures = {key: value for key, value in group["obs"].items() if _is_picture(value)}
        for key, value in group["obs"].items():
            if value.shape[0] != length or length == 0:
                raise UserError(
                    f"{self.path} has {value.shape[0]} rows of obs/{key} for {length} actions in {name}; record again"
                )
        for key, value in pictures.items():
            if shapes.setdefault(key, value.shape[1:]) != value.shape[1:]:
                raise UserError(
                    f"{self.path} has pictures of different sizes ({key}: {shapes[key]}, in {name} {value.shape[1:]}); "
                    "collect all with one image size"
                )
        if set(pictures) != set(shapes):
            raise UserError(f"{self.path} has other cameras in {name} than before; collect all with the same cameras")
        return length

    def _read_info(self, data: h5py.Group) -> DemonstrationInfo:
        found: dict[str, Any] = {}
        try:
            env_args = json.loads(data.attrs.get("env_args", "{}"))
            ours = json.loads(data.attrs.get("info", "{}"))
        except json.JSONDecodeError as error:
            raise UserError(
                f"{self.path} has attributes that are not JSON ({error}); collect or download it again"
            ) from None
        if isinstance(env_args, dict):
            kwargs = env_args.get("env_kwargs") or {}
            found = {"task": str(env_args.get("env_name", "")), "fps": float(kwargs.get("control_freq") or 0)}
            found["horizon"] = int(kwargs.get("horizon") or 0)
            version = str(env_args.get("env_version") or "")
            found["versions"] = {"env": version} if version else {}
        known = {entry.name for entry in fields(DemonstrationInfo)}
        found |= {key: value for key, value in ours.items() if key in known}
        if sorted(found.get("cameras", ())) == sorted(self.cameras):
            self.cameras = tuple(found["cameras"])  # HDF5 lists keys by name; the file says which camera comes first
        found["cameras"] = self.cameras
        found["image_size"] = self._shapes[self.cameras[0]][0] if self.cameras else 0
        return DemonstrationInfo(**found)

    def _read_masks(self, file: h5py.File) -> tuple[tuple[int, ...], tuple[int, ...]]:
        index = {name: number for number, name in enumerate(self.names)}
        masks: list[tuple[int, ...]] = []
        for mask in ("train", "valid"):
            listed = file[f"mask/{mask}"][()] if f"mask/{mask}" in file else []
            names = [name.decode() if isinstance(name, bytes) else str(name) for name in listed]
            unknown = [name for name in names if name not in index]
            if unknown:
                raise UserError(
                    f"{self.path} names {unknown[0]} in mask/{mask} but has no such demonstration; write it again"
                )
            masks.append(tuple(index[name] for name in names))
        if not masks[0]:
            masks[0] = tuple(number for number in range(len(self.names)) if number not in set(masks[1]))
        return masks[0], masks[1]

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int) -> Demonstration:
        """Read demonstration ``index`` whole, with every observation key of the file."""
        group = self._group(index)
        length = self.lengths[index]
        rewards = group["rewards"][()] if "rewards" in group else np.zeros(length)
        dones = group["dones"][()] if "dones" in group else np.arange(length) == length - 1
        states = group["states"][()] if "states" in group else np.zeros((length, 0))
        first_success = int(group.attrs.get("first_success", -1))
        expert = group["expert_actions"][()].astype(np.float32) if "expert_actions" in group else None
        return Demonstration(
            observations={key: _as_observation(value[()]) for key, value in group["obs"].items()},
            actions=group["actions"][()].astype(np.float32),
            rewards=np.asarray(rewards, np.float32),
            dones=np.asarray(dones).astype(bool),
            states=np.asarray(states, np.float64),
            seed=int(group.attrs.get("seed", -1)),
            first_success=None if first_success < 0 else first_success,
            expert_actions=expert,
        )

    def read_frames(self, index: int, camera: str, indices: Sequence[int] | np.ndarray | None = None) -> np.ndarray:
        """Read frames of one camera, uint8 ``(K, H, W, 3)``, in the order of ``indices`` (repeats allowed; None: all).

        Raises:
            UserError: the file has no such camera.
            IndexError: a frame number is not in ``[0, T)``.
        """
        if camera not in self.cameras:
            raise UserError(
                f"{self.path} has no camera {camera!r}; choose one of: {', '.join(self.cameras) or '(it has none)'}"
            )
        dataset = self._group(index)[f"obs/{camera}"]
        if indices is None:
            frames: np.ndarray = dataset[()]
            return frames
        wanted = np.asarray(indices, dtype=np.int64)
        if wanted.size and (wanted.min() < 0 or wanted.max() >= self.lengths[index]):
            raise IndexError(f"frames {wanted.min()} to {wanted.max()} of a demonstration of {self.lengths[index]}")
        out = np.empty((len(wanted), *dataset.shape[1:]), np.uint8)
        for row, frame in enumerate(wanted):
            dataset.read_direct(out, np.s_[int(frame)], np.s_[row])
        return out

    def _group(self, index: int) -> h5py.Group:
        if not 0 <= index < len(self.names):
            raise IndexError(f"demonstration {index} of {len(self.names)}")
        return self._open()["data"][self.names[index]]

    def close(self) -> None:
        """Close the file in this process; the next read opens it again."""
        if self._file is not None and self._owner == os.getpid():
            self._file.close()
        self._file = None

    def __enter__(self) -> DemonstrationFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}


def _number(name: str) -> tuple[int, str]:
    digits = name.rpartition("_")[2]
    return (int(digits), name) if digits.isdigit() else (-1, name)


def _as_observation(array: np.ndarray) -> np.ndarray:
    return array if array.dtype == np.uint8 else array.astype(np.float32)
