"""Adroit: four tasks of a 24-joint Shadow hand, from Gymnasium-Robotics (https://robotics.farama.org, MIT)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from rsp_robot.envs.base import VisualEnv
from rsp_robot.envs.experts import Expert
from rsp_robot.envs.gymnasium_robotics import LastSubstep, import_environment
from rsp_robot.envs.registry import TaskDescription
from rsp_robot.envs.rendering import Camera
from rsp_robot.errors import UserError

FPS = 100.0
FINGERS = {"FF": 4, "MF": 4, "RF": 4, "LF": 5, "TH": 5}
"""How many joints fore, middle, ring and little finger and the thumb have."""
HAND = ("WRJ1", "WRJ0", *(f"{finger}J{n}" for finger, count in FINGERS.items() for n in reversed(range(count))))
"""Joints of the hand: the wrist's, then the fingers', each from the palm to the tip."""


@dataclass(frozen=True)
class AdroitTask:
    """What sets one task apart."""

    summary: str
    module: str
    """Below ``gymnasium_robotics.envs.adroit_hand``."""
    arm: tuple[str, ...]
    """Joints that move the forearm, before those of the hand; ART ones slide (m), ARR ones turn (rad)."""
    success: str
    """The suite's test of one moment."""
    horizon: int = 200
    """Steps of an episode in CortexBench and D4RL."""
    lasting: int = 25
    """Steps with success that an episode has to exceed in CortexBench (``evaluate_success`` of the first release)."""

    @property
    def joints(self) -> tuple[str, ...]:
        """All joints of the robot in the order of proprioception and action."""
        return self.arm + HAND


TASKS = {
    "door": AdroitTask(
        "turn the latch and swing a door open",
        "adroit_door:AdroitHandDoorEnv",
        ("ARTz", "ARRx", "ARRy", "ARRz"),
        "the door's hinge is turned by at least 1.35 rad",
    ),
    "hammer": AdroitTask(
        "pick up a hammer and drive a nail into a board",
        "adroit_hammer:AdroitHandHammerEnv",
        ("ARRx", "ARRy"),
        "the nail's head is less than 1 cm from where it has to be",
    ),
    "pen": AdroitTask(
        "turn a pen in the hand until it lies as the target pen does",
        "adroit_pen:AdroitHandPenEnv",
        (),
        "the pen's middle is less than 7.5 cm from its place, and the cosine of its angle to the target is above 0.95",
        horizon=100,
        lasting=20,
    ),
    "relocate": AdroitTask(
        "pick up a ball and carry it to a point in the air",
        "adroit_relocate:AdroitHandRelocateEnv",
        ("ARTx", "ARTy", "ARTz", "ARRx", "ARRy", "ARRz"),
        "the ball's centre is less than 10 cm from the target",
    ),
}

CAMERAS = (
    Camera("vil_camera", model_camera="vil_camera", about="CortexBench's: from behind the hand, the whole table"),
    Camera("fixed", model_camera="fixed", about="the same direction, closer: for small pictures"),
)
PEN_CAMERAS = (
    Camera("view_1", model_camera="view_1", about="from the left of the hand, high"),
    Camera("view_2", model_camera="view_2", about="from the finger tips, level"),
    Camera("view_4", model_camera="view_4", about="from the right of the hand, high"),
)
"""The pen's model has two more, view_3 and view_5, which see nothing but the underside of the table."""
DEFAULT_CAMERA = "vil_camera"


def cameras_of(task: str) -> tuple[Camera, ...]:
    """Return the cameras that a task offers; the pen has three more."""
    return CAMERAS + PEN_CAMERAS if task == "pen" else CAMERAS


