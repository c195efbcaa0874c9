"""What happens beside learning: statistics, the curve, evaluations on held-out episodes, checkpoints."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv

from rsp_robot.errors import UserError
from rsp_robot.policies.rl.checkpoint import save_checkpoint
from rsp_robot.policies.rl.config import RLConfig
from rsp_robot.policies.rl.normaliser import RunningNorm
from rsp_robot.progress import Progress
from rsp_robot.run_folder import RunFolder

WINDOW = 100
"""Episodes that the rolling figures of training cover."""
FIRST_HELD_OUT_SEED = 200_000
"""Evaluations during training start here; `rsp-robot evaluate` uses others, so that its episodes stay unseen."""


def evaluate_episodes(
    model: Any, env: VecEnv, episodes: int, first_seed: int = FIRST_HELD_OUT_SEED
) -> dict[str, float]:
    """Play the same held-out episodes each time, without exploration.

    Args:
        model: gives actions by ``predict``.
        env: of its own, not the one that is learnt in.
        episodes: how many.
        first_seed: episode e starts from ``first_seed + e``.

    Returns:
        ``success`` (share of episodes with a success at any time), ``return`` and ``length`` (means).
    """
    reports: list[Mapping[str, Any]] = []
    for start in range(0, episodes, env.num_envs):
        env.seed(first_seed + start)
        observations = env.reset()
        wanted = min(env.num_envs, episodes - start)
        ended: dict[int, Mapping[str, Any]] = {}
        while len(ended) < wanted:
            actions, _ = model.predict(observations, deterministic=True)
            observations, _, dones, infos = env.step(actions)
            for index in np.flatnonzero(dones):
                if index < wanted:
                    ended.setdefault(int(index), infos[index])
        reports += ended.values()
    return {
        "success": float(np.mean([bool(report.get("is_success", False)) for report in reports])),
        "return": float(np.mean([report.get("episode", {}).get("r", math.nan) for report in reports])),
        "length": float(np.mean([report.get("episode", {}).get("l", math.nan) for report in reports])),
    }


class Recorder(BaseCallback):
    """Runs beside a learner; see the module. All but counting happens between a rollout and the next."""

    def __init__(
        self,
        config: RLConfig,
        run: RunFolder,
        norm: RunningNorm,
        bar: Progress,
        evaluation: Callable[[], VecEnv] | None,
        held: Mapping[str, Any],
    ) -> None:
        """Set up.

        Args:
            config: of the run.
            run: where rows and checkpoints go.
            norm: statistics to keep up.
            bar: counts decisions.
            evaluation: makes the environments of evaluations, when the first one is due.
            held: plain values to store in each checkpoint; ``"successes"`` and ``"returns"`` are added.
        """
        super().__init__()
        self.config, self.run, self.statistics, self.bar = config, run, norm, bar
        self._make_evaluation = evaluation
        self._evaluation: VecEnv | None = None
        self.held = {key: value for key, value in held.items() if key not in ("successes", "returns", "episodes")}
        self.successes: deque[float] = deque(held.get("successes", ()), WINDOW)
        self.returns: deque[float] = deque(held.get("returns", ()), WINDOW)
        self.episodes = int(held.get("episodes", 0))
        self.last_evaluation: dict[str, float] = dict(held.get("evaluation", {}))
        self._logged = self._evaluated = self._saved = self._began = -1
        self._clock = time.monotonic()

    def _on_training_start(self) -> None:
        self._began = self._logged = self._evaluated = self._saved = self.num_timesteps

    def _on_rollout_start(self) -> None:
        self.statistics.publish()
        done, config = self.num_timesteps, self.config
        # Rows are written first: what a checkpoint does not have, a resumed run forgets.
        if done > self._logged and done // config.log_every > self._logged // config.log_every:
            self._log()
        every = config.evaluate_every
        if every and done > self._evaluated and done // every > self._evaluated // every:
            self.evaluate()
        if done > self._saved and done // config.checkpoint_every > self._saved // config.checkpoint_every:
            self.save()

    def _on_step(self) -> bool:
        observations = obs_as_tensor(self.locals["new_obs"], torch.device("cpu"))
        policy: Any = self.model.policy
        extractor = getattr(policy, "actor", policy).features_extractor
        with torch.inference_mode():
            self.statistics.update(extractor.raw(observations).cpu().numpy())
        for info in self.locals["infos"]:
            if "episode" in info:
                self.episodes += 1
                self.returns.append(float(info["episode"]["r"]))
                self.successes.append(float(info.get("is_success", False)))
        shown = {"success": float(np.mean(self.successes))} if self.successes else {}
        self.bar.update(min(self.num_timesteps, self.bar.total) - self.bar.done, **shown)
        return True

    def _log(self) -> None:
        now = time.monotonic()
        row: dict[str, float] = {"steps_per_s": (self.num_timesteps - self._logged) / max(1e-9, now - self._clock)}
        if self.returns:
            row |= {"return": float(np.mean(self.returns)), "success": float(np.mean(self.successes))}
        row["episodes"] = self.episodes
        for name, value in self.logger.name_to_value.items():
            if name.startswith("train/") and np.isscalar(value) and name != "train/n_updates":
                row[name.removeprefix("train/")] = float(value)
        broken = [name for name, value in row.items() if name.endswith("loss") and not math.isfinite(value)]
        if broken:
            raise UserError(
                f"{self.config.algorithm} diverged before step {self.num_timesteps} ({broken[0]} is not finite); lower "
                "lr or reward_scale"
            )
        self.run.log(self.num_timesteps, **row)
        self._logged, self._clock = self.num_timesteps, now
        self.logger.name_to_value.clear()

    def evaluate(self) -> dict[str, float]:
        """Play the held-out episodes, log how they went, and return it."""
        if self._make_evaluation is None or (self._evaluated == self.num_timesteps and self.last_evaluation):
            return self.last_evaluation
        if self._evaluation is None:
            self._evaluation = self._make_evaluation()
        results = evaluate_episodes(self.model, self._evaluation, self.config.evaluation_episodes)
        row = {f"evaluation_{name}": value for name, value in results.items()}
        self.run.log(self.num_timesteps, **row)
        self.bar.say(f"step {self.num_timesteps}: {results['success']:.0%} of held-out episodes solved")
        self._evaluated, self.last_evaluation = self.num_timesteps, results
        self._clock = time.monotonic()
        return results

    def finish(self) -> dict[str, float]:
        """Log, evaluate and save what the last update made; return the evaluation."""
        self.statistics.publish()
        if self._began < 0:  # killed between the last checkpoint and the policy: nothing was learnt this time
            return self.last_evaluation
        if self.num_timesteps > self._logged:
            self._log()
        results = self.evaluate()
        if self.num_timesteps > self._saved:
            self.save()
        return results

    def save(self) -> None:
        """Write a checkpoint."""
        extra = {
            **self.held,
            "evaluation": self.last_evaluation,
            "successes": list(self.successes),
            "returns": list(self.returns),
            "episodes": self.episodes,
        }
        save_checkpoint(self.run.checkpoints, self.model, self.statistics, extra)
        self._saved = self.num_timesteps

    def close(self) -> None:
        """End the environments of evaluations."""
        if self._evaluation is not None:
            self._evaluation.close()
            self._evaluation = None
