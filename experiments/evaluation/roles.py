"""Who plays what: which tasks the policies know, and what each of them is shown in each task."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Union

from rsp_robot.envs import describe
from rsp_robot.envs.base import LARGEST_IMAGE
from rsp_robot.envs.registry import check_cameras
from rsp_robot.envs.rendering import QUALITIES
from rsp_robot.errors import UserError, unknown_name
from rsp_robot.experiments.evaluation.simulation_worker import Scene

if TYPE_CHECKING:
    from rsp_robot.policies.policy import Policy

    AnyPolicy = Union[Policy, Mapping[str, Policy]]  # noqa: UP007 - a protocol in quotes has no `|` at run time
DEFAULT_IMAGE_SIZE, DEFAULT_QUALITY = 64, "lean"


@dataclass(frozen=True)
class Pictures:
    """What an evaluation asks for, whatever the policies were trained on; None leaves it to them."""

    image_size: int | None = None
    quality: str | None = None
    horizon: int | None = None


@dataclass(frozen=True)
class Role:
    """A policy in a task."""

    policy: Policy
    scene: Scene

    @property
    def record(self) -> dict[str, Any]:
        """What its rows depend on, as plain values; pictures that it does not see are None."""
        seen = bool(self.scene.cameras)
        return {
            "fingerprint": getattr(self.policy, "fingerprint", ""),
            "cameras": list(self.scene.cameras),
            "image_size": self.scene.image_size if seen else None,
            "quality": self.scene.quality if seen else None,
            "device": acting_device(self.policy),
        }


def known_tasks(policy: AnyPolicy) -> tuple[str, ...]:
    """Return the tasks that a policy was trained on, as far as it says so: ``()`` if it does not.

    Its attribute ``tasks`` says it; with an integer attribute ``task`` it acts for that one of them.
    """
    if isinstance(policy, Mapping):
        return tuple(policy)
    tasks = tuple(getattr(policy, "tasks", ()))
    number = getattr(policy, "task", None)
    chosen = tasks[number : number + 1] if isinstance(number, int) else tasks
    return tuple(task for task in chosen if task)


def choose_tasks(known: Mapping[str, Sequence[str]], asked: Sequence[str]) -> tuple[str, ...]:
    """Return the tasks to play: those asked for, or those that the policies know.

    Args:
        known: by policy, the tasks it was trained on; empty where it does not say.
        asked: may be empty.

    Raises:
        UserError: a task is asked for twice, or none is and the policies know none or different ones.
    """
    if len(set(asked)) != len(asked):
        raise UserError(f"a task is named twice in {', '.join(asked)}; name each once")
    if asked:
        return tuple(asked)
    saying = {name: tuple(tasks) for name, tasks in known.items() if tasks}
    if not saying:
        raise UserError("no policy says what it was trained on; name the task with --task")
    first, tasks = next(iter(saying.items()))
    for name, others in saying.items():
        if set(others) != set(tasks):
            raise UserError(
                f"policy {first!r} was trained on {', '.join(tasks)}, {name!r} on {', '.join(others)}; name the tasks "
                "to play with --task"
            )
    return tasks


def check_fit(name: str, learnt: Sequence[str], task: str, allow_mismatch: bool = False) -> None:
    """Refuse a policy in a task that it was not trained on; ``learnt`` is empty where it does not say.

    Raises:
        UserError: it was not; with ``allow_mismatch`` only a warning.
    """
    if learnt and task not in learnt:
        differs = f"policy {name!r} was trained on {', '.join(learnt)}, not on {task}"
        _refuse(differs, "name tasks that it knows with --task", allow_mismatch)


def cast_roles(
    policies: Mapping[str, AnyPolicy], tasks: Sequence[str], pictures: Pictures, allow_mismatch: bool = False
) -> dict[tuple[str, str], Role]:
    """Return each policy's role in each task, by name and task, policy after policy.

    Size and quality of the pictures are what is asked for, or what the policy was trained on.

    Args:
        policies: by name; each a policy, or one per task.
        tasks: may be empty: those the policies know.
        pictures: what is asked for.
        allow_mismatch: only warn where a policy was trained on something else.

    Raises:
        UserError: no policies, a name that cannot be one, an unknown task or camera, a policy that does not fit.
    """
    check_pictures(pictures)
    if not policies:
        raise UserError("no policies to evaluate; name at least one")
    for name in policies:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]*", name):
            raise UserError(f"{name!r} cannot name a policy; use letters, digits and . _ + -")
    chosen = choose_tasks({name: known_tasks(policy) for name, policy in policies.items()}, tasks)
    roles = {}
    for name, policy in policies.items():
        for task in chosen:
            player = _player(policy, task)
            missing = isinstance(policy, Mapping) and task not in policy
            check_fit(name, known_tasks(policy if missing else player), task, allow_mismatch)
            roles[name, task] = Role(player, _scene(name, player, task, pictures, policies, allow_mismatch))
    return roles


def _player(policy: AnyPolicy, task: str) -> Policy:
    if not isinstance(policy, Mapping):
        return policy
    return policy[task] if task in policy else next(iter(policy.values()))


def _scene(
    name: str,
    policy: Policy,
    task: str,
    pictures: Pictures,
    policies: Mapping[str, AnyPolicy],
    allow_mismatch: bool,
) -> Scene:
    """Return what a policy is shown in a task."""
    cameras = tuple(policy.cameras)
    check_cameras(describe(task), cameras)
    settled: dict[str, Any] = {}
    for key, default in (("image_size", DEFAULT_IMAGE_SIZE), ("quality", DEFAULT_QUALITY)):
        asked, trained = getattr(pictures, key), getattr(policy, key, None)
        if cameras and None not in (asked, trained) and asked != trained:
            _refuse(
                f"policy {name!r} was trained on pictures with {key} {trained}, the evaluation has {asked}",
                f"set {key} to {trained}",
                allow_mismatch,
            )
        if trained is None and not cameras:  # films of a blind policy look like those of the others
            others = [getattr(_player(other, task), key, None) for other in policies.values()]
            trained = next((value for value in others if value is not None), None)
        settled[key] = asked or trained or default
    return Scene(task, cameras, horizon=pictures.horizon, state=sees_state(policy), **settled)


def check_pictures(pictures: Pictures) -> None:
    """Refuse what no environment can be made with, before any process is started.

    Raises:
        UserError: unknown quality, or a size or horizon out of range.
    """
    if pictures.quality is not None and pictures.quality not in QUALITIES:
        raise unknown_name("quality", pictures.quality, QUALITIES)
    if pictures.image_size is not None and not 16 <= pictures.image_size <= LARGEST_IMAGE:
        raise UserError(f"image_size={pictures.image_size} is out of range; choose 16 to {LARGEST_IMAGE} pixels")
    if pictures.horizon is not None and pictures.horizon < 1:
        raise UserError(f"horizon={pictures.horizon} is out of range; choose at least 1 step")


def _refuse(differs: str, fix: str, allow_mismatch: bool) -> None:
    if not allow_mismatch:
        raise UserError(f"{differs}; {fix}, or insist with --allow-mismatch")
    warnings.warn(differs, stacklevel=5)


def acting_device(policy: Policy) -> str:
    """Return the kind of device that a policy encodes on: last bits depend on it."""
    for name in ("eyes", "encoder"):
        device = getattr(getattr(policy, name, None), "device", None)
        if device is not None:
            return str(getattr(device, "type", device))
    return "cpu"


def sees_state(policy: Policy) -> bool:
    """Whether the policy is shown the simulator's state; one that does not say so is not."""
    return bool(getattr(policy, "state", False))
