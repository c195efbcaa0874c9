"""The samples of a run: which frames every step sees, and how they are read."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch

from rsp_robot.errors import UserError
from rsp_robot.pretrain.resident import ResidentFrames
from rsp_robot.pretrain.sampling import SampleSpec
from rsp_robot.pretrain.streams import stream
from rsp_robot.pretrain.walk import Walk
from rsp_robot.videos import Quarantined, UnreadableVideo, VideoInfo, VideoSource
from rsp_robot.videos.sizes import reduce


class Pictures(NamedTuple):
    """The frames of some samples. Videos differ in size: smaller pictures lie in the top left of a canvas of zeros."""

    frames: torch.Tensor
    """uint8 ``(B, K, H, W, 3)``."""
    sizes: torch.Tensor
    """int64 ``(B, 2)`` on the CPU: height and width of each sample's pictures."""


def refuse_unfit(source: VideoSource, spec: SampleSpec) -> tuple[list[int], list[Quarantined]]:
    """Sort out the videos that are too short for a sample, or of unknown frame rate where it matters.

    Returns:
        The numbers of those that are fit, and the others with the reason.

    Raises:
        UserError: none is fit.
    """
    fit, unfit = [], []
    for number, video in enumerate(source.videos):
        if spec.needs_fps and not video.fps:
            unfit.append(Quarantined(video.path, video.key, "frame rate unknown, samples are in seconds; give --fps"))
        elif video.frames < spec.shortest(video.fps):
            had = f"{video.frames} frame{'s' * (video.frames != 1)}"
            unfit.append(
                Quarantined(video.path, video.key, f"too short: {had}, a sample needs {spec.shortest(video.fps)}")
            )
        else:
            fit.append(number)
    if not fit:
        first = f"{unfit[0].name}: {unfit[0].reason}" if unfit else "there are none"
        raise UserError(f"there are no videos to learn from ({first}); check --data")
    return fit, unfit


def split_videos(source: VideoSource, fit: Sequence[int], holdout: float) -> tuple[list[int], list[int]]:
    """Split videos into those to learn from and the last ones of each place, a share that training never sees.

    The cameras of one episode stay on one side. Of several places, one with a single episode is learned from.

    Args:
        source: the videos.
        fit: numbers of those to split.
        holdout: share of the episodes to hold out.

    Raises:
        UserError: nothing would be left to learn from.
    """
    training: list[int] = []
    held_out: list[int] = []
    for group in source.groups:
        episodes: dict[tuple[str, str], list[int]] = {}
        for number in fit:
            if group.start <= number < group.stop:
                video = source.videos[number]
                episodes.setdefault((video.path, video.episode or video.key), []).append(number)
        members = list(episodes.values())
        kept = len(members) - math.ceil(holdout * len(members))
        if not kept and len(source.groups) > 1:
            kept = 1
        if members and not kept:
            raise UserError(
                f"a holdout of {holdout} leaves none of {len(members)} videos to learn from; lower --holdout"
            )
        training += [number for member in members[:kept] for number in member]
        held_out += [number for member in members[kept:] for number in member]
    return training, held_out


