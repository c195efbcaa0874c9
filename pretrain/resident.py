"""Frames in memory or on the disk, picked for batches."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch

from rsp_robot.videos.formats.store import ShardFile
from rsp_robot.videos.info import Quarantined, UnreadableVideo


class Location(NamedTuple):
    """Where the frames of a video are: ``frames`` of them from ``first`` on, in one of the shards."""

    shard: int
    first: int
    frames: int


class Shard(Protocol):
    """Frames of one size."""

    @property
    def height(self) -> int:
        """In pixels."""

    @property
    def width(self) -> int:
        """In pixels."""

    @property
    def device(self) -> torch.device:
        """Where :meth:`take` puts them."""

    @property
    def pinned(self) -> bool:
        """Whether they are put into page-locked memory."""

    def take(self, places: np.ndarray) -> torch.Tensor:
        """Copy the frames at these places: int64 ``(N,)`` -> uint8 ``(N, H, W, 3)``."""


class MemoryShard:
    """Frames of one size in the memory of a device or of the host."""

    def __init__(self, frames: int, height: int, width: int, device: torch.device, pinned: bool) -> None:
        """Take the memory.

        Args:
            frames: how many.
            height: of each.
            width: of each.
            device: where.
            pinned: whether host memory is page-locked, and with it every batch taken.
        """
        self.height, self.width, self.device, self.pinned = height, width, device, pinned
        # From NumPy on the CPU: it asks for huge pages, which makes fresh memory four times as fast.
        self.pixels = empty((frames, height * width * 3), device)
        if pinned:
            self._page_lock()

    def __len__(self) -> int:
        return len(self.pixels)

    def _page_lock(self) -> None:
        """Lock the memory in place as long as this object lives; where the system refuses, it stays as it is.

        Not ``pin_memory``: it rounds up to a power of two, up to twice what is needed.
        """
        runtime, address = torch.cuda.cudart(), self.pixels.data_ptr()
        if self.pixels.numel() and int(runtime.cudaHostRegister(address, self.pixels.nbytes, 0)) == 0:
            weakref.finalize(self, runtime.cudaHostUnregister, address).atexit = False

    def put(self, first: int, frames: np.ndarray) -> None:
        """Write frames uint8 ``(k, H, W, 3)`` from place ``first`` on."""
        self.pixels[first : first + len(frames)].copy_(torch.from_numpy(frames).flatten(1))

    def take(self, places: np.ndarray) -> torch.Tensor:
        """Copy the frames at these places: int64 ``(N,)`` -> uint8 ``(N, H, W, 3)``."""
        index = _moved(torch.from_numpy(places), self.device)
        out = empty((len(places), self.pixels.shape[1]), self.device, self.pinned)
        torch.index_select(_words(self.pixels), 0, index, out=_words(out))
        return out.view(-1, self.height, self.width, 3)


class DiskShard:
    """Frames of one size in a file of a frame store, read anew for every batch."""

    device = torch.device("cpu")

    def __init__(self, path: Path, height: int, width: int, frames: int, pinned: bool) -> None:
        """Name the file; it is opened when it is read, so that thousands of them can be in use."""
        self.path, self.height, self.width, self.frames, self.pinned = path, height, width, frames, pinned

    def take(self, places: np.ndarray) -> torch.Tensor:
        """Read the frames at these places: int64 ``(N,)`` -> uint8 ``(N, H, W, 3)``.

        Raises:
            UnreadableVideo: the file is gone or changed.
        """
        out = empty((len(places), self.height, self.width, 3), self.device, self.pinned)
        try:
            with ShardFile(self.path, self.height, self.width, self.frames) as file:
                file.read(places, out.numpy())
        except OSError as error:
            raise UnreadableVideo(f"{self.path} cannot be read any more ({error.strerror or error})") from None
        return out


class ResidentFrames:
    """The frames of some videos, ready to be picked for batches.

    Attributes:
        locations: of each video; None where it could not be read.
        lost: why, by the place of the video.
        residence: ``"device"``, ``"host"`` or ``"disk"``.
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        locations: Sequence[Location | None],
        residence: str,
        lost: Mapping[int, Quarantined] | None = None,
    ) -> None:
        """Put together what a builder below has read."""
        self.shards, self.locations, self.residence = tuple(shards), tuple(locations), residence
        self.lost = dict(lost or {})
        self._table = np.array([location or (-1, 0, 0) for location in locations], np.int64).reshape(-1, 3)
        self._sizes = np.array([(shard.height, shard.width) for shard in shards], np.int64).reshape(-1, 2)

    def __len__(self) -> int:
        return len(self.locations)

    def without_lost(self) -> ResidentFrames:
        """Return the same frames with the videos counted anew, those left out that could not be read."""
        return ResidentFrames(self.shards, [found for found in self.locations if found is not None], self.residence)

    @property
    def device(self) -> torch.device:
        """Where batches come out."""
        return self.shards[0].device

    @property
    def bytes(self) -> int:
        """Size of all frames."""
        pixels = self._sizes.prod(1)
        return int(sum(3 * pixels[found.shard] * found.frames for found in self.locations if found is not None))

    def gather(self, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Pick the frames of a batch.

        Args:
            rows: int64 ``(B, 1 + K)``: place of the video, then frame numbers within it.

        Returns:
            Frames uint8 ``(B, K, H, W, 3)`` on :attr:`device`, smaller ones in the top left of a black canvas as large
            as the largest of the batch; and sizes int64 ``(B, 2)`` on the CPU, the height and width of each sample.

        Raises:
            IndexError: there is no such video or frame.
            UnreadableVideo: a file they lie in is gone or changed.
        """
        rows = np.asarray(rows, np.int64)
        B, K = rows.shape[0], rows.shape[1] - 1
        if rows[:, 0].min(initial=0) < 0:
            raise IndexError("videos are counted from 0")
        shard, first, frames = self._table[rows[:, 0]].T
        wrong = (rows[:, 1:] < 0) | (rows[:, 1:] >= frames[:, None])
        if wrong.any():
            b, k = np.argwhere(wrong)[0]
            raise IndexError(f"frame {rows[b, 1 + k]} of video {rows[b, 0]}, which has {frames[b]}")
        places = first[:, None] + rows[:, 1:]
        sizes = self._sizes[shard]
        used = np.unique(shard)
        if len(used) == 1:
            taken = self.shards[used[0]].take(places.reshape(-1))
            return taken.view(B, K, *taken.shape[1:]), torch.from_numpy(sizes)
        H, W = sizes.max(0, initial=0).tolist()
        canvas = empty((B, K, H, W, 3), self.device, self.shards[0].pinned).zero_()
        for number in used.tolist():
            members = np.flatnonzero(shard == number)
            h, w = self._sizes[number].tolist()
            taken = self.shards[number].take(places[members].reshape(-1)).view(len(members), K, h, w, 3)
            canvas[_moved(torch.from_numpy(members), self.device), :, :h, :w] = taken
        return canvas, torch.from_numpy(sizes)


def empty(shape: tuple[int, ...], device: torch.device, pinned: bool = False) -> torch.Tensor:
    """Take memory for uint8, as it comes."""
    if pinned or device.type != "cpu":
        return torch.empty(shape, dtype=torch.uint8, device=device, pin_memory=pinned)
    return torch.from_numpy(np.empty(shape, np.uint8))


def _words(pixels: torch.Tensor) -> torch.Tensor:
    """View rows of bytes as rows of the longest integers they divide into: fewer elements to copy."""
    for dtype in (torch.int64, torch.int32, torch.int16):
        if pixels.shape[1] % dtype.itemsize == 0:
            return pixels.view(dtype)
    return pixels


def _moved(index: torch.Tensor, device: torch.device) -> torch.Tensor:
    return index.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else index
