"""The count of operations against a formula written down by hand."""

from __future__ import annotations

import pytest

from rsp_robot.backbones.vit import ViTConfig, vit_config
from rsp_robot.experiments.bench.flops import count_flops
from rsp_robot.pretrain.objectives.rsp import RSPConfig


def products(n: int, inputs: int, outputs: int) -> int:
    """A linear map of ``n`` tokens."""
    return 2 * n * inputs * outputs


def attention(queries: int, keys: int, width: int) -> int:
    """Scores and weighted sum; the number of heads changes nothing."""
    return 2 * 2 * queries * keys * width


def encoder_pass(tokens: int, width: int, depth: int) -> int:
    maps = products(tokens, width, 3 * width) + products(tokens, width, width) + 2 * products(tokens, width, 4 * width)
    return depth * (maps + attention(tokens, tokens, width))


def decoder_pass(queries: int, memory: int, width: int, depth: int, pixels: int) -> int:
    cross = 2 * products(queries, width, width) + products(memory, width, 2 * width) + attention(queries, memory, width)
    return depth * (cross + encoder_pass(queries, width, 1)) + products(queries, width, pixels)


def by_hand(patches: int, keep: int, pixels: int, width: int, depth: int, decoder: int, blocks: int) -> tuple[int, int]:
    """Forward, and forward and backward, of one pair with 32 groups of 32 classes."""
    whole, visible, latent = patches + 1, keep + 1, 32 * 32
    projections = 3 * products(patches, pixels, width)  # the masked frame is projected before it is masked
    forward = (
        projections
        + 2 * encoder_pass(whole, width, depth)
        + encoder_pass(visible, width, depth)
        + products(1, 2 * width, 2 * width)
        + products(1, width, 2 * width)
        + 2 * products(1, 2 * width, latent)
        + products(1, latent, decoder)
        + products(whole, width, decoder)
        + products(visible, width, decoder)
        + decoder_pass(whole, whole + 1, decoder, blocks, pixels)  # the latent is one more token
        + decoder_pass(whole, whole, decoder, blocks, pixels)
    )
    return forward, 3 * forward - projections  # two products backward for one forward; pixels need no gradient


def test_a_tiny_model() -> None:
    vit = ViTConfig(image_size=32, patch_size=8, width=16, depth=3, heads=2)
    config = RSPConfig(decoder_width=32, decoder_depth=2, decoder_heads=4)
    assert count_flops(vit, config) == by_hand(16, 4, 192, width=16, depth=3, decoder=32, blocks=2)


def test_the_published_sizes() -> None:
    found = count_flops(vit_config("vit-small"), RSPConfig())
    assert found == by_hand(196, 49, 768, width=384, depth=12, decoder=512, blocks=8)
    assert found.forward / 1e9 == pytest.approx(20.7 + 29.4, abs=0.1)
    assert found.total / 1e9 == pytest.approx(150, abs=0.5)
