from __future__ import annotations

import time

import numpy as np
import pytest
import torch

from rsp_robot.errors import UserError
from rsp_robot.export_checks import check_frames, compare, difference, latencies_ms
from rsp_robot.threads import one_thread


def mean_colour(frames: np.ndarray) -> np.ndarray:
    return frames.mean(axis=(1, 2), dtype=np.float32) + 1


def test_differences_are_the_largest_of_all_frames() -> None:
    expected = np.array([[3.0, 4.0], [0.0, 10.0]])
    found = np.array([[3.0, 4.5], [0.0, 10.8]])
    assert difference(expected, found) == pytest.approx((0.8, 0.1))


def test_nan_and_other_shapes_are_infinitely_far_away() -> None:
    whole = np.ones((2, 3))
    broken = whole.copy()
    broken[1, 1] = np.nan
    for expected, found in ((whole, broken), (broken, whole), (whole, whole[:1]), (whole, whole[:, None])):
        assert difference(expected, found) == (np.inf, np.inf)


def test_equal_programs_agree_and_others_are_refused() -> None:
    assert compare(mean_colour, mean_colour, (12, 16)).relative == 0
    close = compare(mean_colour, lambda frames: mean_colour(frames) * 1.00005, (12, 16))
    assert close.relative == pytest.approx(5e-5, rel=0.1)
    with pytest.raises(UserError, match=r"differs from the encoder by 1.0e-03 of .* more than 1e-04; nothing was kept"):
        compare(mean_colour, lambda frames: mean_colour(frames) * 1.001, (12, 16))
    with pytest.raises(UserError, match="by inf of"):
        compare(mean_colour, lambda frames: mean_colour(frames) * np.nan, (12, 16))


def test_a_program_that_is_wrong_for_one_frame_alone_is_refused() -> None:
    with pytest.raises(UserError, match="differs from the encoder"):
        compare(mean_colour, lambda frames: mean_colour(frames) * (1 if len(frames) > 1 else 1.01), (12, 16))


def test_the_frames_are_of_all_kinds() -> None:
    frames = check_frames(20, 30)
    assert frames.shape == (5, 20, 30, 3) and frames.dtype == np.uint8
    assert len({frame.tobytes() for frame in frames}) == 5
    assert all(frame.std() > 40 for frame in frames[:4]) and not frames[4].any()
    assert np.array_equal(frames, check_frames(20, 30))


def test_latencies_are_medians_of_one_frame_on_one_thread() -> None:
    threads = []

    def slow(frames: np.ndarray) -> np.ndarray:
        threads.append((len(frames), torch.get_num_threads()))
        time.sleep(0.02)
        return frames

    slow_ms, fast_ms = latencies_ms([slow, lambda frames: frames], check_frames(4, 4)[:1])
    assert fast_ms < 5 and 20 <= slow_ms < 60
    assert set(threads) == {(1, 1)}


def test_the_number_of_threads_comes_back() -> None:
    torch.set_num_threads(2)
    with pytest.raises(KeyError), one_thread():
        assert torch.get_num_threads() == 1
        raise KeyError
    assert torch.get_num_threads() == 2
