"""Demonstrators, scripted or learned: who shows how a task is done."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol

import numpy as np

from rsp_robot.envs.learned_expert import LearnedExpert, describe_learned_expert
from rsp_robot.envs.registry import describe, find_task
from rsp_robot.errors import UserError

if TYPE_CHECKING:
    from rsp_robot.envs.base import VisualEnv


class Expert(Protocol):
    """Acts on the environment it was made for; it may look at the simulator's whole state, which a learner cannot."""

    def reset(self) -> None:
        """Forget the last episode; call it after ``env.reset()``."""

    def act(self) -> np.ndarray:
        """Return the action for the environment's present state, float32 ``(A,)`` within [-1, 1]."""


def describe_expert(task: str, learned: str | os.PathLike[str] | None = None) -> str:
    """Say who demonstrates ``task``: the policy folder ``learned``, else the suite's scripted expert; empty if nobody.

    Raises:
        UserError: unknown task, or ``learned`` holds no expert for it.
    """
    return describe(task).expert if learned is None else describe_learned_expert(learned, task)


def make_expert(task: str, env: VisualEnv, learned: str | os.PathLike[str] | None = None) -> Expert:
    """Return the demonstrator of ``task`` acting on ``env``.

    Args:
        task: task id.
        env: of this task.
        learned: policy folder of an expert trained on the simulator's state; by default the suite's scripted expert.

    Raises:
        UserError: unknown task, an environment of another task, or nobody demonstrates this one.
    """
    suite, name = find_task(task)
    if env.task != task:
        raise UserError(f"the expert for {task} was given an environment of {env.task}; make both for one task")
    if learned is not None:
        return LearnedExpert(learned, env)
    if not suite.describe(name).expert:
        raise UserError(f"nobody demonstrates {task}; choose another task, or give an expert trained on states")
    return suite.make_expert(name, env)
