"""Simulation processes and the one loop that plays episodes with them: they simulate and render, this process acts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from signal import Signals
from typing import TYPE_CHECKING, Any

import numpy as np

from rsp_robot.errors import UserError
from rsp_robot.experiments.evaluation.simulation_worker import Episode, Observation, Outcome

if TYPE_CHECKING:
    from rsp_robot.policies.policy import Policy

START_TIMEOUT_S = 300.0
"""For the first observation of an episode, which may include importing a simulator and making a renderer on a busy
machine."""
STOP_TIMEOUT_S = 5.0
_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[2]); "
    "from rsp_robot.experiments.evaluation.simulation_worker import main; main(int(sys.argv[1]), int(sys.argv[3]))"
)


class Worker:
    """One simulation process, seen from here."""

    def __init__(self) -> None:
        """Start the process; it inherits the environment variables and the import path, and nothing else."""
        self.connection, theirs = Pipe()
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed by join()
        self.process = subprocess.Popen(
            [sys.executable, "-c", _BOOT, str(theirs.fileno()), json.dumps(sys.path), str(os.getpid())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._stderr,
        )
        theirs.close()
        self.episode: Episode | None = None
        self.limit_s = self.deadline = float("inf")

    def expect_answer(self, limit_s: float) -> None:
        """Start the clock for the next message."""
        self.limit_s, self.deadline = limit_s, time.monotonic() + limit_s

    def send(self, message: Any) -> bool:
        """Send; return False where nobody is there to receive."""
        try:
            self.connection.send(message)
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def reason(self) -> str:
        """Say in a line how the process ended."""
        try:
            status = self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return "simulation process closed its connection"
        how = f"signal {-status} ({Signals(-status).name})" if status < 0 else f"status {status}"
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").strip().splitlines()
        return f"simulation process ended with {how}" + (f": {lines[-1][:200]}" if lines else "")

    def stop(self, patient: bool = True) -> None:
        """End the process: by asking, or at once."""
        if patient and self.episode is None:
            self.send(None)
        self.connection.close()
        if not patient:
            self.process.kill()

    def join(self) -> None:
        """Wait until it has ended; kill it where it does not."""
        try:
            self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._stderr.close()


class Processes:
    """Simulation processes that have nothing to do, for the next evaluation; a ``with`` block ends them.

    Starting one takes a second or more of a core, and each keeps the environments that it has made.
    """

    def __init__(self) -> None:
        self.idle: list[Worker] = []

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def take(self) -> Worker | None:
        """Return one that is alive, None if there is none; what died while it waited is no episode's fault."""
        while self.idle:
            worker = self.idle.pop()
            if worker.process.poll() is None:
                return worker
            _end([worker])
        return None

    def close(self) -> None:
        """End them."""
        _end(self.idle)


def _end(workers: list[Worker]) -> None:
    """End processes side by side, and forget them."""
    for worker in workers:
        worker.stop()
    for worker in workers:
        worker.join()
    workers.clear()


