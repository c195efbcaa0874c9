"""What robosuite's waypoint experts share: the Panda's gripper under OSC_POSE, and angles."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from rsp_robot.envs.robosuite import RobosuiteEnv

METRES, RADIANS = 0.05, 0.5
"""What an action of 1 asks of OSC_POSE: the goal's offset from where the hand is, per axis."""
GAIN = 1.5
HOME = np.pi / 2
"""The hand's angle at the start: the fingers open along the world's y axis."""
WRIST = (HOME - 1.7, HOME + 3.2)
"""Hand angles that the last joint can reach where the objects are, counted through full turns."""


class Hand:
    """The gripper: where it is, and the action that brings it elsewhere."""

    def __init__(self, env: RobosuiteEnv) -> None:
        self._env, self._data = env, env.data
        self._site = env.grip_site

    @property
    def position(self) -> np.ndarray:
        """The point between the fingertips, metres in the world ``(3,)``."""
        return self._data.site_xpos[self._site].copy()

    @property
    def rotation(self) -> np.ndarray:
        """``(3, 3)``; the fingers open along its first column and point along its third."""
        return self._data.site_xmat[self._site].reshape(3, 3).copy()

    @property
    def angle(self) -> float:
        """Direction in which the fingers open, radians from the world's x axis."""
        opening = self.rotation[:, 0]
        return float(np.arctan2(opening[1], opening[0]))

    @property
    def wrist_angle(self) -> float:
        """The same angle counted through full turns, as the last joint sees it."""
        first, last = self._data.qpos[0], self._data.qpos[6]
        guess = HOME + np.pi / 4 - last + first
        return float(guess + turn_between(guess, self.angle))

    @property
    def shut(self) -> float:
        """How far closing has been commanded: -1 open to 1 closed; one step changes it by 0.2."""
        return float(self._env.gripper.current_action[-1])

    @property
    def opening(self) -> float:
        """Gap between the fingers, metres: 0 to 0.08."""
        return float(np.abs(self._data.qpos[self._env.fingers]).sum())

    def holds(self, geoms: list[str]) -> bool:
        """Whether both fingertips touch one of ``geoms`` and press."""
        grasped = self._env.simulator._check_grasp(gripper=self._env.gripper, object_geoms=geoms)
        return bool(grasped) and self.shut > 0.5

    def turned(self, angle: float) -> np.ndarray:
        """Return the rotation of a hand that points down, from here towards ``angle`` the way the wrist can go."""
        now = self.wrist_angle
        return downward(now + float(np.clip(angle - now, -1.0, 1.0)))

    def go(self, position: np.ndarray, rotation: np.ndarray, close: bool) -> np.ndarray:
        """Return the action towards a pose, float32 ``(7,)``."""
        shift = GAIN * (position - self.position) / METRES
        turn = GAIN * rotation_vector(rotation @ self.rotation.T) / RADIANS
        move = np.concatenate([_shorten(shift), _shorten(turn)])
        return np.append(move, 1.0 if close else -1.0).astype(np.float32)


def rotation_vector(rotation: np.ndarray) -> np.ndarray:
    """Return axis times angle of a rotation matrix, radians ``(3,)``, angle below pi."""
    skew = np.array([rotation[2, 1] - rotation[1, 2], rotation[0, 2] - rotation[2, 0], rotation[1, 0] - rotation[0, 1]])
    sine, cosine = np.linalg.norm(skew) / 2, (np.trace(rotation) - 1) / 2
    if sine < 1e-9:
        return np.zeros(3)
    return skew / (2 * sine) * np.arctan2(sine, cosine)


def downward(angle: float) -> np.ndarray:
    """Return the rotation of a hand that points down and opens along ``angle``."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, s, 0.0], [s, -c, 0.0], [0.0, 0.0, -1.0]])


def turn_between(start: float, end: float) -> float:
    """Return the signed turn from one angle to another, radians in [-pi, pi)."""
    return float((end - start + np.pi) % (2 * np.pi) - np.pi)


def best_angle(angle: float, period: float, now: float) -> float:
    """Choose among ``angle + k * period``: near :data:`HOME`, where the wrist has room, and with few turns from now."""
    turns = (turn_between(HOME, angle + k * period) for k in range(round(2 * np.pi / period)))
    return min((HOME + turn for turn in turns), key=lambda option: abs(option - HOME) + 0.5 * abs(option - now))


def _shorten(vector: np.ndarray) -> np.ndarray:
    """Bring a vector into [-1, 1] without changing its direction."""
    return vector / max(1.0, float(np.abs(vector).max()))
