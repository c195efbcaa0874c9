"""A learner on disk, with its replay buffer, and nothing pickled: tensors, plain arrays and JSON."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rsp_robot.errors import UserError
from rsp_robot.files import atomic_path, read_json, write_json

if TYPE_CHECKING:
    from rsp_robot.policies.rl.normaliser import RunningNorm

COUNTERS = ("num_timesteps", "_n_updates", "_episode_num")
PLAIN = ("actions", "rewards", "dones", "timeouts")
NAME = "step-{:010d}"


def latest_checkpoint(folder: Path) -> Path | None:
    """Return the newest whole checkpoint, or None."""
    found = sorted(path for path in folder.glob("step-*") if (path / "state.json").is_file())
    return found[-1] if found else None


def checkpoint_steps(checkpoint: Path | None) -> int:
    """Return how many decisions were taken before a checkpoint; 0 without one."""
    return 0 if checkpoint is None else int(read_json(checkpoint / "state.json")["counters"]["num_timesteps"])


def save_checkpoint(folder: Path, model: Any, norm: RunningNorm, extra: dict[str, Any]) -> Path:
    """Write a checkpoint into ``folder``, whole or not at all, then remove the older ones.

    Args:
        folder: for checkpoints; each is a folder ``step-<decisions>``.
        model: the learner: parameters, optimisers, counters and replay buffer.
        norm: statistics of the features.
        extra: plain values to be given back by :func:`load_checkpoint`.
    """
    final = folder / NAME.format(model.num_timesteps)
    names, variables = model._get_torch_save_params()
    learner = {
        "modules": {name: _resolve(model, name).state_dict() for name in names},
        "variables": {name: _resolve(model, name).detach().clone() for name in variables},
        "norm": norm.state(),
        "rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }
    with atomic_path(final) as temporary:
        temporary.mkdir(parents=True)
        torch.save(learner, temporary / "learner.pt")
        buffer = getattr(model, "replay_buffer", None)
        if buffer is not None:
            _save_buffer(temporary / "buffer", buffer)
        state = {
            "counters": {name: int(getattr(model, name)) for name in COUNTERS},
            "rng": _random_state(model),
            "extra": extra,
        }
        write_json(temporary / "state.json", state)
    for older in folder.glob("step-*"):
        if older != final:
            shutil.rmtree(older)
    return final


def load_checkpoint(checkpoint: Path, model: Any, norm: RunningNorm) -> dict[str, Any]:
    """Put ``model`` and ``norm`` into the state of a checkpoint; return its extra values.

    Raises:
        UserError: the checkpoint is damaged or of a network of another shape.
    """
    state = read_json(checkpoint / "state.json")
    try:
        learner = torch.load(checkpoint / "learner.pt", map_location="cpu", weights_only=True)
        model.set_parameters(learner["modules"], exact_match=True, device=model.device)
        for name, value in learner["variables"].items():
            _resolve(model, name).data = value.to(model.device)
        norm.restore(learner["norm"])
        for name in COUNTERS:
            setattr(model, name, state["counters"][name])
        if getattr(model, "replay_buffer", None) is not None:
            _load_buffer(checkpoint / "buffer", model.replay_buffer)
    except (KeyError, ValueError, RuntimeError, OSError, EOFError, UnpicklingError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{checkpoint} cannot be read ({reason}); remove it, and the run starts over") from None
    torch.set_rng_state(learner["rng"])
    if learner["cuda_rng"] and len(learner["cuda_rng"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(learner["cuda_rng"])
    _set_random_state(model, state["rng"])
    extra: dict[str, Any] = state["extra"]
    return extra


def _resolve(model: Any, dotted: str) -> Any:
    for part in dotted.split("."):
        model = getattr(model, part)
    return model


def _random_state(model: Any) -> dict[str, Any]:
    kind, keys, position, has_gauss, gauss = np.random.get_state()  # Stable-Baselines3 draws from the global generator
    version, internal, following = random.getstate()
    return {
        "numpy": [kind, [int(key) for key in keys], int(position), int(has_gauss), float(gauss)],
        "python": [version, list(internal), following],
        "actions": model.action_space.np_random.bit_generator.state,
    }


def _set_random_state(model: Any, state: dict[str, Any]) -> None:
    kind, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((kind, np.array(keys, np.uint32), position, has_gauss, gauss))
    version, internal, following = state["python"]
    random.setstate((version, tuple(internal), following))
    model.action_space.np_random.bit_generator.state = state["actions"]


def _arrays(buffer: Any) -> dict[str, np.ndarray]:
    """Return the arrays of a replay buffer ``(rows, environments, ...)`` by the name of their file."""
    arrays = {name: getattr(buffer, name) for name in PLAIN}
    if not isinstance(buffer.observations, dict):
        return arrays | {"observation": buffer.observations, "next_observation": buffer.next_observations}
    arrays |= {f"observation.{key}": value for key, value in buffer.observations.items()}
    return arrays | {f"next_observation.{key}": value for key, value in buffer.next_observations.items()}


def _save_buffer(folder: Path, buffer: Any) -> None:
    folder.mkdir()
    rows = buffer.buffer_size if buffer.full else buffer.pos
    for name, array in _arrays(buffer).items():
        np.save(folder / f"{name}.npy", array[:rows], allow_pickle=False)
    write_json(folder / "buffer.json", {"rows": rows, "pos": buffer.pos, "full": buffer.full})


def _load_buffer(folder: Path, buffer: Any) -> None:
    """Fill a buffer; where it is smaller than what was saved, with the latest rows, oldest first."""
    about = read_json(folder / "buffer.json")
    rows = int(about["rows"])
    kept = min(rows, buffer.buffer_size)
    newest_first_row = int(about["pos"]) if about["full"] else 0
    order = (newest_first_row + np.arange(rows - kept, rows)) % max(rows, 1)
    for name, array in _arrays(buffer).items():
        saved = np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        if saved.shape != (rows, *array.shape[1:]) or saved.dtype != array.dtype:
            raise ValueError(f"{name} has shape {saved.shape} and type {saved.dtype}")
        if kept == rows == buffer.buffer_size and about["full"]:
            array[:] = saved
        else:
            array[:kept] = saved[order]
    if kept == rows == buffer.buffer_size and about["full"]:
        buffer.pos, buffer.full = int(about["pos"]), True
    else:
        buffer.pos, buffer.full = kept % buffer.buffer_size, kept == buffer.buffer_size