class Troupe:
    """Plays episodes with a few simulation processes; see :func:`play_episodes`."""

    def __init__(
        self,
        policies: Mapping[tuple[str, str], Policy],
        size: int,
        step_timeout_s: float,
        attempts: int,
        kept: Processes | None = None,
    ) -> None:
        self.policies, self.size, self.kept = policies, size, kept
        self.step_timeout_s, self.attempts = step_timeout_s, attempts
        self.workers: list[Worker] = []
        self.pending: deque[Episode] = deque()
        self.failures: Counter[Episode] = Counter()
        self.ended: deque[tuple[Episode, Outcome | str]] = deque()
        self.given_up: set[Episode] = set()
        self._any_ready = False
        self._failed_starts = 0

    def play(self, episodes: Sequence[Episode]) -> Iterator[tuple[Episode, Outcome | str]]:
        """Play all episodes; yield each with its outcome, or with the reason why there is none, as they end."""
        self.pending.extend(episodes)
        while self.pending or any(worker.episode for worker in self.workers):
            self._hand_out()
            self._answer(self._listen())
            while self.ended:
                yield self.ended.popleft()

    def close(self) -> None:
        """End all processes; those that have nothing to do go to who keeps them."""
        if self.kept is not None:
            self.kept.idle += [worker for worker in self.workers if worker.episode is None]
            self.workers = [worker for worker in self.workers if worker.episode]
        _end(self.workers)

    def _hand_out(self) -> None:
        """Give waiting episodes to idle processes; start a process where there may be more."""
        while (episode := self._next_episode()) is not None:
            worker = next((worker for worker in self.workers if worker.episode is None), None)
            if worker is None:
                if len(self.workers) >= self.size:
                    return
                worker = self._engage()
            self.pending.remove(episode)
            worker.episode = episode
            worker.expect_answer(max(START_TIMEOUT_S, self.step_timeout_s))
            self._policy(episode).reset([episode.seed])
            if not worker.send(episode):
                self._lose(worker, worker.reason())

    def _engage(self) -> Worker:
        """Take a process that is kept, or start one."""
        worker = self.kept.take() if self.kept else None
        self._any_ready = self._any_ready or worker is not None
        self.workers.append(worker or Worker())
        return self.workers[-1]

    def _next_episode(self) -> Episode | None:
        """Return the first waiting episode whose seed its policy is not playing: the seed is what it remembers it by.

        The same seed is there once per task, and one policy may go by two names.
        """
        active = {self._memory(worker.episode) for worker in self.workers if worker.episode}
        return next((episode for episode in self.pending if self._memory(episode) not in active), None)

    def _memory(self, episode: Episode) -> tuple[int, int]:
        return id(self._policy(episode)), episode.seed

    def _policy(self, episode: Episode) -> Policy:
        return self.policies[episode.policy, episode.task]

    def _listen(self) -> dict[tuple[str, str], list[tuple[Worker, Observation]]]:
        """Wait until some process speaks or is overdue; return observations that want an action by policy and task."""
        busy: dict[Connection, Worker] = {worker.connection: worker for worker in self.workers if worker.episode}
        if not busy:
            return {}
        patience = min(worker.deadline for worker in busy.values()) - time.monotonic()
        spoke = wait(list(busy), timeout=max(0.0, patience))
        wanted: dict[tuple[str, str], list[tuple[Worker, Observation]]] = {}
        for connection in spoke:
            assert isinstance(connection, Connection)
            worker = busy.pop(connection)
            try:
                kind, content = connection.recv()
            except (EOFError, OSError):
                self._lose(worker, worker.reason())
                continue
            assert worker.episode is not None
            if kind == "observation":
                wanted.setdefault((worker.episode.policy, worker.episode.task), []).append((worker, content))
            elif kind == "outcome":
                self.ended.append((worker.episode, content))
                worker.episode = None
            elif kind == "abandoned":
                worker.episode = None
            elif kind == "ready":
                self._any_ready = True
            elif kind == "user_error":
                raise UserError(content)
            else:
                self._lose(worker, content)
        for worker in busy.values():
            # What came in while this process was acting is not late.
            if time.monotonic() > worker.deadline and not worker.connection.poll():
                self._lose(worker, f"no answer from the simulation within {worker.limit_s:g} s")
        return wanted

    def _lose(self, worker: Worker, reason: str) -> None:
        """Give a process up; its episode is played again by another, or given up after too many failures."""
        worker.stop(patient=False)
        worker.join()
        self.workers.remove(worker)
        episode = worker.episode
        assert episode is not None
        if episode in self.given_up:
            return
        if not self._any_ready:
            self._failed_starts += 1
            if self._failed_starts >= self.attempts:
                raise UserError(f"the simulation processes do not start ({reason}); run `rsp-robot doctor`")
        self.failures[episode] += 1
        if self.failures[episode] >= self.attempts:
            self._give_up(episode, f"{reason} ({self.attempts} attempts)")
        else:
            self.pending.appendleft(episode)

    def _give_up(self, episode: Episode, reason: str) -> None:
        self.given_up.add(episode)
        self.ended.append((episode, reason))

    def _answer(self, wanted: Mapping[tuple[str, str], list[tuple[Worker, Observation]]]) -> None:
        """Let each policy act on what its episodes have seen, and send the actions."""
        for (name, task), group in wanted.items():
            policy = self.policies[name, task]
            keys = (*policy.cameras, "proprio", *(["state"] if sees_state(policy) else []))
            batch = {key: np.stack([observation[key] for _, observation in group]) for key in keys}
            ids = [worker.episode.seed for worker, _ in group if worker.episode]
            actions = np.asarray(policy.act(batch, ids), dtype=np.float32)
            if actions.ndim != 2 or len(actions) != len(group):
                raise ValueError(
                    f"policy {name!r} returned actions of shape {actions.shape} for {len(group)} observations"
                )
            for (worker, _), action in zip(group, actions, strict=True):
                assert worker.episode is not None
                worker.expect_answer(self.step_timeout_s)
                if not np.isfinite(action).all():
                    self._give_up(worker.episode, "the policy's action is not finite")
                    worker.send(None)
                elif not worker.send(np.clip(action, -1.0, 1.0)):
                    self._lose(worker, worker.reason())


def sees_state(policy: Policy) -> bool:
    """Whether the policy is shown the simulator's state; one that does not say so is not."""
    return bool(getattr(policy, "state", False))


def play_episodes(
    policies: Mapping[tuple[str, str], Policy],
    episodes: Sequence[Episode],
    workers: int,
    step_timeout_s: float = 60.0,
    attempts: int = 3,
    kept: Processes | None = None,
) -> Generator[tuple[Episode, Outcome | str], None, None]:
    """Play episodes of several policies with one set of simulation processes.

    Each process plays one episode at a time; this process alone runs the policies, on the observations of whichever
    episodes wait for an action. A process that dies, loses its OpenGL context or does not answer in time is replaced,
    and its episode played again from the start.

    Args:
        policies: by name and task.
        episodes: in the order in which they are begun; no two equal.
        workers: simulation processes, at least 1.
        step_timeout_s: how long a step may take.
        attempts: how often an episode is tried.
        kept: take processes from here, and leave them here afterwards; by default they are started and ended.

    Yields:
        ``(episode, outcome)`` as episodes end, in any order; for an episode given up, the reason in place of the
        outcome.

    Raises:
        UserError: one raised in a simulation process (an unknown task or camera), or no process starts.
    """
    troupe = Troupe(policies, min(workers, max(1, len(episodes))), step_timeout_s, attempts, kept)
    try:
        yield from troupe.play(episodes)
    finally:
        troupe.close()
