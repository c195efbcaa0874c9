"""A frozen encoder for other programs: as a model of timm, or under the names of the published checkpoints."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from rsp_robot.backbones.vit import VARIANTS
from rsp_robot.encoder import FrozenEncoder
from rsp_robot.errors import UserError, unknown_name
from rsp_robot.files import atomic_path

_README = """# A frozen encoder for timm

Exported by rsp-robot (fingerprint {fingerprint}). Run these lines in this folder.

With timm 1.0.16 or newer:

```python
import timm

model = timm.create_model("local-dir:.", pretrained=True, num_classes=0)
```

With every timm 1.0:

```python
import timm

model = timm.create_model(
    "{architecture}",
    checkpoint_path="model.safetensors",
    num_classes=0,
{arguments}    pretrained_cfg_overlay={overlay},
)
```

`model.forward_features(images)` gives tokens (B, 1 + {patches}, {width}), class token first;
`model(images)` gives {output}.
`timm.data.create_transform(**timm.data.resolve_model_data_config(model))` makes the input from a PIL image:
{size} x {size} pixels, whatever its shape was, bicubic, mean {mean}, std {std}.
"""


def export_encoder(encoder: FrozenEncoder, folder: str | os.PathLike[str], form: str, half: bool = False) -> Path:
    """Write an encoder into a new folder, atomically.

    Args:
        encoder: what to export.
        folder: where to; must be new or empty.
        form: ``folder`` for :meth:`FrozenEncoder.load`; ``timm`` for ``timm.create_model``; ``published`` for code that
            reads checkpoints of RSP or MAE.
        half: store the weights as float16: half the size, rounded to about three digits.

    Returns:
        ``folder``.

    Raises:
        UserError: the form is unknown, the folder is not empty, or a weight is too large for float16.
    """
    if form not in FORMS:
        raise unknown_name("export format", form, FORMS)
    target = Path(folder)
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise UserError(f"{target} holds something already; give a new folder")
    encoder = rounded(encoder) if half else encoder
    with atomic_path(target) as temporary:
        FORMS[form](encoder, temporary, torch.float16 if half else torch.float32)
    return target


def rounded(encoder: FrozenEncoder) -> FrozenEncoder:
    """Return a copy whose weights are float32 values that float16 holds exactly.

    Raises:
        UserError: a weight is too large for float16.
    """
    copied = copy.deepcopy(encoder)
    copied.provenance["rounded_to"] = "float16"
    for name, tensor in copied.backbone.state_dict().items():
        tensor.copy_(tensor.half())
        if not torch.isfinite(tensor).all():
            raise UserError(f"{name} is too large for float16; export without half precision")
    return copied


def timm_config(encoder: FrozenEncoder) -> dict[str, Any]:
    """Return ``config.json`` of a model folder of timm.

    timm has our class token pooling as ``token`` and our mean as ``avg`` without a norm of its own; of the other
    poolings it has none, and the class token stands in.
    """
    vit, seen = encoder.backbone.config, encoder.preprocessing
    named = next((name for name, sizes in VARIANTS.items() if sizes["width"] == vit.width), "vit-base")
    # timm has no vit-nano; any of its names will do, since every size is given.
    variant = {"vit-nano": "vit-tiny"}.get(named, named).replace("-", "_")
    return {
        "architecture": f"{variant}_patch16_224",
        "num_classes": 0,
        "num_features": vit.width,
        "model_args": {
            "img_size": vit.image_size,
            "patch_size": vit.patch_size,
            "embed_dim": vit.width,
            "depth": vit.depth,
            "num_heads": vit.heads,
            "mlp_ratio": vit.mlp_ratio,
            "class_token": True,
            "global_pool": "avg" if encoder.pooling == "mean" else "token",
            "fc_norm": False,
        },
        "pretrained_cfg": {
            "input_size": [3, seen.image_size, seen.image_size],
            "fixed_input_size": True,
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "crop_mode": "squash",
            "mean": list(seen.mean),
            "std": list(seen.std),
            "num_classes": 0,
            "pool_size": None,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }


def _write_timm(encoder: FrozenEncoder, folder: Path, dtype: torch.dtype) -> None:
    folder.mkdir()
    config, vit = timm_config(encoder), encoder.backbone.config
    shown = ("input_size", "fixed_input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std")
    readme = _README.format(
        architecture=config["architecture"],
        fingerprint=encoder.fingerprint,
        arguments="".join(f"    {name}={value!r},\n" for name, value in config["model_args"].items()),
        overlay={name: config["pretrained_cfg"][name] for name in shown},
        patches=vit.patches,
        width=vit.width,
        output="the mean of the patch tokens" if encoder.pooling == "mean" else "the class token",
        size=encoder.image_size,
        mean=encoder.preprocessing.mean,
        std=encoder.preprocessing.std,
    )
    save_file(_weights(encoder, dtype), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(readme, encoding="utf-8")


def _write_published(encoder: FrozenEncoder, folder: Path, dtype: torch.dtype) -> None:
    folder.mkdir()
    # Tensors and one number, no objects: every reader takes it. The heads are in no shape, so they travel along.
    arguments = {"num_heads": encoder.backbone.config.heads}
    torch.save({"model": _weights(encoder, dtype), "args": arguments}, folder / "encoder.pth")


def _write_folder(encoder: FrozenEncoder, folder: Path, dtype: torch.dtype) -> None:
    encoder.save(folder)
    if dtype != torch.float32:
        stored = {name: tensor.to(dtype) for name, tensor in load_file(folder / "model.safetensors").items()}
        save_file(stored, folder / "model.safetensors")


def _weights(encoder: FrozenEncoder, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    state = encoder.backbone.state_dict()
    return {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in state.items()}


FORMS: dict[str, Callable[[FrozenEncoder, Path, torch.dtype], None]] = {
    "folder": _write_folder,
    "timm": _write_timm,
    "published": _write_published,
}
