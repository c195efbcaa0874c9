from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from rsp_robot.demonstrations import Demonstration, DemonstrationInfo, write_demonstrations
from rsp_robot.errors import UserError
from rsp_robot.pretrain.probe import ENCODED_AT_ONCE, Probe, ridge_r2
from rsp_robot.videos import Videos, open_videos

TRAIN, HELD_OUT = list(range(8)), [8, 9]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def made_rows(rng: np.random.Generator, noise: float = 0.0) -> tuple[np.ndarray, ...]:
    """Ten demonstrations of 30 rows: 5 features, 3 targets that are linear in them, plus noise; 7 and 3 of them."""
    features, weights = rng.normal(size=(300, 5)), rng.normal(size=(5, 3))
    targets = 4.0 + features @ weights * (1.0, 10.0, 0.01)
    targets += noise * targets.std(axis=0) * rng.normal(size=targets.shape)
    demonstration = np.repeat(np.arange(10), 30)
    return features[:210], targets[:210], demonstration[:210], features[210:], targets[210:]


def test_exact_linear_targets_are_found(rng: np.random.Generator) -> None:
    assert ridge_r2(*made_rows(rng)) == pytest.approx(1.0, abs=1e-5)


def test_noise_leaves_its_share_unexplained(rng: np.random.Generator) -> None:
    # Noise of the same variance as the signal: a half is explained.
    assert ridge_r2(*made_rows(rng, noise=1.0)) == pytest.approx(0.5, abs=0.08)


def test_random_features_explain_nothing(rng: np.random.Generator) -> None:
    _, targets, demonstration, _, wanted = made_rows(rng)
    found = ridge_r2(rng.normal(size=(210, 100)), targets, demonstration, rng.normal(size=(90, 100)), wanted)
    assert -0.2 < found < 0.05


def test_held_out_rows_teach_nothing(rng: np.random.Generator) -> None:
    """Only the order of the targets depends on the held-out rows: a regression that saw them would predict both."""
    features, targets, demonstration, unseen, wanted = made_rows(rng)
    assert ridge_r2(features, targets, demonstration, unseen, -wanted) < -2.0
    half = np.array([*wanted[:45], *-wanted[45:]])
    assert ridge_r2(features, targets, demonstration, unseen, half) < 0.2


def test_r2_by_hand() -> None:
    """Inputs ±1 predict ±1 with hardly any shrinkage; wanted are ±1 twice, and once ±3 and 0."""
    inputs = np.array([[1.0], [-1.0]] * 6)
    demonstration = np.repeat(np.arange(6), 2)
    assert ridge_r2(inputs, inputs, demonstration, inputs[:2], inputs[:2]) == pytest.approx(1.0, abs=1e-6)
    # Errors 2, -2 of variance 9: 1 - 4/9. And wanted exchanged: 1 - 4/1.
    assert ridge_r2(inputs, inputs, demonstration, inputs[:2], 3 * inputs[:2]) == pytest.approx(5 / 9, abs=1e-3)
    assert ridge_r2(inputs, inputs, demonstration, inputs[:2], -inputs[:2]) == pytest.approx(-3.0, abs=1e-3)
    two = np.concatenate([inputs, inputs], axis=1)
    wanted = np.concatenate([inputs[:2], -inputs[:2]], axis=1)
    assert ridge_r2(inputs, two, demonstration, inputs[:2], wanted) == pytest.approx(-1.0, abs=1e-3)  # the mean


def test_the_strength_is_chosen_between_demonstrations_not_rows(rng: np.random.Generator) -> None:
    """Features tell which demonstration a row is of, and targets are constant in each: nothing carries over."""
    demonstration = np.repeat(np.arange(20), 15)
    features = np.eye(20)[demonstration] + 0.01 * rng.normal(size=(300, 20))
    targets = rng.normal(size=(20, 2))[demonstration]
    unseen, wanted = rng.normal(size=(90, 20)), np.repeat(rng.normal(size=(6, 2)), 15, axis=0)
    # By rows the weakest ridge would win, remember the demonstrations, and be far off on new ones.
    assert -1.0 < ridge_r2(features, targets, demonstration, unseen, wanted) <= 0.05


def test_units_and_constant_columns_do_not_matter(rng: np.random.Generator) -> None:
    features, targets, demonstration, unseen, wanted = made_rows(rng, noise=0.5)
    found = ridge_r2(features, targets, demonstration, unseen, wanted)
    scaled = ridge_r2(1e3 * features + 7, 1e-3 * targets - 2, demonstration, 1e3 * unseen + 7, 1e-3 * wanted - 2)
    assert scaled == pytest.approx(found, rel=1e-6)

    def widened(array: np.ndarray) -> np.ndarray:
        return np.concatenate([array, np.full((len(array), 1), 3.0)], axis=1)

    wider = ridge_r2(widened(features), widened(targets), demonstration, widened(unseen), widened(wanted))
    assert wider == pytest.approx(found, rel=1e-9)


