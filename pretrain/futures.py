"""Futures that an RSP model imagines: decoded from its posterior and from samples of its prior, and their spread."""

from __future__ import annotations

from typing import NamedTuple, cast

import torch

from rsp_robot.preprocessing import Preprocessing
from rsp_robot.pretrain import imaginer
from rsp_robot.pretrain.imaginer import Futures, join, with_spread
from rsp_robot.pretrain.masking import patchify, unpatchify
from rsp_robot.pretrain.objectives.base import Objective
from rsp_robot.pretrain.objectives.rsp import RSP
from rsp_robot.pretrain.sampling import PairSpec


class Chances(NamedTuple):
    """All that is drawn at random to imagine futures; a batch of one serves a whole film, so that it is calm."""

    pixels: torch.Tensor
    """``(B, 3, S, S)`` standard normal: the noise on the future frame that the posterior sees."""
    posterior: torch.Tensor | None
    """``(B, ...)`` what the latent turns into a sample of the posterior; None without a latent."""
    prior: list[torch.Tensor]
    """K of ``(B, ...)``, for K samples of the prior."""

    @property
    def samples(self) -> int:
        """Samples of the prior, K."""
        return len(self.prior)

    def row(self, index: int) -> Chances:
        """Those of one row, as a batch of one."""
        one = slice(index, index + 1)
        posterior = None if self.posterior is None else self.posterior[one]
        return Chances(self.pixels[one], posterior, [noise[one] for noise in self.prior])


class RSPImaginer:
    """RSP looks at the current frame; what it predicts is as far away as the gaps it was trained with."""

    context = (0,)

    def __init__(self, model: Objective, fps: float) -> None:
        """Take a model in evaluation mode, for videos of ``fps`` frames per second (0 where nobody knows)."""
        self.model = cast(RSP, model)
        self.image_size, self.device = self.model.vit.image_size, self.model.mask_token.device
        self.stochastic = self.model.latent is not None
        self.gaps: PairSpec = self.model.config.frames.at(fps)

    def draw_chances(self, batch: int, samples: int, gap: int | None, seed: int) -> Chances:
        """See :func:`draw_chances`."""
        return draw_chances(self.model, batch, samples, seed)

    def imagine(
        self, context: torch.Tensor, future: torch.Tensor | None, gap: int | None, chances: imaginer.Chances
    ) -> Futures:
        """See :func:`imagine_futures`."""
        return imagine_futures(self.model, context[:, -1], future, cast(Chances, chances))

    def describe(self, gap: int | None, samples: int, spread: bool) -> str:
        """Return the caption of the picture."""
        decoded = f"{samples} future{'s' * (samples != 1)} decoded from the prior"
        if self.model.latent is None:
            parts = ["the future that the model predicts (it has no latent to sample)"]
        elif gap is None:
            parts = [decoded] + ["their mean"] * spread
        else:
            parts = ["the future decoded from the posterior (which saw the noised future)"]
            parts += [f"{decoded} (which did not)"] * (samples > 0)
        if gap is None:
            start = "Each row is one picture of which no future is known: the picture"
            whose = "those of the picture itself"
        else:
            start = f"Each row is one pair of frames {gap} frames apart: the current frame, its true future"
            whose = "the true ones"
        caption = join(start, parts, comma=len(parts) == 1 or gap is not None)
        if self.model.config.normalise_targets:
            caption += f" Every patch is predicted up to its mean and contrast; {whose} are used to show it."
        return caption


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
    return with_spread(columns, {} if future is None else _errors(predicted, model.targets(future)))


def to_images(model: RSP, predicted: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Predicted patches ``(B, N, P)`` -> normalised images, with mean and contrast of the ``known`` image's patches."""
    if model.config.normalise_targets:
        variance, mean = torch.var_mean(patchify(known, model.vit.patch_size), dim=-1, keepdim=True)
        predicted = predicted * (variance + 1e-6).sqrt() + mean
    return unpatchify(predicted, model.vit.patch_size)


def _errors(predicted: dict[str, torch.Tensor], target: torch.Tensor) -> dict[str, float]:
    errors: dict[str, list[float]] = {}
    for name, patches in predicted.items():
        errors.setdefault(f"mse_{name.split()[0]}", []).append(float((patches - target).square().mean()))
    return {name: sum(values) / len(values) for name, values in errors.items()}
