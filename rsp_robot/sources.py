"""What :meth:`FrozenEncoder.load` understands, one function per source."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch

from rsp_robot.backbones.base import Backbone
from rsp_robot.backbones.conv64 import ARCHITECTURES, IMAGE_SIZE, Conv64, Conv64Config, initialise_convolutions
from rsp_robot.backbones.timm_models import is_timm_model, timm_backbone
from rsp_robot.backbones.vit import VARIANTS, VisionTransformer, ViTConfig, vit_config
from rsp_robot.backbones.vjepa import VideoTransformer
from rsp_robot.boxed import PREFIX, boxed_encoder
from rsp_robot.checkpoints import arguments_of, file_sha256, read_checkpoint, state_dict_of
from rsp_robot.errors import UserError, unknown_name
from rsp_robot.files import read_json
from rsp_robot.hub import download, is_repository
from rsp_robot.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from rsp_robot.published import encoder_in
from rsp_robot.published_vjepa import vjepa_encoder, vjepa_weights

_RANDOM = re.compile(r"random:(?P<arch>[\w.-]+?)(/(?P<patch>\d+))?(@(?P<size>\d+))?(#(?P<seed>\d+))?$")
_TIMM = re.compile(r"timm:(?P<name>[\w.-]+)(@(?P<size>\d+))?(=(?P<file>.+))?$")
_LOCAL_TIMM = re.compile(r"timm:local-dir:(?P<folder>.+?)(@(?P<size>\d+))?$")
_FILE = re.compile(r"(?P<file>.+\.(pt|pth|tar|bin|ckpt|safetensors))(@(?P<size>\d+))?$")
_GRID_SIZE = 224
_CONVOLUTIONS = {f"conv64-{name}": Conv64Config(architecture=name) for name in ARCHITECTURES}


class Source(NamedTuple):
    """What a frozen encoder is made of."""

    backbone: Backbone
    """The network, with its weights."""
    preprocessing: Preprocessing | None
    """How frames become its input; None for ImageNet statistics."""
    provenance: dict[str, Any]
    """Where the weights come from, for the record."""


def find(spec: str | os.PathLike[str]) -> Source | Path:
    """Read what a spec names; a Path is an encoder folder, still to be read.

    Raises:
        UserError: nothing is there, or it cannot be read.
    """
    text = os.fspath(spec)
    for prefix, read in (("random:", from_random), ("timm:local-dir:", from_timm_folder), ("timm:", from_timm)):
        if text.startswith(prefix):
            return read(text)
    if text.startswith("hub:"):
        return download(text.removeprefix("hub:"))
    path = Path(text)
    named = _FILE.match(text)
    if path.is_file():
        return from_checkpoint(path)
    if named and Path(named["file"]).is_file():
        return from_checkpoint(Path(named["file"]), int(named["size"]))
    for folder in (path / "encoder", path):
        if (folder / "config.json").exists():
            return folder
    if not path.exists() and text.startswith(PREFIX) and is_repository(text):
        return boxed_encoder(text)
    if not path.exists() and is_repository(text) and not path.parent.exists():
        return download(text)
    raise UserError(
        f"no encoder in {text}; give an encoder folder, a run folder, a checkpoint (.pth, .safetensors), "
        "or rsp-robot/small, random:<architecture>, timm:<model>, hub:<owner>/<name>"
    )


def from_random(spec: str) -> Source:
    """``random:<architecture>[/patch][@size][#seed]``: weights as drawn at initialisation.

    Raises:
        UserError: the spec cannot be read, or there is no such architecture here or in timm.
    """
    match = _RANDOM.match(spec)
    if match is None:
        raise UserError(f"cannot read {spec!r}; write random:<architecture>[/patch][@size][#seed]")
    name, seed = match["arch"], int(match["seed"] or 0)
    if name in VARIANTS:
        config = vit_config(name, int(match["size"] or _GRID_SIZE), int(match["patch"] or 16))
        return Source(random_vit(config, seed), None, {"source": "random weights", "seed": seed})
    if name not in _CONVOLUTIONS and not is_timm_model(name):
        raise unknown_name("architecture", name, [*VARIANTS, *_CONVOLUTIONS, *timm.list_models()])
    if match["patch"]:
        raise UserError(f"{name} has no patches to choose; leave out /{match['patch']}")
    if name in _CONVOLUTIONS:
        if _size(match["size"]) not in (None, IMAGE_SIZE):
            raise UserError(f"{name} takes pictures of {IMAGE_SIZE} px, not {match['size']} px; leave out the size")
        return Source(random_conv64(name, seed), None, {"source": "random weights", "seed": seed, "model": name})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone, mean, std = timm_backbone(name, _size(match["size"]))
    provenance = {"source": "random weights", "seed": seed, "model": name, "timm": timm.__version__}
    return Source(backbone, _preprocessing(backbone, mean, std), provenance)


def random_vit(config: ViTConfig, seed: int) -> VisionTransformer:
    """Draw the weights of a plain Vision Transformer."""
    backbone = VisionTransformer(config)
    backbone.initialise(torch.Generator().manual_seed(seed))
    return backbone


def random_conv64(name: str, seed: int) -> Conv64:
    """Draw the weights of a convolutional encoder, ``conv64-dcgan`` or ``conv64-vgg``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = Conv64(_CONVOLUTIONS[name])
        initialise_convolutions(backbone)
    return backbone


def from_timm(spec: str) -> Source:
    """``timm:<model>[@size]`` with timm's own weights, or ``timm:<model>[@size]=<file>`` with those of a file.

    Raises:
        UserError: the spec cannot be read, timm has no such model, or the weights cannot be had or do not fit.
    """
    match = _TIMM.match(spec)
    if match is None:
        raise UserError(f"cannot read {spec!r}; write timm:<model>[@size] or timm:<model>[@size]=<file>")
    provenance: dict[str, Any] = {"source": "timm", "model": match["name"], "timm": timm.__version__}
    weights = None
    if match["file"]:
        weights = state_dict_of(read_checkpoint(match["file"]), match["file"])
        provenance |= {"file": Path(match["file"]).name, "sha256": file_sha256(match["file"])}
    backbone, mean, std = timm_backbone(
        match["name"], _size(match["size"]), pretrained=weights is None, weights=weights, source=str(match["file"])
    )
    return Source(backbone, _preprocessing(backbone, mean, std), provenance)


def from_timm_folder(spec: str) -> Source:
    """``timm:local-dir:<folder>[@size]``: ``config.json`` and ``model.safetensors`` as timm stores a model.

    Raises:
        UserError: there is no such folder, or it is damaged or of another layout.
    """
    match = _LOCAL_TIMM.match(spec)
    if match is None:
        raise UserError(f"cannot read {spec!r}; write timm:local-dir:<folder>")
    folder = Path(match["folder"])
    config = read_json(folder / "config.json")
    try:
        name, seen = str(config["architecture"]), config["pretrained_cfg"]
        arguments = dict(config.get("model_args", {}))
        arguments.pop("num_classes", None)
        if arguments.pop("in_chans", 3) != 3:
            raise ValueError("it does not take RGB pictures")
        mean, std = tuple(map(float, seen["mean"])), tuple(map(float, seen["std"]))
        stored = arguments.pop("img_size", seen["input_size"][-1])
        size = _size(match["size"]) or int(stored[-1] if isinstance(stored, list) else stored)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise UserError(
            f"{folder}/config.json is not that of a timm model ({type(error).__name__}: {error}); export it again"
        ) from None
    file = folder / "model.safetensors"
    weights = state_dict_of(read_checkpoint(file), str(file))
    backbone, _, _ = timm_backbone(name, size, weights=weights, arguments=arguments, source=str(file))
    provenance = {"source": "timm folder", "model": name, "file": file.name, "sha256": file_sha256(file)}
    return Source(backbone, _preprocessing(backbone, mean, std), provenance)


def from_checkpoint(path: Path, image_size: int | None = None) -> Source:
    """Read a published checkpoint: RSP, MAE, any plain Vision Transformer, V-JEPA, V-JEPA 2.

    Args:
        path: a ``.pth``, ``.pt`` or ``.safetensors`` file; nothing in it is executed.
        image_size: side of the pictures; V-JEPA 2 alone leaves a choice.

    Raises:
        UserError: the file cannot be read, or has another layout.
    """
    content, name = read_checkpoint(path), str(path)
    provenance = {"source": "checkpoint", "file": path.name, "sha256": file_sha256(path)}
    video = vjepa_weights(content)
    if video is not None:
        told: Mapping[str, Any] = {**_beside(path), **arguments_of(content)}
        sizes, weights = vjepa_encoder(video, told, name, image_size)
        clip = VideoTransformer(sizes)
        clip.load_state_dict(weights)
        return Source(clip, None, {**provenance, "model": "V-JEPA 2" if sizes.rotary else "V-JEPA"})
    config, weights = encoder_in(state_dict_of(content, name), arguments_of(content), name)
    if image_size not in (None, config.image_size):
        raise UserError(
            f"{path} is for pictures of {config.image_size} px, not {image_size} px; leave out @{image_size}, or have "
            f"timm resample its positions: timm:vit_base_patch16_224@{image_size}={path} (the model that it is)"
        )
    vit = VisionTransformer(config)
    vit.load_state_dict(weights)
    return Source(vit, None, provenance)


def _beside(path: Path) -> dict[str, Any]:
    """What the ``config.json`` of transformers, beside its weights, tells of V-JEPA 2."""
    file = path.parent / "config.json"
    config = read_json(file) if file.is_file() and path.suffix == ".safetensors" else None
    if not isinstance(config, dict) or config.get("model_type") != "vjepa2":
        return {}
    return {"num_heads": config.get("num_attention_heads"), "image_size": config.get("crop_size")}


def _size(text: str | None) -> int | None:
    return int(text) if text else None


def _preprocessing(backbone: Backbone, mean: tuple[float, ...], std: tuple[float, ...]) -> Preprocessing:
    """The statistics a model was trained with; ImageNet's where they are none of RGB pictures."""
    if len(mean) != 3 or len(std) != 3:
        return Preprocessing(backbone.image_size, IMAGENET_MEAN, IMAGENET_STD)
    return Preprocessing(backbone.image_size, (mean[0], mean[1], mean[2]), (std[0], std[1], std[2]))
