"""Franka kitchen: the five single-goal tasks of R3M and RSP on Gymnasium-Robotics' model (MIT, assets Apache-2.0).

The model file is Gymnasium-Robotics' own and the arm is driven as its ``FrankaRobot`` drives it, without the noise that
it adds to what it measures. Its environment class is not used: it makes a renderer, and neither of its burner goals nor
its hinge cabinet goal (which opens the right door) is a task of the R3M protocol. What that protocol adds (a kitchen
that stands elsewhere in every episode, goals, the test of success, cameras) follows ``mj_envs`` as R3M used it
(https://github.com/vikashplus/robohive, ``relay_kitchen``).
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from gymnasium import spaces

from rsp_robot.envs.base import VisualEnv
from rsp_robot.envs.experts import Expert
from rsp_robot.envs.physics import Physics
from rsp_robot.envs.registry import TaskDescription
from rsp_robot.envs.rendering import Camera

HORIZON = 280
"""Gymnasium-Robotics' own; R3M gave its policies 50 steps."""
SUBSTEPS = 40
FPS = 12.5
FULL_SPEED = 2.0
"""Velocity command, rad/s or m/s, that an action of 1 stands for."""
JOINTS = 9
"""Seven of the arm, two of the fingers; they come first among the model's joints."""
CLOSE_TO_GOAL = 0.15
"""Part of a joint's range within which ``mj_envs`` takes it to be at its goal."""
JOINT_NOISE = 0.025
"""Half width of the uniform noise on the arm's start, as a part of each joint's range (R3M)."""
KITCHEN_SHIFT = 0.1
"""The kitchen moves by up to so many metres along each axis between episodes (R3M)."""
WITHIN_REACH = 1.0
"""Metres from the arm's shoulder to what has to be moved; further kitchens are drawn again (ours)."""

PROPRIO = (
    *(f"arm joint {number} (rad)" for number in range(1, 8)),
    "finger 1 (m from closed)",
    "finger 2 (m from closed)",
)
ACTION = (
    *(f"arm joint {number} velocity (+-2 rad/s)" for number in range(1, 8)),
    "finger 1 velocity (+-2 m/s, open +)",
    "finger 2 velocity (+-2 m/s, open +)",
)
FIXTURES = (
    "knob_Joint_1",
    "knob_Joint_2",
    "knob_Joint_3",
    "knob_Joint_4",
    "light_switch",
    "slide_cabinet",
    "left_hinge_cabinet",
    "right_hinge_cabinet",
    "microwave",
)


@dataclass(frozen=True)
class Task:
    """One thing to do in the kitchen."""

    summary: str
    joint: str
    """The joint to be moved; all fixtures start at 0."""
    goal: float
    """Where to, rad or m."""
    met: str
    """The same in words, with the tolerance."""
    r3m: str
    """Name in R3M's evaluation."""
    site: str
    """Where the model marks what has to be moved."""


TASKS = {
    "knob": Task(
        "turn the lower right of the four burner knobs clockwise",
        "knob_Joint_1",
        -1.57,
        "the knob is turned by more than 1.33 rad of 1.57",
        "kitchen_knob1_on-v3",
        "knob1_site",
    ),
    "light": Task(
        "flip the light switch to the left",
        "light_switch",
        -0.7,
        "the switch is turned by more than 0.59 rad of 0.70",
        "kitchen_light_on-v3",
        "light_site",
    ),
    "sliding-door": Task(
        "slide the door of the right cabinet open",
        "slide_cabinet",
        0.44,
        "the door is open by more than 0.37 m of 0.44",
        "kitchen_sdoor_open-v3",
        "slide_site",
    ),
    "left-door": Task(
        "open the left door of the hinge cabinet",
        "left_hinge_cabinet",
        -1.25,
        "the door is open by 1.01 to 1.49 rad",
        "kitchen_ldoor_open-v3",
        "hinge_site1",
    ),
    "microwave": Task(
        "open the microwave's door",
        "microwave",
        -1.25,
        "the door is open by 0.94 to 1.56 rad",
        "kitchen_micro_open-v3",
        "microhandle_site",
    ),
}

