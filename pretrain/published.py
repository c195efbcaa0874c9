"""Weights to start from: whole published RSP and V-JEPA models, and encoders.

Published names of RSP differ from ours in one thing: here the encoder's parameters stand below ``backbone.``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict
from math import isqrt
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from rsp_robot.backbones.base import Backbone
from rsp_robot.backbones.vit import VisionTransformer, ViTConfig
from rsp_robot.backbones.vjepa import VideoTransformer, VJEPAConfig
from rsp_robot.checkpoints import arguments_of, layout_difference, read_checkpoint, state_dict_of
from rsp_robot.encoder import FrozenEncoder
from rsp_robot.errors import UserError
from rsp_robot.pretrain.objectives.vjepa import VideoJEPA
from rsp_robot.published import belongs_to_encoder, check_weights, encoder_in, infer_vit
from rsp_robot.published_vjepa import vjepa_encoder, vjepa_part, vjepa_weights

DECODER_HEADS = 16
# What the published program calls the settings of the objective that no shape shows.
SETTINGS = {
    "noise_scale": "noise_std",
    "mask_ratio": "mask_ratio",
    "kl_scale": "kl_scale",
    "kl_balance": "kl_balance",
    "kl_freebit": "free_bits",
    "norm_pix_loss": "normalise_targets",
    "max_distance": "max_gap",
}
UNSEEN = {"decoder_num_heads": "decoder_heads", "stoch": "groups", "discrete": "classes"}
_REQUIRED = ("to_prior.2.weight", "decoder_embed_deter.weight", "decoder_blocks.0.norm1.weight")


class PublishedRSP(NamedTuple):
    """A published model: ``RSP(vit, RSPConfig(**settings)).load_state_dict(weights)`` is it."""

    vit: ViTConfig
    """Sizes of the encoder."""
    settings: dict[str, Any]
    """Fields of the objective's config that the file tells; the others are at their published defaults."""
    weights: dict[str, torch.Tensor]
    """Every parameter, by our names."""


def read_rsp(path: str | os.PathLike[str]) -> PublishedRSP:
    """Read a published RSP checkpoint, encoder, latent heads and decoder.

    Sizes come from the shapes; what no shape shows comes from the ``args`` in the file, or is as published.

    Raises:
        UserError: the file cannot be read or holds no RSP model, or its groups and classes cannot be told.
    """
    content = read_checkpoint(path)
    state, arguments = state_dict_of(content, str(path)), arguments_of(content)
    vit = infer_vit(state, arguments, str(path))
    for name in _REQUIRED:
        if name not in state:
            raise UserError(f"{path} has no {name}: it is no RSP model; give a published RSP checkpoint")
    heads = arguments.get("decoder_num_heads")
    groups, classes = _latent(state["to_prior.2.weight"].shape[0], arguments, str(path))
    settings = {
        "decoder_width": state["decoder_embed_deter.weight"].shape[0],
        "decoder_depth": len({name.split(".")[1] for name in state if name.startswith("decoder_blocks.")}),
        "decoder_heads": heads if isinstance(heads, int) else DECODER_HEADS,
        "groups": groups,
        "classes": classes,
        **{ours: arguments[theirs] for theirs, ours in SETTINGS.items() if theirs in arguments},
    }
    return PublishedRSP(vit, settings, our_names(state))