def test_more_features_than_rows(rng: np.random.Generator) -> None:
    features, targets, demonstration, unseen, wanted = made_rows(rng)
    mixing = rng.normal(size=(5, 400))
    assert ridge_r2(features @ mixing, targets, demonstration, unseen @ mixing, wanted) > 0.99


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_features_that_are_no_numbers_give_nan(bad: float, rng: np.random.Generator) -> None:
    features, targets, demonstration, unseen, wanted = made_rows(rng)
    features[3, 1] = bad
    assert math.isnan(ridge_r2(features, targets, demonstration, unseen, wanted))
    assert math.isnan(ridge_r2(unseen, wanted, np.repeat([0, 1, 2], 30), features, targets))


def test_nothing_that_varies_gives_nan(rng: np.random.Generator) -> None:
    features, targets, demonstration, unseen, wanted = made_rows(rng)
    assert math.isnan(ridge_r2(features, 0 * targets, demonstration, unseen, 0 * wanted))


def write_file(
    path: Path, rng: np.random.Generator, demonstrations: int = 10, length: int = 12, expert: bool = True
) -> Videos:
    """Pixel 0 of a frame says where the arm is, pixel 1 what the expert wants; executed actions are noise."""
    made = []
    for seed in range(demonstrations):
        frames = rng.integers(0, 256, (length, 4, 4, 3), dtype=np.uint8)
        where, wanted = frames[:, 0, 0].astype(np.float32), frames[:, 0, 1, :2].astype(np.float32)
        made.append(
            Demonstration(
                observations={
                    "front": frames,
                    "side": 255 - frames,
                    "joints": where[:, :2] / 50,
                    "gripper": where[:, 2] / 50,
                    "proprio": np.full((length, 1), 0.3, np.float32),
                },
                actions=rng.uniform(-1, 1, (length, 2)).astype(np.float32),
                rewards=np.zeros(length, np.float32),
                dones=np.arange(length) == length - 1,
                states=np.zeros((length, 0)),
                seed=seed,
                expert_actions=wanted / 128 - 1 if expert else None,
            )
        )
    write_demonstrations(path, made, DemonstrationInfo(cameras=("front", "side"), image_size=4))
    return open_videos(path, cameras=["front"])


def see_all(frames: np.ndarray) -> torch.Tensor:
    """The first two pixels as features."""
    return torch.from_numpy(frames[:, 0, :2].reshape(len(frames), 6).astype(np.float32))


def see_arm(frames: np.ndarray) -> np.ndarray:
    return frames[:, 0, 0].astype(np.float32)


@pytest.fixture
def make_probe(tmp_path: Path, rng: np.random.Generator) -> Callable[..., Probe]:
    def make(most_frames: int = 2000, expert: bool = True) -> Probe:
        found = Probe.of(write_file(tmp_path / "d.hdf5", rng, expert=expert), TRAIN, HELD_OUT, most_frames)
        assert isinstance(found, Probe)
        return found

    return make


def test_probe_tells_what_features_say_of_arm_and_expert(make_probe: Callable[..., Probe]) -> None:
    probe = make_probe()
    found = probe(see_all)
    assert found["probe_proprio"] == pytest.approx(1.0, abs=1e-5)
    assert found["probe_actions"] == pytest.approx(1.0, abs=1e-5)
    assert found["probe_actions_blind"] < 0.2  # the arm says nothing of what the expert wants here
    arm = probe(see_arm)
    assert arm["probe_proprio"] == pytest.approx(1.0, abs=1e-5)
    assert arm["probe_actions"] < 0.2
    assert arm["probe_actions_blind"] == found["probe_actions_blind"]


def test_executed_actions_where_there_is_no_expert(make_probe: Callable[..., Probe]) -> None:
    assert make_probe(expert=False)(see_all)["probe_actions"] < 0.2


def test_proprio_helps_to_predict_actions(tmp_path: Path, rng: np.random.Generator) -> None:
    """Features without the arm's place, actions that are that place: the observations bring it in."""
    source = write_file(tmp_path / "d.hdf5", rng)
    probe = Probe.of(source, TRAIN, HELD_OUT)
    assert isinstance(probe, Probe)
    rows = [probe.train, probe.held_out]
    moved = Probe(*(type(r)(r.frames, r.proprio, r.proprio[:, :2], r.demonstration) for r in rows))
    assert moved.actions_blind == pytest.approx(1.0, abs=1e-5)
    assert moved(lambda frames: frames[:, 1, 1].astype(float))["probe_actions"] == pytest.approx(1.0, abs=1e-2)


