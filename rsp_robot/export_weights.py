"""Formats that hold weights only: a folder of ours, and the names of the published checkpoints."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

from rsp_robot.backbones.vit import VisionTransformer
from rsp_robot.export_order import Order
from rsp_robot.model_card import write_card
from rsp_robot.tensor_files import write_tensors

_LOAD_PUBLISHED = """Tensors under the names of the published RSP and MAE checkpoints, the number of heads beside them:

```python
import torch

weights = torch.load("encoder.pth", weights_only=True)["model"]
```

`FrozenEncoder.load("encoder.pth")` of rsp-robot reads it, too (with pooling `cls` and ImageNet's mean and standard
deviation, which such files do not hold).
"""


def write_folder(order: Order, folder: Path) -> None:
    """An encoder folder for every rsp-robot command."""
    order.encoder.save(folder)
    if order.half:
        stored = load_file(folder / "model.safetensors")
        write_tensors(folder / "model.safetensors", {name: order.cast(tensor) for name, tensor in stored.items()})
    write_card(order.encoder, folder, weights=order.stored_as)


def write_published(order: Order, folder: Path) -> None:
    """``encoder.pth`` for code that reads checkpoints of RSP or MAE."""
    backbone = order.encoder.backbone
    if not isinstance(backbone, VisionTransformer):
        raise order.cannot_hold("published", "the plain Vision Transformer")
    folder.mkdir()
    # Tensors and one number, no objects: every reader takes it. The heads are in no shape, so they travel along.
    torch.save({"model": order.stored(backbone), "args": {"num_heads": backbone.config.heads}}, folder / "encoder.pth")
    write_card(order.encoder, folder, _LOAD_PUBLISHED, weights=order.stored_as)