class AdroitEnv(VisualEnv):
    """One Adroit task behind the contract of :class:`VisualEnv`; ``simulator`` is Gymnasium-Robotics' environment.

    A reset moves door, board, ball or target by editing the model. What it draws follows from the seed alone, and a
    saved state is always restored within a reset to its seed, so the model needs no saving.
    """

    def __init__(self, task: str, cameras: tuple[str, ...], image_size: int, quality: str, horizon: int) -> None:
        self.simulator: Any = import_environment(f"adroit_hand.{TASKS[task].module}")()
        model, data = self.simulator.model, self.simulator.data
        self._physics = LastSubstep(model, data)
        self._still = False
        self.simulator.do_simulation = self._simulate
        self._state_size = self._physics.size
        joints = len(TASKS[task].joints)
        super().__init__(
            f"adroit/{task}",
            cameras=cameras,
            offered=cameras_of(task),
            default_camera=DEFAULT_CAMERA,
            image_size=image_size,
            quality=quality,
            horizon=horizon,
            fps=FPS,
            proprio_space=spaces.Box(-np.inf, np.inf, (joints,), np.float32),
            action_dim=joints,
            model=model,
            data=data,
        )

    def _simulate(self, control: np.ndarray, substeps: int) -> None:
        if not self._still:
            self.data.ctrl[:] = control
            self._physics.step(substeps)

    def _reset(self, seed: int) -> bool:
        self.simulator.reset(seed=seed)
        self._physics.note_reset()
        return self._success_now()

    def _success_now(self) -> bool:
        """Let the suite judge the present state: a step in which no time passes."""
        self._still = True
        try:
            return self._step(np.zeros(self.model.nu))[1]
        finally:
            self._still = False

    def _step(self, action: np.ndarray) -> tuple[float, bool]:
        _, reward, _, _, info = self.simulator.step(action)
        return float(reward), bool(info["success"])

    def _proprio(self) -> np.ndarray:
        proprio: np.ndarray = self.data.qpos[: self.model.nu].astype(np.float32)
        return proprio

    def _full_state(self) -> np.ndarray:
        state: np.ndarray = self.simulator._get_obs()
        return state

    def _state(self) -> np.ndarray:
        return self._physics.get()

    def _restore(self, state: np.ndarray) -> None:
        self._physics.restore(state)

    def _initial_state(self) -> np.ndarray:
        data = self.data
        bodies = [data.xpos.ravel(), data.xquat.ravel(), data.site_xpos.ravel()]
        return np.concatenate([data.qpos, data.qvel, *bodies])


class AdroitSuite:
    """The registry's way in."""

    name = "adroit"
    package = "gymnasium_robotics"
    extra = "gymnasium-robotics"

    def tasks(self) -> tuple[str, ...]:
        """Return the four task names."""
        return tuple(TASKS)

    def describe(self, task: str) -> TaskDescription:
        """Describe a task without importing Gymnasium-Robotics."""
        row = TASKS[task]
        units = ["m" if joint.startswith("ART") else "rad" for joint in row.joints]
        return TaskDescription(
            task=f"adroit/{task}",
            summary=row.summary,
            cameras=tuple(camera.name for camera in cameras_of(task)),
            default_camera=DEFAULT_CAMERA,
            proprio=tuple(f"{joint} ({unit})" for joint, unit in zip(row.joints, units, strict=True)),
            action=tuple(f"{joint} control (-1 to 1: all of its range)" for joint in row.joints),
            horizon=row.horizon,
            fps=FPS,
            success=f"at the present moment {row.success}; CortexBench asks for more than {row.lasting} such steps",
            expert="",
            packages=("mujoco", "gymnasium-robotics"),
            licence="MIT (Gymnasium-Robotics), models Apache-2.0; pip install rsp-robot[gymnasium-robotics]",
        )

    def make(self, task: str, cameras: tuple[str, ...], image_size: int, quality: str, horizon: int) -> AdroitEnv:
        """Build the environment; Gymnasium-Robotics is imported here."""
        return AdroitEnv(task, cameras, image_size, quality, horizon)

    def make_expert(self, task: str, env: VisualEnv) -> Expert:
        """Nobody demonstrates Adroit.

        Raises:
            UserError: always.
        """
        raise UserError(f"nobody demonstrates adroit/{task}; bring demonstrations of your own")


SUITE = AdroitSuite()
