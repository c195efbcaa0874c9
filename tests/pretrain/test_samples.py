from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from rsp_robot.errors import UserError
from rsp_robot.pretrain.samples import Samples, on_one_canvas, refuse_unfit, split_videos
from rsp_robot.pretrain.sampling import ClipSpec, FrameSpec, PairSpec
from rsp_robot.pretrain.walk import Walk


def marks(frames: np.ndarray | torch.Tensor) -> np.ndarray:
    """``(..., H, W, 3)`` -> ``(..., 2)``: of which video and time a frame of the counting videos is."""
    return np.asarray(frames)[..., 0, 0, :2].astype(int)


# -- which videos ------------------------------------------------------------------------------------------------------


def test_videos_that_are_too_short_are_told(make_videos: Any) -> None:
    fit, unfit = refuse_unfit(make_videos([1, 2, 9]), PairSpec(4, 8))
    assert fit == [1, 2]
    assert [(row.name, row.reason) for row in unfit] == [("toy:0", "too short: 1 frame, a sample needs 2")]
    fit, unfit = refuse_unfit(make_videos([8, 9]), ClipSpec(3, 4))
    assert fit == [1] and "too short: 8 frames, a sample needs 9" in unfit[0].reason


def test_a_frame_rate_has_to_be_known_only_for_seconds(make_videos: Any) -> None:
    videos = make_videos([30, 30], fps=[0.0, 10.0])
    assert refuse_unfit(videos, PairSpec(4, 8))[0] == [0, 1]
    fit, unfit = refuse_unfit(videos, PairSpec(0.4, 0.8, "seconds"))
    assert fit == [1] and "frame rate unknown, samples are in seconds; give --fps" in unfit[0].reason


def test_no_video_that_is_fit(make_videos: Any) -> None:
    with pytest.raises(UserError, match=r"there are no videos to learn from \(toy:0: too short: 1 frame.*\); check"):
        refuse_unfit(make_videos([1, 1]), PairSpec(4, 8))
    with pytest.raises(UserError, match=r"there are no videos to learn from \(there are none\); check --data"):
        refuse_unfit(make_videos([]), PairSpec(4, 8))


def test_the_last_episodes_are_held_out_with_all_their_cameras(make_videos: Any) -> None:
    videos = make_videos([9] * 6, episodes=["a", "a", "b", "b", "c", "c"])
    assert split_videos(videos, range(6), 0.3) == ([0, 1, 2, 3], [4, 5])
    assert split_videos(videos, [0, 2, 3, 5], 0.3) == ([0, 2, 3], [5]), "among those that are fit"
    assert split_videos(videos, range(6), 0.0) == (list(range(6)), [])
    with pytest.raises(UserError, match=r"a holdout of 0.9 leaves none of 3 videos to learn from; lower --holdout"):
        split_videos(videos, range(6), 0.9)


def test_every_place_of_a_mixture_holds_some_out(make_videos: Any) -> None:
    videos = make_videos([9] * 10, groups=[(4, None), (6, None)])
    assert split_videos(videos, range(10), 0.25) == ([0, 1, 2, 4, 5, 6, 7], [3, 8, 9])
    assert split_videos(videos, [3, 8, 9], 0.1) == ([3, 8], [9]), "a single one is learned from"


# -- which frames ------------------------------------------------------------------------------------------------------


def test_samples_are_a_function_of_seed_and_step(make_videos: Any) -> None:
    source, same = (Samples(make_videos([30, 40, 50]), PairSpec(2, 6)) for _ in range(2))
    expected = [source.draw(step, 8, seed=3) for step in range(5)]
    np.random.seed(1)
    for step in (4, 0, 2, 2):  # after a resume, or in another process
        assert np.array_equal(same.draw(step, 8, seed=3), expected[step])
    assert not np.array_equal(source.draw(0, 8, seed=4), expected[0])
    assert len({row.tobytes() for row in expected}) == 5
    times = [source.draw(step, 1, repeats=9, seed=3)[:, 1:].tobytes() for step in range(5)]
    assert len(set(times)) == 5, "other frames at every step, not only other videos"


