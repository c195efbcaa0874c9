"""What `rsp-robot imagine` asks of an objective that imagines futures; each has its own in ``futures*.py``."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch

from rsp_robot.pretrain.sampling import PairSpec


class Chances(Protocol):
    """All that is drawn at random to imagine futures; a batch of one serves a whole film, so that it is calm."""

    @property
    def samples(self) -> int:
        """Samples of the prior, K."""

    def row(self, index: int) -> Chances:
        """Those of one row, as a batch of one."""


class Futures(NamedTuple):
    """What is to be seen."""

    columns: dict[str, torch.Tensor]
    """By name ``(B, 3, S, S)`` in [0, 1]: ``current``, ``future`` (the true one), ``posterior`` (a decoding that knew
    it) or, where nothing is sampled, ``prediction``, ``prior 1`` to ``prior K``; ``mean`` of these where there is no
    true future."""
    spread: torch.Tensor | None
    """``(B, S, S)`` standard deviation over the prior's samples, mean over the channels; None for fewer than two."""
    errors: dict[str, float]
    """Mean squared errors by name; empty where there is no true future."""


class Imaginer(Protocol):
    """A model in evaluation mode, for videos of one frame rate."""

    @property
    def image_size(self) -> int:
        """Side of its pictures in pixels."""

    @property
    def device(self) -> torch.device:
        """Where the model is."""

    @property
    def gaps(self) -> PairSpec:
        """Gaps between the current and a future frame that it was trained with, in frames."""

    @property
    def context(self) -> tuple[int, ...]:
        """Frames that it looks at, counted from the current one: ascending, the last is 0."""

    @property
    def stochastic(self) -> bool:
        """Whether it has futures to sample, or predicts one."""

    def draw_chances(self, batch: int, samples: int, gap: int | None, seed: int) -> Chances:
        """Draw for ``batch`` rows and ``samples`` samples of the prior; the same numbers on every device."""

    def imagine(self, context: torch.Tensor, future: torch.Tensor | None, gap: int | None, chances: Chances) -> Futures:
        """Imagine.

        Args:
            context: ``(B, K, 3, S, S)``, normalised: the frames of :attr:`context`.
            future: ``(B, 3, S, S)``, normalised, ``gap`` frames after the last; None where none is known.
            gap: frames to the future; None for a single picture.
            chances: of the same batch, or of a batch of one for all of it.
        """

    def describe(self, gap: int | None, samples: int, spread: bool) -> str:
        """Return the caption of the picture, without the scale of the spread."""


def spread_of(samples: list[torch.Tensor]) -> torch.Tensor:
    """K >= 2 images ``(B, 3, S, S)`` -> ``(B, S, S)``: standard deviation (K - 1 below), mean over channels."""
    return torch.stack(samples).std(dim=0).mean(dim=1)


def with_spread(columns: dict[str, torch.Tensor], errors: dict[str, float]) -> Futures:
    """Measure the spread of the columns ``prior ...`` and, where no future is known, add their mean."""
    samples = [image for name, image in columns.items() if name.startswith("prior")]
    if len(samples) < 2:
        return Futures(columns, None, errors)
    if "future" not in columns:
        columns = columns | {"mean": torch.stack(samples).mean(dim=0)}
    return Futures(columns, spread_of(samples), errors)


def join(start: str, parts: list[str], comma: bool) -> str:
    """Say what stands in a row: the start, then the parts one after the other, a comma before the last if wanted."""
    return f"{', '.join([start, *parts[:-1]])}{',' if comma else ''} and {parts[-1]}."
