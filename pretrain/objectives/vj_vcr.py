"""VJ-VCR: Video Representation Learning with Joint-Embedding Predictive Architectures (Drozdov et al. 2024).

One encoder sees past and future frames. From the features of the past and a latent, a predictor tells those of the
future; terms on variance and covariance keep the features from collapsing, so that there is neither a moving average
nor a stopped gradient. The latent is what makes the prediction best: found for every sample by minimising its error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F

from rsp_robot.backbones.vit import VisionTransformer, ViTConfig, initialise_transformer
from rsp_robot.errors import UserError, unknown_name
from rsp_robot.pretrain.masking import patchify, unpatchify
from rsp_robot.pretrain.objectives.base import Objective, ObjectiveConfig
from rsp_robot.pretrain.sampling import ClipSpec, Unit
from rsp_robot.pretrain.sparse_coding import Prox, descend, smooth_prox, sparse_prox
from rsp_robot.pretrain.token_predictor import PictureDecoder, TokenPredictor
from rsp_robot.pretrain.vicreg import covariance_term, covariance_within, variance_term

LatentKind = Literal["none", "discrete", "sparse", "continuous"]
Target = Literal["features", "both", "pixels"]


@dataclass(frozen=True)
class VJVCRConfig(ObjectiveConfig):
    """Settings of the objective; the paper's coefficients are not public, docs/objectives.md says how these came."""

    name: ClassVar[str] = "vj-vcr"

    past: int = 3
    """Frames that the prediction is made from."""
    future: int = 2
    """Frames that are predicted."""
    stride: float = 4
    """Distance from one frame to the next."""
    stride_unit: Unit = "frames"
    """frames, or seconds: the same motion in videos of different frame rates."""
    target: Target = "both"
    """What is predicted: features; both features and, decoded from them, pixels; or pixels alone, the generative
    baseline."""
    variance_weight: float = 1.0
    """Weight of the variance term: each feature should have a standard deviation of at least 1; 0 lets features
    collapse."""
    covariance_weight: float = 0.04
    """Weight of the covariance term: different features should not tell the same."""
    pixel_weight: float = 1.0
    """Weight of the pixel error where features are predicted too."""
    latent: LatentKind = "discrete"
    """What carries the uncertainty of the future: one of a few codes, a vector with few entries, a short vector, or
    nothing."""
    latent_size: int = 8
    """Codes, or entries of the vector."""
    latent_explore: float = 0.2
    """Share of the samples that learn with a random code instead of the best, so that no code is forgotten."""
    latent_penalty: float = 0.002
    """Weight of the sparse latent's absolute values, or of half the continuous one's squares, against half the
    prediction error."""
    latent_steps: int = 10
    """Steps of descent by which a sparse or continuous latent is found."""
    predictor_width: int = 384
    """Width of the predictor (and of the decoder)."""
    predictor_depth: int = 4
    """Blocks of the predictor."""
    predictor_heads: int = 6
    """Attention heads of the predictor (and of the decoder)."""
    decoder_depth: int = 2
    """Blocks of the decoder, where pixels are predicted."""

    def __post_init__(self) -> None:
        for name, kinds in (("latent", LatentKind), ("target", Target)):
            if getattr(self, name) not in get_args(kinds):
                raise unknown_name(name, getattr(self, name), get_args(kinds))
        sizes = ("past", "future", "latent_size", "latent_steps", "predictor_width", "predictor_depth")
        for name, least in (*((size, 1) for size in (*sizes, "predictor_heads")), ("decoder_depth", 0)):
            if getattr(self, name) < least:
                raise UserError(f"{name} must be at least {least}, not {getattr(self, name)}; correct the settings")
        for name in ("variance_weight", "covariance_weight", "pixel_weight", "latent_penalty"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} must be at least 0, not {getattr(self, name)}; 0 turns it off")
        if self.predictor_width % self.predictor_heads or self.predictor_width % 4:
            raise UserError(
                f"predictor width {self.predictor_width} must be divisible by 4 and by its {self.predictor_heads} "
                "heads; change one"
            )
        _ = self.frames  # refuses strides that mean nothing

    @property
    def frames(self) -> ClipSpec:
        """Past and future frames at equal distances."""
        return ClipSpec(self.past + self.future, self.stride, self.stride_unit)

    def build(self, vit: ViTConfig) -> VJVCR:
        """Make the model; its weights are drawn from torch's global generator."""
        return (DescendingVJVCR if self.latent in ("sparse", "continuous") else VJVCR)(vit, self)


