"""V-JEPA: Revisiting Feature Prediction for Learning Visual Representations from Video (Bardes et al., 2024).

Of a clip an encoder sees what blocks leave visible; from its features a narrow predictor tells those of the hidden
tokens, as a slow copy of the encoder makes them of the whole clip. Names of the parameters are those of the published
checkpoints: ``encoder`` is ``context_encoder`` here, ``target_encoder`` is ``backbone``, the one that is exported.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import nn

from rsp_robot.backbones.positions import sincos_3d
from rsp_robot.backbones.vit import ViTConfig
from rsp_robot.backbones.vjepa import VideoTransformer, VJEPAConfig, initialise_blocks
from rsp_robot.errors import UserError
from rsp_robot.pretrain.block_masks import draw_blocks
from rsp_robot.pretrain.ema import follow, momentum_at, relative_distance
from rsp_robot.pretrain.masking import take
from rsp_robot.pretrain.objectives.base import Objective, ObjectiveConfig
from rsp_robot.pretrain.sampling import ClipSpec, Unit

PREDICTOR_MLP_RATIO = 4.0


@dataclass(frozen=True)
class VideoJEPAConfig(ObjectiveConfig):
    """Settings of the objective; the defaults are the published ones."""

    name: ClassVar[str] = "vjepa"

    length: int = 16
    """Frames of a clip; a multiple of ``tubelet``."""
    stride: float = 4
    """Distance between neighbouring frames of a clip."""
    stride_unit: Unit = "frames"
    """frames, as published, or seconds: the same motion in videos of different frame rates."""
    tubelet: int = 2
    """Frames that one token covers."""
    blocks: tuple[int, ...] = (8, 2)
    """Blocks that hide parts of the clip, one number for each type of mask; every step learns from all types."""
    block_scales: tuple[float, ...] = (0.15, 0.7)
    """Area of a block as a share of the picture's, for each type of mask."""
    min_aspect: float = 0.75
    """Smallest height over width of a block."""
    max_aspect: float = 1.5
    """Largest height over width of a block."""
    predictor_width: int = 384
    """Width of the predictor; divisible by the encoder's number of heads."""
    predictor_depth: int = 12
    """Blocks of the predictor."""
    uniform_positions: bool = True
    """Give time, row and column a third of the fixed positions each; otherwise time has half."""
    momentum: float = 0.998
    """Share of the target encoder's weights that stays at the first step."""
    final_momentum: float = 1.0
    """The same after the last (stretched) step, reached in a straight line."""
    loss_exponent: float = 1.0
    """The loss is |error|^p / p."""
    variance_weight: float = 0.0
    """Weight of a hinge that keeps the predictions' standard deviation over tokens at 1; 0 leaves it out."""
    rescaled_init: bool = True
    """Draw the last maps of attention and MLP smaller in later blocks; the release's program does not (see docs)."""

    def __post_init__(self) -> None:
        for field in ("blocks", "block_scales"):  # lists where they come from a file
            object.__setattr__(self, field, tuple(getattr(self, field)))
        _ = self.frames  # refuses clips that mean nothing
        if self.tubelet < 1 or self.length % self.tubelet:
            raise UserError(f"clips of {self.length} frames are no multiple of the tubelet {self.tubelet}; change one")
        if len(self.blocks) != len(self.block_scales) or not self.blocks:
            raise UserError(
                f"{len(self.blocks)} numbers of blocks and {len(self.block_scales)} block scales; give both for each "
                "type of mask"
            )
        if min(self.blocks) < 1 or min(self.block_scales) <= 0 or max(self.block_scales) >= 1:
            raise UserError(
                f"blocks {self.blocks} must be at least 1 and block scales {self.block_scales} lie in (0, 1); "
                "the published ones are 8 2 and 0.15 0.7"
            )
        if not 0 < self.min_aspect <= self.max_aspect:
            raise UserError(
                f"aspects {self.min_aspect}..{self.max_aspect} are empty; need 0 < min_aspect <= max_aspect"
            )
        for field in ("predictor_width", "predictor_depth"):
            if getattr(self, field) < 1:
                raise UserError(f"{field} must be at least 1, not {getattr(self, field)}")
        if not 0 <= self.momentum <= self.final_momentum <= 1:
            raise UserError(
                f"momentum {self.momentum} and final_momentum {self.final_momentum} must rise within [0, 1]; "
                "the published ones are 0.998 and 1"
            )
        if self.loss_exponent < 1 or self.variance_weight < 0:
            raise UserError(
                f"loss_exponent {self.loss_exponent:g} must be at least 1 and variance_weight "
                f"{self.variance_weight:g} at least 0; the published ones are 1 and 0"
            )

    @property
    def frames(self) -> ClipSpec:
        """A clip."""
        return ClipSpec(self.length, self.stride, self.stride_unit)

    def build(self, vit: ViTConfig) -> VideoJEPA:
        """Make the model; its weights are drawn from torch's global generator.

        Raises:
            UserError: the sizes of the encoder and these settings do not fit.
        """
        if vit.grid < 2:
            raise UserError(
                f"pictures of {vit.image_size} px and patches of {vit.patch_size} make one patch, of which nothing can "
                "be hidden; choose smaller patches"
            )
        if self.predictor_width % vit.heads:
            raise UserError(
                f"predictor width {self.predictor_width} is not divisible by the encoder's {vit.heads} heads; change "
                "--objective.predictor-width"
            )
        for width in (vit.width, self.predictor_width):
            if not self.uniform_positions and width % 8:
                raise UserError(f"positions that are not uniform need widths divisible by 8, not {width}; change one")
        return VideoJEPA(vit, self)


