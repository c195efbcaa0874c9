from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rsp_robot.encoder import FrozenEncoder
from rsp_robot.errors import UserError
from rsp_robot.files import read_json, read_jsonl
from rsp_robot.preprocessing import Preprocessing
from rsp_robot.pretrain import train
from rsp_robot.pretrain.objectives.rsp import RSPConfig
from rsp_robot.pretrain.train import PretrainConfig, augment_pair, load_objective, pretrain

CPU = torch.device("cpu")
RSP = RSPConfig(decoder_width=16, decoder_depth=1, decoder_heads=2, groups=3, classes=4, min_gap=2, max_gap=4)


@pytest.fixture
def config(toy_arch: str, make_demonstrations: Callable[..., Path], tmp_path: Path) -> PretrainConfig:
    return PretrainConfig(
        data=make_demonstrations(), out=tmp_path / "run", arch=toy_arch, image_size=16, patch_size=8, rsp=RSP, steps=4,
        batch_size=4, base_lr=0.1, warmup=0.5, device="cpu", checkpoint_every=2, log_every=1,
    )  # fmt: skip


def result(run: Path) -> tuple[dict[str, bytes], dict[str, torch.Tensor]]:
    """Everything that a run leaves and that matters, to the last bit."""
    names = ("config.yaml", "metrics.jsonl", "encoder/config.json", "encoder/model.safetensors")
    state = torch.load(run / "checkpoints" / "last.pt", weights_only=True)
    moments = {
        f"{index}.{name}": value
        for index, moment in state["optimizer"]["state"].items()
        for name, value in moment.items()
    }
    return {name: (run / name).read_bytes() for name in names}, state["model"] | moments


def assert_same_result(found: Path, expected: Path) -> None:
    found_files, found_tensors = result(found)
    expected_files, expected_tensors = result(expected)
    assert [name for name in expected_files if found_files[name] != expected_files[name]] == []
    assert found_tensors.keys() == expected_tensors.keys()
    assert [name for name, value in expected_tensors.items() if not torch.equal(found_tensors[name], value)] == []