class Draws(NamedTuple):
    """What one pass draws at random."""

    explore: torch.Tensor
    """``(B,)`` uniform; below ``latent_explore`` a sample learns with a random code."""
    code: torch.Tensor
    """``(B,)`` uniform, which code that is; its order decides whose latent a sample gets to measure a strange one."""


class Seen(NamedTuple):
    """What a prediction is made from, and what it is measured against."""

    memory: torch.Tensor
    """``(B, P · (1 + N), width)`` of the past frames, for the predictor."""
    past: torch.Tensor
    """``(B, P, 1 + N, D)`` features of the past frames."""
    future: torch.Tensor | None
    """``(B, F, 1 + N, D)`` features of the future ones; None where only pixels are predicted."""
    pixels: torch.Tensor | None
    """``(B, F, N, patch² · 3)`` of the future frames; None where only features are predicted."""

    def detached(self) -> Seen:
        """Return the same without history."""
        return Seen(*(None if part is None else part.detach() for part in self))  # type: ignore[arg-type]


class VJVCR(Objective):
    """A Vision Transformer over single frames, and a predictor of later features from earlier ones and a latent."""

    config: VJVCRConfig

    def __init__(self, vit: ViTConfig, config: VJVCRConfig) -> None:
        super().__init__()
        self.vit, self.config = vit, config
        self.backbone = VisionTransformer(vit)
        width, heads = config.predictor_width, config.predictor_heads
        latent = 0 if config.latent == "none" else config.latent_size
        self.predictor = TokenPredictor(vit, config.past, config.future, latent, width, config.predictor_depth, heads)
        if config.target != "features":
            self.decoder = PictureDecoder(vit, width, config.decoder_depth, heads)
        initialise_transformer(self)

    # -- the pieces ----------------------------------------------------------------------------------------------------

    def see(self, frames: torch.Tensor) -> Seen:
        """Encode frames ``(B, P + F, 3, H, W)``; the generative baseline encodes the past ones only."""
        batch, past, target = frames.shape[0], self.config.past, self.config.target
        encoded = frames[:, :past] if target == "pixels" else frames
        tokens = self.backbone(encoded.flatten(0, 1)).unflatten(0, (batch, -1))
        before, after = tokens[:, :past], None if target == "pixels" else tokens[:, past:]
        return Seen(
            self.predictor.remember(before), before, after, None if target == "features" else self.patches(frames)
        )

    def patches(self, frames: torch.Tensor) -> torch.Tensor:
        """Pixels of the future frames of ``(B, P + F, 3, H, W)``: ``(B, F, N, patch² · 3)``."""
        later = frames[:, self.config.past :]
        return patchify(later.flatten(0, 1), self.vit.patch_size).unflatten(0, later.shape[:2])

    def decode(self, tokens: torch.Tensor) -> torch.Tensor:
        """Features ``(B, F, 1 + N, D)`` -> patches ``(B, F, N, patch² · 3)``; needs pixels among the targets."""
        patches: torch.Tensor = self.decoder(tokens.flatten(0, 1)).unflatten(0, tokens.shape[:2])
        return patches

    def pictures(self, tokens: torch.Tensor) -> torch.Tensor:
        """Features ``(B, F, 1 + N, D)`` -> normalised pictures ``(B, F, 3, H, W)``; needs pixels among the targets."""
        decoded = self.decode(tokens)
        return unpatchify(decoded.flatten(0, 1), self.vit.patch_size).unflatten(0, decoded.shape[:2])

    def errors(self, seen: Seen, latent: torch.Tensor | None) -> dict[str, torch.Tensor]:
        """Squared errors of what is predicted with a latent ``(B, M)``: one number per sample, ``(B,)``.

        Returns:
            ``features`` and ``pixels``, those that are targets, and the ``energy``: their weighted sum.
        """
        predicted, found = self.predictor(seen.memory, latent), {}
        if seen.future is not None:
            found["energy"] = found["features"] = self.distance(predicted, seen.future)
        if seen.pixels is not None:
            found["pixels"] = (self.decode(predicted) - seen.pixels).square().mean(dim=(1, 2, 3))
            weighted = self.config.pixel_weight * found["pixels"]
            found["energy"] = found["energy"] + weighted if "energy" in found else found["pixels"]
        return found

    def energy(self, seen: Seen, latent: torch.Tensor | None) -> torch.Tensor:
        """Return what the latent has to make small, ``(B,)``: see :meth:`errors`."""
        return self.errors(seen, latent)["energy"]

    def distance(self, predicted: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """Squared error of features ``(B, F, 1 + N, D)`` per sample; the class token counts as much as all patches."""
        errors = (predicted - features).square()
        return (errors[:, :, 0].mean(dim=(1, 2)) + errors[:, :, 1:].mean(dim=(1, 2, 3))) / 2

    # -- the latent ----------------------------------------------------------------------------------------------------

    def infer(self, seen: Seen) -> torch.Tensor | None:
        """Find the latents ``(B, M)`` of the smallest energy, without gradient; None where there is no latent."""
        if self.config.latent == "none":
            return None
        fixed, device = seen.detached(), seen.memory.device.type
        # Autocast keeps weights that it has cast; some releases of torch would use those cast here, without gradient,
        # for the loss.
        with torch.autocast(
            device,
            dtype=torch.get_autocast_dtype(device),
            enabled=torch.is_autocast_enabled(device),
            cache_enabled=False,
        ):
            return self._minimise(lambda latent: self.energy(fixed, latent), seen.memory)

    @torch.no_grad()
    def _minimise(self, energy: Callable[[torch.Tensor], torch.Tensor], like: torch.Tensor) -> torch.Tensor:
        codes = torch.eye(self.config.latent_size, device=like.device)
        energies = torch.stack([energy(code.expand(like.shape[0], -1)) for code in codes])
        return F.one_hot(energies.argmin(dim=0), len(codes)).float()

    def explored(self, latent: torch.Tensor | None, draws: Draws) -> torch.Tensor | None:
        """Replace some codes ``(B, M)`` by random ones; other latents stay as they are.

        A code that is best nowhere would learn nothing, and never become best anywhere (Rupprecht et al. 2017, section
        3.3, give all hypotheses a small share of the gradient for the same reason).
        """
        if latent is None or self.config.latent != "discrete":
            return latent
        random = F.one_hot((draws.code * latent.shape[1]).long(), latent.shape[1]).to(latent.dtype)
        return torch.where((draws.explore < self.config.latent_explore)[:, None], random, latent)

    def unspecific(self, latent: torch.Tensor) -> torch.Tensor:
        """Return latents ``(B, M)`` that say nothing: all codes at once, or zero."""
        return torch.full_like(latent, 1 / latent.shape[1] if self.config.latent == "discrete" else 0.0)

    # -- the loss ------------------------------------------------------------------------------------------------------

    def draw(self, frames: torch.Tensor, generator: torch.Generator | None = None) -> Draws:
        """Draw an order of the samples.

        Raises:
            UserError: a variance is wanted of a single sample.
        """
        if frames.shape[0] < 2 and (self.config.variance_weight or self.config.covariance_weight):
            raise UserError("vj-vcr needs the variance over a micro-batch, and it has 1 sample; make it 2 or more")
        return Draws(*torch.rand((2, frames.shape[0]), generator=generator, device=frames.device))

    def forward(self, frames: torch.Tensor, draws: Draws) -> dict[str, torch.Tensor]:
        """Compute the losses of a batch of clips.

        ``loss = error + variance_weight · (V_past + V_future) + covariance_weight · (C_past + C_future)``, where the
        error is that of the features with the best latent, of the pixels decoded from the prediction, or of both. The
        generative baseline has no features of the future, and regularises those of the past only.

        Args:
            frames: ``(B, P + F, 3, H, W)``, normalised.
            draws: from :meth:`draw`.

        Returns:
            Scalars ``loss``, ``loss_features`` and ``loss_pixels`` (those that are targets), ``variance_past`` and
            ``covariance_past``, and the same of the future where it is encoded.
        """
        settings, seen = self.config, self.see(frames)
        errors = self.errors(seen, self.explored(self.infer(seen), draws))
        losses = {"loss": errors.pop("energy").mean()}
        losses |= {f"loss_{name}": error.mean() for name, error in errors.items()}
        for side, features in (("past", seen.past), ("future", seen.future)):
            if features is not None:
                variance, covariance = spread(features)
                losses |= {f"variance_{side}": variance, f"covariance_{side}": covariance}
                losses["loss"] = (
                    losses["loss"] + settings.variance_weight * variance + settings.covariance_weight * covariance
                )
        return losses

    @torch.no_grad()
    def diagnose(self, frames: torch.Tensor, draws: Draws) -> dict[str, torch.Tensor]:
        """Look into features and latent of a batch ``(B, P + F, 3, H, W)``; nothing is learned from it.

        Returns:
            ``std_past`` and ``std_future``: mean standard deviation of the features. With a latent: ``energy`` (the
            prediction error with the best one), ``energy_random`` (with that of another sample), ``energy_none`` (with
            one that says nothing). Discrete: ``codes_used`` in the batch, and ``code_perplexity``, the number of
            equally common codes with the same entropy. Otherwise ``latent_active``, the share of entries that are not
            zero, and ``latent_norm``.
        """
        seen = self.see(frames)
        found = {
            f"std_{side}": deviation(features)
            for side, features in (("past", seen.past), ("future", seen.future))
            if features is not None
        }
        latent = self.infer(seen)
        if latent is None:
            return found
        tried = {"": latent, "_random": latent[draws.code.argsort()], "_none": self.unspecific(latent)}
        found |= {f"energy{name}": self.energy(seen, chosen).mean() for name, chosen in tried.items()}
        if self.config.latent == "discrete":
            shares = latent.mean(dim=0)
            entropy = -torch.special.xlogy(shares, shares).sum()
            return found | {"codes_used": (shares > 0).float().sum(), "code_perplexity": entropy.exp()}
        return found | {"latent_active": (latent != 0).float().mean(), "latent_norm": latent.norm(dim=1).mean()}


class DescendingVJVCR(VJVCR):
    """With a sparse or continuous latent: found by descent, which differentiates inside the forward pass."""

    compiles: ClassVar[bool] = False

    def _minimise(self, energy: Callable[[torch.Tensor], torch.Tensor], like: torch.Tensor) -> torch.Tensor:
        settings = self.config
        kind = sparse_prox if settings.latent == "sparse" else smooth_prox
        prox: Prox = kind(settings.latent_penalty)
        start = torch.zeros(
            like.shape[0], settings.latent_size, device=like.device, dtype=self.predictor.mask_token.dtype
        )
        return descend(lambda latent: energy(latent).to(start.dtype) / 2, prox, start, settings.latent_steps).latent


def spread(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Variance and covariance terms of tokens ``(B, frames, 1 + N, D)``: the mean of class token's and patches'."""
    cls, patches = covariances(features)
    return (variance_term(cls) + variance_term(patches)) / 2, (covariance_term(cls) + covariance_term(patches)) / 2


def deviation(features: torch.Tensor) -> torch.Tensor:
    """Mean standard deviation of the features of tokens ``(B, frames, 1 + N, D)``, of class token and patches alike."""
    return torch.stack([covariance.diagonal().sqrt().mean() for covariance in covariances(features)]).mean()


def covariances(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Covariances ``(D, D)`` of class token and patches ``(B, frames, 1 + N, D)``.

    Apart, because among so many patches nothing would keep the one class token from collapsing. In single precision:
    differences of features that are alike vanish in bf16.
    """
    with torch.autocast(features.device.type, enabled=False):
        precise = features if features.dtype == torch.float64 else features.float()
        return covariance_within(precise[:, :, :1]), covariance_within(precise[:, :, 1:])
