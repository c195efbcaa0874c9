"""Open what a run learns from: videos, their split, and the samples drawn from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from rsp_robot.errors import UserError
from rsp_robot.machine import available_cores
from rsp_robot.pretrain.config import PretrainConfig
from rsp_robot.pretrain.residence import choose_residence, decode, from_store, resident_bytes
from rsp_robot.pretrain.resident import ResidentFrames
from rsp_robot.pretrain.samples import Samples, refuse_unfit, split_videos
from rsp_robot.videos import Quarantined, VideoInfo, Videos, open_videos

SMALL = 4 * 2**30
"""Videos that come to this many bytes when decoded are decoded once, at the start, and kept."""


QUIET = 64 * 2**20
"""Fewer bytes than this are decoded without a progress bar."""


class Data(NamedTuple):
    """Everything a run learns from."""

    source: Videos
    samples: Samples
    """Of the training videos."""
    training: list[int]
    """Numbers of the training videos in the source."""
    held_out: list[int]
    """Numbers of those that training never sees."""
    quarantined: tuple[Quarantined, ...]
    """What was left out, and why."""


def find_videos(config: PretrainConfig) -> Videos:
    """Open the videos that a run asks for.

    Raises:
        UserError: there are none.
    """
    return open_videos(
        config.data, config.cameras, config.tasks, config.episodes, config.fps, config.strict, config.workers
    )


def load_data(
    config: PretrainConfig,
    device: torch.device,
    on_failure: Callable[[VideoInfo, str], None] = lambda video, reason: None,
    quiet: bool = False,
) -> Data:
    """Open the videos of a run and put their frames where they are to live.

    Args:
        config: the run.
        device: where it computes.
        on_failure: told of every video that cannot be read any more, later.
        quiet: show no progress.

    Raises:
        UserError: there is nothing to learn from, or it does not fit where it was asked to be.
    """
    source = find_videos(config)
    fit, unfit = refuse_unfit(source, config.objective.frames)
    training, held_out = split_videos(source, fit, config.holdout)
    resident = settle(config, source, training, device, quiet)
    if resident is not None and resident.lost:
        unfit += resident.lost.values()
        training = [video for place, video in enumerate(training) if place not in resident.lost]
        resident = resident.without_lost()
    if unfit and (config.strict or not training):
        raise UserError(f"{unfit[0].name}: {unfit[0].reason}; leave it out of --data, or leave out --strict")
    samples = Samples(
        source,
        config.objective.frames,
        training,
        resident=resident,
        short_side=config.largest_side,
        workers=config.workers or available_cores(),
        strict=config.strict,
        on_failure=on_failure,
    )
    return Data(source, samples, training, held_out, (*source.quarantined, *unfit))


def settle(
    config: PretrainConfig, source: Videos, videos: Sequence[int], device: torch.device, quiet: bool = False
) -> ResidentFrames | None:
    """Bring the frames of some videos to where a run wants them, or return None: they are decoded when needed.

    Raises:
        UserError: they do not fit there.
    """
    asked, share = config.keep_frames, config.device_share
    infos = [source.videos[video] for video in videos]
    if asked == "source":
        return None
    if all(info.format == "store" for info in infos):
        residence = choose_residence(resident_bytes(infos), device, share, asked)
        return from_store(infos, device, residence, config.workers, quiet)
    size = resident_bytes(infos, config.largest_side)
    if asked == "auto" and size > SMALL:
        return None
    residence = choose_residence(size, device, share, asked)
    if asked == "auto" and residence == "disk":
        return None
    return decode(source, videos, config.largest_side, device, residence, config.workers, quiet or size < QUIET)
