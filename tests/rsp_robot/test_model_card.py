from __future__ import annotations

import yaml

from rsp_robot.backbones.vit import ViTConfig
from rsp_robot.encoder import FrozenEncoder
from rsp_robot.model_card import model_card

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
