"""What is read of demonstration files besides pictures, episode by episode; damaged episodes are set aside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from rsp_robot.demonstrations import Demonstration, DemonstrationFile
from rsp_robot.errors import UserError


class Episode(NamedTuple):
    """One demonstration without its pictures."""

    file: int
    """Which of the files it is in."""
    demo: int
    """Which demonstration of that file it is."""
    proprio: np.ndarray
    """float32 ``(T, P)``; P is 0 where it was not asked for."""
    actions: np.ndarray
    """float32 ``(T, A)``, those to imitate."""
    state: np.ndarray | None
    """float32 ``(T, S)``; None where it was not asked for."""


@dataclass(frozen=True)
class Recording:
    """The episodes of all files that can be learned from."""

    episodes: tuple[Episode, ...]
    """File after file, in the order of the demonstrations."""
    tasks: tuple[str, ...]
    """The different tasks, in order of appearance."""
    task_of_file: tuple[int, ...]
    """For every file the number of its task."""
    quarantined: tuple[str, ...]
    """A line for every episode that was set aside."""


def choose_cameras(files: Sequence[DemonstrationFile], cameras: tuple[str, ...], needed: bool) -> tuple[str, ...]:
    """Return the cameras to learn from: none if no pictures are needed, those asked for, or all of the first file.

    Raises:
        UserError: a file has no such camera, or none at all, or pictures unlike those of the first file.
    """
    if not needed:
        return ()
    chosen = cameras or files[0].cameras
    for file in files:
        if not file.cameras:
            raise UserError(f"{file.path} holds no pictures; collect with a camera, or train without an encoder")
        for camera in chosen:
            if camera not in file.cameras:
                raise UserError(f"{file.path} has no camera {camera!r}; choose one of: {', '.join(file.cameras)}")
        for name in ("image_size", "quality"):
            here, there = getattr(file.info, name), getattr(files[0].info, name)
            if here != there:
                raise UserError(
                    f"{file.path} has pictures of {name} {here}, {files[0].path} of {there}; collect both alike"
                )
    return chosen


def read_recording(
    files: Sequence[DemonstrationFile], labels: str, state: bool = False, proprio: bool = True
) -> Recording:
    """Read what is not pictures; set aside episodes with numbers that are not finite.

    Args:
        files: the demonstrations.
        labels: ``"executed"`` or ``"expert"`` actions, or ``"auto"``: in each file the expert's where every
            demonstration has them. They are clipped to [-1, 1].
        state: whether to read ``obs/state``.
        proprio: whether to read ``obs/proprio``.

    Raises:
        UserError: a part is missing or of another width than before, or nothing is left to train on.
    """
    episodes: list[Episode] = []
    quarantined: list[str] = []
    widths: dict[str, tuple[int, str]] = {}
    for number, file in enumerate(files):
        read = [_read_one(file, number, index, state, widths) for index in range(len(file))]
        have_expert = all(expert is not None for _, expert in read)
        if labels == "expert" and not have_expert:
            raise UserError(f"{file.path} does not hold the expert's own actions; use labels executed")
        for episode, expert in read:
            damage = _damage(episode, expert)
            if damage:
                quarantined.append(f"{file.path.name} {file.names[episode.demo]}: {damage}")
                continue
            wanted = expert if expert is not None and have_expert and labels != "executed" else episode.actions
            felt = episode.proprio if proprio else episode.proprio[:, :0]
            episodes.append(episode._replace(proprio=felt, actions=np.clip(wanted, -1.0, 1.0)))
    if not any(episode.demo in files[episode.file].train for episode in episodes):
        names = " and ".join(str(file.path) for file in files)
        raise UserError(
            f"{names}: no episode is left to train on, {len(quarantined)} have numbers that are not finite "
            f"({quarantined[0] if quarantined else 'none'}); collect again"
        )
    tasks = tuple(dict.fromkeys(file.info.task for file in files))
    return Recording(tuple(episodes), tasks, tuple(tasks.index(file.info.task) for file in files), tuple(quarantined))


def _read_one(
    file: DemonstrationFile, number: int, index: int, state: bool, widths: dict[str, tuple[int, str]]
) -> tuple[Episode, np.ndarray | None]:
    """Read an episode with its executed actions, and the expert's; check widths against those met before."""
    demonstration = file.read(index)
    name = f"{file.path} {file.names[index]}"
    _require(demonstration, "proprio", name, "collect it with `rsp-robot collect`")
    if state:
        _require(demonstration, "state", name, "collect it again: what is recorded now includes the state")
    parts = {"actions": demonstration.actions, "proprioception": demonstration.observations["proprio"]}
    parts |= {"states": demonstration.observations["state"]} if state else {}
    for what, array in parts.items():
        if array.ndim != 2:
            raise UserError(f"{name} has {what} of shape {array.shape}, not a row per step; collect it again")
        width, where = widths.setdefault(what, (array.shape[1], name))
        if array.shape[1] != width:
            raise UserError(
                f"{name} has {what} of {array.shape[1]} numbers, {where} of {width}; "
                "train one policy for each, or collect all alike"
            )
    expert = demonstration.expert_actions
    if expert is not None and expert.shape != demonstration.actions.shape:
        raise UserError(
            f"{name} has expert actions of shape {expert.shape} for actions of shape {demonstration.actions.shape}; "
            "collect it again"
        )
    observed = demonstration.observations
    return Episode(number, index, observed["proprio"], demonstration.actions, parts.get("states")), expert


def _require(demonstration: Demonstration, key: str, name: str, fix: str) -> None:
    if key not in demonstration.observations:
        raise UserError(f"{name} has no obs/{key}; {fix}")


def _damage(episode: Episode, expert: np.ndarray | None) -> str:
    """Say which numbers of an episode are not finite, and from which step on; empty if all are."""
    parts = {
        "actions": episode.actions,
        "expert actions": expert,
        "proprioception": episode.proprio,
        "states": episode.state,
    }
    for what, array in parts.items():
        if array is not None and not np.isfinite(array).all():
            step = int(np.flatnonzero(~np.isfinite(array).all(axis=1))[0])
            return f"{what} not finite at step {step}"
    return ""
