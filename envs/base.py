"""What every suite's environment has in common: the observation, the horizon, seeds, saved states, pictures."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from gymnasium import spaces

from rsp_robot.envs.rendering import Camera, OffscreenRenderer, find_backend
from rsp_robot.envs.variation import Variation, VariedLook
from rsp_robot.errors import UserError, unknown_name

if TYPE_CHECKING:
    import mujoco

Observation = dict[str, np.ndarray]
LARGEST_IMAGE = 2048


class VisualEnv(gymnasium.Env[Observation, np.ndarray]):
    """A MuJoCo task seen through cameras.

    Observation: ``{camera: uint8 (size, size, 3) for every camera, "proprio": float32 (P,)}``, and after
    :meth:`show_state` also ``"state"``, float32 ``(S,)``. Action: ``Box(-1, 1)`` float32. ``info["success"]`` is a bool
    after every reset and step. Episodes never terminate; they are truncated at the horizon. ``reset(seed=s)`` fully
    determines the episode; without a seed one is drawn from the environment's generator and reported as
    ``info["seed"]``.

    A suite's subclass builds the simulator, calls ``super().__init__`` and fills in the methods that start with an
    underscore.
    """

    _state_size: int
    """Length of what :meth:`_state` returns; a subclass sets it."""
    look: bool = True
    """Off: observations leave the pictures out, which cost most of a step; for steps at which nobody decides."""

    def __init__(
        self,
        task: str,
        *,
        cameras: tuple[str, ...],
        offered: tuple[Camera, ...],
        default_camera: str,
        image_size: int,
        quality: str,
        horizon: int,
        fps: float,
        proprio_space: spaces.Box,
        action_dim: int,
        model: mujoco.MjModel,
        data: mujoco.MjData,
        hidden_groups: tuple[int, ...] = (),
    ) -> None:
        """Set the spaces up; with cameras the OpenGL context is made here, without on the first ``render()``.

        Cameras are named among those ``offered``. Geoms of ``hidden_groups`` are not drawn (collision shapes, in some
        suites).
        """
        self.task = task
        self.cameras = cameras
        self._offered = {camera.name: camera for camera in offered}
        self._cameras = tuple(self._find_camera(name) for name in cameras)
        self._default_camera = self._find_camera(default_camera)
        self.image_size, self.quality, self.horizon, self.fps = image_size, quality, horizon, fps
        self.render_mode = "rgb_array"
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": round(fps)}
        image_space = spaces.Box(0, 255, (image_size, image_size, 3), np.uint8)
        parts: dict[str, spaces.Space[Any]] = {**dict.fromkeys(self.cameras, image_space), "proprio": proprio_space}
        self.observation_space = spaces.Dict(parts)  # type: ignore[assignment]
        self.action_space = spaces.Box(-1.0, 1.0, (action_dim,), np.float32)
        self.model, self.data = model, data
        self.elapsed = 0
        self.episode_seed: int | None = None
        self._hidden_groups = hidden_groups
        self._shows_state = False
        self._look: VariedLook | None = None
        self._renderer: OffscreenRenderer | None = None
        if cameras:
            self._make_renderer()

    # What a suite fills in.

    @abstractmethod
    def _reset(self, seed: int) -> bool:
        """Start the episode that ``seed`` determines, whatever happened before; return whether it is solved already."""

    @abstractmethod
    def _step(self, action: np.ndarray) -> tuple[float, bool]:
        """Advance by one action, float64 ``(A,)`` within [-1, 1]; return ``(reward, success)``."""

    @abstractmethod
    def _proprio(self) -> np.ndarray:
        """What the robot feels of itself, float32 ``(P,)``."""

    @abstractmethod
    def _state(self) -> np.ndarray:
        """Everything besides the seed that the future depends on, float64 ``(S,)``."""

    @abstractmethod
    def _restore(self, state: np.ndarray) -> None:
        """Inverse of :meth:`_state`, in an episode of the same seed."""

    @abstractmethod
    def _initial_state(self) -> np.ndarray:
        """What tells one initial state from another (all bodies, goals), float64 ``(K,)``; it is hashed."""

    def _full_state(self) -> np.ndarray:
        """What a policy from which nothing is hidden would be told, float ``(S,)``: joints, objects, goals.

        By default all bodies; a suite with a state observation of its own gives that.
        """
        return self._initial_state()

    # What a user calls.

    def show_state(self) -> None:
        """Put the simulator's state into the observation, as ``"state"``: for oracles and for learning from states."""
        if not self._shows_state:
            self._reset(0)  # to know its length
            shape = self._full_state().shape
            space: Any = self.observation_space  # Gymnasium types it as a space of dictionaries, not as a Dict
            self.observation_space = spaces.Dict({**space.spaces, "state": spaces.Box(-np.inf, np.inf, shape)})  # type: ignore[assignment]
            self._shows_state = True
            self.episode_seed = None

    def vary(self, variation: Variation) -> None:
        """Give every episode from the next reset on a look of its own, which its seed determines."""
        if self._look is not None:
            raise UserError("this environment's look varies already; make a new one")
        self._look = VariedLook(self.model, self.data, variation)
        self.episode_seed = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode; see the class for what ``seed`` means."""
        super().reset(seed=seed)
        self.episode_seed = int(self.np_random.integers(2**31)) if seed is None else int(seed)
        self.elapsed = 0
        success = self._reset(self.episode_seed)
        if self._look is not None:
            self._look.draw(self.episode_seed)
        initial = np.ascontiguousarray(self._initial_state(), dtype="<f8")
        self._initial_hash = hashlib.sha256(initial.tobytes()).hexdigest()[:32]
        return self.observe(), {"success": bool(success), "seed": self.episode_seed}

    def step(self, action: np.ndarray) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Advance by one action; values outside [-1, 1] are clipped.

        Raises:
            UserError: before the first reset, an action of the wrong shape, or one with NaN.
        """
        if self.episode_seed is None:
            raise UserError("step() was called before reset(); call reset() first")
        action = np.asarray(action, dtype=np.float64)
        if action.shape != self.action_space.shape:
            expected = self.action_space.shape
            raise UserError(f"{self.task} takes actions of shape {expected}, got {action.shape}; check the policy")
        if not np.isfinite(action).all():
            raise UserError(f"the action for {self.task} holds NaN or infinity; check the policy for divergence")
        reward, success = self._step(np.clip(action, -1.0, 1.0))
        self.elapsed += 1
        return self.observe(), float(reward), False, self.elapsed >= self.horizon, {"success": bool(success)}

    def observe(self) -> Observation:
        """Return the present observation."""
        pictures = {}
        if self._cameras and self.look:
            if self._renderer is None:
                raise RuntimeError("this environment is closed; make a new one")
            pictures = {camera.name: self._take(camera, self.image_size) for camera in self._cameras}
        observation = {**pictures, "proprio": self._proprio()}
        if self._shows_state:
            observation["state"] = self._full_state().astype(np.float32)
        return observation

    def render(self, camera: str | None = None, size: int | None = None) -> np.ndarray:
        """Take a picture for people, uint8 ``(size, size, 3)``: by default the first camera at 480 pixels."""
        if self._renderer is None:
            self._make_renderer()
        assert self._renderer is not None
        chosen = self._default_camera if camera is None else self._find_camera(camera)
        if camera is None and self._cameras:
            chosen = self._cameras[0]
        return self._take(chosen, size or self._renderer.limit)

    def get_state(self) -> np.ndarray:
        """Return the whole state, float64 ``(S,)``: any environment of this task set to it goes on bit for bit."""
        if self.episode_seed is None:
            raise UserError("get_state() was called before reset(); call reset() first")
        return np.concatenate([[float(self.episode_seed), float(self.elapsed)], self._state()])

    def set_state(self, state: np.ndarray) -> None:
        """Put the environment into a state from :meth:`get_state` of the same task and versions.

        Raises:
            UserError: the state has another length.
        """
        state = np.asarray(state, dtype=np.float64)
        expected = (2 + self._state_size,)
        if state.shape != expected or not np.isfinite(state[:2]).all():
            raise UserError(f"a state of {self.task} has shape {expected}, got {state.shape}; is it another task's?")
        if int(state[0]) != self.episode_seed:
            self.reset(seed=int(state[0]))
        self._restore(state[2:])
        self.elapsed = int(state[1])

    def state_hash(self) -> str:
        """Return 32 hex digits that name the state right after the last reset (equal: the episodes start the same)."""
        if self.episode_seed is None:
            raise UserError("state_hash() was called before reset(); call reset() first")
        return self._initial_hash

    def close(self) -> None:
        """Free the renderer. May be called twice."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def _take(self, camera: Camera, size: int) -> np.ndarray:
        assert self._renderer is not None
        return self._renderer.render(camera if self._look is None else self._look.seen_by(camera), size)

    def _make_renderer(self) -> None:
        find_backend()
        self._renderer = OffscreenRenderer(self.model, self.data, self.quality, self.image_size, self._hidden_groups)

    def _find_camera(self, name: str) -> Camera:
        if name not in self._offered:
            raise unknown_name("camera", name, self._offered)
        return self._offered[name]
