from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from rsp_robot.errors import UserError
from rsp_robot.files import read_json, write_text
from rsp_robot.preprocessing import Preprocessing
from rsp_robot.pretrain.imagine import (
    ImagineConfig,
    choose_pairs,
    draw_grid,
    imagine,
    imagine_futures,
    read_config,
    to_images,
)
from rsp_robot.pretrain.objectives.rsp import RSP, RSPConfig
from rsp_robot.pretrain.pairs import FramePairs
from rsp_robot.pretrain.train import PretrainConfig, build_objective, pretrain

TOY = RSPConfig(decoder_width=16, decoder_depth=1, decoder_heads=2, groups=3, classes=4, min_gap=2, max_gap=4)


@pytest.fixture
def config(toy_arch: str, make_demonstrations: Callable[..., Path], tmp_path: Path) -> PretrainConfig:
    return PretrainConfig(
        data=make_demonstrations(), out=tmp_path / "run", arch=toy_arch, image_size=16, patch_size=8, rsp=TOY, steps=2,
        batch_size=4, device="cpu",
    )  # fmt: skip


@pytest.fixture
def model(config: PretrainConfig) -> RSP:
    return build_objective(config).eval()


def pictures(seed: int, batch: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (batch, 16, 16, 3), dtype=np.uint8)


def test_picture_and_its_description(config: PretrainConfig) -> None:
    path = imagine(ImagineConfig(pretrain(config), rows=2, samples=3, device="cpu"))
    assert path == config.out / "media" / "imagined.png"
    with Image.open(path) as picture:
        # Current, future, posterior and three priors, each 16 pixels shown at 128, 4 apart, below 18 for the names.
        assert picture.size == (6 * 128 + 5 * 4, 18 + 2 * 128 + 4)
        assert np.asarray(picture).std() > 20
    described = read_json(path.with_suffix(".json"))
    assert set(described) == {"caption", "gap", "seed", "mse_posterior", "mse_prior"}
    assert (described["gap"], described["seed"]) == (4, 0)
    assert "4 frames apart" in described["caption"] and "3 futures decoded from the prior" in described["caption"]
    assert described["mse_posterior"] > 0 and described["mse_prior"] > 0


def test_the_seed_decides_the_picture(config: PretrainConfig, tmp_path: Path) -> None:
    run = pretrain(config)
    names = {"a.png": 0, "b.png": 0, "c.png": 1}
    made = [
        imagine(ImagineConfig(run, tmp_path / name, rows=2, seed=seed, device="cpu")) for name, seed in names.items()
    ]
    first, again, other = (path.read_bytes() for path in made)
    assert first == again
    assert first != other


def test_other_videos_other_gap_and_no_samples(
    config: PretrainConfig, make_demonstrations: Callable[..., Path], tmp_path: Path
) -> None:
    run, other = pretrain(config), make_demonstrations((3, 8), "other.hdf5")
    wanted = ImagineConfig(run, tmp_path / "x.png", data=other, rows=1, gap=6, samples=0, device="cpu")
    described = read_json(imagine(wanted).with_suffix(".json"))
    assert described["gap"] == 6
    assert "mse_prior" not in described
    with Image.open(tmp_path / "x.png") as picture:
        assert picture.size == (3 * 128 + 2 * 4, 18 + 128)
    with pytest.raises(UserError, match="no video is longer than the gap of 8 frames; the longest has 8"):
        imagine(replace(wanted, gap=8))
    described = read_json(
        imagine(replace(wanted, data=make_demonstrations((3, 4), "short.hdf5"), gap=None)).with_suffix(".json")
    )
    assert described["gap"] == 3, "the largest that the videos allow"


def test_pairs_come_from_different_videos_that_are_long_enough(make_videos: Any) -> None:
    pairs = FramePairs(make_videos([9, 3, 7, 8]), 1, 1)
    current, future = choose_pairs(pairs, rows=3, gap=5, seed=0)
    assert sorted(current[:, 0, 0, 0]) == [0, 2, 3]
    assert np.array_equal(current[..., 0], future[..., 0])
    assert (future[:, 0, 0, 1] - current[:, 0, 0, 1] == 5).all()
    current, _ = choose_pairs(pairs, rows=7, gap=5, seed=0)
    assert sorted(np.bincount(current[:, 0, 0, 0])[[0, 2, 3]]) == [2, 2, 3]
    last = {int(choose_pairs(pairs, 1, 8, seed)[1][0, 0, 0, 1]) for seed in range(5)}
    assert last == {8}, "a video that just holds the gap ends at its last frame"


