"""A protocol from beginning to end: demonstrations, embeddings, training over seeds, evaluation, both scores.

Every step writes its result whole or not at all and is skipped when its result is there, so the same command after a
kill goes on where it stopped.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from rsp_robot.envs import describe
from rsp_robot.envs.registry import check_cameras
from rsp_robot.errors import UserError
from rsp_robot.experiments.protocols import Protocol, find_protocol
from rsp_robot.experiments.suite.jobs import Eta, Job, Place, SuitePlan, missing, name_encoders
from rsp_robot.experiments.suite.runner import Ended, run_here, run_in_processes
from rsp_robot.experiments.suite.work import cameras_of, check_demonstrations, identify, is_done
from rsp_robot.files import read_json, write_json
from rsp_robot.policies.file_lock import try_lock


@dataclass(frozen=True)
class SuiteConfig:
    """Which encoders are measured, by which protocol."""

    protocol: Annotated[str, tyro.conf.Positional]
    """Name of the protocol; `rsp-robot suite list` has them all."""
    encoder: Annotated[tuple[str, ...], tyro.conf.arg(metavar="[NAME=]SPEC ...")] = ()
    """Encoders to compare: the one in question first. Anything that `rsp-robot bc --encoder` takes, none, state and
    scratch too; pretrain:OBJECTIVE is pretrained on the demonstrations first. By default the protocol's own."""
    out: Path = Path("runs/suite")
    """Folder for everything; the same command again continues what is there, more encoders, seeds or tasks may join."""
    quick: bool = False
    """Everything shrunk to minutes, to see that it runs; labelled as such wherever its numbers stand."""
    seeds: int | None = None
    """Training seeds; by default the protocol's."""
    tasks: tuple[str, ...] = ()
    """Tasks of the protocol to leave it at; by default all."""
    cameras: tuple[str, ...] = ()
    """Cameras in place of the protocol's, for example right_cap2."""
    pooling: str = ""
    """Pooling in place of the protocol's: cls, mean, cls+mean, grid<k> or spatial-softmax."""
    history: int | None = None
    """Embeddings per observation in place of the protocol's."""
    demonstrations: int | None = None
    """Demonstrations of each task to train on in place of the protocol's; they are collected."""
    data: Path | None = None
    """Folder with demonstrations named <suite>-<task>.hdf5; by default they are collected."""
    experts: Path | None = None
    """Folder with experts that `rsp-robot rl --encoder state` trained, named <suite>-<task>; by default the suites'
    scripts demonstrate."""
    device: str = "cpu"
    """Where to encode and train: cpu, cuda, cuda:<index> or auto."""
    workers: int = 0
    """Simulation processes of a job; 0 for as many as there are cores."""
    at_once: int = 1
    """Jobs side by side on this machine, each in a process of its own if there are several."""
    cluster: Literal["none", "ray"] = "none"
    """ray: give the jobs to a Ray cluster whose nodes all see --out at the same path."""
    address: str = ""
    """Address of the Ray cluster; by default $RAY_ADDRESS, or one that is started on this machine."""
    cpus_per_job: int = 2
    """Cores of each job on a cluster."""
    gpus_per_job: float = 0.0
    """GPUs of each job on a cluster, for --device cuda; 0.25 lets four jobs share one."""
    attempts: int = 3
    """How often a job is begun when its process or its machine is lost."""


def run_suite(config: SuiteConfig) -> Path:
    """Do what is missing, print both scores, and return the file that holds them.

    Raises:
        UserError: an unknown protocol, task or camera, or what :func:`run_protocol` refuses.
    """
    return run_protocol(choose_protocol(config), config)


def run_protocol(protocol: Protocol, config: SuiteConfig) -> Path:
    """The same for a protocol of one's own; ``config`` says which encoders, where, and how.

    Raises:
        UserError: an encoder that does not load, nobody who demonstrates, a folder that holds something else, or jobs
            that failed: the others were done all the same.
    """
    if min(config.at_once, config.cpus_per_job, config.attempts) < 1 or config.workers < 0:
        raise UserError("at_once, cpus_per_job and attempts must be at least 1, workers at least 0; correct them")
    if config.gpus_per_job < 0:
        raise UserError(f"--gpus-per-job {config.gpus_per_job:g} is out of range; choose 0 or more")
    if config.cluster == "ray":
        from rsp_robot.experiments.suite.cluster import import_ray

        import_ray()
    specs = name_encoders(config.encoder or protocol.encoders)
    if not protocol.proprio and "none" in specs.values():
        raise UserError(
            f"{protocol.name} has no proprioception: without eyes nothing is left; leave the encoder none out"
        )
    plan = SuitePlan(
        protocol,
        {name: identify(spec, protocol, config.device) for name, spec in specs.items()},
        data=str(config.data.resolve()) if config.data else "",
        experts=str(config.experts.resolve()) if config.experts else "",
        device=config.device,
        workers=config.workers or (config.cpus_per_job if config.cluster == "ray" else 0),
    )
    place = Place(config.out.resolve())
    notes = check_demonstrations(place, plan)
    command = shlex.join(["rsp-robot", *sys.argv[1:]])
    with _alone(place):
        _open(place, plan)
        for note in notes:
            _say(f"note: {note}")
        left = missing(plan.jobs(), lambda job: is_done(place, plan, job))
        _run(place, plan, left, config)
        return _conclude(place, plan, notes, command)


