from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rsp_robot.errors import UserError
from rsp_robot.videos import MovingDigits, open_videos
from rsp_robot.videos.moving_digits import MOTIONS, handwritten
from rsp_robot.videos.spec import resolved

pytest.importorskip("sklearn")


def centre_of_light(frames: np.ndarray) -> np.ndarray:
    """Centres of brightness ``(T, 2)``, x and y in pixels from the top left corner."""
    light = frames[..., 0].astype(float)
    total = light.sum(axis=(1, 2))
    places = np.arange(frames.shape[1]) + 0.5
    x, y = (light.sum(axis=axis) @ places / total for axis in (1, 2))
    return np.stack([x, y], axis=1)


@pytest.mark.parametrize("motion", MOTIONS)
def test_a_clip_is_a_pure_function_of_seed_and_number(motion: str) -> None:
    one, other = (MovingDigits(motion, videos=50, seed=3) for _ in range(2))
    clip = one.clip(7)
    assert clip.shape == (20, 64, 64, 3) and clip.dtype == np.uint8 and clip.max() > 200
    assert (clip == other.clip(7)).all()
    assert (clip != one.clip(8)).any() and (clip != MovingDigits(motion, videos=50, seed=4).clip(7)).any()
    assert (clip == MovingDigits(motion, videos=9, seed=3).clip(7)).all()


@pytest.mark.parametrize("motion", MOTIONS)
def test_frames_can_be_asked_for_in_any_order(motion: str) -> None:
    digits = MovingDigits(motion, videos=2)
    assert (digits.clip(1, [5, 0, 5]) == digits.clip(1)[[5, 0, 5]]).all()
    with pytest.raises(IndexError):
        digits.clip(1, [20])
    with pytest.raises(IndexError):
        digits.clip(2)


@pytest.mark.parametrize("motion", MOTIONS)
def test_the_light_moves_as_the_truth_says(motion: str) -> None:
    digits = MovingDigits(motion, videos=20, digits=1)
    for number in range(20):
        seen, truth = centre_of_light(digits.clip(number)), digits.truth(number)
        moved = np.diff(truth.positions[:, 0], axis=0)
        assert np.abs(np.diff(seen, axis=0) - moved).max() < 0.1  # by parts of a pixel too
        assert np.abs(seen - truth.positions[:, 0]).max() < 10  # a digit is not in the middle of its square
        straight = np.abs(moved - truth.velocities[:-1, 0]).max(axis=1) < 1e-3
        assert straight.mean() > 0.5


def test_walls_reflect_and_nothing_leaves_the_canvas() -> None:
    digits = MovingDigits("bounce", videos=30, frames=60, digits=1)
    for number in range(30):
        positions, velocities, _, switched = digits.truth(number)
        assert positions.min() >= 14 and positions.max() <= 50 and switched == -1
        assert np.allclose(np.abs(velocities), np.abs(velocities[0]))
        backwards = (np.diff(np.sign(velocities[:, 0]), axis=0) != 0).any(axis=1)
        assert backwards.any() or np.abs(velocities[0]).max() < 1


def test_the_velocity_after_a_bounce_is_random_in_stochastic_clips_only() -> None:
    speeds = {}
    for motion in ("bounce", "stochastic"):
        digits = MovingDigits(motion, videos=40, frames=40, digits=1)
        velocities = np.stack([digits.truth(number).velocities[:, 0] for number in range(40)])
        assert np.abs(velocities).max() <= 4 + 1e-5
        speeds[motion] = np.abs(velocities).std(axis=1).mean()
    assert speeds["bounce"] < 1e-5 < 0.3 < speeds["stochastic"]
    same = [MovingDigits(motion, videos=1).truth(0).positions[0] for motion in ("bounce", "stochastic")]
    assert (same[0] == same[1]).all()  # only what follows a bounce differs


def test_a_stochastic_digit_leaves_the_wall_that_it_hit() -> None:
    digits = MovingDigits("stochastic", videos=30, frames=60)
    for number in range(30):
        positions, velocities, _, _ = digits.truth(number)
        assert positions.min() >= 14 and positions.max() <= 50
        hit = (positions == 14) | (positions == 50)
        away = np.where(positions == 14, velocities, -velocities)
        assert hit[1:].any() and (away[1:][hit[1:]] > 0).all()


def test_the_switch_is_after_the_third_frame_and_goes_down_or_up_at_random() -> None:
    digits = MovingDigits("switch", videos=200)
    ways = []
    for number in range(200):
        positions, velocities, labels, way = digits.truth(number)
        assert labels.shape == (1,) and positions.shape == (20, 1, 2)
        assert np.ptp(positions[:3, 0, 1]) == 0  # sideways only: nothing says which way it will go
        assert np.abs(velocities[:2, 0, 1]).max() == 0 and np.abs(velocities[:2, 0, 0]).min() >= 2
        moved = positions[3, 0] - positions[2, 0]
        assert abs(moved[0]) < 1e-5 and (moved[1] > 0) == (way == 0)
        ways.append(way)
    assert 70 < sum(ways) < 130


