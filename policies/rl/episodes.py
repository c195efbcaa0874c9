"""What happens to an episode on its way to the learner: repeated actions, scaled rewards, and how it went."""

from __future__ import annotations

import time
from typing import Any

import gymnasium
import numpy as np


class EpisodeWrapper(gymnasium.Wrapper[Any, np.ndarray, Any, np.ndarray]):
    """Hold each action for several steps, scale the reward, and report each episode in its last ``info``.

    The report is what Stable-Baselines3 looks for: ``info["episode"]`` has the return ``r`` (not scaled) and the length
    ``l`` in decisions, ``info["is_success"]`` says whether ``info["success"]`` held after any step of the episode.
    """

    def __init__(
        self, env: gymnasium.Env[Any, np.ndarray], action_repeat: int = 1, reward_scale: float = 1.0,
        stop_on_success: bool = False,
    ) -> None:  # fmt: skip
        """Wrap ``env``; with ``stop_on_success`` the episode is truncated at its first success."""
        super().__init__(env)
        self.action_repeat, self.reward_scale, self.stop_on_success = action_repeat, reward_scale, stop_on_success
        self._began, self._return, self._decisions, self._success = time.monotonic(), 0.0, 0, False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._began, self._return, self._decisions = time.monotonic(), 0.0, 0
        self._success = bool(info.get("success", False))
        return observation, info

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Hold ``action`` for up to ``action_repeat`` steps; the reward is their sum."""
        total, success = 0.0, False
        simulator: Any = self.unwrapped
        blinks = self.action_repeat > 1 and hasattr(simulator, "look") and hasattr(simulator, "observe")
        if blinks:
            simulator.look = False  # nobody sees the pictures between two decisions
        for _ in range(self.action_repeat):
            observation, reward, terminated, truncated, info = self.env.step(action)
            total += float(reward)
            success = success or bool(info.get("success", False))
            if terminated or truncated or (success and self.stop_on_success):
                break
        if blinks:
            simulator.look = True
            observation = simulator.observe()
        self._return += total
        self._decisions += 1
        self._success = self._success or success
        info = {**info, "success": success}
        truncated = truncated or (success and self.stop_on_success)
        if terminated or truncated:
            seconds = round(time.monotonic() - self._began, 6)
            info["episode"] = {"r": self._return, "l": self._decisions, "t": seconds}
            info["is_success"] = self._success
        return observation, total * self.reward_scale, terminated, truncated, info
