"""Scripted demonstrators: who shows how a task is done."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from rsp_robot.envs.registry import find_task
from rsp_robot.errors import UserError

if TYPE_CHECKING:
    from rsp_robot.envs.base import VisualEnv


class Expert(Protocol):
    """Acts on the environment it was made for; it may look at the simulator's whole state, which a learner cannot."""

    def reset(self) -> None:
        """Forget the last episode; call it after ``env.reset()``."""

    def act(self) -> np.ndarray:
        """Return the action for the environment's present state, float32 ``(A,)`` within [-1, 1]."""


def make_expert(task: str, env: VisualEnv) -> Expert:
    """Return the demonstrator of ``task`` acting on ``env``.

    Raises:
        UserError: unknown task, an environment of another task, or nobody demonstrates this one.
    """
    suite, name = find_task(task)
    if env.task != task:
        raise UserError(f"the expert for {task} was given an environment of {env.task}; make both for one task")
    if not suite.describe(name).expert:
        raise UserError(f"nobody demonstrates {task}; choose another task, or bring demonstrations of your own")
    return suite.make_expert(name, env)
