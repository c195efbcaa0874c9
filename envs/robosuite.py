"""robosuite 1.5: seven table-top tasks of a Panda arm under OSC_POSE (https://robosuite.ai, MIT)."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from rsp_robot.envs.base import VisualEnv
from rsp_robot.envs.experts import Expert
from rsp_robot.envs.physics import Physics
from rsp_robot.envs.registry import TaskDescription
from rsp_robot.envs.rendering import Camera

FPS = 20
COLLISION_GROUP = 0
"""Group of robosuite's collision shapes; what is meant to be seen is in group 1."""
WIPE = "Wipe"


@dataclass(frozen=True)
class Task:
    """One task: what to do, when it counts as done, how long it may take, who demonstrates it."""

    summary: str
    success: str
    horizon: int
    expert: str = "waypoints on OSC_POSE that read the simulator's state"


_NUT = (
    "this moment: the nut's centre is within 3 cm of the peg's axis in x and in y, less than 5 cm above the table top, "
    "and more than 4.2 cm from the gripper's grip site"
)
TASKS = {
    "Lift": Task(
        "lift a cube off the table",
        "this moment: the cube's centre is more than 4 cm above the table top",
        400,
    ),
    "Stack": Task(
        "put the red cube onto the green one",
        "this moment: the red cube touches the green one, its centre is more than 4 cm above the table top, and the "
        "two fingers do not both touch it",
        400,
    ),
    "PickPlaceCan": Task(
        "carry a can from one bin into its quarter of the other",
        "this moment: the can's centre is inside its quarter of the other bin, less than 10 cm above the bin's floor, "
        "and more than 4.2 cm from the gripper's grip site",
        400,
    ),
    "NutAssemblySquare": Task("put the square nut onto the square peg", _NUT, 400),
    "NutAssemblyRound": Task("put the round nut onto the round peg", _NUT, 400),
    "Door": Task("turn the handle of a door and open it", "this moment: the hinge is open by more than 0.3 rad", 500),
    WIPE: Task("wipe a line of dirt off the table", "all 100 markers have been wiped; wiped markers stay so", 500, ""),
}
"""Lift, PickPlaceCan and NutAssemblySquare keep robomimic's horizons, Door and Wipe that of robosuite's benchmark."""

_POSE = (
    *(f"hand {axis} (m)" for axis in "xyz"),
    *(f"hand quaternion {part}" for part in "xyzw"),
)
_FINGERS = ("left finger (m, 0 closed to 0.04 open)", "right finger (m, 0 closed to -0.04 open)")
_ACTION = (
    *(f"hand d{axis} (+-5 cm)" for axis in "xyz"),
    *(f"hand rotation about {axis} (+-0.5 rad)" for axis in "xyz"),
)
_GRIPPER = "gripper (the sign counts: close +, open -)"

CAMERAS = (
    Camera("agentview", model_camera="agentview", about="from the front; with the wrist camera robomimic's pictures"),
    Camera("frontview", model_camera="frontview", about="from the front, farther: robot and table"),
    Camera("birdview", model_camera="birdview", about="from above"),
    Camera("sideview", model_camera="sideview", about="from the robot's left"),
    Camera("robot0_robotview", model_camera="robot0_robotview", about="from the robot's head"),
    Camera("robot0_eye_in_hand", model_camera="robot0_eye_in_hand", about="moves with the hand; robomimic's second"),
)
DEFAULT_CAMERA = "agentview"


def camera_names(task: str) -> tuple[str, ...]:
    """Return the cameras that the scene of ``task`` has (the bins have no side view)."""
    return tuple(camera.name for camera in CAMERAS if (task, camera.name) != ("PickPlaceCan", "sideview"))


