"""``rsp-robot pack``: decode videos once, into a folder of frames that training reads without decoding."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class PackCommand:
    """Which videos, how large, and where to."""

    out: Path
    """Folder of the frame store; the same command again continues one that was interrupted."""
    data: str = ""
    """Videos: a file, a folder, a data set, or several with commas between them. Not needed with --verify."""
    short_side: int = 256
    """Shorter side of the frames in pixels; larger ones are reduced, smaller ones kept."""
    cameras: tuple[str, ...] = ()
    """Only these cameras, by name or pattern; all by default."""
    tasks: tuple[str, ...] = ()
    """Only these tasks, by name or pattern; all by default."""
    episodes: tuple[str, ...] = ()
    """Only these episodes, by name or pattern; all by default."""
    fps: float | None = None
    """Frames per second of videos that do not say theirs."""
    workers: int | None = None
    """Threads that decode; as many as there are cores by default."""
    strict: bool = False
    """Stop at the first video that cannot be read, instead of leaving it out."""
    verify: bool = False
    """Pack nothing; compute the hashes of the store at --out again and list the videos that are damaged."""


def pack(command: PackCommand) -> Path | int:
    """Pack the videos; return the folder, or exit status 1 if ``verify`` found damage.

    Raises:
        UserError: the videos cannot be opened, or the store cannot be written or read.
    """
    from rsp_robot import videos
    from rsp_robot.errors import UserError
    from rsp_robot.videos.pack import pack_videos

    if command.short_side < 1:
        raise UserError(f"--short-side is {command.short_side}; it must be at least 1")
    if command.workers is not None and command.workers < 1:
        raise UserError(f"--workers is {command.workers}; it must be at least 1")
    if command.verify:
        return verify(command.out)
    if not command.data:
        raise UserError("there is nothing to pack; give --data, or --verify to check a store")
    check_places(command)
    source = videos.open_videos(
        command.data,
        cameras=command.cameras,
        tasks=command.tasks,
        episodes=command.episodes,
        fps=command.fps,
        strict=command.strict,
    )
    packed = pack_videos(
        source, command.out, command.short_side, spec=command.data, workers=command.workers, strict=command.strict
    )
    line = f"packed {_count(packed.videos, 'video')}, {_count(packed.frames, 'frame')}, {packed.bytes / 1e9:.3g} GB"
    if packed.quarantined:
        line += f"; left out {packed.quarantined:,}, see {packed.path / 'quarantine.txt'}"
    print(line, file=sys.stderr)
    return packed.path


def check_places(command: PackCommand) -> None:
    """Refuse what would not come out as meant.

    Raises:
        UserError: the places have weights, which a store has not, or the store would become part of its own source.
    """
    from rsp_robot.errors import UserError
    from rsp_robot.videos.spec import parse_spec

    for part in parse_spec(command.data):
        if part.weight is not None:
            raise UserError(
                "a frame store keeps no weights; pack every place on its own and give the weights to pretrain --data"
            )
        if command.out.resolve().is_relative_to(part.path.resolve()):
            raise UserError(f"--out {command.out} lies within --data {part.path}; give a folder outside it")


def verify(store: Path) -> Path | int:
    """Check the hashes of a frame store; return its folder, or 1 if a video is damaged.

    Raises:
        UserError: it is no frame store, or not a whole one.
    """
    from rsp_robot.errors import UserError
    from rsp_robot.videos.formats.store import Store
    from rsp_robot.videos.formats.store import verify as damaged

    if not Store().claims(store):
        raise UserError(f"{store} is no frame store; make one with rsp-robot pack")
    bad = damaged(store)
    for video in bad:
        print(f"{video.name}: {video.reason}", file=sys.stderr)
    if bad:
        print(f"{_count(len(bad), 'video')} damaged", file=sys.stderr)
        return 1
    count = sum(1 for _ in Store().inspect(store))
    print(f"{_count(count, 'video')}, all as packed", file=sys.stderr)
    return store


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"
