"""What behaviour cloning learns from: rows of features and actions, and samples of consecutive rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rsp_robot.demonstrations import DemonstrationFile
from rsp_robot.errors import UserError
from rsp_robot.machine import available_memory
from rsp_robot.policies.episodes import Recording
from rsp_robot.policies.history import fuse, window_rows
from rsp_robot.policies.normalisation import Scaling, action_scaling, standard_scaling
from rsp_robot.progress import Progress

FUSED_AT_ONCE = 4096
"""Rows whose history is fused in one go."""


class Sample(NamedTuple):
    """A minibatch: for each sample T consecutive observations and H actions."""

    vector: Tensor
    """float32 ``(B, T, V)``: proprioception, after the embeddings (and their history) where these never change."""
    pictures: Tensor | None
    """Embeddings float32 ``(B, n - 1 + T, C, ...)`` or frames uint8 ``(B, n - 1 + T, C, H, W, 3)`` that the network has
    to look at."""
    task: Tensor
    """int64 ``(B,)``."""


class Rows:
    """Rows of several arrays, one after the other, read when they are asked for (the arrays may be memory maps).

    >>> Rows([[np.array([[1], [2]])], [np.array([[3]])]], np.array([0, 2])).take(np.array([1, 0])).tolist()
    [[[3]], [[1]]]
    """

    def __init__(self, files: Sequence[Sequence[np.ndarray]], rows: np.ndarray) -> None:
        """Put arrays together.

        Args:
            files: for every file, for every camera the rows ``(N_file, ...)``.
            rows: which rows of all files together are there, int64 ``(N,)``.
        """
        self._files, self._rows = files, rows
        self._starts = np.cumsum([0] + [len(cameras[0]) for cameras in files])
        self.shape = (len(files[0]), *files[0][0].shape[1:])
        self.dtype = files[0][0].dtype

    def __len__(self) -> int:
        return len(self._rows)

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Return rows ``(*rows.shape, cameras, ...)``."""
        wanted = self._rows[rows.ravel()]
        out = np.empty((len(wanted), *self.shape), self.dtype)
        for number, cameras in enumerate(self._files):
            inside = (wanted >= self._starts[number]) & (wanted < self._starts[number + 1])
            if inside.any():
                for camera, array in enumerate(cameras):
                    out[inside, camera] = array[wanted[inside] - self._starts[number]]
        return out.reshape(*rows.shape, *self.shape)


@dataclass(frozen=True)
class BCData:
    """The rows of all episodes and how to draw samples from them."""

    vectors: Tensor
    """float32 ``(N, V)``: what never changes of the features, see :class:`Sample`."""
    actions: Tensor
    """float32 ``(N, A)``, normalised."""
    first: Tensor
    """int64 ``(N,)``: the first row of the episode that a row belongs to."""
    last: Tensor
    """int64 ``(N,)``: the last one."""
    task: Tensor
    """int64 ``(N,)``."""
    train: Tensor
    """int64: rows of the training episodes."""
    valid: Tensor
    """int64: rows of the validation episodes; none where there are no such episodes."""
    pictures: Rows | None = None
    """What the network has to look at; None where :attr:`vectors` holds all."""

    def to(self, device: torch.device) -> BCData:
        """Put the tensors on a device; pictures stay where they are."""
        tensors: dict[str, Any] = {n: value.to(device) for n, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **tensors)

    def observations(self, rows: Tensor, steps: int = 1, history: int = 1) -> Sample:
        """Return ``steps`` consecutive observations from each row ``(B,)`` on; the last ones of an episode repeat."""
        within = window_rows(rows, self.first, self.last, 0, steps)
        pictures = None
        if self.pictures is not None:
            around = window_rows(rows, self.first, self.last, history - 1, steps)
            pictures = torch.from_numpy(self.pictures.take(around.cpu().numpy())).to(rows.device)
            pictures = pictures if pictures.dtype == torch.uint8 else pictures.float()
        return Sample(self.vectors[within], pictures, self.task[rows])

    def targets(self, rows: Tensor, steps: int = 1) -> tuple[Tensor, Tensor]:
        """Return actions ``(B, steps, A)`` from each row on and which of them are within the episode ``(B, steps)``."""
        within = window_rows(rows, self.first, self.last, 0, steps)
        wanted = rows[:, None] + torch.arange(steps, device=rows.device)
        return self.actions[within], wanted <= self.last[rows][:, None]


