"""How good predicted films are: PSNR, SSIM, LPIPS, and a Fréchet distance between films; best of K samples.

The protocol is that of stochastic video prediction (Denton and Fergus 2018; Franceschi et al. 2020, section 5): K
futures are drawn for every clip, a metric is averaged over the frames of each, the best of the K counts (for each
metric on its own), and the mean over the clips is given with 1.96 standard errors. The Fréchet distance takes one
sample of each clip. It is the published FVD only where the features are those of the I3D network that Unterthiner et
al. (2018) used; with others its numbers compare models with each other and with nothing in the literature.

Nothing is downloaded: networks come from files and modules that the caller gives, and no file is executed.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import nn

from rsp_robot.checkpoints import read_checkpoint, state_dict_of
from rsp_robot.errors import UserError, unknown_name

FrameMetric = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Predicted and true frames, each ``(N, 3, H, W)`` in [0, 1] -> ``(N,)``."""
Network = Literal["alex", "vgg", "squeeze"]
NORMAL_95 = 1.959964
LEAST_ERROR = 1e-10
"""Mean square errors below this count as this much: a perfect frame has 100 dB, not infinity."""
AT_ONCE = 512
"""Frames that go through a metric together."""
FILES = {"alex": "alexnet-owt-7be5be79.pth", "vgg": "vgg16-397923af.pth", "squeeze": "squeezenet1_1-b8a52dc0.pth"}
"""What torchvision calls its ImageNet weights."""


class Metric(NamedTuple):
    """A number for every frame."""

    of_frames: FrameMetric
    larger_is_better: bool


class Estimate(NamedTuple):
    """A mean over clips."""

    mean: float
    half_width: float
    """Of the 95 % interval; NaN for a single clip."""
    clips: int


