"""The simulation process: one environment at a time, asked for episodes, asking for actions. It never imports torch.

Started by :mod:`rsp_robot.experiments.workers` as a plain subprocess, so that it does not import the user's script
(which ``multiprocessing`` would do), and with it whatever that script imports.
"""

from __future__ import annotations

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

Observation = dict[str, np.ndarray]
MAX_ENVIRONMENTS = 3
"""Environments kept open per process; one per set of cameras, and a renderer takes about 200 MB."""


@dataclass(frozen=True)
class Setup:
    """What all episodes of an evaluation have in common."""

    task: str
    image_size: int
    quality: str
    horizon: int | None
    stop_on_success: bool


@dataclass(frozen=True)
class Film:
    """Pictures for people, taken beside what the policy sees."""

    camera: str | None
    size: int
    frames_per_s: float


@dataclass(frozen=True)
class Episode:
    """One episode to play: which policy, from which seed, seen through which cameras."""

    policy: str
    number: int
    seed: int
    cameras: tuple[str, ...]
    film: Film | None = None
    state: bool = False
    """Whether the policy is shown the simulator's state."""


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


def play_episode(
    env: Any, episode: Episode, stop_on_success: bool, choose: Callable[[Observation], np.ndarray]
) -> Outcome:
    """Play one episode with the actions that ``choose`` returns, to the horizon or to the first success.

    Args:
        env: the environment; anything that keeps the contract of :mod:`rsp_robot.envs`.
        episode: its seed, and whether to film it.
        stop_on_success: end at the first success.
        choose: policy.

    Returns:
        how it went.
    """
    started = time.monotonic()
    film, frames = episode.film, []
    stride = max(1, round(env.fps / film.frames_per_s)) if film else 1
    observation, info = env.reset(seed=episode.seed)
    initial_state = str(env.state_hash())
    success = bool(info["success"])
    first_success = 0 if success else None
    total, length, over = 0.0, 0, success and stop_on_success
    while True:
        if film and (over or length % stride == 0):
            frames.append(env.render(camera=film.camera, size=film.size))
        if over:
            break
        observation, reward, terminated, truncated, info = env.step(choose(observation))
        length += 1
        total += float(reward)
        success = bool(info["success"])
        if success and first_success is None:
            first_success = length
        over = bool(terminated or truncated) or (success and stop_on_success)
    return Outcome(
        initial_state=initial_state,
        success_once=first_success is not None,
        success_at_end=success,
        first_success=first_success,
        total_return=total,
        length=length,
        wall_s=time.monotonic() - started,
        frames=np.stack(frames) if film else None,
        fps=float(env.fps) / stride if film else 0.0,
    )


class Environments:
    """The environments of one process, made when first needed and kept, one per kind of observation."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self._open: dict[tuple[tuple[str, ...], bool], Any] = {}

    def get(self, cameras: tuple[str, ...], state: bool = False) -> Any:
        """Return the environment with these cameras; the one unused for longest makes room when there are too many."""
        kind = (cameras, state)
        if kind not in self._open:
            while len(self._open) >= MAX_ENVIRONMENTS:
                self._open.pop(next(iter(self._open))).close()
            setup = self.setup
            self._open[kind] = make(
                setup.task,
                cameras=cameras,
                image_size=setup.image_size,
                quality=setup.quality,
                horizon=setup.horizon,
                state=state,
            )
        self._open[kind] = self._open.pop(kind)  # most recently used last
        return self._open[kind]

    def close(self) -> None:
        """Free the renderers."""
        for env in self._open.values():
            env.close()
        self._open.clear()


def serve(connection: Connection, setup: Setup) -> None:
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

    environments = Environments(setup)
    connection.send(("ready", sorted({name.partition(".")[0] for name in sys.modules})))
    try:
        while (episode := connection.recv()) is not None:
            try:
                env = environments.get(episode.cameras, episode.state)
                connection.send(("outcome", play_episode(env, episode, setup.stop_on_success, choose)))
            except AbandonedError:
                connection.send(("abandoned", None))
            except UserError as error:
                connection.send(("user_error", str(error)))
            except (EOFError, BrokenPipeError, ConnectionResetError):
                return
            except Exception as error:  # noqa: BLE001 - whatever a simulator raises is reported to the parent
                connection.send(("error", f"{type(error).__name__}: {error}".splitlines()[0]))
                return
    except EOFError:
        return  # the parent is gone
    finally:
        environments.close()


def main(descriptor: int) -> None:
    """Run the process: the setup comes first down the inherited socket ``descriptor``."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C ends
    connection = Connection(descriptor)
    promise_no_torch()
    serve(connection, connection.recv())