class Draws(NamedTuple):
    """The masks of one pass, one entry for each type; the lists of a type are equally long in all clips."""

    context: tuple[torch.Tensor, ...]
    """int64 ``(B, n)`` visible tokens."""
    target: tuple[torch.Tensor, ...]
    """int64 ``(B, m)`` hidden tokens, to be predicted."""


class Predictor(nn.Module):
    """Tells the features of hidden tokens from those of visible ones; a mask token says which type of mask it is."""

    def __init__(
        self, width: int, inner: int, depth: int, heads: int, positions: torch.Tensor, mask_types: int
    ) -> None:
        super().__init__()
        norm: Any = partial(nn.LayerNorm, eps=1e-6)
        self.predictor_embed = nn.Linear(width, inner)
        self.mask_tokens = nn.ParameterList(nn.Parameter(torch.zeros(1, 1, inner)) for _ in range(mask_types))
        self.predictor_pos_embed = nn.Parameter(positions, requires_grad=False)
        self.predictor_blocks = nn.ModuleList(
            Block(inner, heads, PREDICTOR_MLP_RATIO, qkv_bias=True, norm_layer=norm) for _ in range(depth)
        )
        self.predictor_norm = norm(inner)
        self.predictor_proj = nn.Linear(inner, width)

    def forward(
        self, features: torch.Tensor, context: torch.Tensor, target: torch.Tensor, mask_type: int
    ) -> torch.Tensor:
        """Features ``(B, n, D)`` of tokens ``context`` ``(B, n)`` -> ``(B, m, D)`` of tokens ``target`` ``(B, m)``."""
        positions = self.predictor_pos_embed.expand(len(features), -1, -1)
        visible = self.predictor_embed(features) + take(positions, context)
        hidden = self.mask_tokens[mask_type] + take(positions, target)
        tokens = torch.cat([visible, hidden], dim=1)
        for block in self.predictor_blocks:
            tokens = block(tokens)
        told: torch.Tensor = self.predictor_proj(self.predictor_norm(tokens)[:, context.shape[1] :])
        return told


