from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from rsp_robot.errors import UserError
from rsp_robot.pretrain.walk import Walk, apportion


def plain(videos: int) -> Walk:
    return Walk([videos], [None])


@pytest.mark.parametrize("batch", [1, 3, 7, 8, 30])
def test_every_video_is_visited_once_per_epoch(batch: int) -> None:
    walk = np.concatenate([plain(7).visit(step * batch, batch, seed=5) for step in range(70)])
    epochs = walk[: len(walk) // 7 * 7].reshape(-1, 7)
    assert (np.sort(epochs, axis=1) == np.arange(7)).all()
    assert len({tuple(epoch) for epoch in epochs[:10]}) == 10, "in another order every time"
    assert np.array_equal(walk[:70], plain(7).visit(0, 70, seed=5)), "however it is cut into batches"
    assert not np.array_equal(walk[:70], plain(7).visit(0, 70, seed=6))


def test_every_order_is_as_likely_as_another() -> None:
    orders = Counter(tuple(plain(3).visit(3 * epoch, 3, seed=0)) for epoch in range(1200))
    assert len(orders) == 6 and all(abs(n - 200) < 60 for n in orders.values())


def test_places_without_weights_are_one_walk() -> None:
    walk = Walk([2, 0, 3], [None, None, None]).visit(0, 500, seed=1)
    assert np.array_equal(walk, Walk([5], [None]).visit(0, 500, seed=1))


def test_weights_are_shares_of_the_samples() -> None:
    walk = Walk([3, 40], [0.7, 0.3]).visit(0, 4000, seed=1)
    first = walk < 3
    assert all(chunk.sum() == 700 for chunk in first.reshape(4, 1000))
    assert 600 < first[:1000].sum() < 800 and 300 < first[:500].sum() < 400, "mixed within the thousand, too"
    own = walk[first]
    assert (np.sort(own[:2799].reshape(-1, 3), axis=1) == np.arange(3)).all(), "each place at its own pace"
    other = walk[~first]
    assert (np.sort(other[:1200].reshape(-1, 40), axis=1) == np.arange(3, 43)).all()


@pytest.mark.parametrize("batch", [7, 64, 1500])
def test_a_mixture_is_the_same_however_it_is_cut(batch: int) -> None:
    walk = Walk([3, 4], [0.5, 0.5])
    cut = np.concatenate([walk.visit(start, batch, seed=2) for start in range(0, 3000, batch)])
    assert np.array_equal(cut[:3000], walk.visit(0, 3000, seed=2))
    assert not np.array_equal(cut[:3000], walk.visit(0, 3000, seed=3))


def test_weights_that_cannot_be_met_are_refused() -> None:
    with pytest.raises(UserError, match=r"a weight of 0.0001 for 3 videos cannot be met; change --data"):
        Walk([3, 4], [0.0001, 0.9999])
    with pytest.raises(UserError, match=r"a weight of 0.5 for 0 videos cannot be met"):
        Walk([0, 4], [0.5, 0.5])


def test_shares_add_up() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        weights = rng.dirichlet(np.ones(6)).tolist()
        shares = apportion(weights, 1000)
        assert sum(shares) == 1000
        assert max(abs(share - 1000 * weight) for share, weight in zip(shares, weights, strict=True)) < 1
