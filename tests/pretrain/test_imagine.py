from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from PIL import Image

from rsp_robot.errors import UserError
from rsp_robot.files import read_json, write_text
from rsp_robot.films import write_mp4
from rsp_robot.pretrain import objectives
from rsp_robot.pretrain.checkpoints import build_objective, save_checkpoint
from rsp_robot.pretrain.config import PretrainConfig
from rsp_robot.pretrain.imagine import ImagineConfig, imagine
from rsp_robot.pretrain.objectives.rsp import RSPConfig
from rsp_robot.run_folder import RunFolder

TOY = RSPConfig(decoder_width=16, decoder_depth=1, decoder_heads=2, groups=3, classes=4, min_gap=2, max_gap=4)
MakeRun = Callable[..., Path]


@pytest.fixture
def config(toy_arch: str, make_demonstrations: Callable[..., Path], tmp_path: Path) -> PretrainConfig:
    return PretrainConfig(
        data=make_demonstrations(), out=tmp_path / "run", arch=toy_arch, image_size=16, patch_size=8, objective=TOY,
        steps=2, batch_size=4, device="cpu",
    )  # fmt: skip


@pytest.fixture
def make_run(config: PretrainConfig) -> MakeRun:
    """Write the run folder of a model with large random weights: its samples differ from one another."""

    def make(**changed: Any) -> Path:
        settings = replace(config, objective=replace(TOY, **changed))
        model = build_objective(settings)
        torch.manual_seed(0)
        for parameter in model.parameters():
            if parameter.requires_grad and parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.5)
        run = RunFolder.open(settings.out, settings.identity())
        run.close()
        save_checkpoint(run.checkpoints, {"step": 1, "model": model.state_dict()}, settings)
        return settings.out

    return make


def film_of(path: Path) -> np.ndarray:
    frames: np.ndarray = iio.imread(path, plugin="pyav")
    return frames


def test_picture_film_and_their_description_of_a_real_run(config: PretrainConfig) -> None:
    from rsp_robot.pretrain.train import pretrain

    path = imagine(ImagineConfig(pretrain(config), rows=2, samples=3, device="cpu"))
    assert path == config.out / "media" / "imagined.png"
    with Image.open(path) as picture:
        # Current, future, posterior, three priors and spread, each 16 pixels shown at 128, 4 apart, below the names.
        assert picture.size == (7 * 128 + 6 * 4, 22 + 2 * 128 + 4)
        assert np.asarray(picture).std() > 20
    described = read_json(path.with_suffix(".json"))
    assert set(described) == {
        "caption", "gap", "seed", "samples", "spread_peak", "mse_posterior", "mse_prior", "film"
    }  # fmt: skip
    assert (described["gap"], described["seed"], described["samples"]) == (4, 0, 3)
    assert "4 frames apart" in described["caption"] and "3 futures decoded from the prior" in described["caption"]
    assert f"to {described['spread_peak']:.1f} levels of 255" in described["caption"]
    assert described["mse_posterior"] > 0 and described["mse_prior"] > 0
    film = film_of(path.with_suffix(".mp4"))
    assert film.shape == (described["film"]["frames"], 22 + 128, 7 * 128 + 6 * 4, 3)
    assert b"avc1" in path.with_suffix(".mp4").read_bytes()


def test_the_seed_decides_picture_and_film(make_run: MakeRun, tmp_path: Path) -> None:
    run, names = make_run(), {"a.png": 0, "b.png": 0, "c.png": 1}
    made = [imagine(ImagineConfig(run, tmp_path / name, rows=2, seed=seed)) for name, seed in names.items()]
    pictures = [np.asarray(Image.open(path)).astype(int) for path in made]
    films = [film_of(path.with_suffix(".mp4")).astype(int) for path in made]
    for first, again, other in (pictures, films):
        # Sums in another order may round a grey level the other way, which a codec spreads.
        assert np.abs(first - again).mean() < 0.01
        assert first.shape != other.shape or np.abs(first - other).mean() > 0.2


