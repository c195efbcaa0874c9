"""Meta-World v3: fifty table-top tasks of a Sawyer arm (https://github.com/Farama-Foundation/Metaworld, MIT)."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from gymnasium import spaces

from rsp_robot.envs.base import VisualEnv
from rsp_robot.envs.experts import Expert
from rsp_robot.envs.physics import Physics
from rsp_robot.envs.registry import TaskDescription
from rsp_robot.envs.rendering import Camera

FPS = 80.0
HORIZON = 500
UNLIMITED = 2**31
"""Meta-World raises an error past ``max_path_length``; the horizon is ours to keep."""
PROPRIO = ("hand x (m)", "hand y (m)", "hand z (m)", "gripper opening (0 closed to 1 open)")
ACTION = ("hand dx (+-1 cm)", "hand dy (+-1 cm)", "hand dz (+-1 cm)", "gripper effort (close +)")

TASKS = {
    "assembly-v3": "put a nut onto a peg",
    "basketball-v3": "drop a ball into a basket",
    "bin-picking-v3": "move a cube from one bin to the other",
    "box-close-v3": "put the lid onto a box",
    "button-press-topdown-v3": "press a button from above",
    "button-press-topdown-wall-v3": "press a button from above, behind a wall",
    "button-press-v3": "press a button from the front",
    "button-press-wall-v3": "press a button from the front, behind a wall",
    "coffee-button-v3": "press the button of a coffee machine",
    "coffee-pull-v3": "pull a mug away from a coffee machine",
    "coffee-push-v3": "push a mug under a coffee machine",
    "dial-turn-v3": "turn a dial by half a turn",
    "disassemble-v3": "take a nut off a peg",
    "door-close-v3": "close a door that swings on a hinge",
    "door-lock-v3": "lock a door by turning its lock clockwise",
    "door-open-v3": "open a door that swings on a hinge",
    "door-unlock-v3": "unlock a door by turning its lock anticlockwise",
    "drawer-close-v3": "push a drawer shut",
    "drawer-open-v3": "pull a drawer open",
    "faucet-close-v3": "turn a tap clockwise",
    "faucet-open-v3": "turn a tap anticlockwise",
    "hammer-v3": "drive a nail in with a hammer",
    "hand-insert-v3": "lower the gripper into a hole with a block",
    "handle-press-side-v3": "press a handle down sideways",
    "handle-press-v3": "press a handle down",
    "handle-pull-side-v3": "pull a handle up sideways",
    "handle-pull-v3": "pull a handle up",
    "lever-pull-v3": "pull a lever up by a quarter turn",
    "peg-insert-side-v3": "put a peg sideways into a hole",
    "peg-unplug-side-v3": "pull a peg sideways out of a hole",
    "pick-out-of-hole-v3": "pick a puck out of a hole",
    "pick-place-v3": "pick a puck up and bring it to a point in the air",
    "pick-place-wall-v3": "pick a puck up and bring it over a wall to a point in the air",
    "plate-slide-back-side-v3": "slide a plate sideways out of a cabinet",
    "plate-slide-back-v3": "slide a plate back out of a cabinet",
    "plate-slide-side-v3": "slide a plate sideways into a cabinet",
    "plate-slide-v3": "slide a plate into a cabinet",
    "push-back-v3": "pull a puck back to a point on the table",
    "push-v3": "push a puck to a point on the table",
    "push-wall-v3": "push a puck around a wall to a point on the table",
    "reach-v3": "bring the gripper to a point",
    "reach-wall-v3": "bring the gripper over a wall to a point",
    "shelf-place-v3": "put a block onto a shelf",
    "soccer-v3": "kick a ball into a goal",
    "stick-pull-v3": "pull a thermos by a stick put through its handle",
    "stick-push-v3": "push a thermos with a stick",
    "sweep-into-v3": "sweep a block into a hole",
    "sweep-v3": "sweep a block off the table",
    "window-close-v3": "slide a window shut",
    "window-open-v3": "slide a window open",
}

CAMERAS = (
    Camera(
        "close",
        lookat=(0.0, 0.7, 0.12),
        distance=0.95,
        azimuth=135.0,
        elevation=-35.0,
        about="ours, from the robot's right: the hand's work space of all fifty tasks fills the picture",
    ),
    Camera(
        "closer",
        lookat=(0.0, 0.72, 0.1),
        distance=0.95,
        azimuth=135.0,
        elevation=-35.0,
        fovy=26.0,
        about="ours, close through a longer lens: for push, pick-place and bin-picking at small picture sizes",
    ),
    Camera("corner", model_camera="corner", rotated=True, about="from the robot's left, low"),
    Camera("corner2", model_camera="corner2", rotated=True, about="from the robot's right, the whole table"),
    Camera("corner3", model_camera="corner3", rotated=True, about="from the robot's right, high"),
    Camera("corner4", model_camera="corner4", rotated=True, about="corner2 moved closer"),
    Camera("topview", model_camera="topview", about="from above"),
    Camera("behindGripper", model_camera="behindGripper", about="moves with the hand, from behind"),
    Camera("gripperPOV", model_camera="gripperPOV", about="moves with the hand, past its fingers"),
)
DEFAULT_CAMERA = "corner2"


class MetaWorldEnv(VisualEnv):
    """One Meta-World task behind the contract of :class:`VisualEnv`; ``simulator`` is Meta-World's own environment.

    Meta-World takes its randomness from ``seed()`` instead of ``reset(seed=...)``, shows the last episode's goal in the
    first picture, raises an error past its path length, and gives success as a float; all four are put right here.
    """

    def __init__(self, task: str, cameras: tuple[str, ...], image_size: int, quality: str, horizon: int) -> None:
        import mujoco
        from metaworld.env_dict import ALL_V3_ENVIRONMENTS

        self._mujoco = mujoco
        self.simulator: Any = ALL_V3_ENVIRONMENTS[task]()
        self._full_observation = np.zeros(39)
        self._set_up_simulator()
        model, data = self.simulator.model, self.simulator.data
        self._physics = Physics(model, data)
        self._state_size = self._physics.size + 18 + 39 + 1
        hand = self.simulator._HAND_SPACE
        low, high = np.append(hand.low, -1.0).astype(np.float32), np.append(hand.high, 1.0).astype(np.float32)
        super().__init__(
            f"metaworld/{task}",
            cameras=cameras,
            offered=CAMERAS,
            default_camera=DEFAULT_CAMERA,
            image_size=image_size,
            quality=quality,
            horizon=horizon,
            fps=FPS,
            proprio_space=spaces.Box(low, high, dtype=np.float32),
            action_dim=4,
            model=model,
            data=data,
        )

    def _set_up_simulator(self) -> None:
        simulator = self.simulator
        simulator._partially_observable = False  # the expert sees the goal; the learner gets no part of this
        del simulator.sawyer_observation_space  # cached with the goal hidden
        simulator._set_task_called = True
        simulator._freeze_rand_vec = False
        simulator.seeded_rand_vec = True
        simulator.max_path_length = UNLIMITED

    def _reset(self, seed: int) -> bool:
        simulator = self.simulator
        simulator.seed(seed)
        simulator.reset(seed=seed)
        # Meta-World moves furniture and goals after its last forward pass; the first picture would be stale.
        self._mujoco.mj_forward(self.model, self.data)
        simulator._prev_obs = simulator._get_curr_obs_combined_no_goal()
        bounds = simulator.sawyer_observation_space
        self._full_observation = np.clip(simulator._get_obs(), bounds.low, bounds.high)
        return self._success_now()

    def _success_now(self) -> bool:
        """Judge the present state; ``evaluate_state`` notes things down in the simulator, which are put back."""
        before = dict(vars(self.simulator))
        _, info = self.simulator.evaluate_state(self._full_observation, np.zeros(4, np.float32))
        vars(self.simulator).update(before)
        return bool(info["success"])

    def _step(self, action: np.ndarray) -> tuple[float, bool]:
        self._full_observation, reward, _, _, info = self.simulator.step(action)
        return float(reward), bool(info["success"])

    def _proprio(self) -> np.ndarray:
        proprio: np.ndarray = self._full_observation[:4].astype(np.float32)
        return proprio

    def _full_state(self) -> np.ndarray:
        state: np.ndarray = self._full_observation
        return state

    def _state(self) -> np.ndarray:
        latch = getattr(self.simulator, "_target_to_obj_init", None)  # bin-picking scales its reward by its first step
        latch = np.nan if latch is None else latch
        return np.concatenate([self._physics.get(), self.simulator._prev_obs, self._full_observation, [latch]])

    def _restore(self, state: np.ndarray) -> None:
        simulator = self.simulator
        physics, previous, observation, latch = np.split(state, np.cumsum([self._physics.size, 18, 39]))
        self._physics.set_forward(physics)
        simulator._prev_obs = previous.copy()
        if hasattr(simulator, "_target_to_obj_init"):
            simulator._target_to_obj_init = None if np.isnan(latch[0]) else float(latch[0])
        self._full_observation = observation.copy()

    def _initial_state(self) -> np.ndarray:
        data = self.data
        bodies, sites = data.xpos.ravel(), data.site_xpos.ravel()
        return np.concatenate([data.qpos, data.qvel, bodies, sites, self.simulator._target_pos])


class ScriptedExpert:
    """Meta-World's own scripted policy. It sees object and goal positions; about 99 % of its episodes succeed."""

    def __init__(self, task: str, env: MetaWorldEnv) -> None:
        from metaworld.policies import ENV_POLICY_MAP

        policies: dict[str, Any] = ENV_POLICY_MAP
        self._policy = policies[task]()
        self._env = env

    def reset(self) -> None:
        """Nothing to forget: the scripts have no memory."""

    def act(self) -> np.ndarray:
        """Return the scripted action, float32 ``(4,)`` within [-1, 1]."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r"Constant\(s\) may be too high")
            action = self._policy.get_action(self._env._full_observation)
        return np.clip(np.asarray(action, np.float32), -1.0, 1.0)


class MetaWorldSuite:
    """The registry's way in."""

    name = "metaworld"
    package = "metaworld"
    extra = "metaworld"

    def tasks(self) -> tuple[str, ...]:
        """Return the fifty task names."""
        return tuple(TASKS)

    def describe(self, task: str) -> TaskDescription:
        """Describe a task without importing Meta-World."""
        return TaskDescription(
            task=f"metaworld/{task}",
            summary=TASKS[task],
            cameras=tuple(camera.name for camera in CAMERAS),
            default_camera=DEFAULT_CAMERA,
            proprio=PROPRIO,
            action=ACTION,
            horizon=HORIZON,
            fps=FPS,
            success="Meta-World's own test of the present moment: it may be met at one step and lost at the next",
            expert="Meta-World's scripted policy",
            packages=("mujoco", "metaworld"),
            licence="MIT (Meta-World); pip install rsp-robot[metaworld]",
        )

    def make(self, task: str, cameras: tuple[str, ...], image_size: int, quality: str, horizon: int) -> MetaWorldEnv:
        """Build the environment; Meta-World is imported here."""
        return MetaWorldEnv(task, cameras, image_size, quality, horizon)

    def make_expert(self, task: str, env: VisualEnv) -> Expert:
        """Return the scripted policy."""
        assert isinstance(env, MetaWorldEnv)
        return ScriptedExpert(task, env)


SUITE = MetaWorldSuite()