class VideoJEPA(Objective):
    """An encoder, its moving average and a predictor between their features."""

    config: VideoJEPAConfig
    backbone: VideoTransformer
    """The moving average: the published evaluations use it."""

    def __init__(self, vit: ViTConfig, config: VideoJEPAConfig) -> None:
        super().__init__()
        self.vit, self.config = vit, config
        self.context_encoder = VideoTransformer(
            VJEPAConfig(
                image_size=vit.image_size,
                patch_size=vit.patch_size,
                tubelet=config.tubelet,
                frames=config.length,
                width=vit.width,
                depth=vit.depth,
                heads=vit.heads,
                mlp_hidden=int(vit.width * vit.mlp_ratio),
                rotary=False,
            )
        )
        self.times = config.length // config.tubelet
        if self.context_encoder.pos_embed is not None and not config.uniform_positions:
            self.context_encoder.pos_embed.data = sincos_3d(vit.width, vit.grid, self.times, uniform=False)
        self.predictor = Predictor(
            vit.width,
            config.predictor_width,
            config.predictor_depth,
            vit.heads,
            sincos_3d(config.predictor_width, vit.grid, self.times, config.uniform_positions),
            len(config.blocks),
        )
        initialise_blocks(self.context_encoder, self.context_encoder.blocks, config.rescaled_init)
        initialise_blocks(self.predictor, self.predictor.predictor_blocks, config.rescaled_init)
        self.backbone = copy.deepcopy(self.context_encoder).requires_grad_(False)

    # -- the pieces, in the paper's order ------------------------------------------------------------------------------

    def contexts(self, clips: torch.Tensor, draws: Draws) -> list[torch.Tensor]:
        """Encode what each type of mask leaves visible of clips ``(B, 3, T, S, S)``: ``(B, n, D)`` each."""
        tokens = self.context_encoder.embed(clips)
        return [self.context_encoder.encode(tokens, keep) for keep in draws.context]

    def predictions(self, contexts: Sequence[torch.Tensor], draws: Draws) -> list[torch.Tensor]:
        """Tell the targets of each type of mask from its context: ``(B, m, D)`` each."""
        return [
            self.predictor(features, visible, hidden, mask_type)
            for mask_type, (features, visible, hidden) in enumerate(
                zip(contexts, draws.context, draws.target, strict=True)
            )
        ]

    @torch.no_grad()
    def features(self, clips: torch.Tensor) -> torch.Tensor:
        """What is to be predicted of clips ``(B, 3, T, S, S)``: normalised features of every token ``(B, N, D)``."""
        return F.layer_norm(self.backbone.clip(clips), (self.vit.width,))

    # -- the loss ------------------------------------------------------------------------------------------------------

    def draw(self, frames: torch.Tensor, generator: torch.Generator | None = None) -> Draws:
        """Draw the masks of frames ``(B, T, 3, S, S)``, on the CPU; a generator of a GPU lends its seed.

        One size of block for each type of mask, so micro-batches have sizes of their own.
        """
        if generator is None:
            generator = torch.default_generator
        elif generator.device.type != "cpu":
            generator = torch.Generator().manual_seed(generator.initial_seed())
        settings, aspect = self.config, (self.config.min_aspect, self.config.max_aspect)
        splits = [
            draw_blocks(len(frames), self.vit.grid, self.times, blocks, scale, aspect, generator)
            for blocks, scale in zip(settings.blocks, settings.block_scales, strict=True)
        ]
        context, target = (
            tuple(part.to(frames.device, non_blocking=True) for part in parts) for parts in zip(*splits, strict=True)
        )
        return Draws(context, target)

    def forward(self, frames: torch.Tensor, draws: Draws) -> dict[str, torch.Tensor]:
        """Compute the loss of a batch of clips.

        ``loss = mean over types of masks of mean |prediction - target|^p / p [+ variance_weight · loss_variance]``

        Args:
            frames: ``(B, T, 3, S, S)``, normalised.
            draws: from :meth:`draw`.

        Returns:
            Scalars ``loss``, and ``loss_variance`` unless its weight is 0.
        """
        clips, settings = frames.transpose(1, 2), self.config
        targets = self.features(clips)
        predictions = self.predictions(self.contexts(clips, draws), draws)
        losses = {"loss": self.errors(predictions, targets, draws).mean()}
        if settings.variance_weight:
            losses["loss_variance"] = variance_hinge(predictions)
            losses["loss"] = losses["loss"] + settings.variance_weight * losses["loss_variance"]
        return losses

    def errors(self, predictions: Sequence[torch.Tensor], targets: torch.Tensor, draws: Draws) -> torch.Tensor:
        """Compare predictions with the features of every token ``(B, N, D)``: ``(types of masks,)``."""
        power = self.config.loss_exponent
        return torch.stack(
            [
                (predicted - take(targets, hidden)).abs().pow(power).mean() / power
                for predicted, hidden in zip(predictions, draws.target, strict=True)
            ]
        )

    def after_step(self, share: float, bad: torch.Tensor) -> None:
        """Let the target encoder follow."""
        momentum = momentum_at(share, self.config.momentum, self.config.final_momentum)
        follow(self.backbone, self.context_encoder, momentum, bad)

    @torch.no_grad()
    def diagnose(self, frames: torch.Tensor, draws: Draws) -> dict[str, torch.Tensor]:
        """Look for a collapse on a batch ``(B, T, 3, S, S)``; nothing is learned from it.

        Returns:
            ``loss_by_mask`` and ``visible`` (share of the tokens), one number for each type of mask;
            ``loss_constant``: the loss of the best constant, to be beaten; ``target_std`` and ``prediction_std``: mean
            over features of the standard deviation over all tokens, about 1 and 0 where collapsed;
            ``target_std_clips``: that over clips at the same token, which is 0 where features tell places only;
            ``ema_distance``: how far the encoder's weights are from the target's, relative to these.
        """
        clips = frames.transpose(1, 2)
        targets = self.features(clips).float()
        predictions = self.predictions(self.contexts(clips, draws), draws)
        flat, power = targets.flatten(0, 1), self.config.loss_exponent
        told = torch.cat([part.float().flatten(0, 1) for part in predictions])
        middle = flat.median(dim=0).values if power == 1 else flat.mean(dim=0)
        return {
            "loss_by_mask": self.errors(predictions, targets, draws),
            "visible": torch.tensor([part.shape[1] / targets.shape[1] for part in draws.context]),
            "loss_constant": (flat - middle).abs().pow(power).mean() / power,
            "target_std": flat.std(dim=0).mean(),
            "prediction_std": told.std(dim=0).mean(),
            "target_std_clips": targets.std(dim=0, unbiased=False).mean(),
            "ema_distance": relative_distance(self.backbone, self.context_encoder),
        }


def variance_hinge(predictions: Sequence[torch.Tensor]) -> torch.Tensor:
    """Mean of ``max(0, 1 - std)``: the std over a clip's tokens of each feature, averaged over the types of masks."""
    deviations = [(part.float().var(dim=1) + 1e-4).sqrt() for part in predictions]
    return F.relu(1 - torch.stack(deviations).mean(dim=0)).mean()
