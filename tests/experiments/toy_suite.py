"""A suite without a simulator, offered through the plug-in entry point: reach a point in the plane. Numpy only.

Tasks that misbehave leave marks in the folder named by ``TOY_MARKS``, so that tests can count what happened in other
processes.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from rsp_robot.envs.registry import TaskDescription

TASKS = {
    "reach": "bring the point to the goal",
    "leave": "success holds at the reset and is lost by moving",
    "crash": "the process dies at the second step",
    "crash-once": "the process dies at the second step of the first episode that gets there",
    "hang-once": "the simulation hangs at the second step of the first episode that gets there",
    "lose-context-once": "pictures are black from the second step of the first episode that gets there on",
    "raise": "the simulator raises an error at the second step",
    "torchless": "fails where torch is imported",
    "unseeded": "every episode starts elsewhere",
    "unmakeable": "the environment cannot be built",
}
CAMERAS = ("front", "side")


def mark(name: str) -> bool:
    """Leave a mark; return whether it is the first of that name."""
    path = Path(os.environ["TOY_MARKS"]) / name
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


class ToyEnv(gymnasium.Env):
    """Actions move a point by up to 0.25; success within 0.2 of the goal. The goal can be seen, not felt."""

    fps = 60.0

    def __init__(self, task: str, cameras: tuple[str, ...], image_size: int, quality: str, horizon: int) -> None:
        if task == "unmakeable":
            raise OSError("no such scene")
        self.task, self.cameras, self.image_size, self.horizon = f"toy/{task}", cameras, image_size, horizon
        self._name = task
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        image = spaces.Box(0, 255, (image_size, image_size, 3), np.uint8)
        self.observation_space = spaces.Dict(
            dict.fromkeys(cameras, image) | {"proprio": spaces.Box(-9.0, 9.0, (2,), np.float32)}
        )
        self.closed = self.shows_state = self.lost = False
        if "TOY_MARKS" in os.environ:
            mark(f"process-{os.getpid()}")

    def show_state(self) -> None:
        self.shows_state = True

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict, dict]:
        super().reset(seed=None if self._name == "unseeded" else seed)
        self.position, self.goal = self.np_random.uniform(-1, 1, (2, 2))
        self.steps = 0
        if "TOY_MARKS" in os.environ:
            mark(f"seed-{seed}")
        initial = np.concatenate([self.position, self.goal])
        self._hash = hashlib.sha256(initial.tobytes()).hexdigest()[:32]
        return self._observe(), {"success": self._success()}

    def step(self, action: np.ndarray) -> tuple[dict, float, bool, bool, dict]:
        self.steps += 1
        if self.steps == 2:
            self._misbehave()
        self.position = self.position + 0.25 * np.asarray(action, np.float64)
        reward = -float(np.linalg.norm(self.position - self.goal))
        return self._observe(), reward, False, self.steps >= self.horizon, {"success": self._success()}

    def _misbehave(self) -> None:
        if self._name == "crash" or (self._name == "crash-once" and mark("crashed")):
            print("the scene fell over", file=sys.stderr, flush=True)
            os.kill(os.getpid(), 9)
        if self._name == "hang-once" and mark("hung"):
            time.sleep(600)
        if self._name == "lose-context-once" and mark("lost"):
            self.lost = True
        if self._name == "raise":
            raise ArithmeticError("the solver\ndiverged")
        if self._name == "torchless" and "torch" in sys.modules:
            raise AssertionError("torch is imported in a simulation process")

    def _success(self) -> bool:
        if self._name == "leave":
            return self.steps == 0
        return bool(np.linalg.norm(self.position - self.goal) < 0.2)

    def _observe(self) -> dict[str, np.ndarray]:
        state = {"state": np.concatenate([self.position, self.goal]).astype(np.float32)} if self.shows_state else {}
        pictures = {camera: self._picture(camera, self.image_size) for camera in self.cameras}
        return pictures | {"proprio": self.position.astype(np.float32)} | state

    def _picture(self, camera: str, size: int) -> np.ndarray:
        """A flat picture whose colour tells where the goal is."""
        colour = np.clip(128 + 60 * self.goal, 0, 255).astype(np.uint8)
        picture = np.zeros((size, size, 3), np.uint8)
        if self.lost:
            return picture
        picture[..., :2] = colour
        picture[: size // 2, :, 2] = 50 if camera == "front" else 200
        return picture

    def render(self, camera: str | None = None, size: int | None = None) -> np.ndarray:  # type: ignore[override]
        picture = self._picture(camera or "front", size or 32)
        picture[-1, -1] = 0 if self.lost else self.steps
        return picture

    def state_hash(self) -> str:
        return self._hash

    def close(self) -> None:
        self.closed = True


class ToySuite:
    name = "toy"
    package = "numpy"
    extra = "none"

    def tasks(self) -> tuple[str, ...]:
        return tuple(TASKS)

    def describe(self, task: str) -> TaskDescription:
        return TaskDescription(
            task=f"toy/{task}", summary=TASKS[task], cameras=CAMERAS, default_camera="front", proprio=("x", "y"),
            action=("dx", "dy"), horizon=12, fps=60.0, success="near the goal", expert="", licence="MIT",
            packages=("numpy",),
        )  # fmt: skip

    def make(self, task: str, cameras: tuple[str, ...], image_size: int, quality: str, horizon: int) -> ToyEnv:
        return ToyEnv(task, cameras, image_size, quality, horizon)


SUITE = ToySuite()
