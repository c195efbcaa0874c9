"""LeRobot data sets, versions 2.0, 2.1 and 3.0: each camera of each episode is a video.

A film that holds several episodes is looked at once; an episode of it knows which frames are its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np

from rsp_robot.videos.formats.common import unreadable
from rsp_robot.videos.formats.decoding import Layout, opened
from rsp_robot.videos.formats.encoded import inspect_file, read_frames
from rsp_robot.videos.formats.lerobot_meta import INFO, Camera, Episode, Meta, Stretch, load_meta
from rsp_robot.videos.formats.lerobot_tables import AGAIN, Table, inspect_table, read_pictures
from rsp_robot.videos.formats.pictures import reason
from rsp_robot.videos.info import Quarantined, UnreadableVideo, VideoInfo, checked_indices

T = TypeVar("T")


class LeRobot:
    """Data sets of LeRobot: parquet files, films, and ``meta/``."""

    name: ClassVar[str] = "lerobot"

    def claims(self, path: Path) -> bool:
        """Whether this is a folder whose ``meta/info.json`` names a version of LeRobot's format."""
        try:
            return b'"codebase_version"' in (path / INFO).read_bytes()
        except OSError:
            return False

    def inspect(self, path: Path) -> Iterator[VideoInfo | Quarantined]:
        """Look at every film once, and compare what the description, the tables and the films say.

        Raises:
            UnreadableVideo: the description is damaged or of an unknown version.
            OSError: it is gone.
        """
        meta = load_meta(path)
        yield from meta.problems
        pictures = [camera.feature for camera in meta.cameras if not camera.film]
        films = _Once(path, _look)
        tables = _Once(path, lambda file: inspect_table(file, pictures))
        for episode in meta.episodes:
            for camera in meta.cameras:
                key = f"{episode.name}/{camera.feature}"
                try:
                    first = _rows(episode, tables)
                    if camera.film:
                        found = _film(episode, camera, meta, films)
                    else:
                        found = _pictures(episode, camera, first, tables.get(episode.data))
                except UnreadableVideo as error:
                    yield Quarantined(str(path), key, " ".join(str(error).splitlines()))
                    continue
                yield VideoInfo(
                    format=self.name,
                    path=str(path),
                    key=key,
                    frames=episode.length,
                    fps=meta.fps or found.pop("fps", 0.0),
                    camera=camera.name,
                    task=episode.task,
                    episode=episode.name,
                    **{name: value for name, value in found.items() if name != "fps"},
                )

    def read(self, video: VideoInfo, frames: np.ndarray) -> np.ndarray:
        """Return the frames at these indices: int ``(K,)`` -> uint8 ``(K, H, W, 3)``.

        Raises:
            UnreadableVideo: the file has changed or is damaged.
            OSError: the file is gone.
        """
        wanted = checked_indices(frames, video.frames)
        path = Path(video.path) / video.detail["file"]
        wanted = wanted + video.detail["first"]
        if "film" in video.detail:
            return read_frames(path, video.detail["film"], wanted)
        if path.stat().st_size != video.detail["bytes"]:
            raise unreadable(path, "has changed since it was inspected; index the videos again")
        return read_pictures(path, video.detail["feature"], wanted, (video.height, video.width))


class _Once(Generic[T]):
    """Looks at each file of a data set once, and remembers failures too."""

    def __init__(self, root: Path, look: Callable[[Path], T]) -> None:
        self.root, self.look = root, look
        self._known: dict[str, T | str] = {}

    def get(self, file: str) -> T:
        """Return what the file is.

        Raises:
            UnreadableVideo: it is missing or damaged.
        """
        if file not in self._known:
            try:
                self._known[file] = self.look(self.root / file)
            except FileNotFoundError:
                self._known[file] = f"{file} is missing; download it again"
            except (UnreadableVideo, OSError) as error:
                self._known[file] = f"{file} cannot be used: {reason(error)}"
        known = self._known[file]
        if isinstance(known, str):
            raise UnreadableVideo(known)
        return known


@dataclass(frozen=True)
class _Film:
    """An mp4."""

    video: VideoInfo
    times: np.ndarray
    """When each frame is shown, float ``(T,)`` in seconds after the first."""


def _look(path: Path) -> _Film:
    """Look at a film.

    Raises:
        UnreadableVideo: it is damaged.
        OSError: it is gone.
    """
    video = inspect_file(path)
    film = Layout.of(video.detail)
    with opened(path, film.demuxer, film.stream) as (_, stream):
        tick = float(stream.time_base or 0)
    if film.times is None or not tick:
        raise UnreadableVideo(f"does not say when its frames are shown; {AGAIN}")
    return _Film(video, (film.times - film.times[0]) * tick)


