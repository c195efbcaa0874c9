"""The pretraining loop: any objective, one process or many, resumable to the same weights."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rsp_robot.devices import peak_memory_mib
from rsp_robot.errors import Preempted, UserError
from rsp_robot.files import atomic_path
from rsp_robot.pooling import pool
from rsp_robot.preprocessing import Preprocessing
from rsp_robot.pretrain.batches import Batches, Prepared, ReadAhead, check_shares
from rsp_robot.pretrain.checkpoints import build_objective, is_doubling, load_newest, save_checkpoint
from rsp_robot.pretrain.config import PretrainConfig
from rsp_robot.pretrain.distributed import World, joined_world
from rsp_robot.pretrain.engine import Engine
from rsp_robot.pretrain.finite import FiniteWatch
from rsp_robot.pretrain.hooks import Hook, make_hooks
from rsp_robot.pretrain.loading import Data, find_videos, load_data
from rsp_robot.pretrain.monitors import feature_health, health
from rsp_robot.pretrain.objectives import Objective
from rsp_robot.pretrain.published import load_weights
from rsp_robot.pretrain.samples import Samples
from rsp_robot.pretrain.stopping import StopRequest
from rsp_robot.pretrain.streams import stream, torch_seed
from rsp_robot.progress import Progress
from rsp_robot.run_folder import RunFolder
from rsp_robot.videos import Quarantined, VideoInfo, write_quarantine

MONITORED_FRAMES = 256
MOST_DUMPS = 10
MEASURED_BY_THE_CLOCK = ("pairs_per_s", "data_wait", "peak_memory_mib")
"""Metrics that differ between two otherwise equal runs."""


def pretrain(config: PretrainConfig) -> Path:
    """Train, export ``encoder/`` into the run folder and return the run folder. A finished run returns at once.

    Under ``torchrun`` every process calls this; the first one writes.

    Raises:
        UserError: the data, the settings or the run folder do not allow it; see the message.
        Preempted: SIGTERM came; everything is saved.
        KeyboardInterrupt: Ctrl-C came; everything is saved.
    """
    with joined_world(config.device) as world:
        return world.on_main(lambda: _finished(config)) or _pretrain(config, world)


def _finished(config: PretrainConfig) -> Path | None:
    if config.resume and (config.out / "encoder" / "config.json").exists():
        return RunFolder.open(config.out, config.identity(), resume=True).path
    return None


def _pretrain(config: PretrainConfig, world: World) -> Path:
    # Data and settings are looked at before the folder is made: a mistake leaves nothing behind.
    check_shares(config, world.size)
    if world.size > 1:  # one process looks at new files, the others read what it found
        world.on_main(lambda: bool(find_videos(config)))
    lost: list[tuple[VideoInfo, str]] = []
    data = load_data(config, world.device, lambda video, reason: lost.append((video, reason)), quiet=not world.main)
    objective = build_objective(config)
    start = world.on_main(lambda: load_weights(objective, config.init) if config.init else "random weights")
    hooks: list[Hook] = []
    world.on_main(lambda: hooks.extend(make_hooks(config, data.source, data.training, data.held_out)))
    path = world.on_main(lambda: RunFolder.open(config.out, config.identity(), resume=config.resume).path)
    run = Run(config, world, RunFolder(path), Batches(config, data.samples, world), data, lost, hooks)
    objective = objective.to(world.device)
    with torch.random.fork_rng(devices=[world.device] if world.device.type == "cuda" else []):
        run.train(objective)
    if world.main:
        encoder = objective.encoder(config.pooling)
        encoder.provenance |= {"data": str(config.data), "steps": run.steps, "seed": config.seed, "start": start}
        encoder.save(path / "encoder")
    run.folder.close()
    return path


@dataclass
class Run:
    """One run in one process."""

    config: PretrainConfig
    world: World
    folder: RunFolder
    batches: Batches
    data: Data
    lost: list[tuple[VideoInfo, str]] = field(default_factory=list)
    """Videos that could not be read any more; the readers add to it."""
    hooks: list[Hook] = field(default_factory=list)

    def __post_init__(self) -> None:
        config, samples = self.config, self.batches.samples
        self.steps = config.total_steps(len(samples))
        self.watch = FiniteWatch()
        self.monitored = squares(samples, config.image_size) if self.world.main else np.empty(0)
        self.rows: list[dict[str, Any]] = []
        self.tell: Callable[[str], None] = print
        self.said: set[str] = set()
        self.told_of = 0
        if self.world.main and config.wandb:
            self.folder.add_wandb(config.wandb, config.identity())

    def train(self, objective: Objective) -> None:
        """Take all steps that are not taken yet.

        Raises:
            UserError: the loss stays non-finite.
            Preempted: SIGTERM came and everything is saved.
            KeyboardInterrupt: the same for Ctrl-C.
        """
        engine = Engine(objective, self.config, self.world)
        first = self._restore(engine)
        ahead = ReadAhead(self.batches.read, range(first, self.steps), self.config.prefetch)
        title = f"pretrain {self.config.objective.name.upper()}"
        with (
            StopRequest() as stop,
            Progress(title, total=self.steps, unit="steps", done=first, quiet=not self.world.main) as bar,
        ):
            self.tell = bar.say
            self._introduce()
            if first == 0:
                self._run_hooks(objective, 0)
            clock = Clock(first)
            for step, shards in ahead:
                # Layers that draw for themselves (dropout) draw the same after a resume.
                torch.manual_seed(torch_seed(stream("layers", self.config.seed, step, self.world.rank)))
                prepared = [self.batches.prepare(objective, shard, step) for shard in shards]
                losses = engine.step(prepared, self.config.pace(step, self.steps))
                done = step + 1
                self.watch.see(step, losses.pop("bad"))
                self._look_for_trouble(step, losses)
                self._look_for_losses()
                shown: dict[str, float] = {}
                if done % self.config.log_every == 0 or done == self.steps:
                    shown = self._log(engine, prepared[0], losses, done, clock.lap(done, ahead.waited))
                bar.update(1, **shown)
                self._run_hooks(objective, done)
                if self.world.any(stop.signal is not None):
                    self._leave(engine, done, stop.signal or signal.SIGTERM)
                if self._saves(done):
                    self._save(engine, done)

    # -- checkpoints ---------------------------------------------------------------------------------------------------

    def _restore(self, engine: Engine) -> int:
        state = load_newest(self.folder.path / "checkpoints", self.world.device)
        if state is not None:
            engine.load(state)
            self.watch = FiniteWatch(state["skipped_steps"], state["in_a_row"])
        first = int(state["step"]) if state else 0
        if self.world.main:
            self.folder.forget_after(first or -1)
            self.rows = self.folder.metrics()
        self.world.any(False)  # nobody writes before everybody has read
        return first

    def _saves(self, done: int) -> bool:
        doubling = self.config.keep_doublings and is_doubling(done)
        return done % self.config.checkpoint_every == 0 or done == self.steps or doubling

    def _save(self, engine: Engine, done: int) -> None:
        self._look_for_trouble(done - 1, {}, wait=True)
        if self.world.main:
            counts = {"step": done, "skipped_steps": self.watch.skipped, "in_a_row": self.watch.in_a_row}
            save_checkpoint(self.folder.checkpoints, {**counts, **engine.state()}, self.config)

    def _leave(self, engine: Engine, done: int, number: signal.Signals) -> None:
        self._save(engine, done)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise Preempted(f"stopped by {number.name} after step {done} of {self.steps}, all saved; go on with --resume")

    # -- what a run tells ----------------------------------------------------------------------------------------------

    def _log(
        self,
        engine: Engine,
        batch: Prepared,
        losses: dict[str, torch.Tensor],
        done: int,
        timing: dict[str, float],
    ) -> dict[str, float]:
        """Write a row of metrics; return what the progress bar shows."""
        means = self.world.mean(torch.stack([value.float() for value in losses.values()]))
        if not self.world.main:
            return {}
        numbers: dict[str, Any] = dict(zip(losses, means.tolist(), strict=True))
        engine.objective.eval()  # what is only looked at moves no running statistics
        with torch.no_grad(), engine.autocast():
            seen = engine.objective.diagnose(batch.frames, batch.draws)
            backbone = engine.objective.backbone
            tokens = backbone(Preprocessing(self.config.image_size)(self.monitored, self.world.device)).float()
        engine.objective.train()
        embedded = pool(tokens, self.config.pooling, backbone.class_token).flatten(1)
        numbers |= {name: value.tolist() for name, value in seen.items()}
        numbers |= feature_health(embedded, tokens[:, int(backbone.class_token) :])
        speed = self.config.samples_per_step * timing["steps"] / timing["seconds"]
        numbers |= {
            "lr": self.config.pace(done - 1, self.steps).lr,
            "pairs_per_s": speed,
            "data_wait": timing["waited"] / timing["seconds"],
            "peak_memory_mib": peak_memory_mib(self.world.device),
            "skipped_steps": self.watch.skipped,
        }
        self.folder.log(done, **numbers)
        self.rows.append({"step": done, **numbers})
        for message in health(self.rows, getattr(self.config.objective, "free_bits", None)):
            self.say(message)
        kept: dict[str, float] = {name: numbers[name] for name in ("loss", "kl") if name in numbers}
        return {**kept, "rank": numbers["rank"], "/s": speed}

    def say(self, message: str) -> None:
        """Tell the user, once."""
        if self.world.main and message not in self.said:
            self.said.add(message)
            self.tell(f"warning: {message}")

    def _run_hooks(self, objective: Objective, done: int) -> None:
        for hook in self.hooks:
            if done % hook.every == 0 or done == self.steps:
                objective.eval()
                self.folder.log(done, **hook.evaluate(objective, self.world.device))
                objective.train()

    # -- videos that were left out -------------------------------------------------------------------------------------

    def _introduce(self) -> None:
        if self.world.main:
            self.tell(f"{self.config.data}: {self.data.source.summary()}{self._left_out()}")

    def _left_out(self) -> str:
        """Write down what is left out, and say where."""
        lost = [Quarantined(video.path, video.key, reason) for video, reason in self.lost]
        rows = [*self.data.quarantined, *lost]
        if not rows:
            return ""
        write_quarantine(self.quarantine, rows)
        return f"; {len(rows)} left out, see {self.quarantine}"

    def _look_for_losses(self) -> None:
        if len(self.lost) > self.told_of:
            for video, reason in self.lost[self.told_of :]:
                self.say(f"{video.name} is left out from now on: {reason}")
            self.told_of = len(self.lost)
            self._left_out()

    @property
    def quarantine(self) -> Path:
        """Where it is written what was left out, and why; each process has its own."""
        return self.folder.path / ("quarantine.txt" if self.world.main else f"quarantine-{self.world.rank}.txt")

    # -- steps that were skipped ---------------------------------------------------------------------------------------

    def _look_for_trouble(self, step: int, losses: dict[str, torch.Tensor], wait: bool = False) -> None:
        news, patience = self.watch.news(wait), self.config.patience
        if self.config.precision == "fp16":
            # Loss scaling begins too high and halves its way down: a few skipped steps are how it works.
            news, patience = (news if self.watch.in_a_row >= patience else []), 5 * patience
        for bad in news:
            if self.watch.skipped <= MOST_DUMPS:
                self._dump(bad)
            self.say(f"step {bad + 1} had no finite loss or gradient and was skipped; its batch is in {self.bad}")
        if self.watch.in_a_row >= patience:
            names = [name for name, value in losses.items() if not bool(value.isfinite())]
            cause = f" ({', '.join(names)} not finite)" if names else ""
            raise UserError(
                f"training diverged: {self.watch.in_a_row} steps in a row up to step {step + 1} without a finite "
                f"loss{cause}; lower --base-lr, set --clip-grad, or look at the batches in {self.bad}"
            )

    @property
    def bad(self) -> Path:
        """Where the batches of skipped steps go."""
        return self.folder.path / "bad"

    def _dump(self, step: int) -> None:
        """Write the frames of this process at a step, as they were read, with the micro-batches' places."""
        self.bad.mkdir(exist_ok=True)
        name = f"step-{step + 1:08d}" + (f"-rank-{self.world.rank}" if self.world.size > 1 else "")
        shards = {f"frames_{shard.place}": shard.frames.cpu().numpy() for shard in self.batches.read(step)}
        config = self.config
        drawn = self.batches.samples.draw(step, config.batch_size, config.repeated_sampling, config.seed)
        with atomic_path(self.bad / f"{name}.npz") as temporary, open(temporary, "wb") as file:
            np.savez(file, drawn=drawn, **shards)


def squares(samples: Samples, size: int) -> np.ndarray:
    """Return the frames that monitors look at, at the encoder's size: uint8 ``(N, S, S, 3)``."""
    preprocess = Preprocessing(size, mean=(0.0, 0.0, 0.0), std=(1 / 255, 1 / 255, 1 / 255))
    frames = samples.spread(min(MONITORED_FRAMES, samples.frames))
    made = [preprocess(frame[None], torch.device("cpu")).round().to(torch.uint8) for frame in frames]
    return torch.cat(made).permute(0, 2, 3, 1).numpy()


class Clock:
    """Steps, seconds and waiting since the last lap."""

    def __init__(self, step: int) -> None:
        self.step, self.time, self.waited = step, time.perf_counter(), 0.0

    def lap(self, step: int, waited: float) -> dict[str, float]:
        """End a lap at ``step``, when ``waited`` seconds in all had been spent waiting for data."""
        now = time.perf_counter()
        lap = {"steps": step - self.step, "seconds": now - self.time, "waited": waited - self.waited}
        self.step, self.time, self.waited = step, now, waited
        return lap
