"""Futures that an SRVP model imagines: from the frames seen before, samples of what its prior lets happen."""

from __future__ import annotations

from math import ceil, gcd, lcm
from typing import NamedTuple, cast

import torch

from rsp_robot.preprocessing import Preprocessing
from rsp_robot.pretrain import imaginer
from rsp_robot.pretrain.imaginer import Futures, join, with_spread
from rsp_robot.pretrain.objectives.base import Objective
from rsp_robot.pretrain.objectives.srvp import SRVP
from rsp_robot.pretrain.sampling import PairSpec


class Chances(NamedTuple):
    """All that is drawn at random; a batch of one serves a whole film, so that it is calm."""

    first_states: list[torch.Tensor]
    """K of ``(B, state_width)``, standard normal; one of zeros (the mean) where nothing is sampled."""
    noises: list[torch.Tensor]
    """K of ``(B, frames, noise_width)``, standard normal."""
    samples: int
    """Samples of the prior, K; 0 where nothing is sampled."""

    def row(self, index: int) -> Chances:
        """Those of one row, as a batch of one."""
        one = slice(index, index + 1)
        return Chances([first[one] for first in self.first_states], [noise[one] for noise in self.noises], self.samples)


class SRVPImaginer:
    """SRVP looks at as many frames as a prediction is given, at the distance it was trained with.

    Gaps between its frames are reached by smaller Euler steps.
    """

    def __init__(self, model: Objective, fps: float) -> None:
        """Take a model in evaluation mode, for videos of ``fps`` frames per second (0 where nobody knows)."""
        self.model = model = cast(SRVP, model)
        settings = model.config
        self.image_size, self.device = model.backbone.image_size, model.backbone.mean.device
        self.stochastic = model.has_noise
        rate = fps if settings.frames.needs_fps else 1.0
        self.stride = max(1, round(settings.stride * rate))
        self.context = tuple(-self.stride * before for before in reversed(range(settings.condition)))
        self.gaps = PairSpec(self.stride, self.stride * (settings.length - settings.condition))

    def draw_chances(self, batch: int, samples: int, gap: int | None, seed: int) -> Chances:
        """Draw for ``batch`` rows and ``samples`` samples of the prior; the same numbers on every device."""
        generator, settings = torch.Generator().manual_seed(seed), self.model.config
        frames = len(self.context) - 1 + ceil(self._reach(gap) / self.stride)
        states, noises = (batch, settings.state_width), (batch, frames, settings.noise_width)
        if not self.stochastic:
            return Chances([torch.zeros(states).to(self.device)], [torch.zeros(noises).to(self.device)], 0)
        drawn = [
            (torch.randn(states, generator=generator), torch.randn(noises, generator=generator)) for _ in range(samples)
        ]
        return Chances([s.to(self.device) for s, _ in drawn], [z.to(self.device) for _, z in drawn], samples)

    @torch.no_grad()
    def imagine(
        self, context: torch.Tensor, future: torch.Tensor | None, gap: int | None, chances: imaginer.Chances
    ) -> Futures:
        """Predict the future frame once for each chance; see :class:`rsp_robot.pretrain.imaginer.Imaginer`."""
        model, chances, seen = self.model, cast(Chances, chances), self.model.pixels(context)
        reach, rows = self._reach(gap), len(context)
        finer = lcm(model.config.euler_steps, self.stride // gcd(self.stride, reach))
        place = reach * finer // self.stride - 1
        predicted: dict[str, torch.Tensor] = {}
        for k, (first, noise) in enumerate(zip(chances.first_states, chances.noises, strict=True)):
            drawn = first.expand(rows, -1), noise.expand(rows, -1, -1)
            content, states, skips = model.foresee(seen, ceil(reach / self.stride), *drawn, finer)
            name = f"prior {k + 1}" if self.stochastic else "prediction"
            predicted[name] = model.decode(content, states[place : place + 1], skips)[0]
        show = Preprocessing(self.image_size).denormalise
        columns = {"current": show(context[:, -1])} | ({} if future is None else {"future": show(future)})
        columns |= {name: picture.expand(-1, 3, -1, -1) for name, picture in predicted.items()}
        return with_spread(columns, {} if future is None else self._errors(predicted, future))

    def describe(self, gap: int | None, samples: int, spread: bool) -> str:
        """Return the caption of the picture."""
        seen, reach = len(self.context), self._reach(gap)
        apart = "" if self.stride == 1 else f", {self.stride} frames apart"
        futures = f"{samples} future{'s' * (samples != 1)} sampled from the prior"
        parts = [futures] if self.stochastic else ["the future that the model predicts (it has nothing to sample)"]
        if gap is None:
            start = (
                f"Each row is one picture of which no future is known, which counts as still for {seen} frames: the "
                "picture"
            )
            parts[0] += f", {reach} frames ahead"
            return join(start, parts + ["their mean"] * spread, comma=True)
        start = f"Each row is one moment: the last of the {seen} frames seen{apart}, the true frame {gap} frames later"
        return join(start, parts, comma=True) if samples or not self.stochastic else f"{start}."

    def _reach(self, gap: int | None) -> int:
        """Frames to the future; for a single picture to the end of a clip as trained."""
        return int(self.gaps.max_gap) if gap is None else gap

    def _errors(self, predicted: dict[str, torch.Tensor], future: torch.Tensor) -> dict[str, float]:
        """Mean squared errors of pixels in [0, 1]: over all samples, and of the best for each row."""
        if not predicted:
            return {}
        truth = self.model.backbone.pixels(future)
        errors = torch.stack([(picture - truth).square().mean(dim=(1, 2, 3)) for picture in predicted.values()])
        if not self.stochastic:
            return {"mse_prediction": float(errors.mean())}
        return {"mse_prior": float(errors.mean()), "mse_best": float(errors.amin(dim=0).mean())}
