from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from rsp_robot.backbones.vit import vit_config
from rsp_robot.pretrain.futures import draw_chances, imagine_futures, to_images
from rsp_robot.pretrain.imaginer import spread_of
from rsp_robot.pretrain.objectives.rsp import RSP, RSPConfig

TOY = RSPConfig(decoder_width=16, decoder_depth=1, decoder_heads=2, groups=3, classes=4, min_gap=2, max_gap=4)
Build = Callable[..., RSP]


@pytest.fixture
def build(toy_arch: str) -> Build:
    def make(**changed: object) -> RSP:
        torch.manual_seed(0)
        model = RSP(vit_config(toy_arch, 16, 8), replace(TOY, **changed)).eval()
        for parameter in model.parameters():
            if parameter.requires_grad and parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.5)  # so that latents are seen in what is decoded
        return model

    return make


def frames(seed: int, batch: int = 3) -> torch.Tensor:
    return torch.randn(batch, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) * 0.5


def pixels(images: torch.Tensor) -> torch.Tensor:
    """Normalised images -> [0, 1], with the numbers of ImageNet written out."""
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[..., None, None]
    return (images * std + mean).clamp(0, 1)


def test_a_model_that_predicts_the_truth_shows_it_with_no_error(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    model, now, later = build(), frames(0), frames(1)
    monkeypatch.setattr(model, "predict_future", lambda tokens, latent: model.targets(later))
    futures = imagine_futures(model, now, later, draw_chances(model, 3, 2, seed=0))
    assert futures.errors == {"mse_posterior": 0.0, "mse_prior": 0.0}
    assert list(futures.columns) == ["current", "future", "posterior", "prior 1", "prior 2"]
    for name, images in futures.columns.items():
        torch.testing.assert_close(images, pixels(now if name == "current" else later), rtol=0, atol=1e-5)
    assert futures.spread is not None and futures.spread.shape == (3, 16, 16) and not futures.spread.any()


def test_posterior_sees_the_noised_future_and_prior_samples_differ(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, now, later = build(), frames(0), frames(1)
    latents: list[torch.Tensor] = []
    seen: list[torch.Tensor] = []
    certain = torch.full((3, 3, 4), -50.0)
    certain[..., 2] = 50

    def fake_posterior(current: torch.Tensor, future: torch.Tensor) -> torch.Tensor:
        seen.extend([current, future])
        return certain.flatten(1)

    def decode(tokens: torch.Tensor, latent: torch.Tensor) -> torch.Tensor:
        latents.append(latent)
        return torch.zeros(3, 4, 192)

    monkeypatch.setattr(model, "posterior", fake_posterior)
    monkeypatch.setattr(model, "prior", lambda current: torch.zeros(3, 12))
    monkeypatch.setattr(model, "predict_future", decode)
    chances = draw_chances(model, 3, 3, seed=0)
    errors = imagine_futures(model, now, later, chances).errors
    with torch.no_grad():
        torch.testing.assert_close(seen[0], model.backbone(now)[:, 0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(seen[1], model.backbone(later + 0.5 * chances.pixels)[:, 0], rtol=1e-4, atol=1e-5)
    assert len(latents) == 4
    assert latents[0].unflatten(1, (3, 4))[..., 2].eq(1).all()
    assert not torch.equal(latents[1], latents[2])
    assert errors["mse_posterior"] == pytest.approx(191 / 192, rel=1e-3), "zero against patches of unit variance"


@pytest.mark.parametrize("latent", ["categorical", "gaussian"])
def test_spread_is_that_of_the_samples(build: Build, latent: str) -> None:
    model = build(latent=latent)
    futures = imagine_futures(model, frames(0), frames(1), draw_chances(model, 3, 3, seed=0))
    samples = np.stack([futures.columns[f"prior {k}"].numpy() for k in (1, 2, 3)])
    assert futures.spread is not None and float(futures.spread.mean()) > 1e-3
    np.testing.assert_allclose(futures.spread, samples.std(axis=0, ddof=1).mean(axis=1), atol=1e-6)
    fewer = imagine_futures(model, frames(0), frames(1), draw_chances(model, 3, 1, seed=0))
    assert fewer.spread is None and "prior 1" in fewer.columns


def test_spread_by_hand() -> None:
    first, second = torch.zeros(1, 3, 1, 2), torch.zeros(1, 3, 1, 2)
    second[0, 0, 0, 1] = 0.6  # red differs by 0.6: deviation 0.6 / sqrt(2), a third of it over three channels
    assert spread_of([first, second]).flatten().tolist() == pytest.approx([0.0, 0.6 / 2**0.5 / 3])


def test_errors_by_hand(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(normalise_targets=False)
    truth = model.targets(frames(1))
    off = iter([1.0, 2.0, 4.0])
    monkeypatch.setattr(model, "predict_future", lambda tokens, latent: truth + next(off))
    errors = imagine_futures(model, frames(0), frames(1), draw_chances(model, 3, 2, seed=0)).errors
    assert errors == pytest.approx({"mse_posterior": 1.0, "mse_prior": (4 + 16) / 2}, rel=1e-5)


def test_without_a_latent_there_is_one_prediction(build: Build) -> None:
    model = build(latent="deterministic")
    chances = draw_chances(model, 3, 4, seed=0)
    assert chances.posterior is None and chances.prior == []
    futures = imagine_futures(model, frames(0), frames(1), chances)
    assert list(futures.columns) == ["current", "future", "prediction"]
    assert futures.spread is None and set(futures.errors) == {"mse_prediction"}
    still = imagine_futures(model, frames(0), None, chances)
    assert list(still.columns) == ["current", "prediction"] and still.errors == {}


def test_a_picture_without_future_borrows_its_own_patch_statistics(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, now = build(), frames(0)
    offsets = iter([0.0, 0.2])
    monkeypatch.setattr(model, "predict_future", lambda tokens, latent: model.targets(now) + next(offsets))
    futures = imagine_futures(model, now, None, draw_chances(model, 3, 2, seed=0))
    assert list(futures.columns) == ["current", "prior 1", "prior 2", "mean"] and futures.errors == {}
    torch.testing.assert_close(futures.columns["prior 1"], pixels(now), rtol=0, atol=1e-5)
    mean = (futures.columns["prior 1"] + futures.columns["prior 2"]) / 2
    torch.testing.assert_close(futures.columns["mean"], mean)
    assert not torch.allclose(mean, futures.columns["prior 1"])
    monkeypatch.undo()
    alone = imagine_futures(model, now, None, draw_chances(model, 3, 1, seed=0))
    assert list(alone.columns) == ["current", "prior 1"], "one sample is its own mean"


def test_one_noise_makes_a_whole_film(build: Build) -> None:
    model, now, later = build(), frames(0), frames(1)
    chances = draw_chances(model, 3, 2, seed=0)
    whole = imagine_futures(model, now, later, chances)
    row = imagine_futures(model, now[1:2], later[1:2], chances.row(1))
    film = imagine_futures(model, now[1:2].expand(5, -1, -1, -1), later[1:2].expand(5, -1, -1, -1), chances.row(1))
    for name, images in film.columns.items():
        torch.testing.assert_close(images, row.columns[name].expand_as(images), rtol=0, atol=1e-5)
        torch.testing.assert_close(row.columns[name][0], whole.columns[name][1], rtol=0, atol=1e-5)


def test_chances_are_those_of_the_seed(build: Build) -> None:
    first, again, other = (draw_chances(build(), 2, 3, seed) for seed in (0, 0, 1))
    assert first.pixels.shape == (2, 3, 16, 16) and len(first.prior) == 3 and first.prior[0].shape == (2, 3, 4)
    assert torch.equal(first.prior[2], again.prior[2]) and not torch.equal(first.prior[2], other.prior[2])
    assert not torch.equal(first.prior[0], first.prior[1])
    assert draw_chances(build(latent="gaussian"), 2, 1, 0).prior[0].shape == (2, 3)


@pytest.mark.parametrize("normalise", [True, False])
def test_true_patches_become_the_true_picture(build: Build, normalise: bool) -> None:
    model, truth = build(normalise_targets=normalise), frames(0, batch=2)
    torch.testing.assert_close(to_images(model, model.targets(truth), truth), truth, rtol=0, atol=1e-5)
