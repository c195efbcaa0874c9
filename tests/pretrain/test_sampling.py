from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from rsp_robot.errors import UserError
from rsp_robot.pretrain.sampling import ClipSpec, CropPairSpec, FrameSpec, PairSpec, SampleSpec

DRAWS = 4000


def drawn(spec: SampleSpec, length: int, fps: float = 10.0) -> list[tuple[int, ...]]:
    uniform = np.random.default_rng(0).random((DRAWS, 2))
    found = spec.draw(np.full(DRAWS, length), np.full(DRAWS, fps), uniform)
    assert found.dtype == np.int64 and found.shape == (DRAWS, spec.count)
    return [tuple(row) for row in found.tolist()]


# -- pairs -------------------------------------------------------------------------------------------------------------


def test_gap_and_current_frame_are_uniform_within_their_bounds() -> None:
    found = drawn(PairSpec(2, 5), 12)
    gaps = Counter(future - current for current, future in found)
    assert set(gaps) == {2, 3, 4, 5}
    assert all(abs(n / DRAWS - 1 / 4) < 0.03 for n in gaps.values())
    starts = Counter(current for current, _ in found)
    assert set(starts) == set(range(7)), "the largest gap fits from the last of them, and not from the next"
    assert all(abs(n / DRAWS - 1 / 7) < 0.025 for n in starts.values())
    assert len(set(found)) == 4 * 7, "every gap is drawn from every frame"


def test_a_video_that_just_holds_the_largest_gap_starts_at_its_first_frame() -> None:
    assert set(drawn(PairSpec(4, 5), 6)) == {(0, 4), (0, 5)}


def test_a_video_shorter_than_the_largest_gap_gives_any_two_frames_in_order() -> None:
    found = Counter(drawn(PairSpec(1, 4), 4))
    assert set(found) == {(i, j) for i in range(4) for j in range(i + 1, 4)}
    assert all(abs(n / DRAWS - 1 / 6) < 0.025 for n in found.values())
    assert set(drawn(PairSpec(4, 48), 2)) == {(0, 1)}, "as published, even where the smallest gap does not fit"


def test_gaps_in_seconds_mean_the_same_at_every_frame_rate() -> None:
    spec = PairSpec(0.2, 1.0, "seconds")
    for fps in (10.0, 60.0):
        gaps = Counter(future - current for current, future in drawn(spec, 500, fps))
        assert (min(gaps), max(gaps)) == (0.2 * fps, fps)
        assert max(gaps.values()) / min(gaps.values()) < 2.2, "and every one between is drawn"
    assert set(drawn(PairSpec(0.0, 0.01, "seconds"), 3, 10.0)) == {(0, 1), (1, 2)}, "at least one frame"
    assert spec.needs_fps and not PairSpec(4, 48).needs_fps
    assert spec.at(20.0) == PairSpec(4, 20)


def test_a_row_depends_on_its_own_numbers_alone() -> None:
    spec = PairSpec(2, 6)
    lengths, fps, uniform = np.array([5, 40, 7, 300]), np.full(4, 10.0), np.random.default_rng(1).random((4, 2))
    together = spec.draw(lengths, fps, uniform)
    for row in range(4):
        one = slice(row, row + 1)
        assert np.array_equal(spec.draw(lengths[one], fps[one], uniform[one]), together[one])


def test_the_largest_uniform_number_stays_inside() -> None:
    last = np.full((1, 2), np.nextafter(1.0, 0.0))
    for spec in (PairSpec(4, 48), ClipSpec(5, 2), FrameSpec(), CropPairSpec(0.3, 0.6)):
        for length in (9, 100, 2**53 - 1):
            found = spec.draw(np.array([length]), np.array([10.0]), last)
            assert found.max() <= length - 1


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ((0, 4), "gap range 0..4 is empty; need 1 <= min_gap <= max_gap"),
        ((5, 4), "gap range 5..4 is empty"),
        ((0.0, 0.0, "seconds"), "gap range 0..0 is empty"),
        ((1.5, 4), "gaps of 1.5 to 4 frames; give whole ones, or the unit seconds"),
    ],
)
def test_gaps_that_mean_nothing_are_refused(settings: tuple[float, float], said: str) -> None:
    with pytest.raises(UserError, match=said):
        PairSpec(*settings)


# -- clips and single frames -------------------------------------------------------------------------------------------


def test_clips_have_their_stride_and_start_anywhere() -> None:
    found = Counter(drawn(ClipSpec(3, 4), 11))
    assert set(found) == {(0, 4, 8), (1, 5, 9), (2, 6, 10)}
    assert all(abs(n / DRAWS - 1 / 3) < 0.03 for n in found.values())
    assert (ClipSpec(3, 4).shortest(10.0), ClipSpec(1).shortest(10.0)) == (9, 1)


def test_a_stride_in_seconds_is_rounded_once_per_frame_and_never_stands_still() -> None:
    spec = ClipSpec(4, 0.25, "seconds")
    assert set(drawn(spec, 9, 10.0)) == {(0, 2, 5, 8)}, "2.5 frames: 0, 2.5, 5, 7.5"
    assert spec.shortest(10.0) == 9
    assert spec.offsets(np.array([2.0])).tolist() == [[0, 1, 2, 3]], "half a frame would repeat frames"


def test_single_frames_are_uniform() -> None:
    found = Counter(drawn(FrameSpec(), 5))
    assert set(found) == {(i,) for i in range(5)}
    assert all(abs(n / DRAWS - 1 / 5) < 0.025 for n in found.values())


def test_a_frame_and_a_crop_of_it_are_one_frame_twice() -> None:
    spec = CropPairSpec(0.3, 0.6)
    found = Counter(drawn(spec, 5))
    assert set(found) == {(i, i) for i in range(5)}
    assert all(abs(n / DRAWS - 1 / 5) < 0.025 for n in found.values())
    assert (spec.count, spec.shortest(10.0), spec.needs_fps) == (2, 1, False)


@pytest.mark.parametrize("settings", [(0.0, 0.5), (0.6, 0.3), (0.3, 1.1)])
def test_crops_that_mean_nothing_are_refused(settings: tuple[float, float]) -> None:
    with pytest.raises(UserError, match="need 0 < smallest <= largest <= 1"):
        CropPairSpec(*settings)


@pytest.mark.parametrize("settings", [(0, 1), (3, 0), (3, 0.5)])
def test_clips_that_mean_nothing_are_refused(settings: tuple[int, float]) -> None:
    with pytest.raises(UserError, match="give 1 or more, and whole frames"):
        ClipSpec(*settings)


def test_specs_describe_themselves() -> None:
    assert PairSpec(4, 48).describe() == "pairs, 4 to 48 frames apart"
    assert PairSpec(0.5, 2, "seconds").describe() == "pairs, 0.5 to 2 seconds apart"
    assert ClipSpec(16, 4).describe() == "clips of 16 frames, 4 frames apart"
    assert FrameSpec().describe() == "single frames"
    assert CropPairSpec(0.3, 0.6).describe() == "single frames, each with a crop of 0.3 to 0.6 of it"