def test_in_the_film_time_runs_and_the_samples_are_those_of_the_picture(
    make_run: MakeRun, make_demonstrations: Callable[..., Path], tmp_path: Path
) -> None:
    data = make_demonstrations((9,), "one.hdf5")
    path = imagine(ImagineConfig(make_run(), tmp_path / "x.png", data=data, rows=1, gap=3, samples=2))
    film = film_of(path.with_suffix(".mp4")).astype(int)
    assert len(film) == 9 - 3
    cell = slice(22, 150)
    current, future = film[:, cell, :128], film[:, cell, 132:260]
    for t in range(3):
        assert np.abs(future[t] - current[t + 3]).mean() < 8, "what is the future now is the current frame 3 later"
        assert np.abs(future[t] - current[t + 2]).mean() > 20
    picture = np.asarray(Image.open(path)).astype(int)
    distances = [np.abs(frame[cell, :-132] - picture[cell, :-132]).mean() for frame in film]
    assert min(distances) < 8 < sorted(distances)[1], "the picture is one frame of the film, noise included"


def test_samples_do_not_flicker_where_nothing_moves(make_run: MakeRun, tmp_path: Path) -> None:
    still = np.repeat(np.random.default_rng(0).integers(0, 255, (1, 32, 48, 3), np.uint8), 20, axis=0)
    write_mp4(tmp_path / "still.mp4", still, 8)
    path = imagine(ImagineConfig(make_run(), tmp_path / "x.png", data=tmp_path / "still.mp4", samples=3))
    assert read_json(path.with_suffix(".json"))["film"]["fps"] == 8
    film = film_of(path.with_suffix(".mp4"))[:, 22:, 264:].astype(int)  # posterior, samples and spread
    assert len(film) == 16
    assert np.abs(film - film[:1]).mean() < 3
    assert np.abs(film[0, :, 132:260] - film[0, :, 264:392]).mean() > 10, "yet one sample is not the other"


def test_film_is_cut_at_its_longest_and_can_be_left_out(
    make_run: MakeRun, make_demonstrations: Callable[..., Path]
) -> None:
    data = make_demonstrations((9, 30), "long.hdf5")
    wanted = ImagineConfig(make_run(), data=data, rows=2, gap=4, film_frames=20)
    path = imagine(wanted)
    described = read_json(path.with_suffix(".json"))["film"]
    assert (described["file"], described["video"]) == ("imagined.mp4", 1), "the longer one"
    assert (described["frames"], described["of"], len(film_of(path.with_suffix(".mp4")))) == (20, 30, 20)
    assert described["fps"] == 15, "demonstrations that do not say their own"
    imagine(replace(wanted, film=False))
    assert "film" not in read_json(path.with_suffix(".json"))
    assert not path.with_suffix(".mp4").exists(), "one of an earlier call does not belong to this picture"


def test_a_single_picture_of_any_shape(make_run: MakeRun, tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (21, 50, 3), np.uint8)).save(tmp_path / "scene.jpg")
    wanted = ImagineConfig(make_run(), tmp_path / "x.png", data=tmp_path / "scene.jpg", samples=2)
    with Image.open(imagine(wanted)) as picture:
        # One row, however many were asked for: current, two priors, their mean and the spread.
        assert picture.size == (5 * 128 + 4 * 4, 22 + 128)
    described = read_json(tmp_path / "x.json")
    assert set(described) == {"caption", "gap", "seed", "samples", "spread_peak"} and described["gap"] is None
    assert "no future is known" in described["caption"] and "those of the picture itself" in described["caption"]
    assert not (tmp_path / "x.mp4").exists()
    with pytest.raises(UserError, match="ask for --samples 1 or more"):
        imagine(replace(wanted, samples=0))
    with pytest.raises(UserError, match="no video is longer than the gap of 4 frames, the longest has 1"):
        imagine(replace(wanted, gap=4))