def choose_protocol(config: SuiteConfig) -> Protocol:
    """Return the protocol as the command asks for it.

    Raises:
        UserError: there is no such protocol, task or camera, or a number is out of range.
    """
    protocol = find_protocol(config.protocol, config.quick)
    if config.tasks and config.quick:  # a quick run may be of any task of the protocol
        whole = find_protocol(config.protocol)
        of_quick = {task.task: task for task in protocol.tasks}
        chosen = whole.narrowed(config.tasks).tasks
        protocol = replace(protocol, tasks=tuple(of_quick.get(task.task, task) for task in chosen))
    protocol = protocol.narrowed(config.tasks, config.seeds)
    if config.cameras:
        protocol = protocol.filmed_by(*config.cameras)
    if config.pooling:
        protocol = replace(protocol, pooling=config.pooling)
    if config.history is not None:
        protocol = replace(protocol, history=config.history)
    if config.demonstrations is not None:
        if config.data:
            raise UserError("--demonstrations says how many to collect, --data has them already; leave one of them out")
        protocol = replace(protocol, demonstrations=config.demonstrations)
    for task in protocol.tasks:
        check_cameras(describe(task.task), cameras_of(protocol, task.task))
    return protocol


def _run(place: Place, plan: SuitePlan, left: Sequence[Job], config: SuiteConfig) -> None:
    """Run the jobs that are left, and tell after each how long it took and how long it will take.

    Raises:
        UserError: some failed.
    """
    total = len(plan.jobs())
    policies = sum(job.kind == "policy" for job in plan.jobs())
    undone = sum(job.kind == "policy" for job in left)
    _say(f"{plan.protocol.label}: {policies - undone} of {policies} policies are there already, {len(left)} jobs to do")
    eta = Eta(list(left), config.at_once)
    failed: list[Ended] = []
    for number, ended in enumerate(_start(place, plan, left, config), start=total - len(left) + 1):
        eta.finished(ended.job, ended.seconds)
        failed += [ended] if ended.error else []
        _say(f"[{number}/{total}] {ended.job.key}: {ended.error or _how_long(ended.seconds)}{_left(eta)}")
    if failed:
        first, more = failed[0], len(failed) - 1
        rest = f" (and {more} more jobs)" if more else ""
        raise UserError(f"{first.job.key}: {first.error}{rest}")


def _start(place: Place, plan: SuitePlan, left: Sequence[Job], config: SuiteConfig) -> Iterator[Ended]:
    if config.cluster == "ray":
        from rsp_robot.experiments.suite.cluster import run_on_ray

        return run_on_ray(
            place,
            left,
            address=config.address,
            cpus=config.cpus_per_job,
            gpus=config.gpus_per_job,
            attempts=config.attempts,
        )
    if config.at_once > 1:
        return run_in_processes(place, left, config.at_once, config.attempts)
    return run_here(place, plan, left)


def _conclude(place: Place, plan: SuitePlan, notes: Sequence[str], command: str) -> Path:
    from rsp_robot.experiments.suite.scores import (
        compare_last,
        find_maxima,
        print_suite,
        summarise_suite,
        write_seeds,
    )  # fmt: skip

    table = compare_last(write_seeds(place, plan, command), list(plan.encoders), plan.protocol.against)
    maxima = find_maxima(place, plan)
    write_json(place.summary, summarise_suite(place, plan, table, maxima, notes, command))
    print_suite(place, plan, table, maxima)
    return place.summary


def _open(place: Place, plan: SuitePlan) -> None:
    """Write the plan, for jobs elsewhere; refuse a folder of another protocol.

    Raises:
        UserError: the folder holds something else.
    """
    if place.plan.exists():
        before = read_json(place.plan)["protocol"]
        wanted = plan.protocol.plain()
        keys = [
            key
            for key in wanted
            if before.get(key) != wanted[key] and key not in ("tasks", "seeds", "differences", "encoders", "against")
        ]
        if keys:
            pairs = ", ".join(f"{key} {before.get(key)} instead of {wanted[key]}" for key in keys[:3])
            raise UserError(f"{place.folder} holds a suite with other settings ({pairs}); give another --out")
    elif any(not child.name.startswith(".") for child in place.folder.iterdir()):
        raise UserError(f"{place.folder} is not empty and holds no suite; give another --out")
    write_json(place.plan, plan.plain())


@contextmanager
def _alone(place: Place) -> Iterator[None]:
    """Be the only command on this folder."""
    place.folder.mkdir(parents=True, exist_ok=True)
    held = try_lock(place.folder / ".lock")
    if held is None:
        raise UserError(f"another suite is running in {place.folder}; wait for it, or give another --out")
    with held:
        yield


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _how_long(seconds: float) -> str:
    """Say a duration.

    >>> _how_long(7.31), _how_long(200), _how_long(7200)
    ('7 s', '3.3 min', '2.0 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _left(eta: Eta) -> str:
    if not eta.left:
        return ""
    return "" if eta.seconds is None else f"; about {_how_long(eta.seconds)} left"
