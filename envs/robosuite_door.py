"""Waypoint expert for robosuite's door: grip the handle from the front, turn it, pull."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rsp_robot.envs.robosuite_hand import Hand, rotation_vector

if TYPE_CHECKING:
    from rsp_robot.envs.robosuite import RobosuiteEnv

GRIP = np.array([0.10, -0.095, 0.0])
"""Where the handle is gripped, metres in the frame of the latch: the lever runs along x, the door lies towards +y."""
HOVER = 0.10
"""How far in front of the handle the hand arrives, metres."""
TURNED = -1.35
"""Latch angle that is clear of the frame, radians; negative is up."""


class DoorExpert:
    """Point the hand at the door, one finger above and one below the lever, turn that, pull along the hinge.

    The lever is turned up because the wrist has more room that way; the latch opens either way.
    """

    def __init__(self, env: RobosuiteEnv) -> None:
        self._data, self.hand = env.data, Hand(env)
        door = env.simulator.door
        self._latch = env.model.body(door.latch_body).id
        self._hinge, self._lever = (env.model.joint(name).id for name in door.joints[:2])
        self._hinge_at, self._lever_at = (int(env.model.jnt_qposadr[i]) for i in (self._hinge, self._lever))

    def reset(self) -> None:
        """Nothing to forget: every action follows from the present state."""

    def act(self) -> np.ndarray:
        """Return the action for the present state, float32 ``(7,)`` within [-1, 1]."""
        point, rotation = self._grip_pose()
        if self._around(point, rotation):
            return self._open(point, rotation)
        return self._approach(point, rotation)

    def _around(self, point: np.ndarray, rotation: np.ndarray) -> bool:
        """Whether the closed fingers have the lever between them; while it turns, only one of them may touch it."""
        depth, aside = self._miss(point, rotation)
        return self.hand.shut > 0.5 and self.hand.opening > 0.03 and aside < 0.03 and abs(depth) < 0.02

    def _miss(self, point: np.ndarray, rotation: np.ndarray) -> tuple[float, float]:
        """Return how far the grip is ahead of the hand, and how far to its side, metres."""
        error, forward = point - self.hand.position, rotation[:, 2]
        depth = float(error @ forward)
        return depth, float(np.linalg.norm(error - depth * forward))

    def _grip_pose(self) -> tuple[np.ndarray, np.ndarray]:
        latch = self._data.xmat[self._latch].reshape(3, 3)
        rotation = np.stack([-latch[:, 2], -latch[:, 0], latch[:, 1]], axis=1)
        return self._data.xpos[self._latch] + latch @ GRIP, rotation

    def _approach(self, point: np.ndarray, rotation: np.ndarray) -> np.ndarray:
        hand, forward = self.hand, rotation[:, 2]
        depth, aside = self._miss(point, rotation)
        turn = float(np.linalg.norm(rotation_vector(rotation @ hand.rotation.T)))
        slack = 3.0 if hand.shut > -0.7 else 1.0
        if aside < slack * 0.008 and abs(depth) < slack * 0.008 and turn < slack * 0.15:
            return hand.go(point, rotation, close=True)
        back = min(HOVER, 3 * max(aside - 0.008, 0.0) + 0.3 * max(turn - 0.15, 0.0))
        return hand.go(point - back * forward, rotation, close=False)

    def _open(self, point: np.ndarray, rotation: np.ndarray) -> np.ndarray:
        lever, hinge = self._data.qpos[self._lever_at], self._data.qpos[self._hinge_at]
        point, rotation = self._swing(self._lever, np.clip(TURNED - lever, -0.4, 0.4), point, rotation)
        if lever < TURNED + 0.2 or hinge > 0.03:
            point, rotation = self._swing(self._hinge, 0.12, point, rotation)
        return self.hand.go(point, rotation, close=True)

    def _swing(
        self, joint: int, angle: float, point: np.ndarray, rotation: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return where a pose is after ``joint`` has moved on by ``angle`` radians."""
        axis, anchor = self._data.xaxis[joint], self._data.xanchor[joint]
        skew = np.array([[0.0, -axis[2], axis[1]], [axis[2], 0.0, -axis[0]], [-axis[1], axis[0], 0.0]])
        turn = np.eye(3) + np.sin(angle) * skew + (1 - np.cos(angle)) * skew @ skew
        return anchor + turn @ (point - anchor), turn @ rotation
