"""The simulation process: asked for episodes, it asks for actions. It never imports torch.

Started by :mod:`rsp_robot.experiments.evaluation.workers` as a plain subprocess, so that it does not import the user's
script (which ``multiprocessing`` would do), and with it whatever that script imports.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from rsp_robot.envs import make
from rsp_robot.envs.rendering import promise_no_torch
from rsp_robot.errors import UserError
from rsp_robot.experiments.evaluation.picture_watch import PictureWatch

Observation = dict[str, np.ndarray]
MAX_ENVIRONMENTS = 3
"""Environments kept open per process; one per scene, and a renderer takes about 200 MB."""
_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


@dataclass(frozen=True)
class Scene:
    """What one environment is made for; the episodes of one scene share it."""

    task: str
    cameras: tuple[str, ...] = ()
    image_size: int = 64
    quality: str = "lean"
    horizon: int | None = None
    state: bool = False
    """Whether the simulator's state is in the observation."""


@dataclass(frozen=True)
class Film:
    """Pictures for people, taken beside what the policy sees."""

    camera: str | None
    size: int
    frames_per_s: float


@dataclass(frozen=True)
class Episode:
    """One episode to play: which policy, in which scene, from which seed."""

    policy: str
    number: int
    seed: int
    scene: Scene
    stop_on_success: bool = True
    """End at the first success."""
    film: Film | None = None

    @property
    def task(self) -> str:
        """The task that is played."""
        return self.scene.task


@dataclass(frozen=True)
class Outcome:
    """How an episode went."""

    initial_state: str
    """Hash of the state after the reset."""
    success_once: bool
    """Whether success held after any step, or at the reset."""
    success_at_end: bool
    """Whether success held after the last step; with an early stop at success the same as ``success_once``."""
    first_success: int | None
    """How many actions had been taken when success first held."""
    success_steps: int
    """After how many of the actions success held."""
    total_return: float
    length: int
    """Actions taken."""
    wall_s: float
    frames: np.ndarray | None = None
    """uint8 ``(T, H, W, 3)`` where a film was asked for."""
    fps: float = 0.0
    """Frames per simulated second of the film."""


class AbandonedError(Exception):
    """The episode is given up at the other side's wish."""


def play_episode(env: Any, episode: Episode, choose: Callable[[Observation], np.ndarray]) -> Outcome:
    """Play one episode with the actions that ``choose`` returns, to the horizon or to the first success.

    Args:
        env: the environment; anything that keeps the contract of :mod:`rsp_robot.envs`.
        episode: its seed, where it ends, and whether to film it.
        choose: policy.

    Returns:
        how it went.

    Raises:
        ContextLostError: the pictures say that the OpenGL context is gone.
    """
    started = time.monotonic()
    film, frames = episode.film, []
    stride = max(1, round(env.fps / film.frames_per_s)) if film else 1
    watch = PictureWatch(env, episode.task, episode.scene.cameras)
    observation, info = env.reset(seed=episode.seed)
    initial_state = str(env.state_hash())
    success = bool(info["success"])
    first_success = 0 if success else None
    total, length, success_steps = 0.0, 0, 0
    over = success and episode.stop_on_success
    while True:
        watch.look(observation)
        if film and (over or length % stride == 0):
            frames.append(env.render(camera=film.camera, size=film.size))
        if over:
            break
        observation, reward, terminated, truncated, info = env.step(choose(observation))
        length += 1
        total += float(reward)
        success = bool(info["success"])
        success_steps += success
        if success and first_success is None:
            first_success = length
        over = bool(terminated or truncated) or (success and episode.stop_on_success)
    return Outcome(
        initial_state=initial_state,
        success_once=first_success is not None,
        success_at_end=success,
        first_success=first_success,
        success_steps=success_steps,
        total_return=total,
        length=length,
        wall_s=time.monotonic() - started,
        frames=np.stack(frames) if film else None,
        fps=float(env.fps) / stride if film else 0.0,
    )


class Environments:
    """The environments of one process, made when first needed and kept, one per scene."""

    def __init__(self) -> None:
        self._open: dict[Scene, Any] = {}

    def get(self, scene: Scene) -> Any:
        """Return the environment of a scene; the one unused for longest makes room when there are too many."""
        if scene not in self._open:
            while len(self._open) >= MAX_ENVIRONMENTS:
                self._open.pop(next(iter(self._open))).close()
            self._open[scene] = make(
                scene.task,
                cameras=scene.cameras,
                image_size=scene.image_size,
                quality=scene.quality,
                horizon=scene.horizon,
                state=scene.state,
            )
        self._open[scene] = self._open.pop(scene)  # most recently used last
        return self._open[scene]

    def close(self) -> None:
        """Free the renderers."""
        for env in self._open.values():
            env.close()
        self._open.clear()


def serve(connection: Connection) -> None:
    """Play the episodes that come down the connection until ``None`` or its end.

    Messages out: ``("ready", modules)`` once, then per episode ``("observation", observation)`` for each action wanted
    and ``("outcome", Outcome)``; ``("abandoned", None)``; ``("user_error", line)``. After ``("error", line)`` the
    process ends, because the simulator may be in any state.
    """

    def choose(observation: Observation) -> np.ndarray:
        connection.send(("observation", observation))
        action = connection.recv()
        if action is None:
            raise AbandonedError
        return np.asarray(action)

    environments = Environments()
    connection.send(("ready", sorted({name.partition(".")[0] for name in sys.modules})))
    try:
        while (episode := connection.recv()) is not None:
            try:
                env = environments.get(episode.scene)
                connection.send(("outcome", play_episode(env, episode, choose)))
            except AbandonedError:
                connection.send(("abandoned", None))
            except UserError as error:
                connection.send(("user_error", str(error)))
            except (EOFError, BrokenPipeError, ConnectionResetError):
                return
            except Exception as error:  # noqa: BLE001 - whatever a simulator raises is reported to the parent
                connection.send(("error", f"{type(error).__name__}: {error}".splitlines()[0]))
                return
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the parent is gone
    finally:
        environments.close()


def die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent is gone, also amid a simulation that hangs.

    On other systems than Linux it ends at its next message only.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the evaluation is gone")


def main(descriptor: int, parent: int) -> None:
    """Run the process ``parent`` started: episodes come down the inherited socket ``descriptor``."""
    die_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C ends
    promise_no_torch()
    serve(Connection(descriptor))