def test_videos_of_different_sizes(make_run: MakeRun, tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    for name, shape in {"wide": (16, 40), "tall": (36, 20), "short": (8, 8)}.items():
        frames = np.random.default_rng(0).integers(0, 255, (3 if name == "short" else 9, *shape, 3), np.uint8)
        write_mp4(tmp_path / "videos" / f"{name}.mp4", frames, 50)
    path = imagine(ImagineConfig(make_run(), data=tmp_path / "videos", rows=3, samples=1))
    with Image.open(path) as picture:
        assert picture.size == (4 * 128 + 3 * 4, 22 + 3 * 128 + 2 * 4), "one sample has no spread"
    described = read_json(path.with_suffix(".json"))
    assert "spread" not in described["caption"]
    assert described["film"]["fps"] == 15, "50 would be too fast to see"


def test_without_samples(make_run: MakeRun) -> None:
    path = imagine(ImagineConfig(make_run(), rows=1, samples=0))
    with Image.open(path) as picture:
        assert picture.size == (3 * 128 + 2 * 4, 22 + 128)
    described = read_json(path.with_suffix(".json"))
    assert "mse_prior" not in described and described["spread_peak"] is None
    assert "true future, and the future decoded from the posterior" in described["caption"]


@pytest.mark.parametrize(("latent", "columns"), [("gaussian", 6), ("deterministic", 3)])
def test_other_latents(make_run: MakeRun, latent: str, columns: int) -> None:
    path = imagine(ImagineConfig(make_run(latent=latent), rows=1, samples=2))
    with Image.open(path) as picture:
        assert picture.size[0] == columns * 132 - 4
    described = read_json(path.with_suffix(".json"))
    assert ("mse_prediction" in described) == (latent == "deterministic")
    assert ("no latent to sample" in described["caption"]) == (latent == "deterministic")
    assert film_of(path.with_suffix(".mp4")).shape[2] == columns * 132 - 4


def test_caption_speaks_of_contrast_only_where_it_is_put_back(make_run: MakeRun) -> None:
    described = read_json(imagine(ImagineConfig(make_run(normalise_targets=False), film=False)).with_suffix(".json"))
    assert "contrast" not in described["caption"]


def test_what_is_drawn_from_is_never_overwritten(make_run: MakeRun, tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (9, 16, 16, 3), np.uint8)
    write_mp4(tmp_path / "clip.mp4", frames, 10)
    before = (tmp_path / "clip.mp4").read_bytes()
    run = make_run()
    for data in (tmp_path / "clip.mp4", tmp_path):
        with pytest.raises(UserError, match=r"clip\.mp4 is what is to be drawn from .*; choose another --out"):
            imagine(ImagineConfig(run, tmp_path / "clip.png", data=data))
    assert (tmp_path / "clip.mp4").read_bytes() == before and not (tmp_path / "clip.png").exists()


@dataclass(frozen=True)
class OtherConfig(objectives.ObjectiveConfig):
    name: ClassVar[str] = "other"


def test_a_run_of_another_objective(config: PretrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(objectives.OBJECTIVES, "other", OtherConfig)
    RunFolder.open(config.out, replace(config, objective=OtherConfig()).identity()).close()
    with pytest.raises(UserError, match="was pretrained with 'other', which imagines no futures; give a run of"):
        imagine(ImagineConfig(config.out))


def test_a_run_without_checkpoint_and_a_folder_that_is_no_run(make_run: MakeRun, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a run folder of `rsp-robot pretrain`"):
        imagine(ImagineConfig(tmp_path))
    run = make_run()
    for checkpoint in (run / "checkpoints").iterdir():
        checkpoint.unlink()
    with pytest.raises(UserError, match="has no checkpoint; pretrain first"):
        imagine(ImagineConfig(run))


def test_data_that_cannot_be_read(make_run: MakeRun, tmp_path: Path) -> None:
    write_text(tmp_path / "bad.png", "no picture")
    write_text(tmp_path / "bad.mp4", "no video")
    run = make_run()
    for name in ("bad.png", "bad.mp4"):
        with pytest.raises(UserError, match=f"{name}.*(is no video|convert it to PNG)"):
            imagine(ImagineConfig(run, data=tmp_path / name))
    with pytest.raises(UserError, match="no video is longer than the gap of 40 frames, the longest has 14; lower"):
        imagine(ImagineConfig(run, gap=40))
    assert not (run / "media" / "imagined.png").exists()


@pytest.mark.parametrize("settings", [{"rows": 0}, {"samples": -1}, {"gap": 0}, {"gap": -2}, {"film_frames": 0}])
def test_settings_out_of_range(settings: dict[str, int], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="rows, gap and film_frames must be at least 1"):
        ImagineConfig(tmp_path, **settings)


def test_only_png_is_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.mp4 must end in \.png"):
        ImagineConfig(tmp_path, out=tmp_path / "a.mp4")
