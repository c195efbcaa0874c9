"""Fetch: four table-top tasks of a seven-joint arm, from Gymnasium-Robotics (https://robotics.farama.org, MIT)."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from rsp_robot.envs.base import VisualEnv
from rsp_robot.envs.experts import Expert
from rsp_robot.envs.fetch_experts import EXPERTS
from rsp_robot.envs.gymnasium_robotics import LastSubstep, import_environment
from rsp_robot.envs.registry import TaskDescription
from rsp_robot.envs.rendering import Camera

FPS = 25.0
HORIZON = 50
TASKS = {
    "Reach": ("bring the gripper to a red point in the air", "reach:MujocoFetchReachEnv"),
    "Push": ("push a cube to a red point on the table", "push:MujocoFetchPushEnv"),
    "Slide": ("knock a puck so that it slides to a red point out of reach", "slide:MujocoFetchSlideEnv"),
    "PickAndPlace": (
        "bring a cube to a red point, in the air in half of the episodes",
        "pick_and_place:MujocoFetchPickAndPlaceEnv",
    ),
}
"""What there is to do, and the class in ``gymnasium_robotics.envs.fetch``."""

SOLVED_AT_THE_START = {"Reach": "2 %", "Push": "8 %", "Slide": "0.2 %", "PickAndPlace": "4 %"}
"""Goals are drawn without regard to where the object lies; counted over seeds 0 to 1999."""

PROPRIO = (
    "gripper x (m)",
    "gripper y (m)",
    "gripper z (m)",
    "right finger (m, 0 closed)",
    "left finger (m, 0 closed)",
    "gripper velocity x (m per step)",
    "gripper velocity y (m per step)",
    "gripper velocity z (m per step)",
    "right finger velocity (m per step)",
    "left finger velocity (m per step)",
)
MOVES = ("gripper dx (+-5 cm)", "gripper dy (+-5 cm)", "gripper dz (+-5 cm)")

CAMERAS = (
    Camera(
        "close",
        lookat=(1.3, 0.75, 0.55),
        distance=0.95,
        azimuth=100.0,
        elevation=-35.0,
        about="ours, from the robot's right: the arm hides least there; every goal of Reach, Push and PickAndPlace",
    ),
    Camera(
        "wide",
        lookat=(1.3, 0.75, 0.42),
        distance=1.1,
        azimuth=180.0,
        elevation=-60.0,
        about="ours, from the front and high: the puck and every goal of Slide",
    ),
    Camera("external_camera_0", model_camera="external_camera_0", about="in front of the robot, high"),
    Camera(
        "head_camera_rgb", model_camera="head_camera_rgb", about="the robot's head: the upper arm, little of the table"
    ),
    Camera("gripper_camera_rgb", model_camera="gripper_camera_rgb", about="moves with the gripper, looks ahead of it"),
    Camera("lidar", model_camera="lidar", about="low on the robot's base: the side of the table"),
)
"""The suite's own cameras keep their names; no published protocol on Fetch that we know of names one."""


def default_camera(task: str) -> str:
    """Return the name of the camera that frames the task."""
    return "wide" if task == "Slide" else "close"


