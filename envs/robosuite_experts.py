"""Waypoint experts for robosuite: they read the simulator's state and work out what to do next from it alone."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from rsp_robot.envs.robosuite_door import DoorExpert
from rsp_robot.envs.robosuite_hand import HOME, WRIST, Hand, best_angle, downward, turn_between

if TYPE_CHECKING:
    from rsp_robot.envs.experts import Expert
    from rsp_robot.envs.robosuite import RobosuiteEnv


class PickAndPlace:
    """Take an object and bring it somewhere: descend, close, raise, carry, lower, open, whichever is due now."""

    hover = 0.08
    """How high above the grasp the hand arrives, metres."""
    tolerance = 0.006
    """Horizontal error at which the fingers may close, metres."""

    def __init__(self, env: RobosuiteEnv, body: str, geoms: list[str]) -> None:
        self.env, self.data, self.hand, self.geoms = env, env.data, Hand(env), geoms
        self._body = env.model.body(body).id

    def reset(self) -> None:
        """Nothing to forget: every action follows from the present state."""

    def act(self) -> np.ndarray:
        """Return the action for the present state, float32 ``(7,)`` within [-1, 1]."""
        if self.arrived():
            return self.leave()
        return self.place() if self.hand.holds(self.geoms) else self.pick()

    @property
    def object(self) -> np.ndarray:
        """The object's centre, metres ``(3,)``."""
        return self.data.xpos[self._body].copy()

    @property
    def object_angle(self) -> float:
        """Direction of the object's x axis in the plane of the table, radians."""
        axis = self.data.xmat[self._body].reshape(3, 3)[:, 0]
        return float(np.arctan2(axis[1], axis[0]))

    @abstractmethod
    def grasp(self) -> tuple[np.ndarray, float]:
        """Where to close the fingers, metres, and along which angle."""

    @abstractmethod
    def place(self) -> np.ndarray:
        """Return the action with the object in hand."""

    def arrived(self) -> bool:
        """Whether the object may be let go, or is let go already."""
        return False

    def leave(self) -> np.ndarray:
        """Open the fingers, then go up."""
        up = np.array([0.0, 0.0, 0.1 if self.hand.shut < -0.5 else 0.0])
        return self.hand.go(self.hand.position + up, downward(self.hand.angle), close=False)

    def pick(self) -> np.ndarray:
        """Come down on the object along a funnel: the nearer to its vertical, the lower; close at the bottom."""
        hand = self.hand
        point, angle = self.grasp()
        error = point - hand.position
        aside, turn = float(np.hypot(*error[:2])), abs(angle - hand.wrist_angle)
        # Once the fingers move, only a clear miss opens them again.
        slack = 3.0 if hand.shut > -0.7 else 1.0
        if aside < slack * self.tolerance and abs(error[2]) < slack * 0.008 and turn < slack * 0.12:
            return hand.go(point, hand.turned(angle), close=True)
        height = min(self.hover, 3 * max(aside - self.tolerance, 0) + 0.3 * max(turn - 0.12, 0))
        target = point + np.array([0.0, 0.0, height])
        if aside > 0.03 and hand.position[2] < point[2] + 0.5 * self.hover:
            target[:2] = hand.position[:2]
        return hand.go(target, hand.turned(angle), close=False)

    def carry(self, goal: np.ndarray, angle: float, height: float, near: bool) -> np.ndarray:
        """Raise the object to ``height``, bring it over ``goal`` as the hand turns to ``angle``; if near, lower it."""
        shift = goal - self.object
        if not near:
            shift[2] = max(height, goal[2]) - self.object[2]
            if shift[2] > 0.03:
                shift[:2] = 0.0
        return self.hand.go(self.hand.position + shift, self.hand.turned(angle), close=True)

    def aside(self, goal: np.ndarray) -> float:
        """Horizontal distance of the object from ``goal``, metres."""
        return float(np.hypot(*(goal - self.object)[:2]))


class LiftExpert(PickAndPlace):
    """Take the cube by its nearest pair of sides and raise it."""

    def __init__(self, env: RobosuiteEnv) -> None:
        super().__init__(env, "cube_main", env.simulator.cube.contact_geoms)

    def grasp(self) -> tuple[np.ndarray, float]:
        """The cube's centre."""
        return self.object, best_angle(self.object_angle, np.pi / 2, self.hand.wrist_angle)

    def place(self) -> np.ndarray:
        """Go up."""
        return self.hand.go(self.hand.position + np.array([0, 0, 0.1]), downward(self.hand.angle), close=True)


class StackExpert(PickAndPlace):
    """Take the red cube by the sides that face away from the green one, and let it go on top of that."""

    def __init__(self, env: RobosuiteEnv) -> None:
        super().__init__(env, "cubeA_main", env.simulator.cubeA.contact_geoms)
        self._base = env.model.body("cubeB_main").id

    @property
    def goal(self) -> np.ndarray:
        """Where the red cube's centre belongs, metres."""
        return self.data.xpos[self._base] + np.array([0.0, 0.0, 0.047])

    def grasp(self) -> tuple[np.ndarray, float]:
        """The cube's centre, fingers beside the line between the cubes."""
        angle, other = self.object_angle, self.goal - self.object
        across = np.arctan2(other[1], other[0]) + np.pi / 2
        if np.hypot(*other[:2]) < 0.11:
            angle = min((angle, angle + np.pi / 2), key=lambda side: abs(np.sin(side - across)))
            return self.object, best_angle(angle, np.pi, self.hand.wrist_angle)
        return self.object, best_angle(angle, np.pi / 2, self.hand.wrist_angle)

    def place(self) -> np.ndarray:
        """Over the green cube and down."""
        return self.carry(self.goal, self.hand.wrist_angle, self.goal[2] + 0.06, near=self.aside(self.goal) < 0.01)

    def arrived(self) -> bool:
        """The red cube sits on the green one."""
        return self.aside(self.goal) < 0.02 and -0.02 < self.object[2] - self.goal[2] < 0.0015


