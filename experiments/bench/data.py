"""``rsp-robot bench data``: how many frame pairs per second and core each way of loading brings to the device."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from rsp_robot.devices import pick_device
from rsp_robot.errors import UserError
from rsp_robot.experiments.bench.clips import write_clips
from rsp_robot.experiments.bench.measure import seconds
from rsp_robot.experiments.bench.naive import load_pair
from rsp_robot.experiments.presets import find_preset
from rsp_robot.files import read_jsonl
from rsp_robot.pretrain.augment import Augmentation, draw_boxes
from rsp_robot.pretrain.residence import from_store
from rsp_robot.pretrain.samples import Pictures, Samples
from rsp_robot.pretrain.sampling import PairSpec
from rsp_robot.pretrain.train import pretrain
from rsp_robot.progress import Progress
from rsp_robot.threads import one_thread
from rsp_robot.videos import Videos, open_videos
from rsp_robot.videos.pack import pack_videos

PAIRS = PairSpec(4, 48)
"""The published range of gaps."""
LEAST_S = 0.4
"""A round of a fast loader repeats its batch for so long."""


@dataclass(frozen=True)
class DataBench:
    """What is measured, and for how long."""

    data: str | None = None
    """Video files to measure on; by default films are made for it."""
    clips: int = 6
    """Films to make."""
    clip_seconds: float = 10.0
    """Length of a film."""
    height: int = 256
    """Of a film, in pixels."""
    width: int = 340
    """Of a film, in pixels."""
    image_size: int = 224
    """Side of the encoder's input in pixels."""
    batch: int = 16
    """Pairs per batch."""
    rounds: int = 5
    """Rounds over all loaders; the median of a loader counts."""
    train_steps: int = 60
    """Steps of a real pretraining whose waiting for data is measured; 0 leaves it out."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:<index>."""
    out: Path | None = None
    """Also write everything that was measured there, as JSON."""

    def __post_init__(self) -> None:
        for name in ("clips", "batch", "rounds", "image_size"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.train_steps < 0 or self.clip_seconds < 2:
            raise UserError("train_steps must not be negative and clips at least 2 seconds long")


@dataclass(frozen=True)
class Loader:
    """One way to bring pairs to the device."""

    name: str
    deliver: Callable[[np.ndarray], object]
    """Rows of :meth:`Samples.draw` -> the pairs on the device: uint8, or normalised if it cannot stop before."""
    augment: Callable[[np.ndarray], torch.Tensor]
    """The same, cropped, resized and normalised."""
    repeats: int = 1
    """Pairs of one video that it is given together: repeated sampling."""


@dataclass(frozen=True)
class Row:
    """What was measured of one loader; pairs per second, one number per round."""

    name: str
    delivered: tuple[float, ...]
    augmented: tuple[float, ...]

    @property
    def pairs_s(self) -> float:
        """Pairs delivered per second."""
        return median(self.delivered)

    @property
    def augmented_s(self) -> float:
        """Pairs delivered and augmented per second."""
        return median(self.augmented)


@dataclass(frozen=True)
class Measured:
    """One run of the bench."""

    rows: tuple[Row, ...]
    """The naive loader first."""
    frame_size: tuple[int, int]
    """Height and width of the films."""
    frames: int
    """Frames per film, the mean."""
    waiting: dict[str, float]
    """Share of the time of a pretraining spent waiting for data, by where its frames are."""


def measure(bench: DataBench, quiet: bool = False) -> Measured:
    """Measure every loader on the same pairs, one after the other in every round.

    Raises:
        UserError: there are no video files, or the device is not there.
    """
    device = pick_device(bench.device)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rsp-bench-")))
        if bench.data is None:
            write_clips(folder / "films", bench.clips, bench.clip_seconds, bench.height, bench.width)
        films = _films(open_videos(bench.data or str(folder / "films")))
        pack_videos(films, folder / "packed", 256, quiet=True)
        store = open_videos(folder / "packed")
        with one_thread():
            rows = _measure_loaders(bench, loaders(films, store, bench, device), films, device, quiet)
        waiting = _waiting(bench, folder) if bench.train_steps else {}
    first = films.videos[0]
    frames = round(sum(video.frames for video in films.videos) / len(films))
    return Measured(rows, (first.height, first.width), frames, waiting)


def loaders(films: Videos, store: Videos, bench: DataBench, device: torch.device) -> list[Loader]:
    """Return the naive loader and all of ours."""
    augmentation = Augmentation(bench.image_size)

    def naive(rows: np.ndarray) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        sizes = torch.tensor([(films.videos[place].height, films.videos[place].width) for place in rows[:, 0]])
        pairs = []
        for (place, current, future), (left, top, width, height) in zip(
            rows.tolist(), draw_boxes(sizes, generator).tolist(), strict=True
        ):
            box = (left, top, left + width, top + height)
            pairs.append(load_pair(Path(films.videos[place].path), (current, future), box, bench.image_size))
        return torch.stack(pairs).to(device)

    def ours(name: str, samples: Samples, repeats: int = 1) -> Loader:
        def deliver(rows: np.ndarray) -> Pictures:
            frames, sizes = samples.read(rows)
            return Pictures(frames.to(device, non_blocking=True), sizes)

        def augment(rows: np.ndarray) -> torch.Tensor:
            return augmentation(*deliver(rows), torch.Generator().manual_seed(0))

        return Loader(name, deliver, augment, repeats)

    made = [Loader("naive: decode from the start, Pillow", naive, naive)]
    made.append(ours("seek and decode", Samples(films, PAIRS)))
    made.append(ours("the same, two pairs per visit", Samples(films, PAIRS), repeats=2))
    residences = {"packed, on disk": "disk", "packed, in memory": "host", "packed, on the GPU": "device"}
    for name, residence in residences.items():
        if residence != "device" or device.type == "cuda":
            resident = from_store(store.videos, device, residence, quiet=True)
            made.append(ours(name, Samples(store, PAIRS, resident=resident)))
    return made


def _measure_loaders(
    bench: DataBench, made: list[Loader], films: Videos, device: torch.device, quiet: bool
) -> tuple[Row, ...]:
    samples = Samples(films, PAIRS)
    delivered: dict[str, list[float]] = {loader.name: [] for loader in made}
    augmented: dict[str, list[float]] = {loader.name: [] for loader in made}
    with Progress("bench data", (bench.rounds + 1) * len(made), "loaders", quiet=quiet) as bar:
        for step in range(bench.rounds + 1):
            for loader in made:
                rows = samples.draw(step, max(1, bench.batch // loader.repeats), loader.repeats)
                both = rate = _rate(partial(loader.deliver, rows), len(rows), device)
                if loader.augment is not loader.deliver:
                    both = _rate(partial(loader.augment, rows), len(rows), device)
                if step:  # the first round warms up
                    delivered[loader.name].append(rate)
                    augmented[loader.name].append(both)
                bar.update(1)
    return tuple(Row(name, tuple(delivered[name]), tuple(augmented[name])) for name in delivered)


def _rate(work: Callable[[], object], pairs: int, device: torch.device) -> float:
    spent, done = 0.0, 0
    while not done or spent < LEAST_S:
        spent += seconds(work, device)
        done += pairs
    return done / spent


def _waiting(bench: DataBench, folder: Path) -> dict[str, float]:
    """Pretrain for a few steps on decoded and on packed frames; return the share of the time spent waiting."""
    settings: dict[str, Any] = {
        "device": bench.device,
        "steps": bench.train_steps,
        "log_every": max(1, bench.train_steps // 3),
        "holdout": 0.0,
        "probe_every": None,
    }
    places = {"decoded while training": (bench.data or str(folder / "films"), "source")}
    places["packed"] = (str(folder / "packed"), "auto")
    shares = {}
    for name, (data, kept) in places.items():
        settings |= {"data": data, "out": folder / f"run-{kept}", "keep_frames": kept}
        config = replace(find_preset("rsp-small"), **settings)
        rows = read_jsonl(pretrain(config) / "metrics.jsonl")[1:]  # the first row has the start in it
        shares[name] = float(np.mean([row["data_wait"] for row in rows]))
    return shares


def _films(source: Videos) -> Videos:
    films = source.selected(lambda video: video.format == "file" and video.frames > PAIRS.max_gap)
    if not len(films):
        raise UserError(f"there is no video file of more than {PAIRS.max_gap:g} frames to measure on; change --data")
    return films
