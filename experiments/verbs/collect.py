"""``rsp-robot collect``: demonstrations of one task, or of all that fit a pattern."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated

import tyro

from rsp_robot.demonstrations import DemonstrationFile
from rsp_robot.envs.collect import CollectConfig, collect
from rsp_robot.envs.registry import describe, list_tasks
from rsp_robot.errors import UserError, unknown_name

NO_EXPERT = "nobody demonstrates it yet: bring recordings, or train an expert on states and name it with --expert"


@dataclass(frozen=True)
class Collection(CollectConfig):
    """A collection as the command line takes it: the task is among the command's words."""

    task: tyro.conf.Suppress[str] = field(default="", kw_only=True)
    demonstrations: Annotated[int, tyro.conf.arg(aliases=["--episodes"])] = field(default=100, kw_only=True)
    """How many successful episodes to record of each task."""
    cameras: Annotated[tuple[str, ...], tyro.conf.arg(aliases=["--camera"])] = field(default=(), kw_only=True)
    """Cameras to record; empty for each task's default camera."""


@dataclass(frozen=True)
class CollectCommand:
    """What to collect."""

    tasks: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="TASK ...")]
    """Task ids or patterns of them, for example metaworld/push-v3 or 'robosuite/*'. Several tasks, or a pattern, make
    --out a folder with a file for each."""
    collection: Annotated[Collection, tyro.conf.arg(name="")]


def run_collection(command: CollectCommand) -> Path:
    """Collect every task that fits; several go into the folder ``--out``, a file each. Return what was written.

    Raises:
        UserError: no task fits, none has an expert, or a collection is refused.
    """
    wanted = matching_tasks(command.tasks)
    several = len(wanted) > 1 or any(is_pattern(task) for task in command.tasks)
    collection = command.collection
    if several and collection.out.suffix:
        raise UserError(f"{collection.out} is one file and {len(wanted)} tasks are asked for; give a folder")
    if several and collection.expert is not None:
        raise UserError(f"{collection.expert} demonstrates one task and {len(wanted)} are asked for; give one task")
    shown = [task for task in wanted if collection.expert is not None or describe(task).expert]
    for task in wanted:
        if task not in shown and several:
            print(f"{task}: left out, {NO_EXPERT}", file=sys.stderr)
    if not shown:
        raise UserError(f"{', '.join(wanted)}: {NO_EXPERT}")
    for task in shown:
        out = collection.out / f"{task.replace('/', '-')}.hdf5" if several else collection.out
        made = collect(replace(collection, task=task, out=out))
        with DemonstrationFile(made) as file:
            count, attempts = len(file), file.info.attempts
        print(f"{made}: {count} demonstrations of {task}, {attempts - count} more attempts failed", file=sys.stderr)
    return collection.out


def is_pattern(task: str) -> bool:
    """Whether a task id has wildcards in it."""
    return any(character in task for character in "*?[")


def matching_tasks(patterns: tuple[str, ...]) -> list[str]:
    """Return the task ids that fit one of the patterns, in the order of the patterns.

    Raises:
        UserError: a pattern fits none; the message has the nearest names.
    """
    known = list_tasks()
    found: dict[str, None] = {}
    for pattern in patterns:
        fitting = [task for task in known if fnmatchcase(task, pattern)]
        if not fitting:
            raise unknown_name("task", pattern, known)
        found |= dict.fromkeys(fitting)
    if not found:
        raise UserError("no task is named; for example: rsp-robot collect metaworld/push-v3 --out push.hdf5")
    return list(found)
