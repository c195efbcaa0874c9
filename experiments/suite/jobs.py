"""The plan of a suite as pure data: which jobs there are, what each waits for, where its result lies."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rsp_robot.errors import UserError
from rsp_robot.experiments.protocols import Protocol, from_plain

Kind = Literal["demonstrations", "pretraining", "embeddings", "policy"]
EYELESS = ("none", "state", "scratch")
"""What stands in an encoder's place without being frozen: nothing to embed beforehand."""
PRETRAIN = "pretrain:"
"""Begins the spec of an encoder that is pretrained on the suite's demonstrations; the objective follows."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


@dataclass(frozen=True)
class Job:
    """One piece of work whose result is whole or absent on disk."""

    kind: Kind
    task: str
    """Task id; empty for a pretraining, which learns from the demonstrations of all tasks."""
    encoder: str = ""
    """Name of the encoder; empty for demonstrations."""
    seed: int = 0
    """Training seed of a policy."""
    after: tuple[str, ...] = ()
    """Keys of the jobs that have to be done before."""

    @property
    def key(self) -> str:
        """What it is called, among jobs and as a part of a path."""
        parts = [self.kind, self.encoder, self.task.replace("/", "-")]
        return "/".join(part for part in parts if part) + (f"/seed-{self.seed}" if self.kind == "policy" else "")


@dataclass(frozen=True)
class Encoder:
    """An encoder as a command names it, and which one that was."""

    spec: str
    """What :meth:`FrozenEncoder.load` takes, or ``pretrain:<objective>``, ``none``, ``state``, ``scratch``."""
    fingerprint: str
    """Of the encoder with its own pooling, or of the settings that it is pretrained with; the spec itself where nothing
    is loaded."""

    @property
    def objective(self) -> str:
        """What it is pretrained with as a part of the suite; empty if it is there already."""
        return self.spec.removeprefix(PRETRAIN) if self.spec.startswith(PRETRAIN) else ""


@dataclass(frozen=True)
class SuitePlan:
    """Everything a job needs to know."""

    protocol: Protocol
    encoders: Mapping[str, Encoder]
    data: str = ""
    """Folder with demonstrations that are there already; empty to collect them."""
    experts: str = ""
    """Folder with learned experts; empty for the scripted ones."""
    device: str = "cpu"
    workers: int = 0
    """Simulation processes of a job; 0 for as many as there are cores."""

    def jobs(self) -> tuple[Job, ...]:
        """Return all jobs, each after those it waits for: seed by seed, so that a first comparison comes early."""
        tasks = [task.task for task in self.protocol.tasks]
        shown = {task: Job("demonstrations", task) for task in tasks if not self.data}
        everything = tuple(job.key for job in shown.values())
        taught = {
            name: Job("pretraining", "", name, after=everything)
            for name, encoder in self.encoders.items()
            if encoder.objective
        }
        seen = {
            (name, task): Job(
                "embeddings", task, name, after=tuple(job.key for job in (shown.get(task), taught.get(name)) if job)
            )
            for task in tasks
            for name, encoder in self.encoders.items()
            if encoder.spec not in EYELESS
        }
        learnt = []
        for seed in self.protocol.seeds:
            for task in tasks:
                for name in self.encoders:
                    before = [seen[name, task]] if (name, task) in seen else [shown[task]] if task in shown else []
                    learnt.append(Job("policy", task, name, seed, tuple(job.key for job in before)))
        return (*shown.values(), *taught.values(), *seen.values(), *learnt)

    def job(self, key: str) -> Job:
        """Return the job called ``key``."""
        return next(job for job in self.jobs() if job.key == key)

    def plain(self) -> dict[str, Any]:
        """Return everything as plain values."""
        encoders = {name: vars(encoder) for name, encoder in self.encoders.items()}
        return {**vars(self), "protocol": self.protocol.plain(), "encoders": encoders}


def read_plan(values: Mapping[str, Any]) -> SuitePlan:
    """Build a plan again from what :meth:`SuitePlan.plain` returned."""
    encoders = {name: Encoder(**encoder) for name, encoder in values["encoders"].items()}
    return SuitePlan(**{**values, "protocol": from_plain(values["protocol"]), "encoders": encoders})


@dataclass(frozen=True)
class Place:
    """Where everything of a suite lies."""

    folder: Path

    @property
    def plan(self) -> Path:
        """The plan, for jobs in other processes and on other machines."""
        return self.folder / "plan.json"

    @property
    def summary(self) -> Path:
        """Both scores, with everything they were made with."""
        return self.folder / "suite.json"

    def demonstrations(self, plan: SuitePlan, task: str) -> Path:
        """The demonstrations of a task: those given, or those collected here."""
        folder = Path(plan.data) if plan.data else self.folder / "demonstrations"
        return folder / plan.protocol.task(task).file_name

    def pretraining(self, objective: str) -> Path:
        """The run folder of an encoder that is pretrained here."""
        return self.folder / "pretraining" / objective

    def source(self, encoder: Encoder) -> str:
        """What :meth:`FrozenEncoder.load` takes, once the encoder is pretrained."""
        return str(self.pretraining(encoder.objective)) if encoder.objective else encoder.spec

    def work(self, job: Job) -> Path:
        """The folder of a policy job: ``training/``, ``evaluation.jsonl``, and ``score.json`` once it is done."""
        return self.folder / job.key

    def score(self, job: Job) -> Path:
        """What marks a policy job as done."""
        return self.work(job) / "score.json"

    def rows(self, seed: int) -> Path:
        """The rows of all encoders' last checkpoints of one training seed."""
        return self.folder / f"seed-{seed}" / "evaluation.jsonl"


