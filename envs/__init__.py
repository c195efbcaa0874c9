"""Simulated tasks behind one contract: ``make``, ``list_tasks``, ``describe``.

No simulator is imported until an environment is made. Importing this package makes the built-in tasks known to
Gymnasium, so this works too::

    gymnasium.make("rsp_robot.envs:metaworld/push-v3", image_size=64)
"""

from __future__ import annotations

import gymnasium

from rsp_robot.envs.registry import BUILT_IN, TaskDescription, describe, list_tasks, load_suite, make

__all__ = ["TaskDescription", "describe", "list_tasks", "make"]

for _suite in BUILT_IN:
    for _task in load_suite(_suite).tasks():
        gymnasium.register(f"{_suite}/{_task}", entry_point="rsp_robot.envs:make", kwargs={"task": f"{_suite}/{_task}"})