def test_the_switch_has_as_many_ways_as_asked_for() -> None:
    digits = MovingDigits("switch", videos=100, directions=4)
    truths = [digits.truth(number) for number in range(100)]
    leaving = {truth.switched: np.sign(truth.velocities[2, 0].round(3)).tolist() for truth in truths}
    assert leaving == {0: [0, 1], 1: [-1, 0], 2: [0, -1], 3: [1, 0]}


def test_the_first_frames_are_the_same_whichever_way_it_goes() -> None:
    two, three = (MovingDigits("switch", videos=30, directions=ways) for ways in (2, 3))
    ways = [(two.truth(number).switched, three.truth(number).switched) for number in range(30)]
    number = next(number for number, (one, other) in enumerate(ways) if one != other)
    assert (two.clip(number)[:3] == three.clip(number)[:3]).all()
    assert (two.clip(number)[5] != three.clip(number)[5]).any()


def test_overlapping_digits_keep_the_brightest_pixel() -> None:
    both = MovingDigits("bounce", videos=5, digits=2)
    side, pictures = both.side, handwritten(28).pictures
    made = both._make(0)
    alone = np.zeros((2, 64, 64))
    for digit in (0, 1):
        x, y = made.corners[0, digit]
        top, left = int(y), int(x)
        alone[digit, top : top + side, left : left + side] = pictures[made.pictures[digit]]
    drawn = both.clip(0)[0, ..., 0].astype(float)
    assert np.abs(drawn - alone.max(axis=0)).mean() < 8  # but for the shift by part of a pixel


def test_test_clips_show_handwriting_that_training_never_did() -> None:
    numbers = handwritten(28).numbers
    assert not set(numbers["train"]) & set(numbers["test"])
    assert len(numbers["train"]) + len(numbers["test"]) == 1797 and 300 < len(numbers["test"]) < 400
    train, test = (MovingDigits("bounce", videos=100, split=split) for split in ("train", "test"))
    for digits, split in ((train, "train"), (test, "test")):
        assert all(set(digits._make(number).pictures) <= set(numbers[split]) for number in range(100))
    assert (train.truth(0).positions != test.truth(0).positions).any()


def test_digits_scale_with_the_canvas() -> None:
    small = MovingDigits("bounce", videos=3, size=32)
    assert small.clip(0).shape == (20, 32, 32, 3) and small.side == 14
    large = MovingDigits("bounce", videos=3, size=64)
    assert np.allclose(small.truth(1).positions * 2, large.truth(1).positions, atol=1e-4)


def test_specs_are_read_and_written() -> None:
    assert MovingDigits.parse("digits:switch/2000x15@64#1") == MovingDigits("switch", 2000, 15, 64, 1, 1)
    assert MovingDigits.parse("digits:switch:2x20") == MovingDigits("switch", digits=2)
    assert MovingDigits.parse("digits:bounce:1:test/7") == MovingDigits("bounce", 7, digits=1, split="test")
    assert MovingDigits.parse("digits:stochastic").spec == "digits:stochastic:2/2000x20@64#0"
    made = MovingDigits("bounce", 7, 9, 32, 3, 4, "test")
    assert MovingDigits.parse(made.spec) == made


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("digits:", "write digits:<motion>[:digits][/videos][xframes][@size][#seed]"),
        ("digits:switch/x", "cannot read 'digits:switch/x'"),
        ("digits:swich", "did you mean switch"),
        ("digits:switch/0", "videos of moving digits must be at least 1, not 0"),
        ("digits:switch@8", "size of moving digits must be at least 16, not 8"),
    ],
)
def test_mistakes_in_a_spec_are_told(spec: str, said: str) -> None:
    with pytest.raises(UserError) as error:
        open_videos(spec)
    assert said in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("settings", [{"max_speed": 0}, {"max_speed": 36}, {"directions": 1}, {"switch_after": 0}])
def test_settings_that_mean_nothing_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(UserError):
        MovingDigits("switch", **settings)


def test_they_are_a_source_of_videos_like_any_other() -> None:
    source = open_videos("digits:stochastic/30x12@32#5")
    assert len(source) == 30 and source.summary() == "30 videos, 360 frames, 36 s"
    info = source.videos[3]
    assert (info.frames, info.height, info.width, info.task) == (12, 32, 32, "stochastic")
    expected = MovingDigits.parse("digits:stochastic/30x12@32#5").clip(3)
    assert (source.read(3, [11, 0]) == expected[[11, 0]]).all()
    assert len(open_videos("digits:switch/4=0.5,digits:bounce/6=0.5")) == 10


def test_a_source_made_with_settings_outside_the_spec_reads_its_own_clips() -> None:
    from rsp_robot.videos import Videos

    digits = MovingDigits("switch", videos=3, directions=4, max_speed=2)
    assert (Videos(digits.infos()).read(2, range(20)) == digits.clip(2)).all()


def test_the_same_digits_are_the_same_data_wherever_a_run_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolved("digits:switch/9") == "digits:switch:1/9x20@64#0" == resolved("digits:switch:1/9x20#0")


@pytest.fixture
def without_sklearn(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    handwritten.cache_clear()
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    yield
    handwritten.cache_clear()


def test_without_scikit_learn_the_fix_is_told(without_sklearn: None) -> None:
    with pytest.raises(UserError, match=r"pip install 'rsp-robot\[digits\]'"):
        open_videos("digits:switch/5")