CAMERAS = (
    Camera("left_cap2", model_camera="left_cap2", about="R3M and RSP: from the left, low, turned towards the knobs"),
    Camera("right_cap2", model_camera="right_cap2", about="R3M and RSP: from the right, high, turned to the microwave"),
    Camera(
        "default",
        lookat=(-0.035, 0.585, 2.187),
        distance=6.666,
        azimuth=90.0,
        elevation=-45.0,
        about="R3M: the free camera as mujoco-py places it, the whole kitchen small",
    ),
    Camera("left_cap", model_camera="left_cap", about="the model's own, from the left"),
    Camera("right_cap", model_camera="right_cap", about="the model's own, from the right"),
    Camera(
        "overview",
        lookat=(-0.2, 0.5, 2.0),
        distance=2.2,
        azimuth=70.0,
        elevation=-35.0,
        about="Gymnasium-Robotics' own view, from behind the robot's left shoulder",
    ),
)
DEFAULT_CAMERA = "left_cap2"


class KitchenEnv(VisualEnv):
    """One task of the kitchen behind the contract of :class:`VisualEnv`.

    An episode's seed draws the arm's start and the place of the kitchen (with all its fixtures and the kettle), both
    again until the arm touches nothing.
    """

    def __init__(self, task: str, cameras: tuple[str, ...], image_size: int, quality: str, horizon: int) -> None:
        import mujoco

        self._mujoco = mujoco
        self.goal = TASKS[task]
        model, self._low, self._high = _load_model(mujoco)
        data = mujoco.MjData(model)
        self._physics = Physics(model, data)
        self._state_size = self._physics.size
        self._desk = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_BODY, "desk")
        self._desk_place = model.body_pos[self._desk].copy()
        fixtures = [mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_JOINT, name) for name in FIXTURES]
        self._fixtures = model.jnt_qposadr[fixtures]
        self._tolerance = CLOSE_TO_GOAL * np.ptp(model.jnt_range[fixtures], axis=1)
        self._wanted = np.array([self.goal.goal if name == self.goal.joint else 0.0 for name in FIXTURES])
        arm = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_BODY, "panda0_link0")
        self._of_robot = model.body_rootid[model.geom_bodyid] == model.body_rootid[arm]
        limits = model.jnt_range[:JOINTS] + np.array([-0.1, 0.1])  # MuJoCo's limits give way a little
        super().__init__(
            f"kitchen/{task}",
            cameras=cameras,
            offered=CAMERAS,
            default_camera=DEFAULT_CAMERA,
            image_size=image_size,
            quality=quality,
            horizon=horizon,
            fps=FPS,
            proprio_space=spaces.Box(*limits.T.astype(np.float32), dtype=np.float32),
            action_dim=JOINTS,
            model=model,
            data=data,
        )

    def _reset(self, seed: int) -> bool:
        generator = np.random.default_rng(seed)
        while True:
            self._place(generator)
            if not self._robot_touches() and self._in_reach():
                return self._success()

    def _place(self, generator: np.random.Generator) -> None:
        """Start over with the arm and the kitchen somewhere."""
        mujoco, model, data = self._mujoco, self.model, self.data
        mujoco.mj_resetDataKeyframe(model, data, 0)
        data.qpos[self._fixtures] = 0.0
        limits = model.jnt_range[:JOINTS]
        noise = generator.uniform(-JOINT_NOISE, JOINT_NOISE, JOINTS) * np.ptp(limits, axis=1)
        data.qpos[:JOINTS] = np.clip(data.qpos[:JOINTS] + noise, *limits.T)
        shift = generator.uniform(-KITCHEN_SHIFT, KITCHEN_SHIFT, 3)
        model.body_pos[self._desk] = self._desk_place + shift
        data.joint("kettle").qpos[:3] += shift
        mujoco.mj_forward(model, data)

    def _robot_touches(self) -> bool:
        geoms = self.data.contact.geom
        return bool(np.any(self._of_robot[geoms[:, 0]] != self._of_robot[geoms[:, 1]]))

    def _in_reach(self) -> bool:
        """R3M's draws put the left door at or beyond the end of the arm's reach in about half of the episodes."""
        shoulder, site = self.data.body("panda0_link2").xpos, self.data.site(self.goal.site).xpos
        return bool(np.linalg.norm(site - shoulder) < WITHIN_REACH)

    def _step(self, action: np.ndarray) -> tuple[float, bool]:
        data = self.data
        command = data.qpos[:JOINTS] + FULL_SPEED * action * (SUBSTEPS * self.model.opt.timestep)
        data.ctrl[:] = np.clip(command, self._low, self._high)
        self._mujoco.mj_step(self.model, data, nstep=SUBSTEPS)
        # mj_step leaves everything but the state itself one substep behind, and a restored state would not.
        self._mujoco.mj_fwdPosition(self.model, data)
        self._mujoco.mj_fwdVelocity(self.model, data)
        success = self._success()
        return float(success), success

    def _success(self) -> bool:
        return bool(np.all(np.abs(self.data.qpos[self._fixtures] - self._wanted) < self._tolerance))

    def _proprio(self) -> np.ndarray:
        proprio: np.ndarray = self.data.qpos[:JOINTS].astype(np.float32)
        return proprio

    def _state(self) -> np.ndarray:
        return self._physics.get()

    def _restore(self, state: np.ndarray) -> None:
        self._physics.set_forward(state)

    def _initial_state(self) -> np.ndarray:
        return np.concatenate([self.data.qpos, self.data.qvel, self.data.xpos.ravel(), self._wanted])


