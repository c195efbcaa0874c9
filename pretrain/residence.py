"""Where the frames of a run live: on the device, in host memory, or in the files of a frame store.

On the device a batch is picked by the device itself: no worker, no decoding, no copy. From host memory and from files
it is picked by the CPU, into page-locked memory where it goes to a GPU, so that the copy overlaps with the step.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed

import numpy as np
import torch

from rsp_robot.errors import UserError
from rsp_robot.machine import available_cores, available_memory
from rsp_robot.pretrain.resident import DiskShard, Location, MemoryShard, ResidentFrames, Shard
from rsp_robot.progress import Progress
from rsp_robot.videos import VideoSource
from rsp_robot.videos.formats.store import Store, open_shard
from rsp_robot.videos.info import Quarantined, UnreadableVideo, VideoInfo
from rsp_robot.videos.sizes import reduced_pieces, reduced_size

RESIDENCES = ("device", "host", "disk")
HOST_SHARE = 0.5
"""Share of the available host memory that frames may take unasked."""
ASKED_SHARE = 0.9
"""Share of the free memory that frames may take where a person insists."""

Reader = Callable[[int, np.ndarray], np.ndarray]


# -- builders ----------------------------------------------------------------------------------------------------------


def from_store(
    videos: Sequence[VideoInfo],
    device: torch.device,
    residence: str,
    workers: int | None = None,
    quiet: bool = False,
) -> ResidentFrames:
    """Take packed videos, of one frame store or of several, as they are. Only the frames of these videos are read.

    Raises:
        UnreadableVideo: a file is gone or not what the store says (``"disk"``; elsewhere the video is lost).
        ValueError: a video is not packed.
    """
    if any(video.format != Store.name for video in videos):
        raise ValueError("only packed videos are read as they are")
    if residence == "disk":
        return _on_disk(videos, device)
    store = Store()
    sizes = [(video.height, video.width) for video in videos]
    return _load(videos, sizes, lambda i, frames: store.read(videos[i], frames), device, residence, workers, quiet)


def decode(
    source: VideoSource,
    videos: Sequence[int],
    short_side: int,
    device: torch.device,
    residence: str,
    workers: int | None = None,
    quiet: bool = False,
) -> ResidentFrames:
    """Decode whole videos once, reduced to a short side, into the memory of the device or of the host.

    Raises:
        UserError: ``residence`` is ``"disk"``, where only packed frames can live.
    """
    if residence == "disk":
        raise UserError("videos that are not packed cannot be read from the disk frame by frame; rsp-robot pack them")
    infos = [source.videos[video] for video in videos]
    sizes = [reduced_size(info.height, info.width, short_side) for info in infos]
    return _load(infos, sizes, lambda i, frames: source.read(videos[i], frames), device, residence, workers, quiet)


def _on_disk(videos: Sequence[VideoInfo], device: torch.device) -> ResidentFrames:
    shards: dict[tuple[str, str], int] = {}
    made, locations = list[Shard](), list[Location]()
    for video in videos:
        known = (video.path, video.detail["shard"])
        if known not in shards:
            try:
                with open_shard(video) as file:
                    made.append(DiskShard(file.path, video.height, video.width, file.frames, device.type == "cuda"))
            except OSError as error:
                raise UnreadableVideo(f"{video.name} cannot be read any more ({error.strerror or error})") from None
            shards[known] = len(shards)
        locations.append(Location(shards[known], video.detail["first"], video.frames))
    return ResidentFrames(made, locations, "disk")


def _load(
    videos: Sequence[VideoInfo],
    sizes: Sequence[tuple[int, int]],
    read: Reader,
    device: torch.device,
    residence: str,
    workers: int | None,
    quiet: bool,
) -> ResidentFrames:
    """Read videos into memory: one shard for each size."""
    counts: dict[tuple[int, int], int] = {}
    locations = list[Location | None]()
    for video, size in zip(videos, sizes, strict=True):
        first = counts.setdefault(size, 0)
        locations.append(Location(list(counts).index(size), first, video.frames))
        counts[size] += video.frames
    home, pinned = (device, False) if residence == "device" else (torch.device("cpu"), device.type == "cuda")
    shards = [MemoryShard(count, *size, home, pinned) for size, count in counts.items()]
    lost: dict[int, Quarantined] = {}
    lock, stop = threading.Lock(), threading.Event()
    total = sum(video.frames for video in videos)

    def load(i: int) -> None:
        video, target = videos[i], locations[i]
        assert target is not None
        done = 0
        try:
            for piece in reduced_pieces(lambda frames: read(i, frames), video, min(sizes[i])):
                if stop.is_set():
                    return
                shards[target.shard].put(target.first + done, piece)
                done += len(piece)
                with lock:
                    bar.update(len(piece))
        except (UnreadableVideo, OSError) as error:
            reason = str(error.strerror or error) if isinstance(error, OSError) else str(error)
            with lock:
                lost[i] = Quarantined(video.path, video.key, reason)
                bar.say(f"left out {video.name}: {reason}")
                bar.update(video.frames - done)

    with (
        Progress("load", total, "frames", quiet=quiet) as bar,
        ThreadPoolExecutor(workers or available_cores()) as pool,
    ):
        try:
            for future in as_completed([pool.submit(load, i) for i in range(len(videos))]):
                future.result()
        except BaseException:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    for i in lost:
        locations[i] = None
    return ResidentFrames(shards, locations, residence, lost)


# -- memory ------------------------------------------------------------------------------------------------------------


def resident_bytes(videos: Sequence[VideoInfo], short_side: int | None = None) -> int:
    """Size of the frames of these videos, reduced to a short side if one is given."""
    if short_side is None:
        return sum(video.bytes for video in videos)
    return sum(3 * v.frames * int(np.prod(reduced_size(v.height, v.width, short_side))) for v in videos)


def choose_residence(size: int, device: torch.device, share: float = 0.3, asked: str = "auto") -> str:
    """Choose where frames of ``size`` bytes live.

    Unasked: on the device if they fit in a share of what is free there, else in half of the host's free memory, else
    on the disk.

    Raises:
        UserError: the residence asked for is none, or is too small.
    """
    host = available_memory()
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else host
    if asked == "auto":
        if size <= share * free:
            return "device"
        return "host" if size <= HOST_SHARE * host else "disk"
    if asked not in RESIDENCES:
        raise UserError(f"frames cannot live in {asked!r}; choose auto, {', '.join(RESIDENCES)}")
    room = {"device": free, "host": host, "disk": None}[asked]
    if room is not None and size > ASKED_SHARE * room:
        raise UserError(
            f"the frames need {size / 1e9:.3g} GB, of which {asked} memory has {room / 1e9:.3g} GB free; "
            "let them live elsewhere (auto) or pack them with a lower --short-side"
        )
    return asked
