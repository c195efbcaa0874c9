"""A demonstrator that was trained on the simulator's state by `rsp-robot rl`; in NumPy, for workers without torch."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rsp_robot.errors import UserError
from rsp_robot.files import read_json
from rsp_robot.versions import simulator_versions

if TYPE_CHECKING:
    from rsp_robot.envs.base import VisualEnv

KIND = "reinforcement_learning"
CLIP = 10.0
"""Normalised features are cut at so many deviations, as in training."""
FUNCTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "relu": lambda x: np.maximum(x, 0),
    "tanh": np.tanh,
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "silu": lambda x: x * (1 + np.tanh(x / 2)) / 2,  # x times the logistic function, which would overflow
}


def find_learned_expert(folder: str | os.PathLike[str]) -> tuple[Path, dict[str, Any]]:
    """Return the policy folder at ``folder`` (or in the run folder there) and its configuration.

    Raises:
        UserError: there is no policy, or one that needs more than the simulator's state.
    """
    for path in (Path(folder), Path(folder) / "policy"):
        if not (path / "config.json").is_file():
            continue
        config = read_json(path / "config.json")
        if not isinstance(config, dict) or config.get("kind") != KIND:
            found = config.get("kind") if isinstance(config, dict) else None
            raise UserError(f"{path} holds a policy of kind {found}, an expert is of kind {KIND}; train it with rl")
        if config.get("encoder") is not None:
            raise UserError(f"the policy in {path} looks at pictures; train an expert with `rl --encoder state`")
        return path, config
    raise UserError(f"{folder} holds no finished policy; train one with `rsp-robot rl TASK --encoder state`")


def describe_learned_expert(folder: str | os.PathLike[str], task: str) -> str:
    """Say who demonstrates: algorithm, decisions taken in training, fingerprint.

    Raises:
        UserError: no expert is there, or it is one for another task or other versions of the simulator.
    """
    path, config = find_learned_expert(folder)
    if config.get("task") != task:
        raise UserError(f"the expert in {path} was trained on {config.get('task')}, not on {task}; give one for {task}")
    installed = simulator_versions()
    for name, number in (config.get("simulators") or {}).items():
        if name in installed and installed[name] != number:
            raise UserError(
                f"the expert in {path} was trained with {name} {number}, {installed[name]} is installed; install that, "
                "or train it again"
            )
    return f"{config['algorithm']} on states, {config['steps']} decisions, {config['fingerprint']}"


class LearnedExpert:
    """Acts on one environment like the deterministic actor of the policy folder; see :class:`Expert`."""

    def __init__(self, folder: str | os.PathLike[str], env: VisualEnv) -> None:
        """Read the actor.

        Raises:
            UserError: there is none, it is damaged, or for another task.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        describe_learned_expert(folder, env.task)
        path, config = find_learned_expert(folder)
        try:
            tensors = load_file(path / "model.safetensors")
            head = config["head"]
            self._vectors, self._repeat = list(head["vectors"]), int(head["action_repeat"])
            self._layers = list(head["layers"])
            self._mean, self._std = tensors["norm.mean"], tensors["norm.std"]
            self._tensors = {name.removeprefix("actor."): value for name, value in tensors.items()}
            if unknown := {*self._layers} - {*FUNCTIONS, "linear", "affine"} | {*self._vectors} - {"proprio", "state"}:
                raise ValueError(f"unknown {', '.join(sorted(unknown))}")
        except (KeyError, TypeError, ValueError, OSError, SafetensorError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"the expert in {path} cannot be read ({reason}); train it again") from None
        self._env, self._path = env, path
        self.reset()

    def reset(self) -> None:
        """Forget the last episode."""
        self._left, self._action = 0, np.zeros(0, np.float32)

    def act(self) -> np.ndarray:
        """Return the action for the present state, float32 ``(A,)``; it is held as often as in training."""
        if self._left == 0:
            self._left, self._action = self._repeat, self.decide(self._observe())
        self._left -= 1
        return self._action.copy()

    def decide(self, features: np.ndarray) -> np.ndarray:
        """Map features ``(F,)`` to an action ``(A,)``.

        Raises:
            UserError: it was trained on another number of features.
        """
        if features.shape != self._mean.shape:
            raise UserError(
                f"the expert in {self._path} takes {len(self._mean)} numbers, {self._env.task} gives {len(features)}; "
                "train it again"
            )
        values = np.clip((features - self._mean) / self._std, -CLIP, CLIP)
        for index, kind in enumerate(self._layers):
            if kind == "linear":
                values = self._tensors[f"{index}.weight"] @ values + self._tensors[f"{index}.bias"]
            elif kind == "affine":
                values = values * self._tensors[f"{index}.scale"] + self._tensors[f"{index}.shift"]
            else:
                values = FUNCTIONS[kind](values)
        return np.clip(values, -1.0, 1.0).astype(np.float32)

    def _observe(self) -> np.ndarray:
        """Return what the actor was trained on, joined as there: in the order of names."""
        parts = {"proprio": self._env._proprio, "state": self._env._full_state}
        return np.concatenate([parts[key]() for key in sorted(self._vectors)]).astype(np.float32)
