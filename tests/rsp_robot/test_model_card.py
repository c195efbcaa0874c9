from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from rsp_robot.backbones.vit import ViTConfig
from rsp_robot.encoder import FrozenEncoder
from rsp_robot.errors import UserError
from rsp_robot.model_card import model_card, with_own_words

SMALL = ViTConfig(image_size=32, patch_size=8, width=48, depth=2, heads=3)


def test_the_header_is_what_the_hub_reads() -> None:
    _, header, text = model_card(FrozenEncoder.random(SMALL)).split("---\n", 2)
    assert yaml.safe_load(header) == {
        "library_name": "rsp-robot",
        "license": "unknown",
        "pipeline_tag": "image-feature-extraction",
        "tags": ["robotics", "frozen-encoder"],
    }
    assert text.lstrip().startswith("# A frozen visual encoder")


def test_the_card_says_what_the_encoder_is_and_where_it_comes_from() -> None:
    encoder = FrozenEncoder.random(SMALL, seed=7, pooling="cls+mean")
    card = model_card(encoder)
    for expected in (
        '| backbone | kind "vit", image_size 32, patch_size 8, width 48, depth 2, heads 3, mlp_ratio 4.0 |',
        "| embeddings out | float32 (B, 96) |",
        "| pooling | `cls+mean` |",
        "| input of the backbone | 32 x 32 pixels, antialiased bicubic |",
        "| mean, standard deviation | 0.485, 0.456, 0.406; 0.229, 0.224, 0.225 of pictures in [0, 1] |",
        f"| fingerprint | `{encoder.fingerprint}` |",
        '"seed": 7',
        "## Licence\n\nNot stated.",
    ):
        assert expected in card
    parameters = sum(parameter.numel() for parameter in encoder.backbone.parameters())
    assert f"| parameters | {parameters:,}, float32 |" in card


def test_facts_may_be_added_and_replaced() -> None:
    card = model_card(FrozenEncoder.random(SMALL), "Ask.\n", {"frames in": "few", "colour": "blue"}, "float16")
    assert "## How to load it\n\nAsk.\n\n## What it is" in card
    assert "| frames in | few |" in card and "any size" not in card and "| colour | blue |" in card
    assert ", float16 |" in card


def test_an_encoder_of_unknown_origin_has_a_card() -> None:
    encoder = FrozenEncoder.random(SMALL)
    encoder.provenance.clear()
    assert "## Where it comes from\n\nNot recorded.\n" in model_card(encoder)


OWN = """---
license: mit
tags: [drawers]
---
# Drawers

Made for drawers.

## Data

Two hundred demonstrations:

```
## not a heading
rsp-robot collect
```

## License

MIT.

## Where it comes from

A lie.

## Results

It helps.
"""


def headings(card: str) -> list[str]:
    return re.findall(r"^## (.*)$", card, re.MULTILINE)


def header(card: str) -> dict[str, Any]:
    return yaml.safe_load(card.split("---\n")[1])


def test_own_words_replace_sections_and_come_before_the_licence() -> None:
    generated = model_card(FrozenEncoder.random(SMALL, seed=7))
    card = with_own_words(generated, OWN)
    assert header(card) == {**header(generated), "license": "mit", "tags": ["drawers"]}
    assert card.split("---\n", 2)[2].startswith(
        "\n# Drawers\n\nMade for drawers.\n\n## How to load it\n\nWith rsp-robot:"
    )
    assert headings(card) == [
        "How to load it", "What it is", "Where it comes from", "Data", "not a heading", "Results", "Licence", "Limits"
    ]  # fmt: skip
    assert "## Licence\n\nMIT.\n\n## Limits\n\n- It was made" in card and "Not stated" not in card
    assert '"seed": 7' in card and "A lie" not in card, "facts are the encoder's"
    assert "```\n## not a heading\nrsp-robot collect\n```\n\n## Results\n\nIt helps.\n\n## Licence" in card


def test_a_card_serves_as_own_words_of_the_next_encoder() -> None:
    first, second = (FrozenEncoder.random(SMALL, seed=seed) for seed in (1, 2))
    made = with_own_words(model_card(first), OWN)
    assert with_own_words(model_card(first), made) == made
    again = with_own_words(model_card(second), made)
    assert second.fingerprint in again and first.fingerprint not in again and "It helps." in again


def test_without_a_header_and_a_title_the_card_keeps_its_own() -> None:
    generated = model_card(FrozenEncoder.random(SMALL))
    card = with_own_words(generated, "## Limits\n\nNone known.\n")
    assert header(card) == header(generated) and "# A frozen visual encoder for robot learning" in card
    assert card.endswith("## Limits\n\nNone known.\n") and "Channels are RGB" not in card
    assert with_own_words(generated, "") == generated


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ("---\nlicense: mit\n## Data\n", "does not end; close it with a line of ---"),
        ("---\n- mit\n---\n", "is no YAML of names and values"),
        ("---\na: [\n---\n", "is no YAML of names and values"),
    ],
)
def test_a_header_that_cannot_be_read_is_a_user_error(own: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        with_own_words(model_card(FrozenEncoder.random(SMALL)), own)
