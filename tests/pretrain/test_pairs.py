from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from rsp_robot.errors import UserError
from rsp_robot.pretrain import pairs
from rsp_robot.pretrain.objectives.base import PairSpec
from rsp_robot.pretrain.pairs import FramePairs, draw_pair, visit


def drawn(length: int, min_gap: int, max_gap: int, count: int = 4000) -> list[tuple[int, int]]:
    rng = np.random.default_rng(0)
    return [draw_pair(length, min_gap, max_gap, rng) for _ in range(count)]


def marks(frames: np.ndarray) -> np.ndarray:
    """``(..., H, W, 3)`` -> ``(..., 2)``: of which video and time a frame of the counting videos is."""
    return frames[..., 0, 0, :2].astype(int)


# -- one pair ----------------------------------------------------------------------------------------------------------


def test_gap_and_current_frame_are_uniform_within_their_bounds() -> None:
    found = drawn(length=12, min_gap=2, max_gap=5)
    gaps = Counter(future - current for current, future in found)
    assert set(gaps) == {2, 3, 4, 5}
    assert all(abs(n / 4000 - 1 / 4) < 0.03 for n in gaps.values())
    starts = Counter(current for current, _ in found)
    assert set(starts) == set(range(7)), "the largest gap fits from the last of them, and not from the next"
    assert all(abs(n / 4000 - 1 / 7) < 0.025 for n in starts.values())
    assert len(set(found)) == 4 * 7, "every gap is drawn from every frame"


def test_a_video_that_just_holds_the_largest_gap_starts_at_its_first_frame() -> None:
    assert set(drawn(length=6, min_gap=4, max_gap=5)) == {(0, 4), (0, 5)}


def test_a_video_shorter_than_the_largest_gap_gives_any_two_frames_in_order() -> None:
    found = Counter(drawn(length=4, min_gap=1, max_gap=4))
    assert set(found) == {(i, j) for i in range(4) for j in range(i + 1, 4)}
    assert all(abs(n / 4000 - 1 / 6) < 0.025 for n in found.values())


