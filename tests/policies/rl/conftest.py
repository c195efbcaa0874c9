from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from rsp_robot.demonstrations import Demonstration, DemonstrationInfo, write_demonstrations
from rsp_robot.encoder import FrozenEncoder
from rsp_robot.policies.rl.episodes import EpisodeWrapper

HORIZON = 10


@pytest.fixture(autouse=True)
def own_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stable-Baselines3's own logger makes a folder among the temporary files, ``SB3-<date>``."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


SPEC = "random:vit-nano/8@16"


class PointEnv(gymnasium.Env):
    """Actions move a point by up to 0.4; success within 0.3 of the goal. The goal is seen as a colour, not felt.

    With ``state`` it is told as well.
    """

    def __init__(self, state: bool = False, cameras: tuple[str, ...] = ("front",)) -> None:
        self.cameras, self.state = cameras, state
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        parts: dict[str, Any] = dict.fromkeys(cameras, spaces.Box(0, 255, (16, 16, 3), np.uint8))
        parts["proprio"] = spaces.Box(-9.0, 9.0, (2,), np.float32)
        if state:
            parts["state"] = spaces.Box(-9.0, 9.0, (4,), np.float32)
        self.observation_space = spaces.Dict(parts)
        self.seeds: list[int | None] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict, dict]:
        super().reset(seed=seed)
        self.seeds.append(seed)
        self.position, self.goal = self.np_random.uniform(-1, 1, (2, 2))
        self.steps = 0
        return self._observe(), {"success": self._success()}

    def step(self, action: np.ndarray) -> tuple[dict, float, bool, bool, dict]:
        self.steps += 1
        self.position = np.clip(self.position + 0.4 * np.asarray(action, np.float64), -3, 3)
        reward = -float(np.linalg.norm(self.position - self.goal))
        return self._observe(), reward, False, self.steps >= HORIZON, {"success": self._success()}

    def _success(self) -> bool:
        return bool(np.linalg.norm(self.position - self.goal) < 0.3)

    def _observe(self) -> dict[str, np.ndarray]:
        observation: dict[str, np.ndarray] = {"proprio": self.position.astype(np.float32)}
        for index, camera in enumerate(self.cameras):
            picture = np.zeros((16, 16, 3), np.uint8)
            picture[..., :2] = np.clip(128 + 60 * self.goal, 0, 255).astype(np.uint8)
            picture[: 2 + self.steps, :, 2] = 100 + 50 * index  # each step looks another way
            observation[camera] = picture
        if self.state:
            observation["state"] = np.concatenate([self.position, self.goal]).astype(np.float32)
        return observation


@pytest.fixture
def point() -> type[PointEnv]:
    return PointEnv


@pytest.fixture(scope="session")
def frozen() -> FrozenEncoder:
    encoder = FrozenEncoder.load(SPEC)
    encoder.source = SPEC
    return encoder


@pytest.fixture
def points() -> Callable[..., Callable[[], VecEnv]]:
    """``points(count, **settings)`` makes a function that makes that many environments."""

    def maker(count: int = 2, repeat: int = 1, **settings: Any) -> Callable[[], VecEnv]:
        return lambda: DummyVecEnv([lambda: EpisodeWrapper(PointEnv(**settings), repeat)] * count)

    return maker


@pytest.fixture
def point_demonstrations(tmp_path: Path) -> Callable[..., Path]:
    def make(count: int = 20, state: bool = True) -> Path:
        env = PointEnv(state=state)
        shown = []
        for seed in range(count):
            observation, _ = env.reset(seed=seed)
            seen, actions, rewards = [], [], []
            for _ in range(HORIZON):
                action = np.clip((env.goal - env.position) / 0.4, -1, 1).astype(np.float32)
                seen.append(observation)
                observation, reward, *_ = env.step(action)
                actions.append(action)
                rewards.append(reward)
            shown.append(
                Demonstration(
                    observations={key: np.stack([row[key] for row in seen]) for key in seen[0]},
                    actions=np.stack(actions),
                    rewards=np.asarray(rewards, np.float32),
                    dones=np.arange(HORIZON) == HORIZON - 1,
                    states=np.zeros((HORIZON, 0)),
                    seed=seed,
                )
            )
        path = tmp_path / "shown.hdf5"
        write_demonstrations(path, shown, DemonstrationInfo(task="toy/point", cameras=("front",), image_size=16))
        return path

    return make