def test_the_videos_of_the_steps_are_the_walk(make_videos: Any) -> None:
    source = Samples(make_videos([30, 40, 50, 60]), PairSpec(2, 6))
    chosen = np.concatenate([source.draw(step, 3, seed=1)[:, 0] for step in range(4)])
    assert np.array_equal(chosen, Walk([4], [None]).visit(0, 12, seed=1))


def test_weights_of_places_are_kept_among_the_chosen_videos(make_videos: Any) -> None:
    videos = make_videos([9] * 6, groups=[(2, 0.8), (4, 0.2)])
    source = Samples(videos, FrameSpec(), videos=[1, 2, 4])
    chosen = Counter(np.array([1, 2, 4])[source.draw(0, 1000)[:, 0]].tolist())
    assert chosen == {1: 800, 2: 100, 4: 100}


def test_gaps_keep_their_range_in_every_video(make_videos: Any) -> None:
    source = Samples(make_videos([10, 20, 15, 5]), PairSpec(2, 6))
    rows = np.concatenate([source.draw(step, 8) for step in range(300)])
    for place, length in enumerate((10, 20, 15)):
        times = rows[rows[:, 0] == place, 1:]
        gaps = times[:, 1] - times[:, 0]
        assert (gaps.min(), gaps.max()) == (2, 6)
        assert (times[:, 0].min(), times[:, 0].max()) == (0, length - 6 - 1), "uniform in [0, length - max_gap)"
    short = Counter(map(tuple, rows[rows[:, 0] == 3, 1:].tolist()))
    assert set(short) == {(i, j) for i in range(5) for j in range(i + 1, 5)}


def test_frame_rates_count_where_gaps_are_in_seconds(make_videos: Any) -> None:
    source = Samples(make_videos([99, 99], fps=[10.0, 30.0]), PairSpec(1.0, 1.0, "seconds"))
    rows = source.draw(0, 20)
    assert np.array_equal(rows[:, 2] - rows[:, 1], np.array([10, 30])[rows[:, 0]])


def test_repeated_sampling_draws_other_pairs_of_the_same_video_beside_each_other(make_videos: Any) -> None:
    source = Samples(make_videos([200] * 6), PairSpec(2, 40))
    once, thrice = source.draw(7, 4, seed=2), source.draw(7, 4, repeats=3, seed=2)
    assert thrice.shape == (12, 3)
    assert np.array_equal(thrice[:, 0], np.repeat(once[:, 0], 3))
    assert len({tuple(row) for row in thrice.tolist()}) == 12
    by_video = thrice.reshape(4, 3, 3)
    assert all(len({tuple(row) for row in rows.tolist()}) == 3 for rows in by_video)


# -- reading -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("spec", [PairSpec(2, 6), ClipSpec(3, 2), FrameSpec()])
def test_frames_are_those_that_were_drawn(make_videos: Any, spec: Any, workers: int) -> None:
    source = Samples(make_videos([10, 20, 15]), spec, workers=workers)
    rows = source.draw(0, 9, repeats=2)
    frames, sizes = source.read(rows)
    assert frames.shape == (18, spec.count, 4, 6, 3) and frames.dtype == torch.uint8 and frames.is_contiguous()
    assert np.array_equal(marks(frames)[..., 0], np.repeat(rows[:, :1], spec.count, axis=1))
    assert np.array_equal(marks(frames)[..., 1], rows[:, 1:])
    assert sizes.tolist() == [[4, 6]] * 18


def test_some_of_the_videos(make_videos: Any) -> None:
    """Held-out videos are not even opened; places count among those that are left."""
    videos = make_videos([10, 3, 15, 20])
    source = Samples(videos, PairSpec(4, 6), videos=[0, 2, 3])
    assert (len(source), source.frames, videos.frames_read) == (3, 45, 0)
    rows = source.draw(0, 30)
    assert set(rows[:, 0]) == {0, 1, 2}
    assert np.array_equal(marks(source.read(rows).frames)[:, 0, 0], np.array([0, 2, 3])[rows[:, 0]])
    assert set(marks(np.stack(source.spread(45)))[:, 0]) == {0, 2, 3}


