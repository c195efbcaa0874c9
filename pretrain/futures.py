"""Futures that an RSP model imagines: decoded from its posterior and from samples of its prior, and their spread."""

from __future__ import annotations

from typing import NamedTuple

import torch

from rsp_robot.preprocessing import Preprocessing
from rsp_robot.pretrain.masking import patchify, unpatchify
from rsp_robot.pretrain.objectives.rsp import RSP


class Chances(NamedTuple):
    """All that is drawn at random to imagine futures; a batch of one serves a whole film, so that it is calm."""

    pixels: torch.Tensor
    """``(B, 3, S, S)`` standard normal: the noise on the future frame that the posterior sees."""
    posterior: torch.Tensor | None
    """``(B, ...)`` what the latent turns into a sample of the posterior; None without a latent."""
    prior: list[torch.Tensor]
    """K of ``(B, ...)``, for K samples of the prior."""

    def row(self, index: int) -> Chances:
        """Those of one row, as a batch of one."""
        one = slice(index, index + 1)
        posterior = None if self.posterior is None else self.posterior[one]
        return Chances(self.pixels[one], posterior, [noise[one] for noise in self.prior])


class Futures(NamedTuple):
    """What is to be seen."""

    columns: dict[str, torch.Tensor]
    """By name ``(B, 3, S, S)`` in [0, 1]: ``current``, ``future`` (the true one), ``posterior`` or, without a latent,
    ``prediction``, ``prior 1`` to ``prior K``; ``mean`` of these where there is no true future."""
    spread: torch.Tensor | None
    """``(B, S, S)`` standard deviation over the prior's samples, mean over the channels; None for fewer than two."""
    errors: dict[str, float]
    """Mean squared errors of ``posterior`` or ``prediction`` and ``prior`` (mean over its samples) in what the model
    predicts (normalised patches, as a rule); empty where there is no true future."""


def draw_chances(model: RSP, batch: int, samples: int, seed: int) -> Chances:
    """Draw for ``batch`` rows and ``samples`` samples of the prior; the same numbers on every device."""
    device, generator, cpu = model.mask_token.device, torch.Generator().manual_seed(seed), torch.device("cpu")
    size, latent = model.vit.image_size, model.latent
    pixels = torch.randn((batch, 3, size, size), generator=generator).to(device)
    if latent is None:
        return Chances(pixels, None, [])
    posterior, *prior = (latent.noise(batch, generator, cpu).to(device) for _ in range(1 + samples))
    return Chances(pixels, posterior, prior)


@torch.no_grad()
def imagine_futures(model: RSP, current: torch.Tensor, future: torch.Tensor | None, chances: Chances) -> Futures:
    """Decode the future from the posterior, if there is a true one to see, and from samples of the prior.

    A model whose targets are normalised predicts every patch up to its mean and contrast: those of the true future are
    put back, or of the current frame where there is none.

    Args:
        model: in evaluation mode.
        current: ``(B, 3, S, S)``, normalised.
        future: the same, or None for a picture of which no future is known.
        chances: of the same batch, or of a batch of one for all of it.
    """
    latent, known = model.latent, current if future is None else future
    if future is not None:
        tokens, posterior, prior = model.views(current, future, chances.pixels.expand_as(future))
    else:
        tokens, posterior = model.backbone(current), None
        prior = None if latent is None else model.prior(tokens[:, 0])

    def decode(parameters: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        assert latent is not None
        return model.predict_future(tokens, latent.sample(parameters, noise.expand(len(tokens), *noise.shape[1:])))

    predicted: dict[str, torch.Tensor] = {}
    if latent is None:
        predicted["prediction"] = model.predict_future(tokens, None)
    if posterior is not None and chances.posterior is not None:
        predicted["posterior"] = decode(posterior, chances.posterior)
    if prior is not None:
        predicted |= {f"prior {k + 1}": decode(prior, noise) for k, noise in enumerate(chances.prior)}

    show = Preprocessing(model.vit.image_size).denormalise
    columns = {"current": show(current)} | ({} if future is None else {"future": show(future)})
    columns |= {name: show(to_images(model, patches, known)) for name, patches in predicted.items()}
    samples = [image for name, image in columns.items() if name.startswith("prior")]
    spread = spread_of(samples) if len(samples) > 1 else None
    if future is None and len(samples) > 1:
        columns["mean"] = torch.stack(samples).mean(dim=0)
    return Futures(columns, spread, {} if future is None else _errors(predicted, model.targets(future)))


def to_images(model: RSP, predicted: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Predicted patches ``(B, N, P)`` -> normalised images, with mean and contrast of the ``known`` image's patches."""
    if model.config.normalise_targets:
        variance, mean = torch.var_mean(patchify(known, model.vit.patch_size), dim=-1, keepdim=True)
        predicted = predicted * (variance + 1e-6).sqrt() + mean
    return unpatchify(predicted, model.vit.patch_size)


def spread_of(samples: list[torch.Tensor]) -> torch.Tensor:
    """K >= 2 images ``(B, 3, S, S)`` -> ``(B, S, S)``: standard deviation (K - 1 below), mean over channels."""
    return torch.stack(samples).std(dim=0).mean(dim=1)


def _errors(predicted: dict[str, torch.Tensor], target: torch.Tensor) -> dict[str, float]:
    errors: dict[str, list[float]] = {}
    for name, patches in predicted.items():
        errors.setdefault(f"mse_{name.split()[0]}", []).append(float((patches - target).square().mean()))
    return {name: sum(values) / len(values) for name, values in errors.items()}