def test_a_run_logs_and_exports(config: PretrainConfig) -> None:
    run = pretrain(config)
    assert run == config.out
    rows = read_jsonl(run / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    names = {"step", "loss", "loss_future", "loss_mae", "kl", "loss_future_prior", "rank_cls", "rank_patches", "lr"}
    assert all(set(row) == names and np.isfinite(list(row.values())).all() for row in rows)
    peak = 0.1 * 4 / 256
    assert [row["lr"] for row in rows] == pytest.approx([peak / 2, peak, peak / 2, 0.0])
    assert all(1 <= row["rank_cls"] <= 16 for row in rows)
    encoder = FrozenEncoder.load(run)
    assert (encoder.image_size, encoder.dim, encoder.pooling) == (16, 16, "cls")
    assert encoder.provenance == {"objective": "rsp", "data": str(config.data), "steps": 4, "seed": 0}
    assert not torch.equal(encoder.backbone.cls_token, train.build_objective(config).backbone.cls_token)


def test_the_loss_falls(config: PretrainConfig) -> None:
    run = pretrain(replace(config, steps=80, base_lr=0.5, batch_size=8, flip=False, log_every=10, warmup=0.1))
    rows = read_jsonl(run / "metrics.jsonl")
    assert rows[-1]["loss_future"] < 0.95 * rows[0]["loss_future"]
    assert rows[-1]["loss_mae"] < 0.95 * rows[0]["loss_mae"]


def test_the_same_config_gives_the_same_bits_and_another_seed_does_not(config: PretrainConfig, tmp_path: Path) -> None:
    torch.manual_seed(123)
    first = pretrain(config)
    torch.manual_seed(456)
    assert_same_result(pretrain(replace(config, out=tmp_path / "again")), first)
    other = pretrain(replace(config, out=tmp_path / "other", seed=1))
    assert FrozenEncoder.load(other).weights_checksum() != FrozenEncoder.load(first).weights_checksum()


def test_logging_and_checkpoints_do_not_change_the_weights(config: PretrainConfig, tmp_path: Path) -> None:
    often = FrozenEncoder.load(pretrain(config))
    seldom = FrozenEncoder.load(pretrain(replace(config, out=tmp_path / "b", log_every=3, checkpoint_every=100)))
    assert often.weights_checksum() == seldom.weights_checksum()
    assert [row["step"] for row in read_jsonl(tmp_path / "b" / "metrics.jsonl")] == [3, 4], "the last is always logged"


class Killed(BaseException):
    """Stands for a kill: nothing may catch it."""


class Interruption:
    """Counts what a run does (steps begun and ended, files written and put in place); kills it at one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen, self.at = 0, -1
        step = train._step

        def watched_step(*arguments: Any, **options: Any) -> Any:
            self.pass_by()
            losses = step(*arguments, **options)
            self.pass_by()
            return losses

        def watched(function: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any) -> Any:
                self.pass_by()
                return function(*arguments)

            return call

        monkeypatch.setattr(train, "_step", watched_step)
        for name in ("fsync", "replace"):
            monkeypatch.setattr(os, name, watched(getattr(os, name)))

    def pass_by(self) -> None:
        self.seen += 1
        if self.seen == self.at:
            raise Killed

    def arm(self, at: int) -> None:
        self.seen, self.at = 0, at


class NoBoard:
    """TensorBoard's writer keeps a thread, and a killed run would leave it behind in this process."""

    def __init__(self, folder: str, purge_step: int) -> None: ...

    def add_scalar(self, name: str, value: float, step: int) -> None: ...

    def close(self) -> None: ...


def test_a_run_interrupted_anywhere_ends_as_the_undisturbed_one(
    config: PretrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter", NoBoard)
    interruption = Interruption(monkeypatch)
    undisturbed = pretrain(config)
    points = interruption.seen
    assert points > 4 * 2 + 4 + 2 * 2 + 2, "steps, rows, checkpoints, export"
    for point in range(1, points + 1):
        again = replace(config, out=tmp_path / f"killed-{point}", resume=True)
        interruption.arm(point)
        with pytest.raises(Killed):
            pretrain(again)
        interruption.arm(-1)
        assert_same_result(pretrain(again), undisturbed)


def test_two_interruptions_and_a_torn_row(config: PretrainConfig, tmp_path: Path) -> None:
    undisturbed = pretrain(config)
    again = replace(config, out=tmp_path / "again", resume=True)
    for step in (1, 3):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(train, "_step", kill_at(step, train._step))
            with pytest.raises(Killed):
                pretrain(again)
        with open(again.out / "metrics.jsonl", "ab") as file:
            file.write(b'{"step": 3, "lo')
    assert_same_result(pretrain(again), undisturbed)


def kill_at(step: int, function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any, **options: Any) -> Any:
        if arguments[4] == step:
            raise Killed
        return function(*arguments, **options)

    return call


def test_resuming_goes_on_from_the_last_checkpoint(config: PretrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    resumable, step = replace(config, resume=True), train._step
    monkeypatch.setattr(train, "_step", kill_at(3, step))
    with pytest.raises(Killed):
        pretrain(resumable)
    monkeypatch.setattr(train, "_step", kill_at(1, step))
    pretrain(resumable)  # never comes to step 1 again
    assert [row["step"] for row in read_jsonl(config.out / "metrics.jsonl")] == [1, 2, 3, 4]


def test_a_finished_run_returns_at_once(config: PretrainConfig) -> None:
    run = pretrain(config)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    config.data.unlink()
    assert pretrain(replace(config, resume=True)) == run
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()} == before


def test_a_folder_in_use_is_not_overwritten(config: PretrainConfig) -> None:
    pretrain(config)
    with pytest.raises(UserError, match="is not empty; continue it with --resume"):
        pretrain(config)
    for change in ({"seed": 1}, {"rsp": replace(RSP, kl_scale=0.5)}, {"steps": 8}):
        with pytest.raises(UserError, match=rf"other settings \({next(iter(change))}\)"):
            pretrain(replace(config, resume=True, **change))
    assert pretrain(replace(config, resume=True, device="auto")) == config.out, "where it runs is no setting"


def test_a_run_that_diverges_is_ended_in_one_line(config: PretrainConfig) -> None:
    with pytest.raises(UserError) as error:
        pretrain(replace(config, base_lr=1e30))
    assert "training diverged at step 1 (loss" in str(error.value) and "lower --base-lr" in str(error.value)
    assert not (config.out / "encoder").exists()
    assert all(np.isfinite(list(row.values())).all() for row in read_jsonl(config.out / "metrics.jsonl"))


def test_a_loss_that_is_no_number_is_named(config: PretrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    step = train._step

    def spoiled(*arguments: Any, **options: Any) -> dict[str, torch.Tensor]:
        losses = step(*arguments, **options)
        return losses | ({"loss": torch.tensor(torch.nan)} if arguments[4] == 2 else {})

    monkeypatch.setattr(train, "_step", spoiled)
    with pytest.raises(UserError, match=r"training diverged at step 3 \(loss nan\); lower --base-lr"):
        pretrain(config)
    assert [row["step"] for row in read_jsonl(config.out / "metrics.jsonl")] == [1, 2]


def test_data_that_does_not_fit_is_refused_before_training(config: PretrainConfig) -> None:
    with pytest.raises(UserError, match="a gap of 30 needs 31"):
        pretrain(replace(config, rsp=replace(RSP, min_gap=30, max_gap=40)))
    with pytest.raises(UserError, match="does not exist"):
        pretrain(replace(config, data=config.data.with_name("nowhere.hdf5"), out=config.out.with_name("b")))
    with pytest.raises(UserError, match="has no camera 'back'; it has front"):
        pretrain(replace(config, camera="back", out=config.out.with_name("c")))


def test_bf16_trains_on_the_processor(config: PretrainConfig, tmp_path: Path) -> None:
    rough = pretrain(replace(config, precision="bf16"))
    exact = pretrain(replace(config, out=tmp_path / "exact"))
    losses = [[row["loss"] for row in read_jsonl(run / "metrics.jsonl")] for run in (rough, exact)]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.1)
    weights = FrozenEncoder.load(rough).backbone.state_dict()
    assert all(value.dtype == torch.float32 and value.isfinite().all() for value in weights.values())


def test_the_checkpoint_loads_as_the_model_that_was_exported(config: PretrainConfig) -> None:
    with pytest.raises(UserError, match="has no checkpoint; pretrain first"):
        load_objective(config.out, config, CPU)
    pretrain(config)
    model = load_objective(config.out, config, CPU)
    assert not model.training
    exported = FrozenEncoder.load(config.out).backbone.state_dict()
    assert all(torch.equal(value, exported[name]) for name, value in model.backbone.state_dict().items())
    assert read_json(config.out / "encoder" / "config.json")["fingerprint"] == model.encoder().fingerprint


# -- augmentation of pairs -------------------------------------------------------------------------------------------


def pictures(batch: int = 6) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (batch, 16, 16, 3), dtype=np.uint8)


def test_both_frames_of_a_pair_are_cut_and_mirrored_alike(config: PretrainConfig) -> None:
    frames = pictures()
    first, second = augment_pair(config, frames, frames, np.random.default_rng(0), CPU)
    assert first.shape == (6, 3, 16, 16) and first.dtype == torch.float32
    assert torch.equal(first, second)
    assert not torch.allclose(first, Preprocessing(16)(frames, CPU), atol=0.1)
    again, _ = augment_pair(config, frames, frames, np.random.default_rng(0), CPU)
    other, _ = augment_pair(config, frames, frames, np.random.default_rng(1), CPU)
    assert torch.equal(first, again) and not torch.allclose(first, other)


def test_samples_of_a_batch_are_cut_differently(config: PretrainConfig) -> None:
    frames = np.repeat(pictures(1), 6, axis=0)
    first, _ = augment_pair(config, frames, frames, np.random.default_rng(0), CPU)
    assert all((first[i] - first[j]).abs().max() > 0.1 for i in range(6) for j in range(i))


def test_without_augmentation_training_sees_what_the_encoder_will(config: PretrainConfig) -> None:
    plain = replace(config, min_crop=1.0, flip=False)
    frames = pictures(12)
    current, future = augment_pair(plain, frames[:6], frames[6:], np.random.default_rng(0), CPU)
    expected = Preprocessing(16)(frames, CPU)
    torch.testing.assert_close(torch.cat([current, future]), expected, rtol=0, atol=1e-3)


def test_half_of_the_samples_are_mirrored(config: PretrainConfig) -> None:
    frames = np.repeat(pictures(1), 400, axis=0)
    current, _ = augment_pair(replace(config, min_crop=1.0), frames, frames, np.random.default_rng(0), CPU)
    expected = Preprocessing(16)(frames[:1], CPU)
    plain = (current - expected).abs().amax(dim=(1, 2, 3)) < 1e-2
    mirrored = (current.flip(-1) - expected).abs().amax(dim=(1, 2, 3)) < 1e-2
    assert (plain ^ mirrored).all()
    assert 0.4 < mirrored.float().mean() < 0.6
