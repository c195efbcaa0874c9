"""dm_control: the five CortexBench tasks and two of manipulation (https://github.com/google-deepmind/dm_control)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import spaces

from rsp_robot.envs.base import VisualEnv
from rsp_robot.envs.physics import Physics
from rsp_robot.envs.registry import TaskDescription
from rsp_robot.envs.rendering import Camera
from rsp_robot.errors import UserError

if TYPE_CHECKING:
    from rsp_robot.envs.experts import Expert

REPEAT = 2
"""Each action is held for two of dm_control's own steps. CortexBench's text does not say; 2 is common with pictures."""
STEPS_OF_THE_SUITE = 1000
"""dm_control's own steps in an episode of the control suite; the largest return there is."""


@dataclass(frozen=True)
class DMCTask:
    """What one task is; joints and actuators carry dm_control's names."""

    summary: str
    cameras: tuple[Camera, ...]
    joints: dict[str, str]
    """``{joint: what people call it}``; the robot's own, without what it handles."""
    action: tuple[str, ...]
    control_step_s: float
    """Length of one of dm_control's own steps, seconds."""
    success: str
    threshold: float
    """Least reward of dm_control, in [0, 1], that counts as success."""
    domain: str = ""
    """Domain of the control suite; empty for dm_control.manipulation."""
    slides: tuple[str, ...] = ()
    """Joints that slide: metres instead of radians."""
    unseen: tuple[str, ...] = ()
    """Joints whose position tells where in the world the robot is: only their velocity is felt."""
    touch: dict[str, str] | None = None
    """``{sensor: what people call it}``."""
    repeat: int = REPEAT
    horizon: int = STEPS_OF_THE_SUITE // REPEAT

    @property
    def proprio(self) -> tuple[str, ...]:
        """Name and unit of each number that the robot feels."""
        places = [
            f"{said} (m)" if joint in self.slides else f"{said} angle (rad)"
            for joint, said in self.joints.items()
            if joint not in self.unseen
        ]
        speeds = [
            f"{said} velocity ({'m' if joint in self.slides else 'rad'}/s)" for joint, said in self.joints.items()
        ]
        return (*places, *speeds, *(f"{said} (log(1 + N))" for said in (self.touch or {}).values()))

    @property
    def score(self) -> str:
        """How returns become a score."""
        largest = self.horizon * self.repeat
        return f"score: return / {largest}, as the reward of one of dm_control's {largest} steps is at most 1"


_MUST_STAND = (
    "at the end of the step dm_control's reward is at least 0.9: torso upright and about 1.2 m above the floor"
)
_CORTEX = "camera 0, CortexBench's; "

_LEGS = {f"{side}_{joint}": f"{side} {joint}" for side in ("right", "left") for joint in ("hip", "knee", "ankle")}
_WALKER: dict[str, Any] = {
    "cameras": (
        Camera("side", model_camera="side", about=_CORTEX + "moves along with the walker, from its right"),
        Camera("back", model_camera="back", about="moves along with the walker, from behind"),
    ),
    "joints": {"rootz": "torso height", "rootx": "torso x", "rooty": "torso pitch", **_LEGS},
    "slides": ("rootz", "rootx"),
    "unseen": ("rootx",),
    "action": tuple(
        f"{side} {joint} torque (+-{limit} N m)"
        for side in ("right", "left")
        for joint, limit in (("hip", 100), ("knee", 50), ("ankle", 20))
    ),
    "control_step_s": 0.025,
    "threshold": 0.9,
    "domain": "walker",
}
_CHEETAH = {f"{end[0]}{part}": f"{end} {part}" for end in ("back", "front") for part in ("thigh", "shin", "foot")}
_ARM = {f"arm_{joint}": f"arm {joint}" for joint in ("root", "shoulder", "elbow", "wrist")}
_HAND = {name: f"{name}" for name in ("finger", "fingertip", "thumb", "thumbtip")}
_JACO = {f"jaco_arm/joint_{index}": f"arm joint {index}" for index in range(1, 7)}
_JACO_HAND = {f"jaco_arm/jaco_hand/finger_{index}": f"finger {index}" for index in range(1, 4)}

