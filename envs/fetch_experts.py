"""Waypoint experts for the Fetch tasks: no memory, every action follows from the present positions alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from rsp_robot.envs.experts import Expert

OPEN, CLOSE = 1.0, -1.0
GAIN = 10.0
"""Full speed from 10 cm on; a step at full speed moves the gripper by 3.3 cm, so it does not overshoot."""


class Scene(Protocol):
    """What an expert looks at; metres, float64 ``(3,)``."""

    @property
    def gripper(self) -> np.ndarray:
        """The point between the finger tips."""

    @property
    def fingers(self) -> float:
        """Distance of the fingers from each other."""

    @property
    def object(self) -> np.ndarray:
        """The object's centre."""

    @property
    def goal(self) -> np.ndarray:
        """Where it has to be."""


class ReachExpert:
    """Goes straight to the goal."""

    def __init__(self, env: Scene) -> None:
        self._env = env

    def reset(self) -> None:
        """Nothing to forget."""

    def act(self) -> np.ndarray:
        """Return the action, float32 ``(4,)`` within [-1, 1]."""
        return _move(self._env.goal - self._env.gripper)


class PushExpert(ReachExpert):
    """Goes over the cube, comes down behind it as seen from the goal, and pushes; again if the cube slips off."""

    BEHIND = 0.06
    """Where it comes down: this far from the cube's centre."""
    ABOVE = 0.1
    """How high above the cube's centre the gripper crosses it."""
    CLOSE_ENOUGH = 0.015
    """How far from the goal it stops pushing; the gripper once lifted, twice as much."""
    PUSH = np.float32(0.6)
    """Share of full speed; faster, an edge of the fingers throws the cube up."""
    LANE = 0.02
    """Half the width of the lane behind the cube in which pushing goes on."""

    def act(self) -> np.ndarray:
        """Return the action, float32 ``(4,)`` within [-1, 1]."""
        gripper, cube, goal = self._env.gripper, self._env.object, self._env.goal
        way = (goal - cube)[:2]
        distance = float(np.linalg.norm(way))
        height = gripper[2] - goal[2]
        if distance < (self.CLOSE_ENOUGH if height < 0.03 else 2 * self.CLOSE_ENOUGH):
            return _move(np.array([0.0, 0.0, self.ABOVE - height]))  # away from the cube: noise would push it on
        forward = way / distance
        offset = (gripper - cube)[:2]
        behind = -float(offset @ forward)
        aside = offset + behind * forward
        if height < 0.03 and np.linalg.norm(aside) < self.LANE and 0.0 < behind < 2 * self.BEHIND:
            return self.PUSH * _move(np.append(way - 2 * aside, goal[2] - gripper[2]))
        start = np.append(cube[:2] - self.BEHIND * forward, goal[2])
        return _move(_over(gripper, start, self.ABOVE))


class PickAndPlaceExpert(ReachExpert):
    """Opens over the cube, comes down, closes, and carries it to the goal; begins again if the cube is lost."""

    ABOVE = 0.08
    WIDTH = 0.05
    """The cube's; the fingers cannot be closer with the cube between them."""

    def act(self) -> np.ndarray:
        """Return the action, float32 ``(4,)`` within [-1, 1]."""
        gripper, cube, goal = self._env.gripper, self._env.object, self._env.goal
        offset = cube - gripper
        closed = self._env.fingers < self.WIDTH + 0.004
        if np.any(np.abs(offset) > (0.02, 0.02, 0.03 if closed else 0.015)):  # held, the cube may slip a little
            return _move(_over(gripper, cube, self.ABOVE), OPEN)
        if not closed:
            return _move(offset, CLOSE)
        return _move(goal - cube, CLOSE)


def _over(gripper: np.ndarray, target: np.ndarray, above: float) -> np.ndarray:
    """Way to ``target`` that comes down on it from above, metres."""
    way = target - gripper
    aside = float(np.linalg.norm(way[:2]))
    # A funnel: the closer the gripper is to the vertical over the target, the lower it may be.
    way[2] += np.clip(2.0 * (aside - 0.015), 0.0, above)
    if way[2] > 0.02:
        way[:2] *= 0.2  # up first: what stands in between would be knocked over
    return way


def _move(way: np.ndarray, fingers: float = 0.0) -> np.ndarray:
    """Action that moves the gripper along ``way``, metres, in a straight line."""
    move = GAIN * way
    move /= max(1.0, float(np.abs(move).max()))
    return np.append(move, fingers).astype(np.float32)


EXPERTS: dict[str, Callable[[Scene], Expert]] = {
    "Reach": ReachExpert,
    "Push": PushExpert,
    "PickAndPlace": PickAndPlaceExpert,
}