# -- which videos ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 3, 7, 8, 30])
def test_every_video_is_visited_once_per_epoch(batch: int) -> None:
    walk = np.concatenate([visit(7, step * batch, batch, seed=5) for step in range(70)])
    epochs = walk[: len(walk) // 7 * 7].reshape(-1, 7)
    assert (np.sort(epochs, axis=1) == np.arange(7)).all()
    assert len({tuple(epoch) for epoch in epochs[:10]}) == 10, "in another order every time"
    assert np.array_equal(walk[:70], visit(7, 0, 70, seed=5)), "however it is cut into batches"
    assert not np.array_equal(walk[:70], visit(7, 0, 70, seed=6))


def test_every_order_is_as_likely_as_another() -> None:
    orders = Counter(tuple(visit(3, 3 * epoch, 3, seed=0)) for epoch in range(1200))
    assert len(orders) == 6 and all(abs(n - 200) < 60 for n in orders.values())


# -- the pairs of a step -----------------------------------------------------------------------------------------------


def test_pairs_are_a_function_of_seed_and_step(make_videos: Any) -> None:
    source, same = (FramePairs(make_videos([30, 40, 50]), PairSpec(2, 6)) for _ in range(2))
    expected = [source.draw(step, 8, seed=3) for step in range(5)]
    np.random.seed(1)
    for step in (4, 0, 2, 2):  # after a resume, or in another process
        assert np.array_equal(same.draw(step, 8, seed=3), expected[step])
    assert not np.array_equal(source.draw(0, 8, seed=4), expected[0])
    assert len({row.tobytes() for row in expected}) == 5
    times = [source.draw(step, 1, repeats=9, seed=3)[:, 1:].tobytes() for step in range(5)]
    assert len(set(times)) == 5, "other frames at every step, not only other videos"


def test_the_videos_of_the_steps_are_the_walk(make_videos: Any) -> None:
    source = FramePairs(make_videos([30, 40, 50, 60]), PairSpec(2, 6))
    chosen = np.concatenate([source.draw(step, 3, seed=1)[:, 0] for step in range(4)])
    assert np.array_equal(chosen, visit(4, 0, 12, seed=1))


def test_gaps_keep_their_range_in_every_video(make_videos: Any) -> None:
    source = FramePairs(make_videos([10, 20, 15, 5]), PairSpec(2, 6))
    rows = np.concatenate([source.draw(step, 8) for step in range(300)])
    for place, length in enumerate((10, 20, 15)):
        times = rows[rows[:, 0] == place, 1:]
        gaps = times[:, 1] - times[:, 0]
        assert (gaps.min(), gaps.max()) == (2, 6)
        assert (times[:, 0].min(), times[:, 0].max()) == (0, length - 6 - 1), "uniform in [0, length - max_gap)"
    short = Counter(map(tuple, rows[rows[:, 0] == 3, 1:].tolist()))
    assert set(short) == {(i, j) for i in range(5) for j in range(i + 1, 5)}


def test_repeated_sampling_draws_other_pairs_of_the_same_video_beside_each_other(make_videos: Any) -> None:
    source = FramePairs(make_videos([200] * 6), PairSpec(2, 40))
    once, thrice = source.draw(7, 4, seed=2), source.draw(7, 4, repeats=3, seed=2)
    assert thrice.shape == (12, 3)
    assert np.array_equal(thrice[:, 0], np.repeat(once[:, 0], 3))
    assert len({tuple(row) for row in thrice.tolist()}) == 12
    by_video = thrice.reshape(4, 3, 3)
    assert all(len({tuple(row) for row in rows.tolist()}) == 3 for rows in by_video)


def test_frames_are_those_that_were_drawn(make_videos: Any) -> None:
    source = FramePairs(make_videos([10, 20, 15]), PairSpec(2, 6))
    rows = source.draw(0, 9)
    frames = source.read(rows)
    assert frames.shape == (9, 2, 4, 6, 3) and frames.dtype == np.uint8 and frames.flags.c_contiguous
    assert np.array_equal(marks(frames)[..., 0], rows[:, [0, 0]])
    assert np.array_equal(marks(frames)[..., 1], rows[:, 1:])


def test_some_of_the_videos(make_videos: Any) -> None:
    """Held-out videos are not even opened; places count among those that are left."""
    videos = make_videos([10, 3, 15, 20])
    source = FramePairs(videos, PairSpec(4, 6), videos=[0, 2, 3])
    assert (len(source), source.frames, videos.frames_read) == (3, 45, 3 + 45)
    rows = source.draw(0, 30)
    assert set(rows[:, 0]) == {0, 1, 2}
    assert np.array_equal(marks(source.read(rows))[:, 0, 0], np.array([0, 2, 3])[rows[:, 0]])
    assert set(marks(source.spread(45))[:, 0]) == {0, 2, 3}
    with pytest.raises(UserError, match="video 1 has 3 frames"):
        FramePairs(videos, PairSpec(4, 6), videos=[0, 1])
    with pytest.raises(UserError, match="no videos to learn from"):
        FramePairs(videos, PairSpec(4, 6), videos=[])


def test_large_sources_are_read_pair_by_pair_with_the_same_result(
    make_videos: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, wanted = PairSpec(2, 6), [2, 0]
    held = FramePairs(make_videos([10, 9, 20]), spec, wanted)
    frame = 4 * 6 * 3
    monkeypatch.setattr(pairs, "MEMORY_LIMIT", 30 * frame)
    videos = make_videos([10, 9, 20])
    kept = FramePairs(videos, spec, wanted)
    before = videos.frames_read
    kept.read(kept.draw(0, 8))
    assert videos.frames_read == before, "what just fits is kept"
    monkeypatch.setattr(pairs, "MEMORY_LIMIT", 30 * frame - 1)
    videos = make_videos([10, 9, 20])
    read = FramePairs(videos, spec, wanted)
    before = videos.frames_read
    assert before == 2, "one look at each video"
    assert np.array_equal(read.read(read.draw(0, 8)), held.read(held.draw(0, 8)))
    assert np.array_equal(read.spread(5), held.spread(5))
    assert videos.frames_read - before == 2 * 8 + 5


def test_spread_is_even_over_all_frames_and_the_same_at_every_call(make_videos: Any) -> None:
    source = FramePairs(make_videos([3, 5]), PairSpec(1, 2))
    assert source.frames == 8

    def places(count: int) -> list[tuple[int, int]]:
        return [(video, time) for video, time in marks(source.spread(count)).tolist()]

    assert places(4) == [(0, 0), (0, 2), (1, 2), (1, 4)]  # 0, 2.33, 4.67 and 7 of 0..7
    assert places(8) == [(0, 0), (0, 1), (0, 2), *((1, t) for t in range(5))]
    assert places(1) == [(0, 0)]
    assert np.array_equal(source.spread(4), source.spread(4))


@pytest.mark.parametrize(
    ("lengths", "sizes", "said"),
    [
        ([], None, "there are no videos to learn from; check --data"),
        ([9, 4, 5], None, "video 1 has 4 frames, a gap of 4 needs 5; lower the smallest gap or leave the video out"),
        ([9, 9, 9], [(4, 6), (4, 6), (8, 5)], "pictures differ in size: 6x4 in video 1, 5x8 in video 2; make them"),
    ],
)
def test_mistakes(make_videos: Any, lengths: list[int], sizes: Any, said: str) -> None:
    with pytest.raises(UserError) as error:
        FramePairs(make_videos(lengths, sizes), PairSpec(4, 8))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_video_one_frame_longer_than_the_smallest_gap_is_enough(make_videos: Any) -> None:
    rows = FramePairs(make_videos([5]), PairSpec(4, 48)).draw(0, 50)
    assert (rows[:, 1] < rows[:, 2]).all() and rows[:, 2].max() == 4