class RobosuiteEnv(VisualEnv):
    """One robosuite task behind the contract of :class:`VisualEnv`; ``simulator`` is robosuite's own environment.

    robosuite draws from generators that ``reset`` does not seed, leaves positions one physics step behind the joints,
    and would rebuild its model at each reset; all three are put right here. Since the model stays the same, so does
    Lift's cube, whose size robosuite draws when the model is built.
    """

    simulator: Any

    def __init__(self, task: str, cameras: tuple[str, ...], image_size: int, quality: str, horizon: int) -> None:
        import mujoco

        self._mujoco, self._name = mujoco, task
        with _quiet_robosuite():
            import robosuite

            self.simulator = robosuite.make(
                task,
                robots="Panda",
                has_renderer=False,
                has_offscreen_renderer=False,
                use_camera_obs=False,
                use_object_obs=False,
                reward_shaping=True,
                control_freq=FPS,
                horizon=TASKS[task].horizon,  # Wipe scales its reward by it
                ignore_done=True,
                hard_reset=False,
                renderer="mujoco",
                seed=0,
            )
        self.simulator._observables.clear()  # nobody reads them, and they cost a fifth of the time
        self.robot = self.simulator.robots[0]
        self.gripper = self.robot.gripper["right"]
        self.grip_site = int(self.robot.eef_site_id["right"])
        model, data = self.simulator.sim.model._model, self.simulator.sim.data._data
        self._hand_body = model.body(self.robot.robot_model.eef_name["right"]).id
        self.fingers = list(self.robot._ref_gripper_joint_pos_indexes["right"])
        self._physics = Physics(model, data)
        self._state_size = self._physics.size + len(self._memory())
        limits = np.asarray([2.0] * 3 + [1.001] * 4 + [0.1] * len(self.fingers), np.float32)
        super().__init__(
            f"robosuite/{task}",
            cameras=cameras,
            offered=CAMERAS,
            default_camera=DEFAULT_CAMERA,
            image_size=image_size,
            quality=quality,
            horizon=horizon,
            fps=float(FPS),
            proprio_space=spaces.Box(-limits, limits, dtype=np.float32),
            action_dim=int(self.simulator.action_dim),
            model=model,
            data=data,
            hidden_groups=(COLLISION_GROUP,),
        )

    def _reset(self, seed: int) -> bool:
        simulator = self.simulator
        generator = np.random.default_rng(seed)
        simulator.rng = generator
        _seed_samplers(getattr(simulator, "placement_initializer", None), generator)
        if self._name == WIPE:
            simulator.model.mujoco_arena.rng = generator
        simulator.reset()
        self.data.qacc_warmstart[:] = 0.0  # robosuite takes forward passes before the last episode's furniture moves
        self._refresh()
        return bool(simulator._check_success())

    def _step(self, action: np.ndarray) -> tuple[float, bool]:
        _, reward, _, _ = self.simulator.step(action)
        self._refresh()
        return float(reward), bool(self.simulator._check_success())

    def _refresh(self) -> None:
        """Recompute what follows from the joints, without a trace in the physics, and have the controllers look."""
        warm_start = self.data.qacc_warmstart.copy()
        self._mujoco.mj_forward(self.model, self.data)
        self.data.qacc_warmstart[:] = warm_start
        for controller in self.robot.part_controllers.values():
            controller.new_update = True

    def _proprio(self) -> np.ndarray:
        data = self.data
        quaternion = np.roll(data.xquat[self._hand_body], -1)  # MuJoCo's w x y z to robosuite's x y z w
        parts = [data.site_xpos[self.grip_site], quaternion, data.qpos[self.fingers]]
        return np.concatenate(parts).astype(np.float32)

    def _state(self) -> np.ndarray:
        return np.concatenate([self._physics.get(), self._memory()])

    def _memory(self) -> np.ndarray:
        """What robosuite remembers in Python. OSC's goals are not part of it: each action sets them anew."""
        simulator, robot = self.simulator, self.robot
        aim = np.resize(self.gripper.current_action, len(self.fingers))  # a reset leaves one zero for two fingers
        parts: list[Any] = [aim, [simulator.timestep, simulator.cur_time]]
        if self._name == WIPE:
            buffer, acceleration = robot.recent_ee_vel_buffer["right"], robot.recent_ee_acc["right"]
            wiped = [marker in simulator.wiped_markers for marker in simulator.model.mujoco_arena.markers]
            bias = [simulator.ee_force_bias["right"], simulator.ee_torque_bias["right"]]
            parts += [wiped, *bias, buffer.buf.ravel(), [buffer.ptr, buffer._size], acceleration.current]
        return np.concatenate([np.asarray(part, np.float64) for part in parts])

    def _restore(self, state: np.ndarray) -> None:
        physics, memory = np.split(state, [self._physics.size])
        self._physics.set(physics)
        simulator = self.simulator
        dof = len(self.fingers)
        self.gripper.current_action = memory[:dof].copy()
        simulator.timestep, simulator.cur_time = int(memory[dof]), float(memory[dof + 1])
        if self._name == WIPE:
            self._restore_wiping(memory[dof + 2 :])
        self._refresh()

    def _restore_wiping(self, memory: np.ndarray) -> None:
        simulator, robot = self.simulator, self.robot
        markers = simulator.model.mujoco_arena.markers
        buffer = robot.recent_ee_vel_buffer["right"]
        sizes = [len(markers), 3, 3, buffer.buf.size, 2]
        wiped, force, torque, velocities, (ptr, size), acceleration = np.split(memory, np.cumsum(sizes))
        simulator.wiped_markers = [marker for marker, gone in zip(markers, wiped, strict=True) if gone]
        for marker, gone in zip(markers, wiped, strict=True):
            self.model.geom(marker.visual_geoms[0]).rgba[3] = 0.0 if gone else 1.0
        simulator.ee_force_bias, simulator.ee_torque_bias = {"right": force.copy()}, {"right": torque.copy()}
        buffer.buf = velocities.reshape(buffer.buf.shape).copy()
        buffer.ptr, buffer._size = int(ptr), int(size)
        robot.recent_ee_acc["right"].current = acceleration.copy()

    def _initial_state(self) -> np.ndarray:
        return np.concatenate([self.data.qpos, self.data.qvel, self.data.xpos.ravel(), self.data.xquat.ravel()])


