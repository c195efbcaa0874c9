"""A model folder of timm: of our plain Vision Transformer, and of models that came from timm."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rsp_robot.backbones.timm_models import TimmBackbone
from rsp_robot.backbones.vit import VARIANTS, VisionTransformer, ViTConfig
from rsp_robot.encoder import FrozenEncoder
from rsp_robot.export_order import Order
from rsp_robot.model_card import write_card
from rsp_robot.tensor_files import write_tensors

_LOAD_TIMM = """Run these lines in this folder. With timm 1.0.16 or newer:

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

`model.forward_features(images)` gives {features};
`model(images)` gives {output}.
`timm.data.create_transform(**timm.data.resolve_model_data_config(model))` makes the input from a PIL image:
{size} x {size} pixels, whatever its shape was, bicubic, mean {mean}, std {std}.
"""


def write_timm(order: Order, folder: Path) -> None:
    """A model folder of timm."""
    encoder, backbone = order.encoder, order.encoder.backbone
    if isinstance(backbone, TimmBackbone):
        weights, config = order.stored(backbone.model), _own_config(encoder, backbone)
        features = f"what {backbone.architecture} makes of its last layer"
        output = "timm's own pooling of it"
    elif isinstance(backbone, VisionTransformer):
        weights, config = order.stored(backbone), timm_config(encoder)
        features = f"tokens (B, 1 + {backbone.config.patches}, {backbone.width}), class token first"
        output = "the mean of the patch tokens" if encoder.pooling == "mean" else "the class token"
    else:
        raise order.cannot_hold("timm", "the plain Vision Transformer and models of timm")
    folder.mkdir()
    shown = ("input_size", "fixed_input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std")
    loading = _LOAD_TIMM.format(
        architecture=config["architecture"],
        arguments="".join(f"    {name}={value!r},\n" for name, value in config["model_args"].items()),
        overlay={name: config["pretrained_cfg"][name] for name in shown},
        features=features,
        output=output,
        size=encoder.image_size,
        mean=encoder.preprocessing.mean,
        std=encoder.preprocessing.std,
    )
    write_tensors(folder / "model.safetensors", weights)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    write_card(encoder, folder, loading, weights=order.stored_as)


def timm_config(encoder: FrozenEncoder) -> dict[str, Any]:
    """Return ``config.json`` of a model folder of timm for our plain Vision Transformer.

    timm has our class token pooling as ``token`` and our mean as ``avg`` without a norm of its own; of the other
    poolings it has none, and the class token stands in.
    """
    vit: ViTConfig = encoder.backbone.config
    named = next((name for name, sizes in VARIANTS.items() if sizes["width"] == vit.width), "vit-base")
    # timm has none so small; any of its names will do, since every size is given.
    variant = {"vit-pico": "vit-tiny", "vit-nano": "vit-tiny"}.get(named, named).replace("-", "_")
    arguments = {
        "img_size": vit.image_size,
        "patch_size": vit.patch_size,
        "embed_dim": vit.width,
        "depth": vit.depth,
        "num_heads": vit.heads,
        "mlp_ratio": vit.mlp_ratio,
        "class_token": True,
        "global_pool": "avg" if encoder.pooling == "mean" else "token",
        "fc_norm": False,
    }
    known = {"fixed_input_size": True, "first_conv": "patch_embed.proj", "classifier": "head", "pool_size": None}
    return _config(encoder, f"{variant}_patch16_224", vit.width, arguments, known)


def _own_config(encoder: FrozenEncoder, backbone: TimmBackbone) -> dict[str, Any]:
    """Return ``config.json`` for a model that came from timm."""
    told: Any = getattr(backbone.model, "pretrained_cfg", {})
    known = {name: told.get(name) for name in ("fixed_input_size", "first_conv", "classifier", "pool_size")}
    known["fixed_input_size"] = bool(known["fixed_input_size"])
    return _config(encoder, backbone.architecture, backbone.width, backbone.arguments, known)


def _config(
    encoder: FrozenEncoder, architecture: str, width: int, arguments: dict[str, Any], known: dict[str, Any]
) -> dict[str, Any]:
    seen = encoder.preprocessing
    return {
        "architecture": architecture,
        "num_classes": 0,
        "num_features": width,
        "model_args": arguments,
        "pretrained_cfg": {
            "input_size": [3, seen.image_size, seen.image_size],
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "crop_mode": "squash",
            "mean": list(seen.mean),
            "std": list(seen.std),
            "num_classes": 0,
            **known,
        },
    }
