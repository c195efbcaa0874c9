"""Policies as a command names them, ``[NAME=]FOLDER[,FOLDER...]``: several folders are one policy, one per task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rsp_robot.errors import UserError
from rsp_robot.files import read_json
from rsp_robot.policies.policy import find_policy_folder, load_policy

if TYPE_CHECKING:
    import torch

    from rsp_robot.encoder import FrozenEncoder
    from rsp_robot.policies.policy import Policy


@dataclass(frozen=True)
class NamedPolicy:
    """A policy on disk."""

    folders: tuple[Path, ...]
    tasks: dict[str, Path]
    """The tasks it was trained on, each with its folder; empty where ``config.json`` does not say."""

    def folder(self, task: str) -> Path:
        """Return the folder that plays a task, also one that it was not trained on."""
        return self.tasks.get(task, self.folders[0])


def name_policies(words: Sequence[str]) -> dict[str, tuple[Path, ...]]:
    """Return the folders by policy name, in the order given. A policy is called like its folder, unless it is named.

    >>> name_policies(["runs/bc-rsp", "base=runs/old"])
    {'bc-rsp': (PosixPath('runs/bc-rsp'),), 'base': (PosixPath('runs/old'),)}
    >>> name_policies(["rsp=runs/push,runs/door"])
    {'rsp': (PosixPath('runs/push'), PosixPath('runs/door'))}

    Raises:
        UserError: two policies have one name, several folders have none, or a folder is empty.
    """
    named: dict[str, tuple[Path, ...]] = {}
    for word in words:
        given, _, rest = word.partition("=") if "=" in word and not Path(word).exists() else ("", "", word)
        parts = [rest] if Path(rest).exists() else rest.split(",")
        if not all(parts) or (rest != word and not given):
            raise UserError(f"{word!r} is not [NAME=]FOLDER[,FOLDER...]; write, for example, rsp=runs/push,runs/door")
        if len(parts) > 1 and not given:
            raise UserError(f"{word!r} is one policy in several folders; give it a name: name={word}")
        place = Path(parts[0]).resolve()
        name = given or (place.parent.name if place.name == "policy" else place.name)
        if name in named:
            raise UserError(f"two policies are called {name!r}; give one another name: other={word}")
        named[name] = tuple(Path(part) for part in parts)
    return named


def find_policies(words: Sequence[str]) -> dict[str, NamedPolicy]:
    """Return the policies that ``words`` name, and what they were trained on; loads none of them.

    Raises:
        UserError: a folder holds no policy, or several folders of one policy do not differ by task.
    """
    found = {}
    for name, folders in name_policies(words).items():
        tasks: dict[str, Path] = {}
        for folder in folders:
            learnt = trained_on(_describe(folder))
            if len(folders) > 1 and not learnt:
                raise UserError(f"{folder} does not say what it was trained on; evaluate it under a name of its own")
            for task in learnt:
                if task in tasks:
                    raise UserError(
                        f"{tasks[task]} and {folder} were both trained on {task}; give one of them another name, "
                        f"other={folder}"
                    )
                tasks[task] = folder
        found[name] = NamedPolicy(folders, tasks)
    return found


def trained_on(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the tasks that a policy's ``config.json`` names."""
    tasks = config.get("tasks") or [config.get("task") or ""]
    return tuple(task for task in tasks if task)


def load_policies(
    named: Mapping[str, NamedPolicy],
    tasks: Sequence[str],
    allow_mismatch: bool = False,
    device: torch.device | str = "cpu",
) -> dict[str, dict[str, Policy]]:
    """Load what plays ``tasks``, by name and task. Policies that look through equal encoders share one in memory.

    Frozen encoders go to ``device``; what follows them is small and stays on the CPU.

    Raises:
        UserError: a folder is damaged, or was trained with another encoder or simulator.
    """
    encoders: dict[str, FrozenEncoder] = {}
    loaded: dict[str, dict[str, Policy]] = {}
    for name, policy in named.items():
        loaded[name] = {}
        for task in tasks:
            folder = policy.folder(task)
            wanted = (_describe(folder).get("encoder") or {}).get("fingerprint", "")
            known = task if task in policy.tasks else next(iter(policy.tasks), None)
            player = load_policy(folder, encoders.get(wanted), task=known, allow_mismatch=allow_mismatch)
            seen = getattr(player, "eyes", None) or getattr(player, "encoder", None)
            if wanted and seen is not None:
                encoders[wanted] = seen.to(device)
            loaded[name][task] = player
    return loaded


def _describe(folder: Path) -> dict[str, Any]:
    config = read_json(find_policy_folder(folder) / "config.json")
    return config if isinstance(config, dict) else {}
