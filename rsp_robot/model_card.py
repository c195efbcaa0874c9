"""README.md of an exported encoder: what it is, how to load it, where it comes from, what it is not for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rsp_robot.encoder import FrozenEncoder

_HEADER = """---
library_name: rsp-robot
license: unknown
pipeline_tag: image-feature-extraction
tags:
- robotics
- frozen-encoder
---
"""

LOAD_FOLDER = """With rsp-robot:

```python
from rsp_robot.encoder import FrozenEncoder

encoder = FrozenEncoder.load(".")
embeddings = encoder(frames)
```

`frames` are uint8 RGB pictures (B, H, W, 3) of any size, as an array or a tensor; resizing and normalisation are the
encoder's. For a policy on top of it: `rsp-robot bc --encoder FOLDER --data FILE --out POLICY`.
`rsp-robot export --format onnx` (or `torch-export`) makes a program that needs no rsp-robot.

The weights alone are a flat dictionary of tensors:

```python
from safetensors.torch import load_file

weights = load_file("model.safetensors")
```
"""

_CARD = """# A frozen visual encoder for robot learning

It turns camera frames into embeddings that policies are trained on. It does not change while they train.

## How to load it

{loading}
## What it is

| | |
|---|---|
{rows}

## Where it comes from

{provenance}

## Licence

Not stated. Whoever publishes this folder names the licence here and in the `license` line at the top; weights that
were trained from somebody else's carry that licence on.

## Limits

- It was made for the cameras and scenes it was trained on; how much it helps on others has to be measured there.
- Frames are squeezed to a square, whatever their shape: film with the shape that the policy will see.
- Channels are RGB. BGR frames (OpenCV's) raise no error and give poor embeddings.
- A policy belongs to one encoder: embeddings of another fingerprint are other numbers.
"""


def model_card(
    encoder: FrozenEncoder, loading: str = LOAD_FOLDER, more: Mapping[str, str] | None = None, weights: str = "float32"
) -> str:
    """Return the README.md of an encoder's folder, with the header that the Hugging Face Hub reads.

    Args:
        encoder: what the folder holds.
        loading: Markdown on how to load it; by default that of an encoder folder.
        more: further rows of the table of facts.
        weights: what numbers the weights are stored as.
    """
    rows = {**_facts(encoder, weights), **(more or {})}
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    card = _CARD.format(loading=loading, rows=table, provenance=_provenance(encoder.provenance))
    return _HEADER + "\n" + card


def write_card(
    encoder: FrozenEncoder,
    folder: Path,
    loading: str = LOAD_FOLDER,
    more: Mapping[str, str] | None = None,
    weights: str = "float32",
) -> None:
    """Write :func:`model_card` into a folder."""
    (folder / "README.md").write_text(model_card(encoder, loading, more, weights), encoding="utf-8")


def _facts(encoder: FrozenEncoder, weights: str) -> dict[str, str]:
    seen, shape = encoder.preprocessing, encoder.embedding_shape
    architecture = encoder.backbone.describe()
    parameters = sum(parameter.numel() for parameter in encoder.backbone.parameters())
    return {
        "backbone": _listed(architecture) if architecture else f"`{type(encoder.backbone).__name__}`",
        "parameters": f"{parameters:,}, {weights}",
        "frames in": "uint8 RGB (B, H, W, 3)",
        "embeddings out": f"float32 ({', '.join(['B', *map(str, shape)])})",
        "pooling": f"`{encoder.pooling}`",
        "input of the backbone": f"{seen.image_size} x {seen.image_size} pixels, antialiased bicubic",
        "mean, standard deviation": f"{_numbers(seen.mean)}; {_numbers(seen.std)} of pictures in [0, 1]",
        "fingerprint": f"`{encoder.fingerprint}`",
    }


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {json.dumps(value)}" for name, value in values.items())


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _provenance(provenance: Mapping[str, Any]) -> str:
    if not provenance:
        return "Not recorded."
    return "```json\n" + json.dumps(dict(provenance), indent=2, default=str) + "\n```"
