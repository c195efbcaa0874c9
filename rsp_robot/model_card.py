"""README.md of an exported encoder: what it is, how to load it, where it comes from, what it is not for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from rsp_robot.errors import UserError

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

_GENERATED = ("What it is", "Where it comes from")


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


class _Parts(NamedTuple):
    header: dict[str, Any]
    top: str
    """The title and what follows it."""
    sections: dict[str, str]
    """What stands below each heading of the second level."""


def with_own_words(card: str, own: str) -> str:
    """Put somebody's own words into a generated card.

    The entries of their header (``license: mit``) and their text at the top replace those of the card, and so do
    sections of the same heading (*How to load it*, *Licence*, *Limits*); others come before the licence. The sections
    that the encoder tells by itself (*What it is*, *Where it comes from*) stay, so a card that was made this way may
    serve as ``own`` again.

    Args:
        card: from :func:`model_card`.
        own: Markdown with sections of the second level, and perhaps a header between lines of ``---``.

    Raises:
        UserError: the header of ``own`` is not closed, or is no mapping in YAML.
    """
    base, other = _parts(card), _parts(own)
    known = {"license": "Licence"} | {name.lower(): name for name in base.sections}
    words = {known.get(name.lower(), name): text for name, text in other.sections.items()}
    told: dict[str, str] = {}
    for name, text in base.sections.items():
        if name == "Licence":
            told |= {new: words[new] for new in words if new not in base.sections}
        told[name] = text if name in _GENERATED else words.get(name, text)
    header = yaml.safe_dump({**base.header, **other.header}, sort_keys=False, allow_unicode=True)
    body = [other.top or base.top] + [f"## {name}\n\n{text}" for name, text in told.items()]
    return f"---\n{header}---\n\n" + "\n\n".join(body) + "\n"


def _parts(markdown: str) -> _Parts:
    lines = markdown.splitlines()
    header: Any = {}
    if lines[:1] == ["---"]:
        if "---" not in lines[1:]:
            raise UserError("the header of the card does not end; close it with a line of ---")
        end = lines.index("---", 1)
        try:
            header = yaml.safe_load("\n".join(lines[1:end])) or {}
        except yaml.YAMLError:
            header = None
        if not isinstance(header, dict):
            raise UserError("the header of the card is no YAML of names and values; write, for example, license: mit")
        lines = lines[end + 1 :]
    found: dict[str, list[str]] = {}
    below, fenced = found.setdefault("", []), False
    for line in lines:
        fenced ^= line.startswith("```")
        if line.startswith("## ") and not fenced:
            below = found.setdefault(line[3:].strip(), [])
        else:
            below.append(line)
    sections = {name: "\n".join(text).strip() for name, text in found.items()}
    return _Parts(header, sections.pop(""), sections)


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
