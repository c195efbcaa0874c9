"""Demonstrators for the kitchen: waypoints at the fixtures, followed by differential inverse kinematics.

Waypoints are given in the axes of the fixture and recomputed at every step, so that a kitchen that stands elsewhere, a
door that has moved and a disturbed arm are all followed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

ARM = 7
REACH = 0.04
"""From the model's end effector site to the point between the fingertips, metres."""
DAMPING = 0.05
"""Of the least squares; an arm that is stretched out gives up accuracy for small joint steps."""
LONGEST_MOVE, LONGEST_TURN = 0.12, 0.5
"""What is asked of one control step at most, m and rad."""
TURN_WEIGHT = 0.15
"""Metres of error that one radian counts as."""
POSTURE_GAIN = 0.1
MARGIN = 0.03
"""Kept from the joints' stops, rad."""
STEP = 0.08
"""Control step, s."""
COMMAND = 0.16
"""How far ahead of a joint an action of 1 puts its position target, rad."""
CLOSED, OPEN = -1.0, 1.0
FORWARD = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
"""The hand looking into the kitchen (+y) with the fingers side by side (x)."""

Place = Callable[["Scene"], np.ndarray]
Test = Callable[["Scene"], bool]


def _never(scene: Scene) -> bool:
    return False


@dataclass(frozen=True)
class Waypoint:
    """Where the fingertips should be, and when that is done with."""

    aim: Place
    """World, metres."""
    done: Test = _never
    fingers: float = CLOSED
    yaw: float = 0.0
    """Hand turned to the left, rad."""
    pitch: float = 0.0
    """Hand turned upwards, rad."""
    push: Place | None = None
    """Force of the fingertips besides, world, newtons."""
    lost: Test = _never
    """When to start over."""


class Scene:
    """What an expert knows: the simulator's present state."""

    def __init__(self, model: Any, data: Any) -> None:
        import mujoco

        self._mujoco, self.model, self.data = mujoco, model, data
        self._hand = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_SITE, "end_effector")
        self.waited = 0
        """Steps spent on the present waypoint."""

    @property
    def hand(self) -> np.ndarray:
        """Orientation of the hand; its third column points along the fingers."""
        hand: np.ndarray = self.data.site_xmat[self._hand].reshape(3, 3)
        return hand

    @property
    def tip(self) -> np.ndarray:
        """Point between the fingertips, world."""
        tip: np.ndarray = self.data.site_xpos[self._hand] + REACH * self.hand[:, 2]
        return tip

    def site(self, name: str) -> np.ndarray:
        """Return where a site of the model is, world."""
        place: np.ndarray = self.data.site(name).xpos.copy()
        return place

    def joint(self, name: str) -> float:
        """Return a joint's position."""
        return float(self.data.joint(name).qpos[0])

    def axes(self, body: str) -> np.ndarray:
        """Return a body's axes as columns, world."""
        axes: np.ndarray = self.data.body(body).xmat.reshape(3, 3)
        return axes

    def on(self, body: str, x: float, y: float, z: float) -> np.ndarray:
        """Return the world place of a point given in a body's own axes."""
        place: np.ndarray = self.data.body(body).xpos + self.axes(body) @ np.array([x, y, z])
        return place

    def seen_from(self, body: str) -> np.ndarray:
        """Return the fingertips' place in a body's own axes."""
        place: np.ndarray = self.axes(body).T @ (self.tip - self.data.body(body).xpos)
        return place

    def near(self, place: np.ndarray, within: float) -> bool:
        """Whether the fingertips are there."""
        return bool(np.linalg.norm(self.tip - place) < within)

    def act(self, point: Waypoint) -> np.ndarray:
        """Return the action that takes the fingertips towards a waypoint, float64 ``(9,)``."""
        model, data = self.model, self.data
        moves, turns = np.zeros((3, model.nv)), np.zeros((3, model.nv))
        self._mujoco.mj_jac(model, data, moves, turns, self.tip, model.site_bodyid[self._hand])
        moves, turns = moves[:, :ARM], turns[:, :ARM]
        move = _shortened(point.aim(self) - self.tip, LONGEST_MOVE)
        turn = _shortened(self._turn_to(_turned(point.yaw, point.pitch)), LONGEST_TURN)
        step = self._joint_step(np.vstack([moves, TURN_WEIGHT * turns]), np.concatenate([move, TURN_WEIGHT * turn]))
        # Under its servo a joint comes exp(-stiffness / damping * t) close to its target, less load / stiffness.
        stiffness, damping = model.actuator_gainprm[:ARM, 0], model.dof_damping[:ARM]
        ahead = step / (1.0 - np.exp(-stiffness / damping * STEP))
        held = data.qfrc_bias[:ARM] / stiffness
        room = np.maximum(COMMAND - np.sign(ahead) * held, 0.01)
        ahead *= min(1.0, float(np.min(room / np.maximum(np.abs(ahead), 1e-9))))
        if point.push is not None:
            held = held + moves.T @ point.push(self) / stiffness
        return np.concatenate([(ahead + held) / COMMAND, [point.fingers, point.fingers]])

    def _turn_to(self, wanted: np.ndarray) -> np.ndarray:
        quaternion, turn = np.zeros(4), np.zeros(3)
        self._mujoco.mju_mat2Quat(quaternion, (wanted @ self.hand.T).ravel())
        self._mujoco.mju_quat2Vel(turn, quaternion, 1.0)
        return turn

    def _joint_step(self, jacobian: np.ndarray, error: np.ndarray) -> np.ndarray:
        """Damped least squares; a joint that would run into its stop is held there and the others do what they can."""
        joints = self.data.qpos[:ARM]
        low, high = self.model.jnt_range[:ARM].T + np.array([[MARGIN], [-MARGIN]])
        rest = POSTURE_GAIN * (self.model.key_qpos[0][:ARM] - joints)
        free, step = np.ones(ARM, dtype=bool), np.zeros(ARM)
        for _ in range(ARM):
            part = jacobian[:, free]
            inverse = part.T @ np.linalg.inv(part @ part.T + DAMPING**2 * np.eye(6))
            left = error - jacobian[:, ~free] @ step[~free]
            step[free] = inverse @ left + rest[free] - inverse @ (part @ rest[free])
            goal = joints + step
            stopped = free & (((goal > high) & (step > 0)) | ((goal < low) & (step < 0)))
            if not stopped.any():
                break
            step[stopped] = (np.clip(goal, low, high) - joints)[stopped]
            free &= ~stopped
        return step


