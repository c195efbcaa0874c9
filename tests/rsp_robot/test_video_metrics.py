from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from rsp_robot.errors import UserError
from rsp_robot.video_metrics import (
    METRICS,
    Metric,
    best_scores,
    clip_scores,
    estimate,
    frechet_distance,
    frechet_video_distance,
    load_lpips,
    psnr,
    ssim,
)


def test_psnr_by_hand() -> None:
    target = torch.zeros(2, 3, 4, 4)
    predicted = torch.stack([torch.full((3, 4, 4), 0.1), torch.full((3, 4, 4), 0.5)])
    assert torch.allclose(psnr(predicted, target), torch.tensor([20.0, 10 * math.log10(4)]))
    assert psnr(target, target).tolist() == [100.0, 100.0]


def test_ssim_is_one_for_equal_frames_and_follows_the_formula_for_flat_ones() -> None:
    pytest.importorskip("torchmetrics")
    picture = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(ssim(picture, picture), torch.ones(2), atol=1e-5)
    dark, bright = torch.full((1, 3, 32, 32), 0.2), torch.full((1, 3, 32, 32), 0.6)
    c1 = 0.01**2  # flat pictures have no variance: what is left is the comparison of luminance
    expected = (2 * 0.2 * 0.6 + c1) / (0.2**2 + 0.6**2 + c1)
    assert torch.allclose(ssim(dark, bright), torch.tensor([expected]), atol=1e-4)
    noisy = (picture + 0.2 * torch.randn(picture.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
    assert 0.2 < float(ssim(noisy, picture)[0]) < 0.95


def test_a_metric_is_averaged_over_the_frames_of_each_clip() -> None:
    target = torch.zeros(2, 3, 3, 4, 4)
    predicted = torch.full((2, 3, 3, 4, 4), 0.1)
    predicted[1, 2] = 0.01
    scores = clip_scores(METRICS["psnr"], predicted, target)
    assert torch.allclose(scores, torch.tensor([20.0, (20 + 20 + 40) / 3]), atol=1e-4)
    with pytest.raises(ValueError, match="alike"):
        clip_scores(METRICS["psnr"], predicted[:1], target)


def test_the_best_sample_counts_for_each_clip_and_metric_on_its_own() -> None:
    target = torch.zeros(2, 1, 3, 2, 2)

    def level(first: float, second: float) -> torch.Tensor:
        return torch.tensor([first, second])[:, None, None, None, None].expand(2, 1, 3, 2, 2)

    def mean_of(predicted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return predicted.flatten(1).mean(dim=1)

    metrics = {"psnr": METRICS["psnr"], "most": Metric(mean_of, True), "least": Metric(mean_of, False)}
    samples = [level(0.1, 0.8), level(0.3, 0.01), level(0.2, 0.5)]
    best = best_scores(iter(samples), target, metrics)
    assert torch.allclose(best["psnr"], torch.tensor([20.0, 40.0]), atol=1e-4)
    assert torch.allclose(best["most"], torch.tensor([0.3, 0.8]))
    assert torch.allclose(best["least"], torch.tensor([0.1, 0.01]))
    with pytest.raises(ValueError, match="one sample"):
        best_scores([], target, metrics)


def test_more_samples_are_never_worse() -> None:
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(4, 2, 3, 16, 16, generator=generator)
    samples = [torch.rand(4, 2, 3, 16, 16, generator=generator) for _ in range(5)]
    few = best_scores(samples[:2], target, {"psnr": METRICS["psnr"]})["psnr"]
    many = best_scores(samples, target, {"psnr": METRICS["psnr"]})["psnr"]
    assert (many >= few).all() and (many > few).any()


def test_the_interval_is_that_of_the_mean_over_clips() -> None:
    found = estimate(torch.tensor([1.0, 3.0]))
    assert found.mean == 2 and found.clips == 2
    assert found.half_width == pytest.approx(1.959964 * math.sqrt(2) / math.sqrt(2))
    assert math.isnan(estimate(np.array([1.0])).half_width)


def test_frechet_distance_of_gaussians_by_hand() -> None:
    zero = np.zeros(2)
    # Commuting covariances: the sum over axes of (difference of means)² + (difference of standard deviations)².
    assert frechet_distance(zero, np.diag([1.0, 4.0]), np.array([1.0, 2.0]), np.diag([9.0, 16.0])) == pytest.approx(
        1 + 4 + (1 - 3) ** 2 + (2 - 4) ** 2
    )
    assert frechet_distance(zero, np.eye(2), zero, np.eye(2)) == pytest.approx(0, abs=1e-9)
    # Rank one, not commuting: C1 = aa^T, C2 = bb^T, (C1 C2)^½ has the trace |a·b|.
    a, b = np.array([1.0, 2.0]), np.array([3.0, -1.0])
    expected = a @ a + b @ b - 2 * abs(a @ b)
    assert frechet_distance(zero, np.outer(a, a), zero, np.outer(b, b)) == pytest.approx(expected)


def test_frechet_distance_agrees_with_the_matrix_root_and_is_symmetric() -> None:
    from scipy.linalg import sqrtm

    rng = np.random.default_rng(0)
    one, other = (rng.normal(size=(200, 5)) @ rng.normal(size=(5, 5)) + rng.normal(size=5) for _ in range(2))
    moments = [(x.mean(axis=0), np.cov(x, rowvar=False)) for x in (one, other)]
    (m1, c1), (m2, c2) = moments
    expected = ((m1 - m2) ** 2).sum() + np.trace(c1 + c2 - 2 * sqrtm(c1 @ c2).real)
    assert frechet_distance(m1, c1, m2, c2) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(m2, c2, m1, c1) == pytest.approx(expected, rel=1e-6)


def test_films_that_move_otherwise_are_further_apart() -> None:
    def features(clips: torch.Tensor) -> torch.Tensor:
        return torch.stack([clips.mean(dim=(1, 2, 3, 4)), clips.diff(dim=1).abs().mean(dim=(1, 2, 3, 4))], dim=1)

    generator = torch.Generator().manual_seed(0)
    still = torch.rand(40, 1, 3, 8, 8, generator=generator).expand(40, 4, 3, 8, 8)
    others = torch.rand(40, 1, 3, 8, 8, generator=generator).expand(40, 4, 3, 8, 8)
    restless = torch.rand(40, 4, 3, 8, 8, generator=generator)
    assert frechet_video_distance(features, still, others) < 0.01 < frechet_video_distance(features, still, restless)
    assert frechet_video_distance(features, still, still) == pytest.approx(0, abs=1e-9)
    with pytest.raises(ValueError, match="two films"):
        frechet_video_distance(features, still[:1], others)


@pytest.fixture(scope="module")
def squeezenet(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.nn.Module]:
    torchvision = pytest.importorskip("torchvision")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = torchvision.models.squeezenet1_1(weights=None)
    path = tmp_path_factory.mktemp("weights") / "squeezenet.safetensors"
    save_file(network.state_dict(), path)
    return path, network


def test_lpips_uses_the_weights_that_are_given(squeezenet: tuple[Path, torch.nn.Module]) -> None:
    pytest.importorskip("torchmetrics")
    path, network = squeezenet
    metric = load_lpips(path, "squeeze")
    assert not metric.larger_is_better
    one, other = torch.rand(2, 2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(metric.of_frames(one, one), torch.zeros(2))
    expected = lpips_by_hand(network, one, other)
    assert torch.allclose(metric.of_frames(one, other), expected, rtol=1e-4)
    assert (expected > 1e-3).all()


@torch.no_grad()
def lpips_by_hand(network: torch.nn.Module, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Zhang et al. 2018, equation 1: weighted squared differences of unit-length features, mean over places, sum."""
    import torchmetrics.functional.image as functional

    learned = torch.load(
        Path(functional.__file__).parent / "lpips_models" / "squeeze.pth", map_location="cpu", weights_only=True
    )
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    total = torch.zeros(len(one))
    hidden = [(2 * frames - 1 - shift[:, None, None]) / scale[:, None, None] for frames in (one, other)]
    last = 0
    for layer, end in enumerate((2, 5, 8, 10, 11, 12, 13)):
        hidden = [network.features[last:end](frames) for frames in hidden]
        unit = [frames / (1e-8 + frames.square().sum(dim=1, keepdim=True)).sqrt() for frames in hidden]
        weighted = (unit[0] - unit[1]).square() * learned[f"lin{layer}.model.1.weight"]
        total += weighted.sum(dim=1).mean(dim=(1, 2))
        last = end
    return total


def test_lpips_without_its_weights_says_which_file_it_needs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"alexnet-owt-7be5be79\.pth") as error:
        load_lpips(tmp_path / "gone.pth")
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="unknown network for LPIPS 'resnet'"):
        load_lpips(tmp_path / "gone.pth", "resnet")  # type: ignore[arg-type]


def test_lpips_refuses_weights_of_another_network(squeezenet: tuple[Path, torch.nn.Module], tmp_path: Path) -> None:
    pytest.importorskip("torchmetrics")
    path = tmp_path / "other.safetensors"
    save_file({"conv.weight": torch.zeros(3)}, path)
    with pytest.raises(UserError, match=r"has no features\.0\.weight; give torchvision's squeezenet"):
        load_lpips(path, "squeeze")
    weights = {name: tensor[:1].clone() for name, tensor in squeezenet[1].state_dict().items()}
    save_file(weights, path)
    with pytest.raises(UserError, match="is of another network than squeeze"):
        load_lpips(path, "squeeze")


def test_lpips_executes_nothing_of_a_pickled_file(tmp_path: Path) -> None:
    pytest.importorskip("torchmetrics")

    class Attack:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return exec, (f"open({str(tmp_path / 'was-here')!r}, 'w').close()",)

    torch.save({"features.0.weight": Attack()}, tmp_path / "evil.pth")
    with pytest.raises(UserError):
        load_lpips(tmp_path / "evil.pth", "squeeze")
    assert not (tmp_path / "was-here").exists()


def test_without_torchmetrics_the_fix_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchmetrics.functional.image", None)
    with pytest.raises(UserError, match=r"pip install 'rsp-robot\[metrics\]'"):
        ssim(torch.zeros(1, 3, 32, 32), torch.zeros(1, 3, 32, 32))
