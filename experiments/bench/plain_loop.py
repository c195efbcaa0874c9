"""The loop that evaluation is measured against: one process, one environment, one encode per step.

It runs in a process of its own, because the software rasteriser reads its number of threads once.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rsp_robot.errors import UserError
from rsp_robot.machine import available_cores

if TYPE_CHECKING:
    from rsp_robot.policies.policy import Policy

Row = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """What is played."""

    policy: str
    """Folder."""
    task: str
    image_size: int
    quality: str
    horizon: int


@dataclass(frozen=True)
class Played:
    """Some episodes."""

    rows: list[Row]
    seconds: float
    cpu_s: float
    """Processor time of all processes that took part."""


def play_plainly(env: Any, policy: Policy, seed: int) -> Row:
    """Play one episode to the horizon and return what a row of an evaluation says of it."""
    observation, info = env.reset(seed=seed)
    policy.reset([seed])
    held = [bool(info["success"])]
    total, truncated = 0.0, False
    while not truncated:
        batch = {key: value[None] for key, value in observation.items()}
        observation, reward, _, truncated, info = env.step(np.clip(policy.act(batch, [seed])[0], -1.0, 1.0))
        total += float(reward)
        held.append(bool(info["success"]))
    return {
        "task": env.task,
        "seed": seed,
        "initial_state": env.state_hash(),
        "success_once": any(held),
        "success_at_end": held[-1],
        "first_success": held.index(True) if any(held) else None,
        "success_steps": sum(held[1:]),
        "return": total,
        "length": len(held) - 1,
    }


class PlainLoop:
    """The process with the plain loop, seen from here."""

    def __init__(self, job: Job, stock: bool) -> None:
        """Start it and wait until it is ready; ``stock`` lets the rasteriser take all cores, as it does by itself."""
        self._connection, theirs = Pipe()
        code = "import sys; from rsp_robot.experiments.bench.plain_loop import main; main(int(sys.argv[1]))"
        threads = str(available_cores()) if stock else "0"
        self._process = subprocess.Popen(
            [sys.executable, "-c", code, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env={**os.environ, "LP_NUM_THREADS": threads, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            stdout=subprocess.DEVNULL,
        )
        theirs.close()
        try:
            self._connection.send(job)
            self._receive()
        except BaseException:
            self.close()
            raise

    def play(self, seeds: list[int]) -> Played:
        """Play an episode from each seed."""
        self._connection.send(seeds)
        answer = self._receive()
        assert isinstance(answer, Played)
        return answer

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _receive(self) -> Any:
        try:
            answer = self._connection.recv()
        except (EOFError, ConnectionResetError):
            raise UserError("the process with the plain loop died; run `rsp-robot doctor`") from None
        if isinstance(answer, UserError):
            raise answer
        return answer


def main(descriptor: int) -> None:
    """Run the process: the job comes down the inherited socket, then seeds until its end."""
    from rsp_robot.envs import make
    from rsp_robot.policies.policy import load_policy

    connection = Connection(descriptor)
    job = connection.recv()
    try:
        policy = load_policy(Path(job.policy), task=job.task)
        cameras = policy.cameras
        env = make(
            job.task,
            cameras=cameras,
            image_size=job.image_size,
            quality=job.quality,
            horizon=job.horizon,
            state=bool(getattr(policy, "state", False)),
        )
    except UserError as error:
        connection.send(error)
        return
    connection.send(None)
    while True:
        try:
            seeds = connection.recv()
        except EOFError:
            break
        cpu, started = time.process_time(), time.perf_counter()
        rows = [play_plainly(env, policy, seed) for seed in seeds]
        connection.send(Played(rows, time.perf_counter() - started, time.process_time() - cpu))
    env.close()