class Samples:
    """Samples of some videos of a source; the same seed and step give the same ones, whoever asks.

    Attributes:
        videos: numbers of the videos in the source.
        spec: which frames one sample holds.
        failed: places of the videos that could not be read any more, with the reason.
    """

    def __init__(
        self,
        source: VideoSource,
        spec: SampleSpec,
        videos: Sequence[int] | None = None,
        *,
        resident: ResidentFrames | None = None,
        short_side: int | None = None,
        workers: int = 1,
        strict: bool = False,
        on_failure: Callable[[VideoInfo, str], None] = lambda video, reason: None,
    ) -> None:
        """Take videos that are fit for the spec (see :func:`refuse_unfit`).

        Args:
            source: where the videos are.
            spec: which frames one sample holds.
            videos: numbers of those to use, ascending; all by default.
            resident: their frames, where they are in memory or packed already.
            short_side: larger pictures are reduced to this when they are read.
            workers: threads that read.
            strict: let a video that cannot be read any more end the run.
            on_failure: told once of each such video.
        """
        self.source, self.spec, self.resident = source, spec, resident
        self.videos = list(range(len(source)) if videos is None else videos)
        self.infos = [source.videos[video] for video in self.videos]
        self.lengths = np.array([info.frames for info in self.infos], np.int64)
        self.fps = np.array([info.fps for info in self.infos], float)
        self.walk = Walk(*_shares(source, self.videos))
        self.short_side, self.strict, self.on_failure = short_side, strict, on_failure
        self.failed: dict[int, str] = {}
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="read") if workers > 1 else None

    def __len__(self) -> int:
        """Number of videos."""
        return len(self.videos)

    @property
    def frames(self) -> int:
        """Frames in all videos together."""
        return int(self.lengths.sum())

    def draw(self, step: int, batch: int, repeats: int = 1, seed: int = 0) -> np.ndarray:
        """Draw the samples of one optimiser step: ``repeats`` from each of the next ``batch`` videos of the walk.

        Returns:
            int64 ``(batch · repeats, 1 + K)``: place of the video among :attr:`videos`, then the frames.
        """
        places = np.repeat(self.walk.visit(step * batch, batch, seed), repeats)
        return self._draw(places, stream("frames", seed, step))

    def _draw(self, places: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        frames = self.spec.draw(self.lengths[places], self.fps[places], rng.random((len(places), 2)))
        return np.concatenate([places[:, None], frames], axis=1)

    def read(self, drawn: np.ndarray) -> Pictures:
        """Read the frames of some rows of :meth:`draw`.

        A video that cannot be read any more is replaced by the next one, for good.

        Raises:
            UserError: none of the videos can be read any more, or one cannot and the samples are strict.
        """
        if self.resident is not None:
            return Pictures(*self.resident.gather(drawn))
        # The samples of one video are read together: neighbours in a batch, thanks to repeated sampling.
        starts = np.flatnonzero(np.diff(drawn[:, 0], prepend=-1))
        runs = np.split(drawn, starts[1:])
        read = self._pool.map if self._pool is not None else map
        samples = [sample for run in read(self._read_run, runs) for sample in run]
        return on_one_canvas(samples)

    def _read_run(self, run: np.ndarray) -> list[np.ndarray]:
        """Read samples of one video: each uint8 ``(K, h, w, 3)``."""
        place, drawn = int(run[0, 0]), run[0].tolist()
        while True:
            if place in self.failed:
                place = self._substitute(place)
                run = self._draw(np.full(len(run), place), stream("substitutes", place, *drawn))
            try:
                frames = self.read_frames(place, run[:, 1:].ravel())
            except UnreadableVideo as error:
                self._give_up(place, " ".join(str(error).split()))
            else:
                return list(frames.reshape(len(run), -1, *frames.shape[1:]))

    def _substitute(self, place: int) -> int:
        for ahead in range(1, len(self)):
            if (place + ahead) % len(self) not in self.failed:
                return (place + ahead) % len(self)
        raise UserError(f"no video can be read any more, the last one because {self.failed[place]}; check --data")

    def _give_up(self, place: int, reason: str) -> None:
        if self.strict:
            raise UserError(f"{reason}; mend it, or leave out --strict")
        if place not in self.failed:
            self.failed[place] = reason
            self.on_failure(self.infos[place], reason)

    def read_frames(self, place: int, frames: Sequence[int] | np.ndarray) -> np.ndarray:
        """Read frames of the video at a place among :attr:`videos`: uint8 ``(K, h, w, 3)``."""
        if self.resident is not None:
            picked, _ = self.resident.gather(np.array([[place, *frames]], np.int64))
            return picked[0].cpu().numpy()
        read = self.source.read(self.videos[place], frames)
        return read if self.short_side is None else reduce(read, self.short_side)

    def spread(self, count: int) -> list[np.ndarray]:
        """Return ``count`` frames spread evenly over all videos, each uint8 ``(h, w, 3)``: the same at every call.

        Those of a video that cannot be read are left out.
        """
        ends = np.cumsum(self.lengths)
        places = np.linspace(0, self.frames - 1, count).round().astype(int)
        videos = np.searchsorted(ends, places, side="right")
        found = []
        for video in np.unique(videos):
            wanted = places[videos == video] - (ends[video] - self.lengths[video])
            try:
                found += list(self.read_frames(int(video), wanted))
            except UnreadableVideo as error:
                self._give_up(int(video), str(error))
        return found


def on_one_canvas(samples: Sequence[np.ndarray]) -> Pictures:
    """Stack samples ``(K, h, w, 3)`` of any sizes."""
    sizes = [sample.shape[1:3] for sample in samples]
    height, width = (max(side) for side in zip(*sizes, strict=True))
    frames = torch.zeros((len(samples), len(samples[0]), height, width, 3), dtype=torch.uint8)
    for row, sample in zip(frames.numpy(), samples, strict=True):
        row[:, : sample.shape[1], : sample.shape[2]] = sample
    return Pictures(frames, torch.tensor(sizes, dtype=torch.int64))


def _shares(source: VideoSource, videos: Sequence[int]) -> tuple[list[int], list[float | None]]:
    """Count the chosen videos of each place, with the place's weight; empty ones without weight drop out."""
    counts = [(sum(group.start <= video < group.stop for video in videos), group.weight) for group in source.groups]
    counts = [(count, weight) for count, weight in counts if count or weight is not None]
    return [count for count, _ in counts], [weight for _, weight in counts]