class CanExpert(PickAndPlace):
    """Take the can by its upper half and let it go inside its quarter."""

    carry_height = 0.98

    def __init__(self, env: RobosuiteEnv) -> None:
        simulator = env.simulator
        can = simulator.objects[simulator.object_id]
        super().__init__(env, can.root_body, can.contact_geoms)
        corner = simulator.target_bin_placements[simulator.object_id][:2] - simulator.bin_size[:2] / 4
        margin = np.array([0.03, 0.04])
        self._low, self._high = corner + margin, corner + simulator.bin_size[:2] / 2 - margin
        # The quarter's middle is out of reach for a hand that points down, the corner near the robot is not.
        self.goal = np.append(corner + np.array([0.05, 0.065]), 0.905)

    def grasp(self) -> tuple[np.ndarray, float]:
        """Above the can's centre: it is round, so the hand need not turn."""
        return self.object + np.array([0.0, 0.0, 0.015]), HOME

    def place(self) -> np.ndarray:
        """Over the bins' walls and down."""
        return self.carry(self.goal, HOME, self.carry_height, near=self.aside(self.goal) < 0.012)

    def arrived(self) -> bool:
        """The can is between the walls of its quarter, the fingers still above them."""
        inside = (self._low < self.object[:2]) & (self.object[:2] < self._high)
        return bool(inside.all()) and self.object[2] < self.goal[2] + 0.005


class NutExpert(PickAndPlace):
    """Take the nut by its handle, turn the handle towards the robot, lower the nut over the peg.

    With the handle pointing away the hand would be out of reach, and the wrist cannot turn all the way round. So grasp
    and goal are chosen together: on which side of the handle the first finger goes, and where the turn ends.
    """

    carry_height = 0.99
    peg_top = 0.95

    def __init__(self, env: RobosuiteEnv, body: str, peg: str, reach: float, spread: float) -> None:
        """Grasp ``reach`` metres from the centre; the handle may end ``spread`` radians off the way to the robot."""
        simulator = env.simulator
        nut = simulator.nuts[simulator.nut_id]
        super().__init__(env, body, nut.contact_geoms)
        self.goal = env.data.body(peg).xpos.copy()
        self.goal[2] = simulator.table_offset[2] + 0.03
        self._reach, self._spread = reach, spread

    def plan(self) -> tuple[float, float]:
        """Return the hand's angle for the grasp and its turn from there to the peg, with the wrist within its range."""
        handle, wrist = self.object_angle, self.hand.wrist_angle
        aims = (np.pi - self._spread, np.pi, np.pi + self._spread)
        aim = min(aims, key=lambda angle: abs(turn_between(handle, angle)))
        fits = abs(turn_between(np.pi, handle)) <= self._spread
        turn = 0.0 if fits else turn_between(handle, aim)
        options = []
        for side in (-np.pi / 2, np.pi / 2):
            start = wrist + turn_between(wrist, handle + side)
            starts = [start] if self.hand.holds(self.geoms) else [start, start + 2 * np.pi, start - 2 * np.pi]
            options += [(begin, turn + whole) for begin in starts for whole in (-2 * np.pi, 0.0, 2 * np.pi)]

        def cost(option: tuple[float, float]) -> float:
            begin, turn = option
            outside = sum(max(0.0, WRIST[0] - angle, angle - WRIST[1]) for angle in (begin, begin + turn))
            return 10 * outside + abs(begin - wrist) + abs(turn)

        return min(options, key=cost)

    def grasp(self) -> tuple[np.ndarray, float]:
        """The handle, fingers across it."""
        handle = self.data.xmat[self._body].reshape(3, 3)[:, 0]
        return self.object + self._reach * handle + np.array([0.0, 0.0, 0.004]), self.plan()[0]

    def place(self) -> np.ndarray:
        """Over the peg, turned to fit, and down; if it catches on the top, up and again."""
        _, turn = self.plan()
        aside, on_peg = self.aside(self.goal), self.object[2] < self.peg_top
        near = aside < 0.02 if on_peg else aside < 0.004 and abs(turn) < 0.08
        return self.carry(self.goal, self.hand.wrist_angle + turn, self.carry_height, near)

    def arrived(self) -> bool:
        """The nut is around the peg, below its middle."""
        return self.aside(self.goal) < 0.025 and self.object[2] < self.goal[2] + 0.01


def square_nut_expert(env: RobosuiteEnv) -> NutExpert:
    """The square hole fits with the handle straight towards the robot."""
    return NutExpert(env, "SquareNut_main", "peg1", reach=0.06, spread=0.0)


def round_nut_expert(env: RobosuiteEnv) -> NutExpert:
    """The round hole fits always, but the hand has to stay within reach."""
    return NutExpert(env, "RoundNut_main", "peg2", reach=0.07, spread=0.8)


EXPERTS: dict[str, Callable[[RobosuiteEnv], Expert]] = {
    "Lift": LiftExpert,
    "Stack": StackExpert,
    "PickPlaceCan": CanExpert,
    "NutAssemblySquare": square_nut_expert,
    "NutAssemblyRound": round_nut_expert,
    "Door": DoorExpert,
}