TASKS = {
    "walker-stand": DMCTask(
        "raise a planar walker's torso and stand",
        success=_MUST_STAND + " (episodes start in the air, some of them so)",
        **_WALKER,
    ),
    "walker-walk": DMCTask(
        "walk at 1 m/s with a planar walker",
        success=_MUST_STAND + ", and moves forward at about 0.9 m/s or faster",
        **_WALKER,
    ),
    "reacher-easy": DMCTask(
        "bring the tip of a two-link arm to a ball in the plane",
        cameras=(
            Camera("fixed", model_camera="fixed", about=_CORTEX + "from above"),
            Camera("hand", model_camera="hand", about="from above, moves along with the second link"),
        ),
        joints={"shoulder": "shoulder", "wrist": "wrist"},
        action=("shoulder torque (+-0.05 N m)", "wrist torque (+-0.05 N m)"),
        control_step_s=0.02,
        success="at the end of the step the tip touches the target: their centres are at most 6 cm apart",
        threshold=1.0,
        domain="reacher",
    ),
    "cheetah-run": DMCTask(
        "run with a planar cheetah",
        cameras=(
            Camera("side", model_camera="side", about=_CORTEX + "moves along with the cheetah, from its right"),
            Camera("back", model_camera="back", about="moves along with the cheetah, from behind"),
        ),
        joints={"rootx": "torso x", "rootz": "torso height", "rooty": "torso pitch", **_CHEETAH},
        slides=("rootx", "rootz"),
        unseen=("rootx",),
        action=tuple(
            f"{said} torque (+-{limit} N m)"
            for said, limit in zip(_CHEETAH.values(), (120, 90, 60, 90, 60, 30), strict=True)
        ),
        control_step_s=0.01,
        success="at the end of the step the body moves forward at 5 m/s or faster, which is half of the full reward",
        threshold=0.5,
        domain="cheetah",
    ),
    "finger-spin": DMCTask(
        "flick a hinged body with a two-link finger and keep it spinning",
        cameras=(
            Camera("cam0", model_camera="cam0", about=_CORTEX + "from the front, looking down"),
            Camera("cam1", model_camera="cam1", about="from the front, level"),
        ),
        joints={"proximal": "first joint", "distal": "second joint"},
        touch={"touchtop": "touch, upper side of the tip", "touchbottom": "touch, lower side of the tip"},
        action=("first joint torque (+-30 N m)", "second joint torque (+-15 N m)"),
        control_step_s=0.02,
        success="at the end of the step the body spins clockwise (in the pictures) at 15 rad/s or faster",
        threshold=1.0,
        domain="finger",
    ),
    "manipulator-bring-ball": DMCTask(
        "bring a ball to a marked place with a planar arm and its two fingers",
        cameras=(
            Camera("fixed", model_camera="fixed", about="camera 0: the whole plane from the front"),
            Camera("hand", model_camera="hand", about="moves along with the hand, from the front"),
        ),
        joints=_ARM | _HAND,
        touch={f"{part}_touch": f"touch, {part}" for part in ("palm", *_HAND)},
        action=(
            "arm root torque (+-12 N m)",
            "arm shoulder torque (+-8 N m)",
            "arm elbow torque (+-4 N m)",
            "arm wrist torque (+-2 N m)",
            "grasp force (close +)",
        ),
        control_step_s=0.01,
        success="at the end of the step the ball's centre is within 1 cm of the target's; one episode in ten begins so",
        threshold=1.0,
        domain="manipulator",
    ),
    "lift-brick": DMCTask(
        "lift a toy brick by 30 cm with a Jaco arm",
        cameras=(
            Camera("front_close", model_camera="front_close", about="dm_control's own: from the front, close"),
            Camera(
                "front",
                lookat=(0.0, 0.1, 0.3),
                distance=1.2,
                azimuth=90.0,
                elevation=-20.0,
                about="ours, from further away: the brick and the hand, also once it is lifted",
            ),
        ),
        joints=_JACO | _JACO_HAND,
        action=(
            *(f"arm joint {index} velocity (+-{0.628 if index < 4 else 0.838} rad/s)" for index in range(1, 7)),
            *(f"finger {index} velocity (+-5 rad/s, close +)" for index in range(1, 4)),
        ),
        control_step_s=0.04,
        success="at the end of the step the brick's lowest corner is 30 cm above where it lay",
        threshold=1.0,
        repeat=1,
        horizon=250,
    ),
}


@contextmanager
def _without_its_own_opengl() -> Iterator[None]:
    """Let dm_control be imported without a renderer: it would open an EGL display on import, and shut it at exit."""
    before = os.environ.get("MUJOCO_GL")
    os.environ["MUJOCO_GL"] = "off"
    try:
        yield
    finally:
        del os.environ["MUJOCO_GL"]
        if before is not None:
            os.environ["MUJOCO_GL"] = before


def _load(name: str, task: DMCTask) -> Any:
    """Build dm_control's environment without a time limit, its model compiled once and for all."""
    import mujoco  # noqa: F401  (reads MUJOCO_GL on import, so it comes before dm_control)

    with _without_its_own_opengl():
        if task.domain:
            from dm_control import suite

            kwargs = {"random": 0, "time_limit": float("inf")}
            return suite.load(task.domain, name.partition("-")[2].replace("-", "_"), task_kwargs=kwargs)
        from dm_control import composer, manipulation  # noqa: F401  (the second registers the tasks)
        from dm_control.manipulation.shared import registry

    simulator = composer.Environment(
        registry.get_constructor(f"{name.replace('-', '_')}_features")(),
        random_state=np.random.RandomState(0),
        recompile_mjcf_every_episode=False,  # nothing in the model is random; the renderer holds on to it
    )
    simulator.reset()  # the first reset compiles nevertheless
    return simulator