class FetchEnv(VisualEnv):
    """One Fetch task behind the contract of :class:`VisualEnv`; ``simulator`` is Gymnasium-Robotics' environment.

    The suite moves the red point to the goal only when its own renderer is asked for a picture; here every reset does.
    """

    def __init__(self, task: str, cameras: tuple[str, ...], image_size: int, quality: str, horizon: int) -> None:
        self.simulator: Any = import_environment(f"fetch.{TASKS[task][1]}")()
        model, data = self.simulator.model, self.simulator.data
        self._physics = LastSubstep(model, data)
        self.simulator._mujoco_step = lambda action: self._physics.step(self.simulator.n_substeps)
        self._state_size = self._physics.size + 3
        self._full_observation: dict[str, np.ndarray] = {}
        super().__init__(
            f"fetch/{task}",
            cameras=cameras,
            offered=CAMERAS,
            default_camera=default_camera(task),
            image_size=image_size,
            quality=quality,
            horizon=horizon,
            fps=FPS,
            proprio_space=spaces.Box(-np.inf, np.inf, (len(PROPRIO),), np.float32),
            action_dim=4,
            model=model,
            data=data,
        )

    @property
    def goal(self) -> np.ndarray:
        """Where the gripper (Reach) or the object has to be, metres, float64 ``(3,)``."""
        goal: np.ndarray = self.simulator.goal
        return goal

    @property
    def gripper(self) -> np.ndarray:
        """Where the point between the finger tips is, metres, float64 ``(3,)``."""
        position: np.ndarray = self._full_observation["observation"][:3]
        return position

    @property
    def fingers(self) -> float:
        """Distance of the fingers from each other, metres; 0 closed."""
        return float(self._proprio()[3:5].sum())

    @property
    def object(self) -> np.ndarray:
        """Where the object's centre is, metres, float64 ``(3,)``; in Reach the gripper."""
        position: np.ndarray = self._full_observation["achieved_goal"]
        return position

    def _reset(self, seed: int) -> bool:
        self._full_observation, _ = self.simulator.reset(seed=seed)
        self._show_goal()
        self._physics.note_reset()
        return bool(self.simulator._is_success(self.object, self.goal))

    def _show_goal(self) -> None:
        site = self.model.site("target0").id
        self.model.site_pos[site] = self.goal - self.model.body_pos[self.model.site_bodyid[site]]
        self.data.site_xpos[site] = self.goal  # no forward pass: that would change the warm start of the solver

    def _step(self, action: np.ndarray) -> tuple[float, bool]:
        self._full_observation, reward, _, _, info = self.simulator.step(action)
        return float(reward), bool(info["is_success"])

    def _proprio(self) -> np.ndarray:
        seen = self._full_observation["observation"]
        fingers = slice(3, 5) if len(seen) == 10 else slice(9, 11)  # without an object there is nothing in between
        return np.concatenate([seen[:3], seen[fingers], seen[-5:]]).astype(np.float32)

    def _full_state(self) -> np.ndarray:
        return np.concatenate([self._full_observation["observation"], self.goal])

    def _state(self) -> np.ndarray:
        return np.concatenate([self._physics.get(), self.goal])

    def _restore(self, state: np.ndarray) -> None:
        self.simulator.goal = state[-3:].copy()
        self._show_goal()
        if self._physics.restore(state[:-3]):
            self.simulator._step_callback()
        self._full_observation = self.simulator._get_obs()

    def _initial_state(self) -> np.ndarray:
        return np.concatenate([self.data.qpos, self.data.qvel, self.data.xpos.ravel(), self.goal])


class FetchSuite:
    """The registry's way in."""

    name = "fetch"
    package = "gymnasium_robotics"
    extra = "gymnasium-robotics"

    def tasks(self) -> tuple[str, ...]:
        """Return the four task names."""
        return tuple(TASKS)

    def describe(self, task: str) -> TaskDescription:
        """Describe a task without importing Gymnasium-Robotics."""
        thing = "gripper" if task == "Reach" else "puck" if task == "Slide" else "cube"
        fingers = "fingers (open +)" if task == "PickAndPlace" else "no effect: the fingers are held closed"
        return TaskDescription(
            task=f"fetch/{task}",
            summary=TASKS[task][0],
            cameras=tuple(camera.name for camera in CAMERAS),
            default_camera=default_camera(task),
            proprio=PROPRIO,
            action=(*MOVES, fingers),
            horizon=HORIZON,
            fps=FPS,
            success=(
                f"the {thing} is less than 5 cm from the goal at the present moment; "
                f"it is in {SOLVED_AT_THE_START[task]} of the episodes at the start"
            ),
            expert="closed-loop waypoints of our own, which see the simulator's state" if task in EXPERTS else "",
            packages=("mujoco", "gymnasium-robotics"),
            licence="MIT (Gymnasium-Robotics); pip install rsp-robot[gymnasium-robotics]",
        )

    def make(self, task: str, cameras: tuple[str, ...], image_size: int, quality: str, horizon: int) -> FetchEnv:
        """Build the environment; Gymnasium-Robotics is imported here."""
        return FetchEnv(task, cameras, image_size, quality, horizon)

    def make_expert(self, task: str, env: VisualEnv) -> Expert:
        """Return the waypoint expert of the task."""
        assert isinstance(env, FetchEnv)
        return EXPERTS[task](env)


SUITE = FetchSuite()
