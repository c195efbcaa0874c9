"""In which order videos are visited: a pure function of seed and position, with or without weights."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from rsp_robot.errors import UserError
from rsp_robot.pretrain.streams import stream

BLOCK = 1000
"""Positions within which the places of a mixture have exactly their shares."""


class Walk:
    """An endless walk over videos. Those of one group come all once before any comes again.

    Groups without weights make one walk; groups with weights are walked each at its own pace, interleaved at random so
    that every thousand positions hold each group by its share.
    """

    def __init__(self, sizes: Sequence[int], weights: Sequence[float | None]) -> None:
        """Take the videos of each group by number, counted through all groups.

        Raises:
            UserError: a group has a weight too small to be met, or one without videos has a weight.
        """
        self.sizes, self.starts = list(sizes), np.concatenate([[0], np.cumsum(sizes)])[:-1]
        self.shares: tuple[int, ...] | None = None
        if all(weight is not None for weight in weights):
            self.shares = apportion([float(weight or 0) for weight in weights], BLOCK)
            for size, share, weight in zip(sizes, self.shares, weights, strict=True):
                if not share or not size:
                    raise UserError(f"a weight of {weight:.3g} for {size} videos cannot be met; change --data")

    def visit(self, first: int, count: int, seed: int) -> np.ndarray:
        """Return positions ``first .. first + count`` of the walk.

        >>> sorted(Walk([2, 3], [None, None]).visit(10, 5, seed=0).tolist())
        [0, 1, 2, 3, 4]
        """
        positions = np.arange(first, first + count)
        if self.shares is None:
            return _rounds(sum(self.sizes), positions, seed, 0)
        blocks, within = positions // BLOCK, positions % BLOCK
        videos = np.empty(count, np.int64)
        for block in np.unique(blocks):
            here = blocks == block
            groups, ordinals = (array[within[here]] for array in _interleaved(self.shares, seed, int(block)))
            found = np.empty(len(groups), np.int64)
            for group in np.unique(groups):
                own = groups == group
                walked = int(block) * self.shares[group] + ordinals[own]
                found[own] = self.starts[group] + _rounds(self.sizes[group], walked, seed, int(group))
            videos[here] = found
        return videos


def apportion(weights: Sequence[float], total: int) -> tuple[int, ...]:
    """Share out whole numbers by weight: largest remainders, the first of equal ones.

    >>> apportion([0.5, 0.25, 0.25], 10), apportion([1, 1, 1], 10)
    ((5, 3, 2), (4, 3, 3))
    """
    exact = np.asarray(weights, dtype=float) * total / sum(weights)
    shares = np.floor(exact + 1e-9).astype(int)
    order = np.argsort(-(exact - shares), kind="stable")
    shares[order[: total - shares.sum()]] += 1
    return tuple(shares.tolist())


def _rounds(videos: int, positions: np.ndarray, seed: int, group: int) -> np.ndarray:
    """Look positions up in permutations that follow one another."""
    epochs, places = np.divmod(positions, videos)
    found = [_order(videos, seed, int(epoch), group)[place] for epoch, place in zip(epochs, places, strict=True)]
    return np.array(found, np.int64)


@lru_cache(maxsize=16)
def _order(videos: int, seed: int, epoch: int, group: int) -> np.ndarray:
    return stream("order", seed, epoch, videos, group).permutation(videos)


@lru_cache(maxsize=16)
def _interleaved(shares: tuple[int, ...], seed: int, block: int) -> tuple[np.ndarray, np.ndarray]:
    """Which group each position of a block belongs to, and which of the group's in that block it is."""
    groups = stream("mixture", seed, block).permutation(np.repeat(np.arange(len(shares)), shares))
    ordinals = np.empty(len(groups), np.int64)
    for group in range(len(shares)):
        ordinals[groups == group] = np.arange(shares[group])
    return groups, ordinals
