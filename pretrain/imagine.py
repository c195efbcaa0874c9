"""Draw what a model imagines for any picture or video: as a picture, and as a film in which time runs."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from rsp_robot.devices import pick_device
from rsp_robot.errors import UserError
from rsp_robot.files import atomic_path, write_json
from rsp_robot.films import write_mp4
from rsp_robot.preprocessing import Preprocessing
from rsp_robot.pretrain.checkpoints import load_objective
from rsp_robot.pretrain.config import PretrainConfig, read_config
from rsp_robot.pretrain.drawing import draw_grid, heat, peak_of, to_bytes
from rsp_robot.pretrain.futures import RSPImaginer
from rsp_robot.pretrain.futures_srvp import SRVPImaginer
from rsp_robot.pretrain.imaginer import Chances, Imaginer
from rsp_robot.pretrain.moments import Moment, choose_moments, open_pictures
from rsp_robot.pretrain.objectives import Objective
from rsp_robot.progress import Progress
from rsp_robot.videos import VideoSource

BATCH = 16
"""Frames of a film that go through the model together."""
FASTEST = 15.0
"""Frames per second of a film at most: futures want to be looked at."""
IMAGINERS: dict[str, Callable[[Objective, float], Imaginer]] = {"rsp": RSPImaginer, "srvp": SRVPImaginer}
"""By objective: takes a model in evaluation mode, and the frames per second of the videos."""


@dataclass(frozen=True)
class ImagineConfig:
    """Draw the futures that a pretrained model imagines."""

    run: Path
    """Run folder of `rsp-robot pretrain`."""
    out: Path | None = None
    """The PNG to write, the film beside it as MP4; by default ``media/imagined.png`` in the run folder."""
    data: str | None = None
    """A picture, or videos as `rsp-robot pretrain` takes them; by default what the run learned from."""
    cameras: tuple[str, ...] = ()
    """Patterns of cameras to draw from; by default those of the run."""
    rows: int = 4
    """Moments to draw, from different videos where possible."""
    gap: int | None = None
    """Frames between current and future; by default the run's largest, less where videos are shorter than two gaps."""
    samples: int = 4
    """Futures to draw from the prior; their spread is drawn from two upwards."""
    film: bool = True
    """Also make a film of the longest of the drawn videos; on a CPU seconds for a vit-nano, minutes at 224 px."""
    film_frames: int = 150
    """Longest film in frames; of a longer video it shows the beginning."""
    seed: int = 0
    """Decides the frames and the samples."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:<index>."""

    def __post_init__(self) -> None:
        if self.rows < 1 or self.samples < 0 or self.film_frames < 1 or (self.gap is not None and self.gap < 1):
            raise UserError("rows, gap and film_frames must be at least 1, samples at least 0; correct the settings")
        if self.out is not None and self.out.suffix.lower() != ".png":
            raise UserError(f"{self.out} must end in .png; the film beside it ends in .mp4")


class Shown(NamedTuple):
    """What is to be drawn, in memory."""

    columns: dict[str, np.ndarray]
    """uint8 ``(B, S, S, 3)`` by name."""
    spread: np.ndarray | None
    """``(B, S, S)`` in [0, 1]."""
    errors: dict[str, float]


def imagine(config: ImagineConfig) -> Path:
    """Write the picture, the film where there is a video, and a JSON file with captions and errors; return the picture.

    In the film the same noise makes a column from beginning to end: what changes, changes because the frames do.

    Raises:
        UserError: the run's objective imagines nothing, the run has no checkpoint, or the data cannot be read or is too
            short.
    """
    trained = read_config(config.run)
    if trained.objective.name not in IMAGINERS:
        raise UserError(f"{config.run} was pretrained with {trained.objective.name!r}, which imagines no futures; "
                        f"give a run of one of the objectives {', '.join(IMAGINERS)}")  # fmt: skip
    source = _open(config, trained)
    fps = float(np.median([video.fps for video in source.videos])) if len(source) else 0.0
    model = IMAGINERS[trained.objective.name](load_objective(config.run, pick_device(config.device)), fps)
    moments, gap = choose_moments(source, config.rows, config.gap, model.gaps, config.seed, -model.context[0])
    if gap is None and not config.samples and model.stochastic:
        raise UserError("a single picture shows only samples of the prior; ask for --samples 1 or more")
    picture = config.out or config.run / "media" / "imagined.png"
    film = picture.with_suffix(".mp4")
    _spare_the_data(source, (picture, film, picture.with_suffix(".json")))

    chances = model.draw_chances(len(moments), config.samples, gap, config.seed)
    shown = show_moments(model, source, moments, gap, chances)
    peak = None if shown.spread is None else peak_of(shown.spread)
    with atomic_path(picture) as temporary:
        Image.fromarray(draw_grid(with_heat(shown, peak))).save(temporary, format="PNG")
    described: dict[str, Any] = {"caption": describe(model, gap, chances.samples, peak), "gap": gap}
    described |= {"seed": config.seed, "samples": chances.samples, "spread_peak": peak, **shown.errors}
    if config.film and gap is not None:
        described["film"] = make_film(film, model, source, moments, gap, chances, config.film_frames)
    elif config.out is None:  # one of an earlier call would not belong to this picture
        film.unlink(missing_ok=True)
    write_json(picture.with_suffix(".json"), described)
    return picture


