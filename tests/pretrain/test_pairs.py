from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from rsp_robot.errors import UserError
from rsp_robot.pretrain import pairs
from rsp_robot.pretrain.pairs import FramePairs, draw_pair


def drawn(length: int, min_gap: int, max_gap: int, count: int = 4000) -> list[tuple[int, int]]:
    rng = np.random.default_rng(0)
    return [draw_pair(length, min_gap, max_gap, rng) for _ in range(count)]


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


def test_batches_hold_current_and_future_of_one_video(make_videos: Any) -> None:
    source = FramePairs(make_videos([10, 20, 15]), 2, 6)
    current, future = source.sample(600, np.random.default_rng(0))
    assert current.shape == future.shape == (600, 4, 6, 3)
    assert current.dtype == future.dtype == np.uint8
    assert current.flags.c_contiguous and future.flags.c_contiguous
    videos, times = current[:, 0, 0, 0], current[:, 0, 0, 1].astype(int)
    assert np.array_equal(videos, future[:, 0, 0, 0])
    gaps = future[:, 0, 0, 1] - times
    assert (gaps.min(), gaps.max()) == (2, 6)
    assert all(abs(np.mean(videos == video) - 1 / 3) < 0.07 for video in range(3)), "videos uniformly, not frames"


def test_the_same_generator_state_gives_the_same_batch(make_videos: Any) -> None:
    source = FramePairs(make_videos([10, 20]), 2, 6)
    first, again, other = (source.sample(16, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_large_sources_are_read_pair_by_pair_with_the_same_result(
    make_videos: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = FramePairs(make_videos([10, 20]), 2, 6)
    frame = 4 * 6 * 3
    monkeypatch.setattr(pairs, "MEMORY_LIMIT", 30 * frame)
    assert FramePairs(make_videos([10, 20]), 2, 6)._memory is not None, "what just fits is kept"
    monkeypatch.setattr(pairs, "MEMORY_LIMIT", 30 * frame - 1)
    videos = make_videos([10, 20])
    read = FramePairs(videos, 2, 6)
    before = videos.frames_read
    assert np.array_equal(read.sample(8, np.random.default_rng(0)), held.sample(8, np.random.default_rng(0)))
    assert np.array_equal(read.spread(5), held.spread(5))
    assert videos.frames_read - before == 2 * 8 + 5


def test_spread_is_even_over_all_frames_and_the_same_at_every_call(make_videos: Any) -> None:
    source = FramePairs(make_videos([3, 5]), 1, 2)
    assert source.frames == 8

    def places(count: int) -> list[tuple[int, int]]:
        return [(int(video), int(time)) for video, time in source.spread(count)[:, 0, 0, :2]]

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
        FramePairs(make_videos(lengths, sizes), 4, 8)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_video_one_frame_longer_than_the_smallest_gap_is_enough(make_videos: Any) -> None:
    current, future = FramePairs(make_videos([5]), 4, 48).sample(50, np.random.default_rng(0))
    assert (current[:, 0, 0, 1] < future[:, 0, 0, 1]).all()
