"""Any image model of timm as a backbone: its tokens, or its last feature map as a raster of tokens."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import isqrt
from typing import Any

import timm
import torch
from timm.data import resolve_model_data_config
from torch import nn

from rsp_robot.backbones.base import Backbone
from rsp_robot.checkpoints import listed
from rsp_robot.errors import UserError, unknown_name

# What timm.create_model takes beside the arguments of a model: a description from a file may not set them.
_RESERVED = re.compile(
    r"pretrained|checkpoint_path|cache_dir|scriptable|exportable|no_jit|num_classes|in_chans|features_only"
)
_LEFT_BEHIND = re.compile(r"decoder_|to_posterior\.|to_prior\.")


class TimmBackbone(Backbone):
    """Tokens of ``model.forward_features``, the class token first where there is one.

    Register and distillation tokens are dropped; a feature map ``(B, C, h, w)`` becomes ``h * w`` tokens, row by row.
    """

    def __init__(self, model: nn.Module, architecture: str, arguments: Mapping[str, Any], image_size: int) -> None:
        """Look at what ``model`` makes of a picture of ``image_size``.

        Args:
            model: a model of timm without classifier.
            architecture: its name in timm, without the tag of the weights.
            arguments: what else it was created with.
            image_size: side of its input in pixels.

        Raises:
            UserError: it does not take that size, or what it gives is no square of tokens.
        """
        super().__init__()
        self.model = model
        self.architecture, self.arguments, self.image_size = architecture, dict(arguments), image_size
        features = _probe(model, architecture, image_size)
        self._channels_last = features.ndim == 4 and "NHWC" in str(getattr(model, "output_fmt", ""))
        self._prefix = 0
        if features.ndim == 4:
            rows, columns, self.width = features.shape[1:] if self._channels_last else features.movedim(1, -1).shape[1:]
        elif features.ndim == 3:
            self._prefix = _prefix_tokens(model, features.shape[1])
            rows = columns = isqrt(features.shape[1] - self._prefix)
            self.width = features.shape[2]
        else:
            raise UserError(f"timm's {architecture} gives features of {features.ndim} dimensions; choose another model")
        if rows != columns or (features.ndim == 3 and rows**2 != features.shape[1] - self._prefix):
            raise UserError(
                f"timm's {architecture} gives {tuple(features.shape[1:])} for a square picture, which is no square of "
                "tokens; choose another model"
            )
        self.grid = rows
        learned = isinstance(getattr(model, "cls_token", None), torch.Tensor)
        self.class_token = self._prefix > 0 and (learned or getattr(model, "num_prefix_tokens", None) is None)

    @classmethod
    def build(cls, description: Mapping[str, Any]) -> TimmBackbone:
        """Build what :meth:`describe` tells of, with weights to be loaded; nothing is downloaded.

        Raises:
            UserError: timm has no such model, or does not take these arguments.
        """
        architecture, image_size = str(description["model"]), int(description["image_size"])
        arguments = checked_arguments(description["arguments"])
        return cls(_create(architecture, arguments), architecture, arguments, image_size)

    def describe(self) -> dict[str, Any]:
        """Return the model's name, its arguments and its size."""
        return {
            "kind": "timm", "model": self.architecture, "arguments": self.arguments, "image_size": self.image_size,
        }  # fmt: skip

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """``(B, 3, S, S)`` -> ``(B, [1 +] grid * grid, D)``."""
        features: torch.Tensor = self.model.forward_features(images)  # type: ignore[operator]
        if features.ndim == 4:
            return features.flatten(1, 2) if self._channels_last else features.flatten(2).transpose(1, 2)
        if self._prefix == int(self.class_token):
            return features
        return torch.cat([features[:, : int(self.class_token)], features[:, self._prefix :]], dim=1)