def _shortened(vector: np.ndarray, length: float) -> np.ndarray:
    return vector * min(1.0, length / max(float(np.linalg.norm(vector)), 1e-9))


def _turned(yaw: float, pitch: float) -> np.ndarray:
    cos, sin, up, out = np.cos(yaw), np.sin(yaw), np.sin(pitch), np.cos(pitch)
    about_z = np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
    about_x = np.array([[1.0, 0.0, 0.0], [0.0, out, -up], [0.0, up, out]])
    wanted: np.ndarray = about_z @ about_x @ FORWARD
    return wanted


def _reach(aim: Place, within: float, patience: int = 10**9, **how: Any) -> Waypoint:
    """A waypoint that is done with when the fingertips are there, or after so many steps."""
    return Waypoint(aim, lambda scene: scene.near(aim(scene), within) or scene.waited > patience, **how)


def _off(site: str, x: float, y: float, z: float) -> Place:
    """A place that far from a site of the model, in world axes."""
    return lambda scene: scene.site(site) + np.array([x, y, z])


def _on(body: str, x: float, y: float, z: float) -> Place:
    return lambda scene: scene.on(body, x, y, z)


def _force(body: str, x: float, y: float, z: float) -> Place:
    return lambda scene: scene.axes(body) @ np.array([x, y, z])


LIGHT = (
    _reach(_off("light_site", 0.06, -0.12, 0.0), 0.02),
    _reach(_off("light_site", 0.06, 0.0, 0.0), 0.02),
    Waypoint(_off("light_site", -0.04, 0.0, 0.0)),
)
SLIDING_DOOR = (
    _reach(_off("slide_site", -0.07, -0.15, -0.05), 0.02),
    _reach(_off("slide_site", -0.07, 0.01, -0.05), 0.02),
    Waypoint(_off("slide_site", 0.05, 0.01, -0.05)),
)

