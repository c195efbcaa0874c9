"""Checkpoints of a run: written whole or not at all, a few of them kept, loaded without executing anything."""

from __future__ import annotations

import pickle
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch

from rsp_robot.backbones.vit import vit_config
from rsp_robot.errors import UserError
from rsp_robot.files import atomic_path
from rsp_robot.pretrain.config import PretrainConfig, read_config
from rsp_robot.pretrain.objectives import Objective

_NAME = re.compile(r"step-(\d+)\.pt$")


def saved_steps(folder: Path) -> list[int]:
    """Return the steps that have a checkpoint in a folder, in order."""
    found = [_NAME.match(path.name) for path in folder.glob("step-*.pt")]
    return sorted(int(match[1]) for match in found if match)


def checkpoint_path(folder: Path, step: int) -> Path:
    """Return where the checkpoint of a step lies."""
    return folder / f"step-{step:08d}.pt"


def is_doubling(step: int) -> bool:
    """Whether a step is 1, 2, 4, 8, ..."""
    return step > 0 and step & (step - 1) == 0


def kept_steps(steps: Collection[int], last: int, every: int | None = None, doublings: bool = False) -> set[int]:
    """Return which checkpoints stay: the newest ``last``, multiples of ``every``, and doublings if asked for.

    >>> sorted(kept_steps([1, 2, 4, 6, 8, 10, 12], last=2, every=6))
    [6, 10, 12]
    >>> sorted(kept_steps([1, 2, 3, 4, 5], last=1, doublings=True))
    [1, 2, 4, 5]
    """
    newest = set(sorted(steps)[-last:])
    return newest | {s for s in steps if (every and s % every == 0) or (doublings and is_doubling(s))}


def save_checkpoint(folder: Path, state: dict[str, Any], config: PretrainConfig) -> Path:
    """Write the checkpoint of ``state["step"]``, then drop those that the rule does not keep.

    Raises:
        OSError: it cannot be written; those before it are untouched.
    """
    path = checkpoint_path(folder, state["step"])
    # An open file, not a path: torch reports a full disk on a path as a RuntimeError without its errno.
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        torch.save(state, file)
    steps = saved_steps(folder)
    for step in set(steps) - kept_steps(steps, config.keep_last, config.keep_every, config.keep_doublings):
        checkpoint_path(folder, step).unlink(missing_ok=True)
    return path


def load_checkpoint(path: Path, device: torch.device) -> dict[str, Any]:
    """Read a checkpoint: tensors, numbers and containers, nothing else.

    Raises:
        UserError: it is damaged.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
        state["step"] = int(state["step"])
        return state
    except (RuntimeError, EOFError, KeyError, TypeError, ValueError, pickle.UnpicklingError) as error:
        cause = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"the checkpoint {path} is damaged ({cause}); delete it to go on from the one before") from None


def load_newest(folder: Path, device: torch.device) -> dict[str, Any] | None:
    """Read the newest checkpoint of a folder, or None where there is none.

    Raises:
        UserError: it is damaged.
    """
    steps = saved_steps(folder)
    return load_checkpoint(checkpoint_path(folder, steps[-1]), device) if steps else None


def build_objective(config: PretrainConfig) -> Objective:
    """Make the model with weights drawn from the seed."""
    with torch.random.fork_rng(devices=[]):  # layers draw from the global generator: leave it as it was
        torch.manual_seed(config.seed)
        return config.objective.build(vit_config(config.arch, config.image_size, config.patch_size))


def load_objective(run: Path, device: torch.device, step: int | None = None) -> Objective:
    """Load the newest checkpoint of a run, or that of one step, as a model in evaluation mode.

    Raises:
        UserError: it is no run folder, or has no such checkpoint.
    """
    config, steps = read_config(run), saved_steps(run / "checkpoints")
    if not steps:
        raise UserError(f"{run} has no checkpoint; pretrain first")
    if step is not None and step not in steps:
        raise UserError(f"{run} has no checkpoint of step {step}; it has {', '.join(map(str, steps))}")
    objective = build_objective(config).to(device)
    state = load_checkpoint(checkpoint_path(run / "checkpoints", steps[-1] if step is None else step), device)
    objective.load_state_dict(state["model"])
    return objective.eval()