def missing(jobs: Sequence[Job], done: Callable[[Job], bool]) -> tuple[Job, ...]:
    """Return the jobs that are left: policies that are not done, and what of their needs is not.

    Args:
        jobs: each after those it waits for.
        done: of a job, whether its result is there. What no policy that is left needs is not asked for.
    """
    by_key = {job.key: job for job in jobs}
    left: dict[str, Job] = {}

    def need(job: Job) -> None:
        if job.key not in left and not done(job):
            left[job.key] = job
            for key in job.after:
                need(by_key[key])

    for job in jobs:
        if job.kind == "policy":
            need(job)
    return tuple(job for job in jobs if job.key in left)


def name_encoders(words: Sequence[str]) -> dict[str, str]:
    """Return the specs by name, in the order given.

    >>> name_encoders(["rsp=runs/rsp", "random:vit-nano/16@64", "timm:vit_tiny_patch16_224=weights.pt", "none"])
    ... # doctest: +NORMALIZE_WHITESPACE
    {'rsp': 'runs/rsp', 'random-vit-nano-16-64': 'random:vit-nano/16@64',
     'vit_tiny_patch16_224-weights.pt': 'timm:vit_tiny_patch16_224=weights.pt', 'none': 'none'}

    Raises:
        UserError: none, two of one name, or a name without a spec.
    """
    if not words:
        raise UserError("no encoders to compare; give at least one, for example --encoder rsp=runs/rsp none")
    named: dict[str, str] = {}
    for word in words:
        name, equals, spec = word.partition("=")
        if not equals or not NAME.fullmatch(name) or Path(word).exists():
            name, spec = _short(word), word
        if not spec or not NAME.fullmatch(name):
            raise UserError(f"{word!r} is not [NAME=]SPEC; write, for example, rsp=runs/rsp")
        if name in named:
            raise UserError(f"two encoders are called {name!r}; give one another name: other={spec}")
        named[name] = spec
    return named


def _short(spec: str) -> str:
    """A name for a spec: the last part of a path, or the words of anything else."""
    if Path(spec).exists():
        return Path(spec).resolve().name
    return re.sub(
        r"[^A-Za-z0-9._+-]+", "-", spec.removeprefix("timm:").removeprefix("hub:").removeprefix(PRETRAIN)
    ).strip("-")


@dataclass
class Eta:
    """How long what is left will take, by the durations of the jobs that are done."""

    left: list[Job]
    at_once: int = 1

    def __post_init__(self) -> None:
        self._spent: dict[str, list[float]] = {}

    def finished(self, job: Job, seconds: float) -> None:
        """Count a job."""
        self.left = [other for other in self.left if other.key != job.key]
        self._spent.setdefault(job.kind, []).append(seconds)

    @property
    def seconds(self) -> float | None:
        """Seconds that are left; None while a kind of job was never done."""
        if any(job.kind not in self._spent for job in self.left):
            return None
        means = {kind: sum(spent) / len(spent) for kind, spent in self._spent.items()}
        return sum(means[job.kind] for job in self.left) / self.at_once
