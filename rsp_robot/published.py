"""Encoders of published checkpoints: RSP's, MAE's, and any plain Vision Transformer with the same names.

The architecture is read off the weights' shapes. Position embeddings are taken as the file holds them.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping

import torch

from rsp_robot.backbones.vit import VARIANTS, VisionTransformer, ViTConfig
from rsp_robot.checkpoints import arguments_of, layout_difference, read_checkpoint, state_dict_of
from rsp_robot.errors import UserError

ENCODER_PARTS = ("cls_token", "pos_embed", "patch_embed", "blocks", "norm")
# What trains an encoder and stays behind when it is used: decoders, latent heads, a classifier.
OTHER_PARTS = re.compile(r"decoder_|mask_token$|to_posterior\.|to_prior\.|head\.")
_REQUIRED = {"cls_token": 3, "pos_embed": 3, "patch_embed.proj.weight": 4, "blocks.0.mlp.fc1.weight": 2}


def read_encoder(path: str | os.PathLike[str]) -> tuple[ViTConfig, dict[str, torch.Tensor]]:
    """Read the encoder of a published checkpoint.

    Args:
        path: a ``.pth``, ``.pt`` or ``.safetensors`` file; nothing in it is executed.

    Returns:
        Its sizes, and the weights under the names of :class:`VisionTransformer`.

    Raises:
        UserError: the file cannot be read, or does not hold a Vision Transformer of this layout.
    """
    content = read_checkpoint(path)
    return encoder_in(state_dict_of(content, str(path)), arguments_of(content), str(path))


def encoder_in(
    state: Mapping[str, torch.Tensor], arguments: Mapping[str, object], source: str
) -> tuple[ViTConfig, dict[str, torch.Tensor]]:
    """Do what :func:`read_encoder` does with a checkpoint that was read already."""
    config = infer_vit(state, arguments, source)
    weights = {name: tensor for name, tensor in state.items() if not OTHER_PARTS.match(name)}
    with torch.device("meta"):
        wanted = VisionTransformer(config).state_dict()
    check_weights(weights, wanted, f"the encoder in {source}")
    return config, weights


def belongs_to_encoder(name: str) -> bool:
    """Whether a published parameter is the encoder's.

    >>> belongs_to_encoder("norm.weight"), belongs_to_encoder("decoder_norm.weight")
    (True, False)
    """
    return name.partition(".")[0] in ENCODER_PARTS


def infer_vit(
    state: Mapping[str, torch.Tensor], arguments: Mapping[str, object], source: str = "the checkpoint"
) -> ViTConfig:
    """Read the sizes of a Vision Transformer off its weights.

    Args:
        state: weights by published name.
        arguments: what the checkpoint's program was called with; may tell the number of heads.
        source: what error messages call the checkpoint.

    Raises:
        UserError: a weight that tells a size is missing or has an impossible shape, or the heads cannot be told.
    """
    for name, dimensions in _REQUIRED.items():
        if name not in state:
            found = ", ".join(list(state)[:3])
            raise UserError(f"{source} has no {name} (its first weights are {found}); give an RSP or MAE checkpoint")
        if state[name].ndim != dimensions:
            raise UserError(f"{name} of {source} has shape {tuple(state[name].shape)}; give an RSP or MAE checkpoint")
    width, channels, patch, patch_width = state["patch_embed.proj.weight"].shape
    tokens, hidden = state["pos_embed"].shape[1], state["blocks.0.mlp.fc1.weight"].shape[0]
    grid = round(max(tokens - 1, 0) ** 0.5)
    if channels != 3 or patch != patch_width or not width or not patch:
        raise UserError(
            f"{source} embeds patches of {channels} x {patch} x {patch_width}; needed are square RGB patches"
        )
    if tokens < 2 or grid**2 != tokens - 1:
        raise UserError(f"{source} has {tokens} positions; needed are a class token and a square of patches")
    return ViTConfig(
        image_size=grid * patch,
        patch_size=patch,
        width=width,
        # Counted, not the largest: a gap in the numbers is then a difference in the layout.
        depth=len({name.split(".")[1] for name in state if name.startswith("blocks.")}),
        heads=_heads(width, arguments, source),
        mlp_ratio=_mlp_ratio(hidden, width),
    )


def check_weights(found: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor], what: str) -> None:
    """Refuse weights of another layout, and weights that are no numbers.

    Raises:
        UserError: naming the first names or shapes that differ.
    """
    difference = layout_difference(found, wanted)
    if difference:
        raise UserError(f"{what} has another layout: {difference}; give a checkpoint of that layout")
    for name, tensor in found.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise UserError(f"{what} is broken: {name} holds values that are not finite; download it again")


def _mlp_ratio(hidden: int, width: int) -> float:
    """Return the ratio of which ``int(width * ratio)`` is ``hidden`` again, whatever the rounding."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else math.nextafter(ratio, math.inf)


def _heads(width: int, arguments: Mapping[str, object], source: str) -> int:
    """Tell the number of attention heads, the one size that no shape shows."""
    told = arguments.get("num_heads")
    if isinstance(told, int):
        return told
    for sizes in VARIANTS.values():
        if sizes["width"] == width:
            return sizes["heads"]
    named = re.search("|".join(variant.removeprefix("vit-") for variant in VARIANTS), str(arguments.get("model", "")))
    if named:
        return VARIANTS[f"vit-{named[0]}"]["heads"]
    if width % 64 == 0:
        return width // 64
    raise UserError(f"cannot tell the number of attention heads of {source} (width {width}); put num_heads in its args")