def psnr(predicted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Peak signal-to-noise ratio in dB: two ``(N, 3, H, W)`` in [0, 1] -> ``(N,)``.

    >>> psnr(torch.zeros(1, 3, 2, 2), torch.full((1, 3, 2, 2), 0.1)).round(decimals=3)
    tensor([20.])
    """
    error = (predicted - target).square().flatten(1).mean(dim=1)
    return -10 * error.clamp(min=LEAST_ERROR).log10()


def ssim(predicted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Structural similarity (Wang et al. 2004), Gaussian window of 1.5 px: ``(N, 3, H, W)`` in [0, 1] -> ``(N,)``.

    Raises:
        UserError: torchmetrics is not installed.
    """
    try:
        from torchmetrics.functional.image import structural_similarity_index_measure
    except ImportError:
        raise _missing("SSIM") from None
    similar = structural_similarity_index_measure(predicted, target, reduction="none", data_range=1.0)
    assert isinstance(similar, torch.Tensor)
    return similar.reshape(len(predicted))


METRICS: dict[str, Metric] = {"psnr": Metric(psnr, True), "ssim": Metric(ssim, True)}
"""Those that need no weights."""


def load_lpips(weights: str | os.PathLike[str], network: Network = "alex", device: str = "cpu") -> Metric:
    """Make the perceptual distance LPIPS (Zhang et al. 2018); smaller is better.

    Its small learned layers come with torchmetrics, the network below them does not.

    Args:
        weights: torchvision's ImageNet weights of that network (``.pth`` or ``.safetensors``).
        network: alex (what most papers report), vgg or squeeze.
        device: where to compute.

    Raises:
        UserError: torchmetrics or the file is missing, or the file holds something else.
    """
    if network not in get_args(Network):
        raise unknown_name("network for LPIPS", network, get_args(Network))
    if not Path(weights).is_file():
        raise UserError(
            f"LPIPS needs torchvision's ImageNet weights {FILES[network]}, and {weights} is not there; bring that file "
            "from download.pytorch.org/models, nothing is downloaded unasked"
        )
    try:
        from torchmetrics.functional.image.lpips import _LPIPS
    except ImportError:
        raise _missing("LPIPS") from None
    model = _LPIPS(net=network, pnet_rand=True)
    given = state_dict_of(read_checkpoint(weights), os.fspath(weights))
    wanted = {name: given.get(f"features.{_below_slice(name)}") for name in model.net.state_dict()}
    absent = [_below_slice(name) for name, tensor in wanted.items() if tensor is None]
    if absent:
        raise UserError(f"{weights} has no features.{absent[0]}; give torchvision's {FILES[network]}")
    try:
        model.net.load_state_dict(wanted)
    except RuntimeError:
        raise UserError(
            f"{weights} is of another network than {network}; give torchvision's {FILES[network]}"
        ) from None
    model = model.to(device).requires_grad_(False).eval()

    @torch.no_grad()
    def distance(predicted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Two ``(N, 3, H, W)`` in [0, 1] -> ``(N,)``."""
        found: torch.Tensor = model(predicted.to(device), target.to(device), normalize=True)
        return found.reshape(len(predicted)).to(predicted.device)

    return Metric(distance, False)


def _below_slice(name: str) -> str:
    """What a layer is called in torchvision's ``features``.

    >>> _below_slice("slice2.3.weight"), _below_slice("slices.1.4.squeeze.bias")
    ('3.weight', '4.squeeze.bias')
    """
    return name.split(".", 2 if name.startswith("slices.") else 1)[-1]


def _missing(what: str) -> UserError:
    return UserError(f"{what} comes from torchmetrics, which is not installed; pip install 'rsp-robot[metrics]'")


# -- best of K ---------------------------------------------------------------------------------------------------------


def clip_scores(metric: Metric, predicted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Average a metric over the frames: two ``(N, T, 3, H, W)`` in [0, 1] -> ``(N,)``.

    Raises:
        ValueError: the shapes differ, or are of no clips.
    """
    if predicted.shape != target.shape or target.ndim != 5:
        raise ValueError(f"need two (N, T, 3, H, W) alike, got {tuple(predicted.shape)} and {tuple(target.shape)}")
    pairs = zip(predicted.flatten(0, 1).split(AT_ONCE), target.flatten(0, 1).split(AT_ONCE), strict=True)
    scores = torch.cat([metric.of_frames(one, other) for one, other in pairs])
    return scores.unflatten(0, target.shape[:2]).mean(dim=1)


def best_scores(
    samples: Iterable[torch.Tensor], target: torch.Tensor, metrics: Mapping[str, Metric] | None = None
) -> dict[str, torch.Tensor]:
    """Score every clip by the best of its samples, for each metric on its own.

    Args:
        samples: K predictions of all clips, each ``(N, T, 3, H, W)`` in [0, 1]; looked at one after the other.
        target: ``(N, T, 3, H, W)`` in [0, 1], what came.
        metrics: by name; PSNR and SSIM by default.

    Returns:
        ``(N,)`` for each metric.

    Raises:
        ValueError: there is no sample, or a shape differs.
    """
    metrics = METRICS if metrics is None else metrics
    best: dict[str, torch.Tensor] = {}
    for sample in samples:
        for name, metric in metrics.items():
            scores = clip_scores(metric, sample, target)
            better = torch.maximum if metric.larger_is_better else torch.minimum
            best[name] = better(best[name], scores) if name in best else scores
    if metrics and not best:
        raise ValueError("need at least one sample")
    return best


def estimate(scores: torch.Tensor | np.ndarray) -> Estimate:
    """Mean over clips ``(N,)`` with the half width of its 95 % interval: 1.96 standard errors.

    >>> found = estimate(np.array([1.0, 2.0, 3.0]))
    >>> found.mean, round(found.half_width, 4), found.clips
    (2.0, 1.1316, 3)
    """
    values = np.asarray(scores, dtype=np.float64)
    error = values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return Estimate(float(values.mean()), float(NORMAL_95 * error), len(values))


# -- between films -----------------------------------------------------------------------------------------------------


def frechet_distance(mean: np.ndarray, covariance: np.ndarray, mean_2: np.ndarray, covariance_2: np.ndarray) -> float:
    """Squared Fréchet (2-Wasserstein) distance of two normal distributions (Dowson and Landau 1982, equation 4).

    ``|m1 - m2|² + tr(C1 + C2 - 2 (C1 C2)^½)``, where the last trace is that of the root of ``C1^½ C2 C1^½``, which is
    symmetric, so that rounding cannot make it complex.

    Args:
        mean: ``(D,)``.
        covariance: ``(D, D)``, symmetric and positive semi-definite.
        mean_2: of the other, ``(D,)``.
        covariance_2: of the other, ``(D, D)``.

    >>> frechet_distance(np.zeros(2), np.eye(2), np.array([3.0, 4.0]), 4 * np.eye(2))
    27.0
    """
    values, vectors = np.linalg.eigh(covariance)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    inner = np.linalg.eigvalsh(root @ covariance_2 @ root).clip(min=0)
    traces = np.trace(covariance) + np.trace(covariance_2) - 2 * np.sqrt(inner).sum()
    return float(max(0.0, np.square(mean - mean_2).sum() + traces))


@torch.no_grad()
def frechet_video_distance(
    features: nn.Module | Callable[[torch.Tensor], torch.Tensor],
    real: torch.Tensor,
    generated: torch.Tensor,
    batch: int = 16,
) -> float:
    """Fréchet distance between the features of true and of generated films: FVD, if the features are I3D's.

    The covariance of D features needs more than D films; with fewer the distance says more of the number of films than
    of the films.

    Args:
        features: clips ``(B, T, 3, H, W)`` in [0, 1] -> ``(B, D)``; a module that your program built and loaded.
        real: ``(N, T, 3, H, W)`` in [0, 1].
        generated: one sample of each, ``(M, T, 3, H, W)`` in [0, 1].
        batch: clips that go through together.

    Raises:
        ValueError: there are fewer than two films of a kind, or the features are not ``(B, D)``.
    """
    if len(real) < 2 or len(generated) < 2:
        raise ValueError(f"need two films or more of each kind, got {len(real)} and {len(generated)}")
    (mean, covariance), (mean_2, covariance_2) = (_moments(features, films, batch) for films in (real, generated))
    return frechet_distance(mean, covariance, mean_2, covariance_2)


def _moments(
    features: Callable[[torch.Tensor], torch.Tensor], films: torch.Tensor, batch: int
) -> tuple[np.ndarray, np.ndarray]:
    found = torch.cat([features(part).float().cpu() for part in films.split(batch)]).double().numpy()
    if found.ndim != 2:
        raise ValueError(f"features must be (clips, D), got {found.shape}")
    return found.mean(axis=0), np.atleast_2d(np.cov(found, rowvar=False))