def our_names(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Put the encoder's parameters of a published state dict below ``backbone.``.

    >>> list(our_names({"norm.weight": torch.ones(1), "decoder_norm.weight": torch.ones(1)}))
    ['backbone.norm.weight', 'decoder_norm.weight']
    """
    return {f"backbone.{name}" if belongs_to_encoder(name) else name: tensor for name, tensor in state.items()}


def load_weights(model: nn.Module, source: str | os.PathLike[str]) -> str:
    """Fill a model with weights to start from; nothing is left half filled.

    Args:
        model: an objective, with its encoder as ``backbone``.
        source: a published checkpoint (the whole model if it holds more than an encoder), or an encoder or run folder
            of ours (the encoder; both encoders of V-JEPA).

    Returns:
        What was loaded, in one line.

    Raises:
        UserError: the source cannot be read, or it does not fit the model.
    """
    path = Path(source)
    if not path.is_file():
        return _load_folder(model, FrozenEncoder.load(path).backbone, path)
    content = read_checkpoint(path)
    video = vjepa_weights(content)
    if video is not None:
        sizes, weights = vjepa_encoder(video, arguments_of(content), str(path))
        parts = {part: vjepa_part(content, part) for part in ("encoder", "predictor")}
        return _load_vjepa(model, sizes, {**parts, "target_encoder": weights}, path)
    state, arguments = state_dict_of(content, str(path)), arguments_of(content)
    if all(belongs_to_encoder(name) or name.startswith("head.") for name in state):
        return _load_encoder(model, *encoder_in(state, arguments, str(path)), path)
    return _load_whole(model, state, arguments, path)


def _load_whole(model: nn.Module, state: Mapping[str, torch.Tensor], arguments: Mapping[str, Any], path: Path) -> str:
    weights = our_names(state)
    difference = layout_difference(weights, model.state_dict())
    if difference is None:  # then its sizes can be told
        difference = _unseen_difference(model, infer_vit(state, arguments, str(path)), arguments)
    if difference:
        raise UserError(
            f"{path} does not fit the model: {difference}; set the model's sizes to the file's, or start from its "
            f"encoder alone: rsp-robot export --encoder {path} --out FOLDER, and give that folder"
        )
    check_weights(weights, model.state_dict(), f"the model in {path}")
    model.load_state_dict(weights)
    return f"encoder and decoder, {len(weights)} tensors, from {path}"


def _load_encoder(model: nn.Module, vit: ViTConfig, weights: dict[str, torch.Tensor], path: Path) -> str:
    backbone = model.get_submodule("backbone")
    difference = layout_difference(weights, backbone.state_dict()) or _unseen_difference(model, vit, {})
    if difference:
        raise UserError(
            f"the encoder in {path} does not fit the model's: {difference}; choose its architecture, image size and "
            "patch size"
        )
    backbone.load_state_dict(weights)
    return f"encoder only, {len(weights)} tensors, from {path}"


def _load_folder(model: nn.Module, encoder: Backbone, path: Path) -> str:
    own = model.get_submodule("backbone")
    if not isinstance(own, Backbone) or type(encoder) is not type(own):
        raise UserError(
            f"{path} holds a {_kind(encoder)} encoder, but the one to train is {_kind(own)}; give such a one"
        )
    if isinstance(encoder, VisionTransformer):
        return _load_encoder(model, encoder.config, encoder.state_dict(), path)
    if isinstance(encoder, VideoTransformer):
        return _load_vjepa(model, encoder.config, {"target_encoder": encoder.state_dict()}, path)
    difference = _size_difference(encoder.describe() or {}, own.describe() or {})
    if difference:
        raise UserError(f"the encoder in {path} does not fit the model's: {difference}; set the sizes to its own")
    own.load_state_dict(encoder.state_dict())
    return f"encoder only, {len(encoder.state_dict())} tensors, from {path}"


def _load_vjepa(
    model: nn.Module, sizes: VJEPAConfig, parts: Mapping[str, Mapping[str, torch.Tensor] | None], path: Path
) -> str:
    """Fill encoder, target encoder and predictor; from a target encoder alone, both encoders."""
    if not isinstance(model, VideoJEPA):
        kind = _kind(model.get_submodule("backbone"))
        raise UserError(f"{path} holds V-JEPA, but the encoder to train is {kind}; take --objective vjepa")
    if sizes.rotary:
        raise UserError(f"{path} holds V-JEPA 2, with rotary positions; give V-JEPA, whose positions are fixed")
    target = parts["target_encoder"] or {}
    loaded = {"backbone": target, "context_encoder": parts.get("encoder") or target}
    predictor = parts.get("predictor")
    if predictor:
        loaded["predictor"] = predictor
    weights = {f"{ours}.{name}": tensor for ours, state in loaded.items() for name, tensor in state.items()}
    wanted = {name: tensor for name, tensor in model.state_dict().items() if name.partition(".")[0] in loaded}
    difference = layout_difference(weights, wanted)
    difference = difference or _size_difference(asdict(sizes), asdict(model.backbone.config))
    if difference:
        raise UserError(
            f"{path} does not fit the model: {difference}; set arch, image size, patch size and the objective's sizes "
            "to the file's"
        )
    check_weights(weights, wanted, f"the model in {path}")
    model.load_state_dict(weights, strict=False)
    what = "encoders and predictor" if predictor else "encoder only"
    return f"{what}, {len(weights if predictor else target)} tensors, from {path}"


def _kind(backbone: nn.Module) -> str:
    described = backbone.describe() if isinstance(backbone, Backbone) else None
    return str((described or {}).get("kind", "wrapped"))


def _size_difference(found: Mapping[str, object], wanted: Mapping[str, object]) -> str | None:
    """Name the first size that differs.

    >>> _size_difference({"width": 8, "heads": 2}, {"width": 8, "heads": 4})
    'heads is 2 instead of 4'
    """
    names = [name for name in wanted if found.get(name) != wanted[name]]
    return f"{names[0]} is {found.get(names[0])} instead of {wanted[names[0]]}" if names else None


def _unseen_difference(model: nn.Module, vit: ViTConfig, arguments: Mapping[str, Any]) -> str | None:
    """Compare what no shape shows, where the file tells it."""
    backbone, config = model.get_submodule("backbone"), getattr(model, "config", None)
    pairs: dict[str, tuple[object, object]] = {"heads": (vit.heads, getattr(backbone.config, "heads", vit.heads))}
    for theirs, ours in UNSEEN.items():
        told = arguments.get(theirs)
        pairs[ours] = (told, told if told is None else getattr(config, ours, told))
    return next((f"{name} is {a} instead of {b}" for name, (a, b) in pairs.items() if a != b), None)


def _latent(logits: int, arguments: Mapping[str, Any], source: str) -> tuple[int, int]:
    """Tell groups and classes of ``logits = groups · classes``."""
    groups, classes = arguments.get("stoch"), arguments.get("discrete")
    if isinstance(groups, int) and isinstance(classes, int):
        if groups * classes != logits:
            raise UserError(
                f"{source} has {logits} logits but its args say {groups} groups of {classes} classes; "
                "only the categorical latent can be read"
            )
        return groups, classes
    if isqrt(logits) ** 2 != logits:
        raise UserError(
            f"cannot tell groups and classes of the {logits} logits of {source}; put stoch and discrete in args"
        )
    return isqrt(logits), isqrt(logits)