class Scalings(NamedTuple):
    """How numbers are scaled, by the training episodes."""

    proprio: Scaling
    actions: Scaling
    state: Scaling | None = None

    def tensors(self) -> dict[str, Tensor]:
        """Return them by name, as they are stored."""
        return {
            f"{name}.{part}": torch.from_numpy(getattr(scaling, part))
            for name, scaling in self._asdict().items()
            if scaling is not None
            for part in ("shift", "scale")
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Scalings:
        """Take them from stored tensors."""
        found = {
            name: Scaling(tensors[f"{name}.shift"].numpy(), tensors[f"{name}.scale"].numpy())
            for name in cls._fields
            if f"{name}.shift" in tensors
        }
        return cls(**found)


def measure(files: Sequence[DemonstrationFile], recording: Recording, normalise_actions: str) -> Scalings:
    """Take the scalings from the training episodes."""
    train = [episode for episode in recording.episodes if episode.demo in files[episode.file].train]
    states = [episode.state for episode in train if episode.state is not None]
    return Scalings(
        standard_scaling(np.concatenate([episode.proprio for episode in train])),
        action_scaling(np.concatenate([episode.actions for episode in train]), normalise_actions),
        standard_scaling(np.concatenate(states)) if states else None,
    )


def assemble(
    files: Sequence[DemonstrationFile],
    recording: Recording,
    scalings: Scalings,
    embeddings: Sequence[Sequence[np.ndarray]] | None = None,
    history: int = 1,
    fusion: str = "concat",
    live: bool = False,
) -> BCData:
    """Put rows together, file after file.

    Args:
        files: the demonstrations.
        recording: what :func:`~rsp_robot.policies.episodes.read_recording` returned for them.
        scalings: what :func:`measure` returned.
        embeddings: for every file, for every camera what is seen of all its rows (those of quarantined episodes too);
            None where nothing is seen.
        history: embeddings per observation.
        fusion: see :func:`~rsp_robot.policies.history.fuse`.
        live: whether the network looks at the embeddings itself (frames, or tokens that it pools).
    """
    episodes = recording.episodes
    lengths = np.array([len(episode.actions) for episode in episodes])
    ends = np.cumsum(lengths)
    starts = ends - lengths
    split = {
        "train": [episode.demo in files[episode.file].train for episode in episodes],
        "valid": [episode.demo in files[episode.file].valid for episode in episodes],
    }
    number_of_row = np.repeat(np.arange(len(episodes)), lengths)
    rows = {name: np.flatnonzero(np.array(chosen)[number_of_row]) for name, chosen in split.items()}
    first, last = torch.from_numpy(starts[number_of_row]), torch.from_numpy(ends[number_of_row] - 1)
    vectors = torch.from_numpy(scalings.proprio.apply(np.concatenate([episode.proprio for episode in episodes])))
    pictures = None
    if embeddings is not None:
        pictures = Rows(embeddings, _rows_in_files(files, recording))
    elif scalings.state is not None:
        seen = [episode.state for episode in episodes if episode.state is not None]
        states = scalings.state.apply(np.concatenate(seen))
        pictures = Rows([[states]], np.arange(len(states)))
    if pictures is not None and not live:
        vectors = torch.cat([fuse_rows(pictures, first, last, history, fusion), vectors], dim=1)
        pictures = None
    return BCData(
        vectors=vectors,
        actions=torch.from_numpy(scalings.actions.apply(np.concatenate([episode.actions for episode in episodes]))),
        first=first,
        last=last,
        task=torch.from_numpy(np.array([recording.task_of_file[episode.file] for episode in episodes])[number_of_row]),
        train=torch.from_numpy(rows["train"]),
        valid=torch.from_numpy(rows["valid"]),
        pictures=pictures,
    )


def _rows_in_files(files: Sequence[DemonstrationFile], recording: Recording) -> np.ndarray:
    """Return where the rows of the episodes are among the rows of all files, int64 ``(N,)``."""
    of_file = np.cumsum([0] + [sum(file.lengths) for file in files])
    of_episode = [of_file[number] + np.cumsum((0, *file.lengths)) for number, file in enumerate(files)]
    kept = [of_episode[episode.file][episode.demo] + np.arange(len(episode.actions)) for episode in recording.episodes]
    return np.concatenate(kept)


def fuse_rows(pictures: Rows, first: Tensor, last: Tensor, history: int, fusion: str) -> Tensor:
    """Return the embeddings of every row with those before it, float32 ``(N, C * history * D)``."""
    parts = []
    for rows in torch.arange(len(pictures)).split(FUSED_AT_ONCE):
        around = window_rows(rows, first, last, history - 1, 1)
        seen = torch.from_numpy(pictures.take(around.numpy()).astype(np.float32, copy=False))
        parts.append(fuse(seen, history, fusion).flatten(1))
    return torch.cat(parts)


def read_frames(files: Sequence[DemonstrationFile], cameras: Sequence[str]) -> list[list[np.ndarray]]:
    """Read all pictures into memory: for every file and camera uint8 ``(N, H, W, 3)``.

    Raises:
        UserError: they do not fit.
    """
    shapes = [(sum(file.lengths), *file.read_frames(0, cameras[0], [0]).shape[1:]) for file in files]
    needed, free = len(cameras) * sum(int(np.prod(shape)) for shape in shapes), available_memory()
    if needed > free:
        raise UserError(
            f"the pictures need {needed / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are available; use fewer "
            "demonstrations or cameras or smaller pictures, or a frozen encoder without augmentation"
        )
    total = len(cameras) * sum(shape[0] for shape in shapes)
    read: list[list[np.ndarray]] = []
    with Progress("read pictures", total=total, unit="frames") as bar:
        for file, shape in zip(files, shapes, strict=True):
            read.append([])
            for camera in cameras:
                frames = np.empty(shape, np.uint8)
                start = 0
                for index, length in enumerate(file.lengths):
                    frames[start : start + length] = file.read_frames(index, camera)
                    start += length
                    bar.update(length)
                read[-1].append(frames)
    return read