def timm_backbone(
    name: str,
    image_size: int | None = None,
    *,
    pretrained: bool = False,
    weights: Mapping[str, torch.Tensor] | None = None,
    arguments: Mapping[str, Any] | None = None,
    source: str = "the file",
) -> tuple[TimmBackbone, tuple[float, ...], tuple[float, ...]]:
    """Create a model of timm.

    Args:
        name: a name of timm, with or without the tag of its weights (``resnet18.a1_in1k``).
        image_size: side of the input; by default what the weights were trained at. Positions are resampled.
        pretrained: download timm's weights, or take them from its cache.
        weights: weights of a file, in a layout that timm knows.
        arguments: of the model, beside its size.
        source: what errors call the file.

    Returns:
        The backbone, and the mean and standard deviation per channel that its pictures are normalised with.

    Raises:
        UserError: timm has no such model or weights, they cannot be downloaded, or they have another layout.
    """
    wanted = checked_arguments(arguments or {})
    if image_size is not None and image_size < 1:
        raise UserError(f"the image size of {name} must be at least 1, not {image_size}")
    known = _known(name)
    size = image_size or wanted.get("img_size") or (int(known.input_size[-1]) if known is not None else 224)
    more: dict[str, Any] = {"pretrained": pretrained}
    if weights is not None:
        heads = (known.classifier if known is not None else None) or ()
        parts = tuple(f"{part}." for part in ((heads,) if isinstance(heads, str) else heads))
        state = {
            key: tensor
            for key, tensor in weights.items()
            if not key.startswith(parts or ("\0",)) and not _LEFT_BEHIND.match(key)
        }
        # As many classes as the model has: then timm loads strictly.
        more = {"pretrained": True, "pretrained_cfg_overlay": {"state_dict": state, "num_classes": 0}}
    try:
        try:
            model = _create(name, {**wanted, "img_size": size}, **more)
            wanted["img_size"] = size
        except TypeError as error:  # a network without positions takes pictures of any size
            if "img_size" not in str(error):
                raise
            model = _create(name, wanted, **more)
    except OSError as error:
        raise UserError(
            f"cannot download the weights of {name} ({_first_line(error)}); get their file elsewhere and give "
            f"timm:{name}{f'@{image_size}' if image_size else ''}=<file>, or take random:{name}"
        ) from None
    except (RuntimeError, ValueError, KeyError, AssertionError, AttributeError, IndexError) as error:
        if weights is None:
            raise UserError(
                f"timm cannot make {name} at {size} px ({_first_line(error)}); choose another size"
            ) from None
        raise UserError(
            f"{source} does not hold weights of {name}: {_difference(error)}; give a file of that layout"
        ) from None
    seen = resolve_model_data_config(model)
    # timm keeps the overlay, weights and all.
    model.pretrained_cfg = model.default_cfg = {
        key: value for key, value in model.pretrained_cfg.items() if key != "state_dict"
    }
    backbone = TimmBackbone(model, name.partition(".")[0], wanted, size)
    return backbone, tuple(map(float, seen["mean"])), tuple(map(float, seen["std"]))


def checked_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a model that come from a file, if they are no more than that.

    Raises:
        UserError: one of them would have timm read or download something.
    """
    wrong = sorted(name for name in arguments if _RESERVED.match(str(name)))
    if wrong:
        raise UserError(f"{wrong[0]} is no argument of a model of timm; take it out of the file")
    return dict(arguments)


def is_timm_model(name: str) -> bool:
    """Whether timm has a model of this name; a tag of weights may follow."""
    return timm.is_model(name)


def _known(name: str) -> Any:
    """Return what timm knows of a model's weights; refuse names that it does not know."""
    architecture = name.partition(".")[0]
    if not is_timm_model(architecture):
        raise unknown_name("model of timm", name, timm.list_models())
    try:
        return timm.get_pretrained_cfg(name)
    except RuntimeError:
        raise unknown_name("weights of timm", name, timm.list_pretrained(f"{architecture}.*")) from None


def _create(name: str, arguments: Mapping[str, Any], **more: Any) -> Any:
    _known(name)  # among others, names that would have timm download a configuration
    return timm.create_model(name, num_classes=0, **arguments, **more)


def _probe(model: nn.Module, architecture: str, image_size: int) -> torch.Tensor:
    """Return the features of one empty picture."""
    training = model.training
    model.eval()  # running statistics stay as they are
    parameter = next(model.parameters())
    try:
        with torch.no_grad():
            features = model.forward_features(parameter.new_zeros(1, 3, image_size, image_size))  # type: ignore[operator]
    except (RuntimeError, ValueError, AssertionError) as error:
        raise UserError(
            f"timm's {architecture} does not take pictures of {image_size} px ({_first_line(error)}); "
            "choose another size"
        ) from None
    model.train(training)
    if not isinstance(features, torch.Tensor):
        raise UserError(f"timm's {architecture} gives a {type(features).__name__}, no tensor; choose another model")
    return features


def _prefix_tokens(model: nn.Module, tokens: int) -> int:
    """How many tokens stand before the patches."""
    told = getattr(model, "num_prefix_tokens", None)
    if isinstance(told, int):
        return told
    return 0 if isqrt(tokens) ** 2 == tokens else 1


def _difference(error: Exception) -> str:
    """The first names or shapes that differ, from what torch says about a state dict."""
    parts = []
    for line in str(error).splitlines():
        found = re.match(r"\s*(Missing|Unexpected) key\(s\) in state_dict: (.*)", line)
        if found:
            names = re.findall('"([^"]+)"', found[2])
            parts.append(f"{found[1].lower()} {listed(names)}")
    shapes = re.findall(r"size mismatch for (\S+): .*?Size\(\[(.*?)\]\).*?Size\(\[(.*?)\]\)", str(error))
    if shapes:
        parts.append(listed(f"{name} is ({was}) instead of ({is_})" for name, was, is_ in shapes))
    return "; ".join(parts) or _first_line(error)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "")[:160] or type(error).__name__