def test_pictures_of_different_sizes_lie_in_the_corner_of_one_canvas(make_videos: Any) -> None:
    source = Samples(make_videos([5, 5], sizes=[(4, 6), (8, 5)]), FrameSpec())
    frames, sizes = source.read(np.array([[0, 3], [1, 2]]))
    assert frames.shape == (2, 1, 8, 6, 3) and sizes.tolist() == [[4, 6], [8, 5]]
    assert (frames[0, 0, :4, :, 1] == 3).all() and not frames[0, 0, 4:].any()
    assert (frames[1, 0, :, :5, 1] == 2).all() and not frames[1, 0, :, 5:].any()


def test_large_pictures_are_reduced_when_they_are_read(make_videos: Any) -> None:
    source = Samples(make_videos([5, 5], sizes=[(40, 60), (9, 9)]), FrameSpec(), short_side=10)
    frames, sizes = source.read(np.array([[0, 3], [1, 2]]))
    assert sizes.tolist() == [[10, 15], [9, 9]]
    assert (frames[0, 0, :10, :15, 1] == 3).all()


def test_a_canvas_of_equal_pictures_is_full() -> None:
    samples = [np.full((2, 3, 4, 3), fill, np.uint8) for fill in (7, 9)]
    frames, sizes = on_one_canvas(samples)
    assert frames.shape == (2, 2, 3, 4, 3) and frames[0].unique().tolist() == [7] and frames[1].unique().tolist() == [9]
    assert sizes.tolist() == [[3, 4], [3, 4]]


def test_spread_is_even_over_all_frames_and_the_same_at_every_call(make_videos: Any) -> None:
    source = Samples(make_videos([3, 5]), PairSpec(1, 2))
    assert source.frames == 8

    def places(count: int) -> list[tuple[int, int]]:
        return [(video, time) for video, time in marks(np.stack(source.spread(count))).tolist()]

    assert places(4) == [(0, 0), (0, 2), (1, 2), (1, 4)]  # 0, 2.33, 4.67 and 7 of 0..7
    assert places(8) == [(0, 0), (0, 1), (0, 2), *((1, t) for t in range(5))]
    assert places(1) == [(0, 0)]


# -- videos that cannot be read any more -------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 4])
def test_a_video_that_cannot_be_read_any_more_is_replaced_and_told_once(make_videos: Any, workers: int) -> None:
    videos, told = make_videos([20, 20, 20]), []
    source = Samples(
        videos, PairSpec(2, 6), workers=workers, on_failure=lambda video, reason: told.append((video.key, reason))
    )
    rows = source.draw(0, 30)
    videos.broken = {1, 2}
    frames = source.read(rows).frames
    assert set(marks(frames)[..., 0].ravel()) == {0}
    intact = rows[:, 0] == 0
    assert np.array_equal(marks(frames)[intact, :, 1], rows[intact, 1:]), "the others are as they were"
    gaps = np.diff(marks(frames)[..., 1], axis=1)
    assert gaps.min() >= 2 and gaps.max() <= 6
    assert len(set(map(bytes, frames[~intact].numpy()))) > 5, "and the replaced ones are not all alike"
    assert torch.equal(source.read(rows).frames, frames)
    assert sorted(told) == [("1", "video 1 is broken"), ("2", "video 2 is broken")]


def test_a_run_without_any_readable_video_ends(make_videos: Any) -> None:
    videos = make_videos([20, 20])
    source = Samples(videos, PairSpec(2, 6))
    videos.broken = {0, 1}
    with pytest.raises(UserError, match=r"no video can be read any more, the last one because video \d is broken"):
        source.read(source.draw(0, 4))


def test_strict_samples_end_at_the_first_unreadable_video(make_videos: Any) -> None:
    videos = make_videos([20, 20])
    source = Samples(videos, PairSpec(2, 6), strict=True)
    videos.broken = {1}
    with pytest.raises(UserError, match="video 1 is broken; mend it, or leave out --strict"):
        source.read(source.draw(0, 4))


def test_spread_leaves_out_what_cannot_be_read(make_videos: Any) -> None:
    videos = make_videos([3, 5])
    source = Samples(videos, PairSpec(1, 2))
    videos.broken = {0}
    assert marks(np.stack(source.spread(8)))[:, 0].tolist() == [1] * 5
    assert list(source.failed) == [0]