def show_moments(
    model: Imaginer, source: VideoSource, moments: list[Moment], gap: int | None, chances: Chances
) -> Shown:
    """Imagine at each of ``moments``; pictures of any size and aspect are made the model's.

    A picture of which nothing earlier is known counts as one that stood still.
    """
    preprocess, device = Preprocessing(model.image_size), model.device

    def frames(ahead: int) -> torch.Tensor:
        read = [source.read(moment.video, [max(0, moment.frame + ahead)]) for moment in moments]
        return torch.cat([preprocess(frame, device) for frame in read])

    context = torch.stack([frames(offset) for offset in model.context], dim=1)
    futures = model.imagine(context, None if gap is None else frames(gap), gap, chances)
    columns = {name: to_bytes(images) for name, images in futures.columns.items()}
    return Shown(columns, None if futures.spread is None else futures.spread.cpu().numpy(), futures.errors)


def with_heat(shown: Shown, peak: float | None) -> dict[str, np.ndarray]:
    """Return the columns and, where there is a spread, its heat map from 0 to ``peak`` levels as the last."""
    if shown.spread is None or peak is None:
        return shown.columns
    return shown.columns | {f"spread 0-{peak:.0f}": heat(shown.spread, peak)}


def make_film(
    path: Path, model: Imaginer, source: VideoSource, moments: list[Moment], gap: int, chances: Chances, most: int
) -> dict[str, Any]:
    """Film the longest video among ``moments`` from its beginning, with the chances of its row; return what it shows.

    Args:
        path: the MP4 to write.
        model: in evaluation mode.
        source: the videos.
        moments: rows of the picture.
        gap: frames between current and future.
        chances: those of all rows.
        most: frames of the film at most.
    """
    longest = max(range(len(moments)), key=lambda index: moments[index].length)
    video, _, length = moments[longest]
    first_seen = -model.context[0]
    times = range(first_seen, min(length - gap, first_seen + most))
    parts = []
    with Progress("film of imagined futures", total=len(times), unit="frames") as bar:
        for first in range(0, len(times), BATCH):
            batch = [Moment(video, t, length) for t in times[first : first + BATCH]]
            parts.append(show_moments(model, source, batch, gap, chances.row(longest)))
            bar.update(len(batch))
    spreads = [part.spread for part in parts if part.spread is not None]
    peak = peak_of(np.concatenate(spreads)) if spreads else None
    columns = [with_heat(part, peak) for part in parts]
    joined = {name: np.concatenate([part[name] for part in columns]) for name in columns[0]}
    drawn = []
    for place, t in enumerate(times):
        names = {"current": f"current {t}", "future": f"future {t + gap}"}
        row = {names.get(name, name): pictures[place : place + 1] for name, pictures in joined.items()}
        drawn.append(draw_grid(row))
    fps = min(source.videos[video].fps or FASTEST, FASTEST)
    write_mp4(path, np.stack(drawn), fps)
    return {"file": path.name, "video": video, "frames": len(times), "of": length, "fps": fps, "spread_peak": peak}


def describe(model: Imaginer, gap: int | None, samples: int, peak: float | None) -> str:
    """Return the caption of the picture; ``peak`` is the end of the spread's scale in levels, None without one."""
    caption = model.describe(gap, samples, peak is not None)
    if peak is not None:
        caption += (
            " The last column is the spread of the prior's futures: every pixel's standard deviation over the "
            f"{samples} samples, mean over colours, from 0 (black) to {peak:.1f} levels of 255 and more (light yellow)."
        )
    return caption


def _open(config: ImagineConfig, trained: PretrainConfig) -> VideoSource:
    if config.data is not None:
        return open_pictures(os.fspath(config.data), config.cameras)
    return open_pictures(trained.data, config.cameras or trained.cameras, trained.tasks, trained.episodes)


def _spare_the_data(source: VideoSource, written: tuple[Path, ...]) -> None:
    read = {Path(video.path).resolve() for video in source.videos}
    for path in written:
        if path.resolve() in read:
            raise UserError(f"{path} is what is to be drawn from and would be overwritten; choose another --out")
