"""Runs the jobs of a suite on this machine: one after the other in this process, or side by side in several."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from rsp_robot.errors import UserError
from rsp_robot.experiments.suite.jobs import Job, Place, SuitePlan

POLL_S = 0.05
_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from rsp_robot.experiments.suite.work import main; sys.exit(main(sys.argv[2:]))"
)


class Ended(NamedTuple):
    """How a job ended."""

    job: Job
    seconds: float
    error: str = ""
    """Why its result is not there; empty where it is."""


@dataclass
class Queue:
    """Jobs that wait for others."""

    waiting: list[Job]
    failed: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._open = {job.key for job in self.waiting}

    def ready(self) -> Job | None:
        """Take the next job that waits for nothing."""
        for job in self.waiting:
            if not self._open.intersection(job.after):
                self.waiting.remove(job)
                return job
        return None

    def ended(self, ended: Ended) -> None:
        """Note that a job is done, or that it failed: then nothing that waits for it can be done."""
        self._open.discard(ended.job.key)
        if ended.error:
            self.failed.add(ended.job.key)

    def hopeless(self, job: Job) -> Ended | None:
        """Say why a job cannot be begun; None if it can."""
        broken = [key for key in job.after if key in self.failed]
        return Ended(job, 0.0, f"not begun, as {broken[0]} failed") if broken else None


def run_here(place: Place, plan: SuitePlan, jobs: Sequence[Job]) -> Iterator[Ended]:
    """Run jobs one after the other in this process, with the same simulation processes; yield each as it ends."""
    from rsp_robot.experiments.evaluation.workers import Processes
    from rsp_robot.experiments.suite.work import run_job

    queue = Queue(list(jobs))
    with Processes() as processes:
        while (job := queue.ready()) is not None:
            ended = queue.hopeless(job)
            if ended is None:
                began = time.monotonic()
                error = ""
                try:
                    run_job(place, plan, job, processes)
                except UserError as mistake:
                    error = str(mistake)
                ended = Ended(job, time.monotonic() - began, error)
            queue.ended(ended)
            yield ended


class Runner:
    """One job in a process of its own; what it prints goes to ``logs/``."""

    def __init__(self, place: Place, job: Job) -> None:
        self.job, self.began = job, time.monotonic()
        self.log = place.folder / "logs" / f"{job.key.replace('/', '-')}.log"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _BOOT, json.dumps(sys.path), str(place.folder), job.key, str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def reason(self) -> str:
        """Say in a line why the process ended as it did."""
        return why(self.log, self.process.returncode)


def why(log: Path, status: int) -> str:
    """Say in a line why a job ended with ``status``: its last words."""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    last = lines[-1][:300] if lines else "it said nothing"
    return last.removeprefix("error: ") if status == 2 else f"ended with status {status} ({last}); see {log}"


def run_in_processes(place: Place, jobs: Sequence[Job], at_once: int, attempts: int) -> Iterator[Ended]:
    """Run up to ``at_once`` jobs side by side; one whose process dies is begun again, ``attempts`` times in all.

    The processes read the plan from the suite's folder. They end with this one.
    """
    queue, tries, running = Queue(list(jobs)), Counter[str](), list[Runner]()
    try:
        while running or queue.waiting:
            while len(running) < at_once and (job := queue.ready()) is not None:
                ended = queue.hopeless(job)
                if ended is not None:
                    queue.ended(ended)
                    yield ended
                    continue
                tries[job.key] += 1
                running.append(Runner(place, job))
            time.sleep(POLL_S)
            for runner in [runner for runner in running if runner.process.poll() is not None]:
                running.remove(runner)
                status = runner.process.returncode
                if status not in (0, 2) and tries[runner.job.key] < attempts:
                    queue.waiting.insert(0, runner.job)
                    continue
                ended = Ended(runner.job, time.monotonic() - runner.began, runner.reason() if status else "")
                queue.ended(ended)
                yield ended
    finally:
        for runner in running:
            runner.process.kill()
        for runner in running:
            runner.process.wait()