def _seed_samplers(sampler: Any, generator: np.random.Generator) -> None:
    """Let a placement sampler and those inside it draw from one generator, as robosuite builds them."""
    if sampler is None:
        return
    sampler.rng = generator
    for inner in getattr(sampler, "samplers", {}).values():
        _seed_samplers(inner, generator)


@contextmanager
def _quiet_robosuite() -> Iterator[None]:
    """Hold back robosuite's notices below an error, and keep ``MUJOCO_GL``, which its import sets, as it was."""
    logger = logging.getLogger("robosuite_logs")
    backend = os.environ.get("MUJOCO_GL")

    def serious(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR

    logger.addFilter(serious)
    try:
        yield
    finally:
        logger.removeFilter(serious)
        if backend is None:
            os.environ.pop("MUJOCO_GL", None)
        else:
            os.environ["MUJOCO_GL"] = backend


class RobosuiteSuite:
    """The registry's way in."""

    name = "robosuite"
    package = "robosuite"
    extra = "all"

    def tasks(self) -> tuple[str, ...]:
        """Return the seven task names."""
        return tuple(TASKS)

    def describe(self, task: str) -> TaskDescription:
        """Describe a task without importing robosuite."""
        about = TASKS[task]
        wiping = task == WIPE  # its tool has no fingers
        return TaskDescription(
            task=f"robosuite/{task}",
            summary=about.summary,
            cameras=camera_names(task),
            default_camera=DEFAULT_CAMERA,
            proprio=_POSE if wiping else (*_POSE, *_FINGERS),
            action=_ACTION if wiping else (*_ACTION, _GRIPPER),
            horizon=about.horizon,
            fps=float(FPS),
            success=about.success,
            expert=about.expert,
            packages=("mujoco", "robosuite"),
            licence="MIT (robosuite); comes with rsp-robot",
        )

    def make(self, task: str, cameras: tuple[str, ...], image_size: int, quality: str, horizon: int) -> RobosuiteEnv:
        """Build the environment; robosuite is imported here."""
        return RobosuiteEnv(task, cameras, image_size, quality, horizon)

    def make_expert(self, task: str, env: VisualEnv) -> Expert:
        """Return the waypoint expert."""
        from rsp_robot.envs.robosuite_experts import EXPERTS

        assert isinstance(env, RobosuiteEnv)
        return EXPERTS[task](env)


SUITE = RobosuiteSuite()