def _load_model(mujoco: Any) -> tuple[Any, np.ndarray, np.ndarray]:
    """Read the suite's model and add R3M's cameras.

    Returns:
        ``(model, low, high)``: ``low`` and ``high`` bound the position targets of the nine joints, float64 ``(9,)``.
    """
    suite = find_spec("gymnasium_robotics")
    assert suite is not None and suite.origin is not None
    assets = Path(suite.origin).parent / "envs" / "assets" / "kitchen_franka"
    spec = mujoco.MjSpec.from_file(str(assets / "kitchen_assets" / "kitchen_env_model.xml"))
    turned = mujoco.mjtCamLight.mjCAMLIGHT_TARGETBODY
    spec.worldbody.add_camera(name="left_cap2", pos=[-1.4, -1.0, 1.8], mode=turned, targetbody="knob 1")
    spec.worldbody.add_camera(name="right_cap2", pos=[1.3, -0.7, 3.4], mode=turned, targetbody="microwave")
    settings = ElementTree.parse(assets / "franka_assets" / "franka_config.xml").getroot()
    bounds = [settings.find(f"qpos{joint}").attrib["pos_bound"].split() for joint in range(JOINTS)]  # type: ignore[union-attr]
    low, high = np.array(bounds, dtype=np.float64).T
    return spec.compile(), low, high


class KitchenSuite:
    """The registry's way in."""

    name = "kitchen"
    package = "gymnasium_robotics"
    extra = "gymnasium-robotics"

    def tasks(self) -> tuple[str, ...]:
        """Return the five task names."""
        return tuple(TASKS)

    def describe(self, task: str) -> TaskDescription:
        """Describe a task without starting a simulator."""
        goal = TASKS[task]
        return TaskDescription(
            task=f"kitchen/{task}",
            summary=f"{goal.summary} (R3M's {goal.r3m})",
            cameras=tuple(camera.name for camera in CAMERAS),
            default_camera=DEFAULT_CAMERA,
            proprio=PROPRIO,
            action=ACTION,
            horizon=HORIZON,
            fps=FPS,
            success=(
                f"R3M's test of the present moment: {goal.met}, and no other door, knob or switch is further than 15 % "
                "of its range from where it started (R3M counts an episode in which this holds at more than 5 steps)"
            ),
            expert="a waypoint controller with differential inverse kinematics, ours",
            packages=("mujoco", "gymnasium-robotics"),
            licence="MIT (Gymnasium-Robotics), Apache-2.0 (models); pip install rsp-robot[gymnasium-robotics]",
        )

    def make(self, task: str, cameras: tuple[str, ...], image_size: int, quality: str, horizon: int) -> KitchenEnv:
        """Build the environment."""
        return KitchenEnv(task, cameras, image_size, quality, horizon)

    def make_expert(self, task: str, env: VisualEnv) -> Expert:
        """Return the waypoint controller."""
        from rsp_robot.envs.kitchen_experts import KitchenExpert

        assert isinstance(env, KitchenEnv)
        return KitchenExpert(task, env.model, env.data)


SUITE = KitchenSuite()