class DMCEnv(VisualEnv):
    """One dm_control task behind the contract of :class:`VisualEnv`; ``simulator`` is dm_control's own environment.

    Episode ``s`` of a control-suite task is the first of ``dm_control.suite.load(..., {"random": s})``.
    """

    def __init__(self, name: str, cameras: tuple[str, ...], image_size: int, quality: str, horizon: int) -> None:
        self._task = task = TASKS[name]
        self.simulator = _load(name, task)
        import mujoco

        self._mujoco = mujoco
        physics = self.simulator.physics
        model, data = physics.model.ptr, physics.data.ptr
        action = self.simulator.action_spec()
        self._action_middle = (action.maximum + action.minimum) / 2
        self._action_scale = (action.maximum - action.minimum) / 2
        self._positions = [int(model.joint(joint).qposadr[0]) for joint in task.joints if joint not in task.unseen]
        self._velocities = [int(model.joint(joint).dofadr[0]) for joint in task.joints]
        self._touch = [int(model.sensor(sensor).adr[0]) for sensor in task.touch or ()]
        self._physics = Physics(model, data)
        self._state_size = self._physics.size + model.nsensordata
        super().__init__(
            f"dmc/{name}",
            cameras=cameras,
            offered=self._task.cameras,
            default_camera=task.cameras[0].name,
            image_size=image_size,
            quality=quality,
            horizon=horizon,
            fps=1 / (task.control_step_s * task.repeat),
            proprio_space=spaces.Box(-np.inf, np.inf, (len(task.proprio),), np.float32),
            action_dim=len(task.action),
            model=model,
            data=data,
        )

    def _reset(self, seed: int) -> bool:
        task = self.simulator.task
        random = task.random if self._task.domain else self.simulator.random_state
        random.seed(seed % 2**32)
        self.simulator.reset()
        return self._is_success(task.get_reward(self.simulator.physics))

    def _is_success(self, reward: float) -> bool:
        return bool(reward >= self._task.threshold)

    def _step(self, action: np.ndarray) -> tuple[float, bool]:
        scaled = self._action_middle + self._action_scale * action
        rewards = [self.simulator.step(scaled).reward for _ in range(self._task.repeat)]
        return float(sum(rewards)), self._is_success(rewards[-1])

    def _proprio(self) -> np.ndarray:
        data = self.data
        touch = np.log1p(data.sensordata[self._touch])
        return np.concatenate([data.qpos[self._positions], data.qvel[self._velocities], touch]).astype(np.float32)

    def _full_state(self) -> np.ndarray:
        if not self._task.domain:
            return self._initial_state()
        observed = self.simulator.task.get_observation(self.simulator.physics)
        return np.concatenate([np.ravel(part) for part in observed.values()])

    def _state(self) -> np.ndarray:
        return np.concatenate([self._physics.get(), self.data.sensordata])

    def _restore(self, state: np.ndarray) -> None:
        physics, sensors = np.split(state, [self._physics.size])
        self._physics.set(physics)
        self._mujoco.mj_step1(self.model, self.data)  # what dm_control ends its steps with
        self.data.sensordata[:] = sensors  # touch is measured before that

    def _initial_state(self) -> np.ndarray:
        data = self.data
        return np.concatenate([data.qpos, data.qvel, data.xpos.ravel(), data.geom_xpos.ravel(), data.site_xpos.ravel()])


class DMCSuite:
    """The registry's way in."""

    name = "dmc"
    package = "dm_control"
    extra = "dmc"

    def tasks(self) -> tuple[str, ...]:
        """Return the task names."""
        return tuple(TASKS)

    def describe(self, task: str) -> TaskDescription:
        """Describe a task without importing dm_control."""
        about = TASKS[task]
        return TaskDescription(
            task=f"dmc/{task}",
            summary=about.summary,
            cameras=tuple(camera.name for camera in about.cameras),
            default_camera=about.cameras[0].name,
            proprio=about.proprio,
            action=about.action,
            horizon=about.horizon,
            fps=1 / (about.control_step_s * about.repeat),
            success=f"ours (dm_control has none), momentary: {about.success}; {about.score}",
            expert="",
            packages=("mujoco", "dm_control"),
            licence="Apache-2.0 (dm_control); pip install rsp-robot[dmc]",
        )

    def make(self, task: str, cameras: tuple[str, ...], image_size: int, quality: str, horizon: int) -> DMCEnv:
        """Build the environment; dm_control is imported here."""
        return DMCEnv(task, cameras, image_size, quality, horizon)

    def make_expert(self, task: str, env: VisualEnv) -> Expert:
        """Nobody demonstrates these tasks."""
        raise UserError(f"nobody demonstrates dmc/{task}; choose another task, or bring demonstrations of your own")


SUITE = DMCSuite()
