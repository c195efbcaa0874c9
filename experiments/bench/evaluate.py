"""``rsp-robot bench evaluate``: episodes per minute against the plain loop, with the same policy and the same seeds."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from rsp_robot.envs import describe
from rsp_robot.envs.collect import CollectConfig, collect
from rsp_robot.envs.registry import check_cameras
from rsp_robot.envs.rendering import find_backend
from rsp_robot.errors import UserError
from rsp_robot.experiments.bench.plain_loop import Job, PlainLoop, Played, Row
from rsp_robot.experiments.evaluation.evaluate import FIRST_HELD_OUT_SEED, EvaluateConfig, worker_count
from rsp_robot.experiments.evaluation.policy_folders import find_policies, load_policies
from rsp_robot.experiments.evaluation.roles import Role, cast_roles, check_fit
from rsp_robot.experiments.evaluation.rows import make_row
from rsp_robot.experiments.evaluation.simulation_worker import Episode
from rsp_robot.experiments.evaluation.workers import Troupe
from rsp_robot.machine import available_cores
from rsp_robot.policies.behaviour_cloning import BCConfig, train_bc
from rsp_robot.policies.embedding_cache import EmbeddingCache
from rsp_robot.progress import Progress

STOCK_TARGET, LEAN_TARGET = 10.0, 1.8
NAME = "policy"


@dataclass(frozen=True)
class EvaluateBench:
    """What is played, and how often."""

    policy: Path | None = None
    """Policy folder; by default one is trained for a few seconds, on --encoder."""
    task: str = "metaworld/push-v3"
    """Task id."""
    encoder: str = "random:vit-nano/16@64"
    """What `rsp-robot bc --encoder` takes; by default one of the quickstart's size."""
    camera: str = ""
    """Camera of the policy that is trained here; empty for the task's default camera."""
    image_size: int = 96
    """Side of its pictures in pixels."""
    horizon: int = 100
    """Steps of an episode, which does not end at a success."""
    rounds: int = 3
    """How often the ways take turns; the medians count."""
    episodes: int = 30
    """Episodes per round of the evaluation."""
    plain_episodes: int = 6
    """Episodes per round of the plain loop with lean rendering."""
    stock_episodes: int = 1
    """Episodes per round of the plain loop with stock rendering; 0 leaves it out."""
    workers: int = 0
    """Simulation processes; 0 for as many as `rsp-robot evaluate` takes."""
    out: Path | None = None
    """Also write everything that was measured there, as JSON."""

    def __post_init__(self) -> None:
        for name in ("horizon", "rounds", "episodes", "plain_episodes"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("stock_episodes", "workers"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} must not be negative, but is {getattr(self, name)}")
        if self.plain_episodes > self.episodes or self.stock_episodes > self.episodes:
            raise UserError("the plain loops play some of the evaluation's episodes; give --episodes at least as many")


@dataclass(frozen=True)
class Way:
    """One way of playing, a number per round."""

    name: str
    seconds: tuple[float, ...]
    """Per episode."""
    cpu_s: tuple[float, ...]
    """Processor time per episode."""

    @property
    def per_minute(self) -> float:
        """Episodes per minute, the median round."""
        return 60 / median(self.seconds)


@dataclass(frozen=True)
class Measured:
    """One run of the bench."""

    stock: Way | None
    """The plain loop with stock rendering."""
    plain: Way
    """The plain loop with the rendering of the evaluation."""
    ours: Way
    compared: int
    """Episodes played by the plain loop as well."""
    differing: tuple[str, ...]
    """What differs between their rows; nothing, if all is well."""
    workers: int
    cores: int
    quality: str
    image_size: int
    others: float | None
    """Cores that other processes kept busy meanwhile; None where the system does not say."""

    def speed_up(self, other: Way) -> float:
        """How many times as many episodes per minute as ``other``."""
        return self.ours.per_minute / other.per_minute


def measure(bench: EvaluateBench, quiet: bool = False) -> Measured:
    """Measure everything.

    Raises:
        UserError: unknown task or camera, the policy does not fit, or there is no working OpenGL.
    """
    find_backend()
    rounds = []
    with ExitStack() as stack, Progress("bench evaluate", bench.rounds + 1, "rounds", quiet=quiet) as bar:
        folder = bench.policy or _train(bench, Path(stack.enter_context(tempfile.TemporaryDirectory())))
        role = _role(bench, folder)
        workers = worker_count(EvaluateConfig(workers=bench.workers))
        scene = role.scene
        jobs = {q: Job(str(folder), scene.task, scene.image_size, q, bench.horizon) for q in ("full", scene.quality)}
        stock = stack.enter_context(closing(PlainLoop(jobs["full"], True))) if bench.stock_episodes else None
        plain = stack.enter_context(closing(PlainLoop(jobs[scene.quality], False)))
        troupe = stack.enter_context(closing(Troupe({(NAME, bench.task): role.policy}, workers, 600.0, 1)))
        _play(troupe, role, [FIRST_HELD_OUT_SEED - 1 - number for number in range(workers)])  # makes environments
        plain.play([FIRST_HELD_OUT_SEED - 1])
        bar.update(1)
        machine_s, started = _machine_cpu_s(), time.perf_counter()
        for number in range(bench.rounds):
            seeds = [FIRST_HELD_OUT_SEED + number * bench.episodes + i for i in range(bench.episodes)]
            played = [_play(troupe, role, seeds), plain.play(seeds[: bench.plain_episodes])]
            if stock is not None:
                played.append(stock.play(seeds[: bench.stock_episodes]))
            rounds.append(played)
            bar.update(1)
        own = sum(one.cpu_s for played in rounds for one in played)
        others = None
        if machine_s is not None:
            others = max(0.0, (_machine_cpu_s() or 0.0) - machine_s - own) / (time.perf_counter() - started)
    names = ("evaluate", "plain loop", "plain loop, stock")
    ways = [Way(name, *_per_episode(played)) for name, played in zip(names, zip(*rounds, strict=True), strict=False)]
    pairs = [pair for ours, plainly, *_ in rounds for pair in zip(ours.rows, plainly.rows, strict=False)]
    return Measured(
        stock=ways[2] if bench.stock_episodes else None,
        plain=ways[1],
        ours=ways[0],
        compared=len(pairs),
        differing=tuple(line for ours, plainly in pairs for line in differences(ours, plainly)),
        workers=workers,
        cores=available_cores(),
        quality=scene.quality,
        image_size=scene.image_size,
        others=others,
    )


def differences(ours: Row, plain: Row) -> Iterator[str]:
    """Yield a sentence for each number of a row of ours that is another in the plain loop's."""
    for key, value in plain.items():
        if ours[key] != value:
            yield f"seed {plain['seed']}: {key} is {ours[key]} in the evaluation, {value} in the plain loop"


def _train(bench: EvaluateBench, folder: Path) -> Path:
    """Clone one demonstration: what a policy does well does not matter here."""
    cameras = check_cameras(describe(bench.task), bench.camera or None)
    data = collect(
        CollectConfig(bench.task, folder / "data.hdf5", 1, cameras, bench.image_size, workers=1, action_noise=0.0),
        quiet=True,
    )
    cache = EmbeddingCache(folder / "cache")
    return train_bc(data, bench.encoder, folder / "run", BCConfig(steps=20, log_every=20), cache=cache)


def _role(bench: EvaluateBench, folder: Path) -> Role:
    named = find_policies([f"{NAME}={folder}"])
    check_fit(NAME, tuple(named[NAME].tasks), bench.task)
    config = EvaluateConfig(bench.task, horizon=bench.horizon)
    return cast_roles(load_policies(named, [bench.task]), config.tasks, config.pictures)[NAME, bench.task]


def _play(troupe: Troupe, role: Role, seeds: list[int]) -> Played:
    """Play an episode from each seed with simulation processes that are running."""
    episodes = [Episode(NAME, number, seed, role.scene, stop_on_success=False) for number, seed in enumerate(seeds)]
    with _timed(troupe) as spent:
        found = dict(troupe.play(episodes))
    rows = [make_row(episode, found[episode]) for episode in episodes]
    for row in rows:
        if row["error"]:
            raise UserError(f"an episode ended in an error ({row['error']}); run `rsp-robot doctor`")
    return Played(rows, *spent)


@contextmanager
def _timed(troupe: Troupe) -> Iterator[list[float]]:
    """Measure seconds, and seconds of processor time of this process and the simulations."""
    spent: list[float] = []
    before = _cpu_s(troupe)
    started = time.perf_counter()
    yield spent
    spent.append(time.perf_counter() - started)
    spent.append(_cpu_s(troupe) - before)


def _machine_cpu_s() -> float | None:
    """Seconds that all cores of the machine have worked since it was started; None where nobody counts (not Linux)."""
    counted = Path("/proc/stat")
    if not counted.exists():
        return None
    user, nice, system, _, _, irq, softirq = (int(word) for word in counted.read_text().split()[1:8])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def _cpu_s(troupe: Troupe) -> float:
    own = time.process_time()
    for worker in troupe.workers:
        status = Path(f"/proc/{worker.process.pid}/stat")
        if status.exists():
            user, system = status.read_text().rpartition(")")[2].split()[11:13]
            own += (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
    return own


def _per_episode(played: tuple[Played, ...]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    seconds = tuple(one.seconds / len(one.rows) for one in played)
    return seconds, tuple(one.cpu_s / len(one.rows) for one in played)