def test_frames_are_the_same_at_every_call_and_of_the_first_camera(make_probe: Callable[..., Probe]) -> None:
    probe, seen = make_probe(), []

    def look(frames: np.ndarray) -> np.ndarray:
        assert frames.dtype == np.uint8
        seen.append(frames.copy())
        return see_arm(frames)

    first, second = probe(look), probe(look)
    assert first == second
    np.testing.assert_array_equal(seen[0], seen[2])
    # Left to right in the first row: joints are the first camera's pixel 0 over 50, not the second's.
    np.testing.assert_allclose(probe.train.proprio[:, 1] * 50, seen[0][:, 0, 0, 0], atol=1e-4)


def test_demonstrations_are_kept_apart_and_share_the_frames(make_probe: Callable[..., Probe]) -> None:
    probe = make_probe(most_frames=40)
    assert len(probe.train.frames) == 30
    assert len(probe.held_out.frames) == 10
    counts = np.bincount(probe.train.demonstration, minlength=10)
    assert set(counts[:8]) == {3, 4}
    assert counts[8:].tolist() == [0, 0]
    assert set(probe.held_out.demonstration) == set(HELD_OUT)
    everything = make_probe(most_frames=10_000)
    assert (len(everything.train.frames), len(everything.held_out.frames)) == (96, 24)


def test_rows_belong_to_their_frames(make_probe: Callable[..., Probe]) -> None:
    for rows in (make_probe(most_frames=37).train, make_probe(most_frames=37).held_out):
        np.testing.assert_allclose(rows.actions, rows.frames[:, 0, 1, :2] / 128 - 1, atol=1e-6)
        np.testing.assert_allclose(rows.proprio[:, 0], rows.frames[:, 0, 0, 2] / 50, atol=1e-5)  # keys by name


def test_many_frames_are_encoded_in_parts(make_probe: Callable[..., Probe], monkeypatch: pytest.MonkeyPatch) -> None:
    probe, sizes = make_probe(), []
    whole = probe(see_all)
    monkeypatch.setattr("rsp_robot.pretrain.probe.ENCODED_AT_ONCE", 50)
    parts = probe(lambda frames: (sizes.append(len(frames)), see_all(frames))[1])
    assert sizes == [50, 46, 24]
    assert parts == whole
    assert ENCODED_AT_ONCE >= 50


def test_an_encoder_gone_wrong_gives_nan(make_probe: Callable[..., Probe]) -> None:
    found = make_probe()(lambda frames: see_all(frames) * math.nan)
    assert math.isnan(found["probe_proprio"])
    assert math.isnan(found["probe_actions"])
    assert not math.isnan(found["probe_actions_blind"])


def test_what_cannot_be_probed_says_why(tmp_path: Path, rng: np.random.Generator) -> None:
    np.save(tmp_path / "a.npy", np.zeros((10, 4, 4, 4, 3), np.uint8))
    assert "demonstration file" in Probe.of(open_videos(tmp_path), TRAIN, HELD_OUT)  # type: ignore[operator]
    source = write_file(tmp_path / "d.hdf5", rng)
    assert Probe.of(source, [0], [1]) == "it needs 2 demonstrations and 1 held out, there are 1 and 1"
    assert Probe.of(source, [0, 1], []) == "it needs 2 demonstrations and 1 held out, there are 2 and 0"
    frames = rng.integers(0, 256, (5, 4, 4, 3), dtype=np.uint8)
    zeros = np.zeros((5, 2), np.float32)
    bare = Demonstration({"front": frames}, zeros, zeros[:, 0], zeros[:, 0] > 0, zeros)
    write_demonstrations(tmp_path / "p.hdf5", [bare] * 3, DemonstrationInfo(cameras=("front",)))
    why = Probe.of(open_videos(tmp_path / "p.hdf5"), [0, 1], [2])
    assert isinstance(why, str)
    assert "no low-dimensional observations" in why


def test_demonstrations_of_different_tasks_are_refused(tmp_path: Path, rng: np.random.Generator) -> None:
    source = write_file(tmp_path / "d.hdf5", rng)
    with h5py.File(tmp_path / "d.hdf5", "a") as file:
        del file["data/demo_3/obs/joints"]
    with pytest.raises(UserError, match="varying width; probe one task"):
        Probe.of(source, TRAIN, HELD_OUT)