KNOB_END, KNOB_OUT = -0.042, 0.04
"""Where the knob's bar is pushed, in the knob's axes: y along the bar (upwards at first), z out of the panel."""
KNOB_FORCE = 60.0
"""The knob is stiff (2 N m s/rad) and its lever short; this is about what the wrist can hold, N."""


def _along_knob(scene: Scene) -> np.ndarray:
    """Stay at the bar's lower end while it comes round."""
    x, y, z = scene.seen_from("knob 1")
    return scene.on("knob 1", x, y + 2.0 * (KNOB_END - y), z + 2.0 * (KNOB_OUT - z))


KNOB = (
    _reach(_on("knob 1", 0.05, KNOB_END, 0.12), 0.02, patience=40, pitch=0.8),
    _reach(_on("knob 1", 0.05, KNOB_END, KNOB_OUT), 0.015, pitch=0.8),
    Waypoint(_along_knob, pitch=0.8, push=_force("knob 1", -KNOB_FORCE, 0.0, 0.0)),
)


def _door(
    body: str, joint: str, handle: tuple[float, float, float], edge: float, yaw: float, pitch: float
) -> tuple[Waypoint, ...]:
    """Pull a hinged door ajar by its handle, go round its edge and push it open from inside.

    One hand position does not do: with the door half open, the handle is on the side that the arm cannot get to.
    Places are in the door's own axes: x from the hinge along the door, y into the cupboard, z up.
    """
    x, y, z = handle

    def pull(scene: Scene) -> np.ndarray:
        return scene.on(body, x, scene.seen_from(body)[1] - 0.03, z)

    def lost(scene: Scene) -> bool:
        return scene.waited > 40 or not scene.near(scene.on(body, x, y, z), 0.08)

    def slipped(scene: Scene) -> bool:
        return bool(scene.seen_from(body)[1] < -0.03)

    def open_by(angle: float) -> Test:
        return lambda scene: scene.joint(joint) < -angle

    at, around = partial(_on, body), _on(body, x + 0.005, y + 0.02, z)
    straight: dict[str, Any] = {"yaw": yaw, "pitch": pitch}
    return (
        _reach(at(x + 0.08, y - 0.12, z), 0.025, fingers=OPEN, **straight),
        _reach(around, 0.015, patience=20, fingers=OPEN, **straight),
        Waypoint(around, lambda scene: scene.waited > 5, **straight),
        Waypoint(pull, open_by(0.5), push=_force(body, 0.0, -20.0, 0.0), lost=lost, **straight),
        _reach(at(x + 0.03, y - 0.14, z), 0.05, fingers=OPEN, **straight),
        _reach(at(edge + 0.09, y - 0.06, z), 0.04, **straight),
        _reach(at(edge + 0.05, 0.06, z), 0.04, yaw=yaw + 0.3, pitch=pitch),
        Waypoint(at(edge - 0.04, -0.08, z), open_by(1.25), lost=slipped, yaw=yaw + 0.4, pitch=pitch),
        Waypoint(at(edge - 0.04, 0.04, z), yaw=yaw + 0.4, pitch=pitch),
    )


PLANS = {
    "knob": KNOB,
    "light": LIGHT,
    "sliding-door": SLIDING_DOOR,
    # Its handle is at the end of the arm's reach: held at its lower end, from below.
    "left-door": _door("hingeleftdoor", "left_hinge_cabinet", (0.302, -0.128, -0.14), 0.377, yaw=0.9, pitch=0.4),
    "microwave": _door("microdoorroot", "microwave", (0.475, -0.108, 0.0), 0.518, yaw=1.1, pitch=-0.5),
}


class KitchenExpert:
    """Goes from waypoint to waypoint. Which one it is at is all it remembers."""

    def __init__(self, task: str, model: Any, data: Any) -> None:
        self._scene = Scene(model, data)
        self._plan = PLANS[task]
        self.stage = 0

    def reset(self) -> None:
        """Start with the first waypoint."""
        self.stage = self._scene.waited = 0

    def act(self) -> np.ndarray:
        """Return the action, float32 ``(9,)`` within [-1, 1]."""
        scene = self._scene
        if self._plan[self.stage].lost(scene):
            self.reset()
        while self._plan[self.stage].done(scene):
            self.stage += 1
            scene.waited = 0
        scene.waited += 1
        return np.clip(scene.act(self._plan[self.stage]), -1.0, 1.0).astype(np.float32)
