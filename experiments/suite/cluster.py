"""Runs the jobs of a suite on many machines through Ray; they share the suite's folder.

A job's result is a file that is whole or absent, and the rows of an evaluation stay where they are: a node that is lost
costs the jobs it had not finished, and of these only the episodes that were not played yet.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rsp_robot.errors import UserError
from rsp_robot.experiments.suite.jobs import Job, Place
from rsp_robot.experiments.suite.runner import Ended

PASSED_ON = ("RSP_ROBOT_CACHE", "RSP_ROBOT_CACHE_GB", "MUJOCO_GL", "HF_HOME", "TORCH_HOME")
"""Environment variables that jobs on other machines get from here."""
Report = dict[str, Any]


def import_ray() -> Any:
    """Import Ray.

    Raises:
        UserError: it is not installed.
    """
    try:
        import ray
    except ImportError:
        raise UserError(
            "the package ray is not installed; pip install 'rsp-robot[cluster]', or leave out --cluster"
        ) from None
    return ray


def do_job(folder: str, job: str, path: Sequence[str], environment: Mapping[str, str], *before: Report) -> Report:
    """Do one job, wherever this runs; return its duration and why it failed, as plain values.

    Args:
        folder: of the suite.
        job: key of the job.
        path: where modules are looked for.
        environment: variables to set.
        before: what the jobs it waited for returned.
    """
    broken = [report["job"] for report in before if report["error"]]
    if broken:
        return {"job": job, "seconds": 0.0, "error": f"not begun, as {broken[0]} failed"}
    sys.path[:] = [*dict.fromkeys([*path, *sys.path])]
    os.environ.update(environment)
    from pathlib import Path

    from rsp_robot.experiments.suite.jobs import read_plan
    from rsp_robot.experiments.suite.work import run_job
    from rsp_robot.files import read_json

    began, error = time.monotonic(), ""
    place = Place(Path(folder))
    try:
        plan = read_plan(read_json(place.plan))
        run_job(place, plan, plan.job(job))
    except UserError as mistake:
        error = str(mistake)
    return {"job": job, "seconds": time.monotonic() - began, "error": error}


def run_on_ray(
    place: Place, jobs: Sequence[Job], *, address: str, cpus: int, gpus: float, attempts: int
) -> Iterator[Ended]:
    """Give all jobs to Ray; yield each as it ends.

    Args:
        place: the suite's folder, which every node sees at the same path, its plan written.
        jobs: each after those it waits for.
        address: of the cluster; empty for the one that ``RAY_ADDRESS`` names, or a new one on this machine. Where Ray
            is running in this process already, that is used.
        cpus: cores of each job.
        gpus: GPUs of each job.
        attempts: how often a job is begun when its process or its node is lost.

    Raises:
        UserError: Ray is not installed, or the cluster cannot be reached.
    """
    ray = import_ray()
    started = not ray.is_initialized()
    if started:
        try:
            ray.init(address=address or None, log_to_driver=False, logging_level="warning")
        except (ConnectionError, ValueError, RuntimeError) as error:
            line = " ".join(str(error).split())[:200]
            raise UserError(
                f"no Ray cluster answers at {address or 'the default address'} ({line}); start one"
            ) from None
    try:
        yield from _submit(ray, place, jobs, cpus, gpus, attempts)
    finally:
        if started:
            ray.shutdown()


def _submit(ray: Any, place: Place, jobs: Sequence[Job], cpus: int, gpus: float, attempts: int) -> Iterator[Ended]:
    remote = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=attempts - 1)(do_job)
    environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    given: dict[str, Any] = {}
    for job in jobs:
        before = [given[key] for key in job.after if key in given]
        given[job.key] = remote.remote(str(place.folder), job.key, sys.path, environment, *before)
    waiting = {given[job.key]: job for job in jobs}
    try:
        while waiting:
            (ready,), _ = ray.wait(list(waiting), num_returns=1)
            job = waiting.pop(ready)
            try:
                report = ray.get(ready)
            except ray.exceptions.RayError as error:
                lines = str(error).strip().splitlines() or [type(error).__name__]
                report = {"seconds": 0.0, "error": f"{type(error).__name__}: {lines[-1][:200]}"}
            yield Ended(job, report["seconds"], report["error"])
    finally:
        for reference in waiting:
            ray.cancel(reference, force=True)
