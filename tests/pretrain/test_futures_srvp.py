from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from PIL import Image

from rsp_robot.backbones.vit import ViTConfig
from rsp_robot.files import read_json
from rsp_robot.pretrain.checkpoints import build_objective, save_checkpoint
from rsp_robot.pretrain.config import PretrainConfig
from rsp_robot.pretrain.futures_srvp import SRVPImaginer
from rsp_robot.pretrain.imagine import ImagineConfig, imagine
from rsp_robot.pretrain.objectives.srvp import SRVP, SRVPConfig
from rsp_robot.run_folder import RunFolder

TOY = SRVPConfig(
    architecture="dcgan", filters=4, code_width=8, state_width=5, noise_width=3, inference_width=8, inference_depth=2,
    residual_width=8, residual_depth=2, euler_steps=1, length=7, stride=2, observed=2, condition=3,
)  # fmt: skip
VIT = ViTConfig(image_size=64, patch_size=16, width=16, depth=1, heads=2)


def make(**settings: object) -> SRVP:
    torch.manual_seed(0)
    return enlarge(replace(TOY, **settings).build(VIT).eval())  # type: ignore[arg-type]


def enlarge(model: SRVP) -> SRVP:
    """Draw large weights, so that noise is seen in what is decoded."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=(3 / parameter[0].numel()) ** 0.5)
    return model


def frames(count: int, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, count, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 0.5


def test_what_it_looks_at_and_how_far_it_sees() -> None:
    imaginer = SRVPImaginer(make(), fps=0.0)
    assert imaginer.context == (-4, -2, 0) and (imaginer.gaps.min_gap, imaginer.gaps.max_gap) == (2, 8)
    seconds = SRVPImaginer(make(stride=0.1, stride_unit="seconds"), fps=30.0)
    assert seconds.context == (-6, -3, 0) and seconds.gaps.max_gap == 12


def test_a_gap_of_whole_strides_is_the_prediction() -> None:
    model, context = make(euler_steps=2), frames(3)
    imaginer = SRVPImaginer(model, 0.0)
    chances = imaginer.draw_chances(2, 3, gap=6, seed=0)
    futures = imaginer.imagine(context, frames(4)[:, 3], 6, chances)
    assert list(futures.columns) == ["current", "future", "prior 1", "prior 2", "prior 3"]
    predicted = model.predict(model.pixels(context), 3, chances.first_states[1], chances.noises[1])
    torch.testing.assert_close(futures.columns["prior 2"], predicted[-1])
    assert futures.spread is not None and futures.spread.shape == (2, 64, 64) and futures.spread.mean() > 1e-3
    truth = model.backbone.pixels(frames(4)[:, 3])
    errors = torch.stack([(futures.columns[f"prior {k}"] - truth).square().mean(dim=(1, 2, 3)) for k in (1, 2, 3)])
    assert futures.errors["mse_prior"] == pytest.approx(errors.mean().item())
    assert futures.errors["mse_best"] == pytest.approx(errors.amin(dim=0).mean().item())
    assert futures.errors["mse_best"] < futures.errors["mse_prior"]


def test_a_gap_between_its_frames_is_reached_by_smaller_steps() -> None:
    model, context = make(), frames(3)
    imaginer = SRVPImaginer(model, 0.0)
    chances = imaginer.draw_chances(2, 1, gap=5, seed=0)
    between = imaginer.imagine(context, None, 5, chances).columns["prior 1"]
    twice = model.predict(model.pixels(context), 3, chances.first_states[0], chances.noises[0], euler_steps=2, rate=2)
    torch.testing.assert_close(between, twice[4], msg="two frames and a half")


def test_one_noise_makes_a_whole_film() -> None:
    imaginer, context = SRVPImaginer(make(), 0.0), frames(3)
    chances = imaginer.draw_chances(2, 2, gap=4, seed=0)
    whole = imaginer.imagine(context, None, 4, chances)
    film = imaginer.imagine(context[1:].expand(3, -1, -1, -1, -1), None, 4, chances.row(1))
    for name, pictures in film.columns.items():
        if name.startswith("prior"):
            torch.testing.assert_close(pictures, whole.columns[name][1:].expand_as(pictures), rtol=0, atol=1e-5)
    again, other = imaginer.draw_chances(2, 2, 4, seed=0), imaginer.draw_chances(2, 2, 4, seed=1)
    assert torch.equal(again.noises[1], chances.noises[1]) and not torch.equal(other.noises[1], chances.noises[1])
    assert not torch.equal(chances.noises[0], chances.noises[1])


def test_without_noise_there_is_one_prediction() -> None:
    imaginer = SRVPImaginer(make(latent="none"), 0.0)
    chances = imaginer.draw_chances(2, 4, gap=4, seed=0)
    futures = imaginer.imagine(frames(3), frames(4)[:, 3], 4, chances)
    assert list(futures.columns) == ["current", "future", "prediction"] and futures.spread is None
    assert set(futures.errors) == {"mse_prediction"} and chances.samples == 0
    assert "nothing to sample" in imaginer.describe(4, 0, False)


def test_grey_models_show_grey_futures_beside_coloured_frames() -> None:
    imaginer = SRVPImaginer(make(channels=1), 0.0)
    futures = imaginer.imagine(frames(3), frames(4)[:, 3], 4, imaginer.draw_chances(2, 1, 4, 0))
    assert all(pictures.shape == (2, 3, 64, 64) for pictures in futures.columns.values())
    assert torch.equal(futures.columns["prior 1"][:, 0], futures.columns["prior 1"][:, 2])


@pytest.fixture
def run(make_demonstrations: Callable[..., Path], tmp_path: Path) -> Path:
    config = PretrainConfig(data=make_demonstrations((17, 20)), out=tmp_path / "run", image_size=64, objective=TOY)
    model = build_objective(config)
    assert isinstance(model, SRVP)
    folder = RunFolder.open(config.out, config.identity())
    folder.close()
    save_checkpoint(folder.checkpoints, {"step": 1, "model": enlarge(model).state_dict()}, config)
    return config.out


def test_picture_and_film_of_a_run(run: Path) -> None:
    path = imagine(ImagineConfig(run, rows=2, samples=3, gap=4, device="cpu"))
    with Image.open(path) as picture:
        # Current, future, three samples and spread, each 64 pixels shown at 128.
        assert picture.size == (6 * 128 + 5 * 4, 22 + 2 * 128 + 4)
    described = read_json(path.with_suffix(".json"))
    assert (described["gap"], described["samples"]) == (4, 3)
    assert described["caption"].startswith(
        "Each row is one moment: the last of the 3 frames seen, 2 frames apart, the true frame 4 frames later, and 3 "
        "futures sampled from the prior. The last column is the spread"
    )
    assert described["mse_best"] <= described["mse_prior"]
    film = np.asarray(iio.imread(path.with_suffix(".mp4"), plugin="pyav")).astype(int)
    assert len(film) == described["film"]["frames"] == 20 - 4 - 4, "the first four frames are seen, the last four come"
    cell = slice(22, 150)
    current, future = film[:, cell, :128], film[:, cell, 132:260]
    assert np.abs(future[0] - current[4]).mean() < 8 < np.abs(future[0] - current[2]).mean()


def test_a_picture_counts_as_one_that_stood_still(run: Path, tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (21, 50, 3), np.uint8)).save(tmp_path / "scene.png")
    path = imagine(ImagineConfig(run, tmp_path / "x.png", data=str(tmp_path / "scene.png"), samples=2))
    with Image.open(path) as picture:
        assert picture.size == (4 * 132 + 128, 22 + 128), "current, two samples, their mean and the spread"
    caption = read_json(path.with_suffix(".json"))["caption"]
    assert "counts as still for 3 frames" in caption and "8 frames ahead, and their mean." in caption
