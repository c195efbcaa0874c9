"""Reinforcement learning on a simulated task: environments, encoder and learner put together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np

from rsp_robot.envs import describe, make
from rsp_robot.envs.registry import check_cameras
from rsp_robot.envs.rendering import find_backend
from rsp_robot.envs.workers import hidden_main_module
from rsp_robot.errors import UserError
from rsp_robot.policies.rl.config import RLConfig
from rsp_robot.policies.rl.episodes import EpisodeWrapper
from rsp_robot.versions import versions

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv

    from rsp_robot.encoder import FrozenEncoder

NOTHING, STATE = "none", "state"


@dataclass(frozen=True)
class Scene:
    """One environment to learn in, as a process of its own can make it."""

    task: str
    cameras: tuple[str, ...]
    image_size: int
    quality: str
    horizon: int | None
    state: bool
    action_repeat: int = 1
    reward_scale: float = 1.0
    stop_on_success: bool = False


def make_env(scene: Scene) -> gymnasium.Env[Any, np.ndarray]:
    """Make the environment of a scene."""
    # Not given where it is not wanted: suites of other packages need not know the word.
    more: dict[str, Any] = {"state": True} if scene.state else {}
    env = make(
        scene.task,
        cameras=scene.cameras,
        image_size=scene.image_size,
        quality=scene.quality,
        horizon=scene.horizon,
        **more,
    )
    return EpisodeWrapper(env, scene.action_repeat, scene.reward_scale, scene.stop_on_success)


def make_vec_env(scene: Scene, count: int) -> VecEnv:
    """Make ``count`` environments: one in this process, several in processes of their own."""
    from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

    if scene.cameras:
        find_backend()  # once here, so that the processes need not look for it
    makers: list[Callable[[], gymnasium.Env[Any, np.ndarray]]] = [partial(make_env, scene)] * count
    if count == 1:
        return DummyVecEnv(makers)
    with hidden_main_module():
        return SubprocVecEnv(makers, start_method="spawn")  # a forked process inherits OpenGL and dies of it


def load_encoder(spec: str, pooling: str, device: str) -> FrozenEncoder | None:
    """Load the encoder that ``spec`` names; None for ``none`` and ``state``."""
    if spec in (NOTHING, STATE):
        return None
    from rsp_robot.devices import pick_device
    from rsp_robot.encoder import FrozenEncoder

    encoder = FrozenEncoder.load(spec, device=pick_device(device))
    return encoder.with_pooling(pooling) if pooling else encoder


def train_on_task(
    task: str,
    out: Path,
    config: RLConfig,
    *,
    encoder: str = NOTHING,
    cameras: tuple[str, ...] = (),
    image_size: int = 64,
    quality: str = "lean",
    horizon: int | None = None,
    pooling: str = "",
    demonstrations: Path | None = None,
) -> Path:
    """Train a policy on a task; return its folder.

    Args:
        task: task id.
        out: run folder.
        config: the run.
        encoder: what :meth:`FrozenEncoder.load` takes; ``none`` for proprioception alone, ``state`` for the simulator's
            state.
        cameras: whose pictures; the task's default camera if none is named.
        image_size: side of the pictures in pixels.
        quality: of the rendering.
        horizon: steps of the environment in an episode; the task's own by default.
        pooling: of the encoder; empty for its own.
        demonstrations: file to start from.

    Raises:
        UserError: a setting does not fit the task, the encoder, the demonstrations or the run folder.
    """
    from rsp_robot.policies.rl.train import TaskFacts, train_rl

    description = describe(task)
    eyes = load_encoder(encoder, pooling, config.device)
    if eyes is None and (cameras or pooling):
        raise UserError(f"encoder {encoder} looks through no camera; give an encoder, or leave cameras and pooling out")
    seen = () if eyes is None else check_cameras(description, cameras or None)
    vectors = ("proprio", "state") if encoder == STATE else ("proprio",)
    if demonstrations is not None:
        check_demonstrations(demonstrations, task, seen, image_size, quality)
    learning = Scene(
        task, seen, image_size, quality, horizon, encoder == STATE, config.action_repeat, config.reward_scale,
        config.stop_on_success,
    )  # fmt: skip
    testing = Scene(task, seen, image_size, quality, horizon, encoder == STATE, config.action_repeat)
    found = versions()
    facts = TaskFacts(
        task,
        image_size if seen else None,
        quality if seen else None,
        horizon or description.horizon,
        {name: found[name] for name in description.packages if name in found},
    )
    several = min(config.n_envs, config.evaluation_episodes)
    return train_rl(
        partial(make_vec_env, learning, config.n_envs),
        out,
        config,
        encoder=eyes,
        cameras=seen,
        vectors=vectors,
        evaluation=partial(make_vec_env, testing, several),
        demonstrations=demonstrations,
        facts=facts,
        encoder_source=None if eyes is None else encoder,
    )


def check_demonstrations(path: Path, task: str, cameras: tuple[str, ...], image_size: int, quality: str) -> None:
    """Refuse demonstrations that do not look like what the policy will see.

    Raises:
        UserError: another task, or other pictures.
    """
    from rsp_robot.demonstrations import DemonstrationFile

    with DemonstrationFile(path) as file:
        info = file.info
    if info.task and info.task != task:
        raise UserError(f"{path} demonstrates {info.task}, the policy is to learn {task}; give demonstrations of it")
    for name, found, wanted in (("image_size", info.image_size, image_size), ("quality", info.quality, quality)):
        if cameras and found and found != wanted:
            raise UserError(f"{path} was recorded with {name} {found}, asked for {wanted}; set {name} to {found}")