def test_a_model_that_predicts_the_truth_shows_it_with_no_error(model: RSP, monkeypatch: pytest.MonkeyPatch) -> None:
    current, future = pictures(0), pictures(1)
    truth = model.targets(Preprocessing(16)(future, torch.device("cpu")))
    monkeypatch.setattr(model, "predict_future", lambda tokens, latent: truth)
    columns, errors = imagine_futures(model, current, future, 2, torch.Generator().manual_seed(0))
    assert errors == {"mse_posterior": 0.0, "mse_prior": 0.0}
    assert len(columns) == 5
    shown = [torch.tensor(frames).permute(0, 3, 1, 2) / 255 for frames in (current, future, future, future, future)]
    for column, expected in zip(columns, shown, strict=True):
        torch.testing.assert_close(column, expected, rtol=0, atol=1e-4)


def test_posterior_sees_the_noised_future_and_prior_samples_differ(model: RSP, monkeypatch: pytest.MonkeyPatch) -> None:
    latents: list[torch.Tensor] = []
    posterior = torch.full((3, 3, 4), -torch.inf)
    posterior[..., 2] = 0
    seen: list[torch.Tensor] = []

    def fake_posterior(current: torch.Tensor, future: torch.Tensor) -> torch.Tensor:
        seen.extend([current, future])
        return posterior

    def decode(tokens: torch.Tensor, latent: torch.Tensor) -> torch.Tensor:
        latents.append(latent)
        return torch.zeros(3, 4, 192)

    monkeypatch.setattr(model, "posterior", fake_posterior)
    monkeypatch.setattr(model, "predict_future", decode)
    current, future = pictures(0), pictures(1)
    _, errors = imagine_futures(model, current, future, 3, torch.Generator().manual_seed(0))
    cpu = torch.device("cpu")
    now, later = (model.backbone(Preprocessing(16)(frames, cpu))[:, 0] for frames in (current, future))
    torch.testing.assert_close(seen[0], now)
    assert not torch.allclose(seen[1], later), "the future is noised"
    assert latents[0][..., 2].all() and len(latents) == 4
    assert not torch.equal(latents[1], latents[2])
    assert errors["mse_posterior"] == pytest.approx(191 / 192, rel=1e-3), "zero against patches of unit variance"


@pytest.mark.parametrize("normalise", [True, False])
def test_true_patches_become_the_true_picture(config: PretrainConfig, normalise: bool) -> None:
    model = build_objective(replace(config, rsp=replace(TOY, normalise_targets=normalise)))
    truth = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(to_images(model, model.targets(truth), truth), truth, rtol=0, atol=1e-5)


def test_grid_puts_columns_side_by_side_and_zooms_without_blur() -> None:
    red, blue = torch.zeros(2, 3, 2, 2), torch.zeros(2, 3, 2, 2)
    red[:, 0], blue[0, 2], blue[1, 2, 0, 0] = 1.0, 1.0, 1.0
    picture = np.asarray(draw_grid([red, blue], ["a", "b"], zoom=10))
    assert picture.shape == (18 + 20 + 4 + 20, 20 + 4 + 20, 3)
    assert (picture[18:38, :20] == (255, 0, 0)).all() and (picture[42:, :20] == (255, 0, 0)).all()
    assert (picture[18:38, 24:] == (0, 0, 255)).all()
    assert (picture[42:52, 24:34] == (0, 0, 255)).all()
    assert (picture[52:, 24:] == 0).all() and (picture[42:, 34:] == 0).all()
    assert (picture[:, 20:24] == 255).all() and (picture[38:42] == 255).all()
    assert (picture[:18, :20] < 128).any() and (picture[:18, 24:] < 128).any(), "the names stand above"


def test_config_is_read_back_as_it_was_run(config: PretrainConfig) -> None:
    run = pretrain(config)
    assert read_config(run) == replace(config, device="auto")


@pytest.mark.parametrize("content", [None, "", "- a\n- b\n", "steps: 3\n", "{", "rsp: {}\ndata: a\nwidth: 3\n"])
def test_a_folder_that_is_no_pretraining_run(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        write_text(tmp_path / "config.yaml", content)
    with pytest.raises(UserError, match="is not a run folder of `rsp-robot pretrain`; give one"):
        read_config(tmp_path)


def test_a_run_without_checkpoint(config: PretrainConfig) -> None:
    run = pretrain(config)
    (run / "checkpoints" / "last.pt").unlink()
    with pytest.raises(UserError, match="has no checkpoint; pretrain first"):
        imagine(ImagineConfig(run, device="cpu"))


@pytest.mark.parametrize("settings", [{"rows": 0}, {"samples": -1}, {"gap": 0}, {"gap": -2}])
def test_settings_out_of_range(settings: dict[str, int], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="rows and gap must be at least 1"):
        ImagineConfig(tmp_path, **settings)