def _rows(episode: Episode, tables: _Once[Table]) -> int:
    """Return the episode's first row in its table, once length and rows agree."""
    table = tables.get(episode.data)
    first, rows, together = 0, table.rows, True
    if episode.rows is not None:
        start, stop = episode.rows
        if stop - start != episode.length:
            raise UnreadableVideo(
                f"meta says {episode.length} frames, but rows {start} to {stop} ({stop - start}); {AGAIN}"
            )
        if table.spans is None:
            raise UnreadableVideo(f"{episode.data} has no column episode_index; {AGAIN}")
        first, rows, together = table.spans.get(episode.index, (0, 0, True))
    if rows != episode.length:
        raise UnreadableVideo(f"meta says {episode.length} frames, {episode.data} has {rows} rows; {AGAIN}")
    if episode.length < 1:
        raise UnreadableVideo(f"has {episode.length} frames; leave it out")
    if not together:
        raise UnreadableVideo(f"its rows in {episode.data} do not lie together; {AGAIN}")
    return first


def _film(episode: Episode, camera: Camera, meta: Meta, films: _Once[_Film]) -> dict[str, Any]:
    """Return where the episode's frames are in its film."""
    stretch = episode.films.get(camera.feature)
    if stretch is None:
        raise UnreadableVideo(f"meta names no film of {camera.feature} for this episode; {AGAIN}")
    film = films.get(stretch.file)
    first, detail = 0, film.video.detail
    if stretch.start is not None:
        first = _locate(stretch, film.times, episode.length, meta.fps or film.video.fps)
        first, detail = _cut(detail, first, episode.length)
    elif film.video.frames != episode.length:
        raise UnreadableVideo(f"meta says {episode.length} frames, {stretch.file} has {film.video.frames}; {AGAIN}")
    return {
        "height": film.video.height,
        "width": film.video.width,
        "fps": film.video.fps,
        "digest": film.video.digest,
        "detail": {"file": stretch.file, "first": first, "film": detail},
    }


def _cut(detail: Mapping[str, Any], first: int, length: int) -> tuple[int, Mapping[str, Any]]:
    """Return the part of a film's detail that an episode needs, and the episode's first frame in that part.

    Every episode would carry the key frames of all others otherwise.
    """
    film = Layout.of(detail)
    assert film.times is not None
    keys = film.keys[max(int(np.searchsorted(film.keys, first, side="right")) - 1, 0) :]
    keys = keys[keys < first + length]
    # Decoding up to the second key frame begins at the start of the film. So another one goes in front, which is never
    # used; at the distance of the others, that the list of them stays short.
    ahead = int(keys[0]) - (int(keys[1] - keys[0]) if len(keys) > 1 else 1)
    if ahead >= 0:
        keys = np.concatenate([[ahead], keys])
    start = min(int(keys[0]), first)
    times = film.times[start : first + length]
    return first - start, replace(film, times=times, keys=keys - start, frames=len(times)).detail()


def _locate(stretch: Stretch, times: np.ndarray, length: int, fps: float) -> int:
    """Return the film's frame that the episode starts with, once its timestamps and the frames' agree.

    Args:
        stretch: from where to where, in seconds after the film's first frame.
        times: of the film's frames, float ``(T,)`` in seconds after the first, rising.
        length: frames the episode should have.
        fps: frames per second.

    Raises:
        UnreadableVideo: they do not agree within half a frame.
    """
    assert stretch.start is not None and stretch.stop is not None
    # The writer adds up durations in floating point while the film counts ticks, so they drift apart a little.
    half = 0.5 / fps
    first = int(np.abs(times - stretch.start).argmin())
    end = float(times[-1]) + 1 / fps
    # So put that a time that is no number is refused.
    if not (abs(times[first] - stretch.start) <= half and stretch.stop <= end + half):
        raise UnreadableVideo(
            f"meta says {stretch.start:.3f} to {stretch.stop:.3f} s, {stretch.file} ends at {end:.3f} s; {AGAIN}"
        )
    frames = int(np.searchsorted(times, stretch.stop - half)) - first
    if frames != length:
        raise UnreadableVideo(
            f"meta says {length} frames, {stretch.file} has {frames} "
            f"from {stretch.start:.3f} to {stretch.stop:.3f} s; {AGAIN}"
        )
    return first


def _pictures(episode: Episode, camera: Camera, first: int, table: Table) -> dict[str, Any]:
    """Return where the episode's pictures are in its table."""
    if camera.feature not in table.sizes:
        raise UnreadableVideo(f"{episode.data} has no column {camera.feature}; {AGAIN}")
    sizes = table.sizes[camera.feature][first : first + episode.length]
    bad = np.flatnonzero((sizes != sizes[0]).any(1) | (sizes == 0).any(1))
    if len(bad):
        raise UnreadableVideo(
            f"picture {bad[0]} in {episode.data} is missing, damaged, or not as large as the first; {AGAIN}"
        )
    return {
        "height": int(sizes[0, 0]),
        "width": int(sizes[0, 1]),
        "digest": table.digest,
        "detail": {"file": episode.data, "first": first, "bytes": table.bytes, "feature": camera.feature},
    }
