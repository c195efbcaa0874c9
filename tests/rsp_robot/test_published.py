from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from rsp_robot.backbones.vit import VARIANTS, VisionTransformer, ViTConfig
from rsp_robot.encoder import FrozenEncoder
from rsp_robot.errors import UserError
from rsp_robot.published import infer_vit, read_encoder

REFERENCE = Path(__file__).parents[1] / "reference" / "rsp-a.npz"
SIZES = ViTConfig(image_size=64, patch_size=16, width=48, depth=2, heads=3)
ENCODER_TENSORS = 2 + 2 + 2 * 12 + 2


@pytest.fixture(scope="module")
def reference() -> dict[str, np.ndarray]:
    with np.load(REFERENCE, allow_pickle=False) as file:
        return dict(file)


@pytest.fixture
def state(reference: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """A whole published RSP model."""
    return {
        key.removeprefix("state/"): torch.tensor(value) for key, value in reference.items() if key.startswith("state/")
    }


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Save as the published program does."""

    def to_file(state: dict[str, torch.Tensor], name: str = "rsp.pth", **arguments: object) -> Path:
        args = argparse.Namespace(**{"num_heads": 3, **arguments})
        content = {"model": state, "args": args, "optimizer": {}, "epoch": 3, "scaler": {}}
        torch.save(content, tmp_path / name)
        return tmp_path / name

    return to_file


def like(config: ViTConfig) -> dict[str, torch.Tensor]:
    """Weights of some size that take no memory."""
    with torch.device("meta"):
        return VisionTransformer(config).state_dict()


# -- sizes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("image_size", "patch_size"), [(224, 16), (64, 8)])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_is_recognised_by_its_shapes(variant: str, image_size: int, patch_size: int) -> None:
    config = ViTConfig(image_size, patch_size, **VARIANTS[variant])
    assert infer_vit(like(config), {}) == config


@pytest.mark.parametrize(
    ("width", "arguments", "heads"),
    [
        (48, {"num_heads": 3}, 3),
        (48, {"model": "rsp_vit_small_patch16"}, 6),
        (48, {"model": "mae_vit_base_patch16"}, 12),
        (384, {"model": "mae_vit_base_patch16"}, 6),
        (384, {"num_heads": 12}, 12),
        (640, {"model": "other"}, 10),
        (512, {}, 8),
    ],
)
def test_heads_come_from_the_arguments_or_the_width(width: int, arguments: dict[str, Any], heads: int) -> None:
    config = ViTConfig(32, 16, width=width, depth=1, heads=heads)
    assert infer_vit(like(config), arguments) == config


def test_heads_that_cannot_be_told_are_an_error() -> None:
    with pytest.raises(UserError, match=r"cannot tell the number of attention heads of x \(width 48\); put num_heads"):
        infer_vit(like(SIZES), {}, "x")


@pytest.mark.parametrize(("width", "hidden"), [(48, 96), (28, 61), (44, 15), (192, 1000)])
def test_any_width_of_the_mlp_is_recognised(width: int, hidden: int) -> None:
    for some in range(hidden - 3, hidden + 4):
        state = like(ViTConfig(32, 16, width=width, depth=1, heads=1))
        state["blocks.0.mlp.fc1.weight"] = torch.empty(some, width, device="meta")
        found = like(infer_vit(state, {"num_heads": 1}))
        assert found["blocks.0.mlp.fc1.weight"].shape == (some, width)


# -- the encoder of the reference ------------------------------------------------------------------------------------


def test_a_published_encoder_reproduces_its_output(
    reference: dict[str, np.ndarray], state: dict[str, torch.Tensor], write: Callable[..., Path]
) -> None:
    config, weights = read_encoder(write(state))
    assert config == SIZES and len(weights) == ENCODER_TENSORS
    backbone = VisionTransformer(config).double()
    backbone.load_state_dict(weights)
    tokens = backbone(torch.tensor(reference["in/src"]))
    torch.testing.assert_close(tokens, torch.tensor(reference["out/src_h"]), atol=1e-10, rtol=0)


@pytest.mark.parametrize("name", ["rsp.pth", "rsp.pt", "rsp.safetensors"])
def test_a_checkpoint_is_an_encoder(
    state: dict[str, torch.Tensor], write: Callable[..., Path], tmp_path: Path, name: str
) -> None:
    if name.endswith(".safetensors"):  # has no arguments, so the width has to tell the heads
        model = VisionTransformer(ViTConfig(32, 16, width=64, depth=2, heads=1))
        model.initialise(torch.Generator().manual_seed(3))
        state = model.state_dict()
        save_file(state, tmp_path / name)
    else:
        write(state, name)
    encoder = FrozenEncoder.load(tmp_path / name)
    assert encoder.pooling == "cls" and encoder.dim == encoder.backbone.config.width
    found = encoder.backbone.state_dict()
    assert all(torch.equal(tensor, state[key]) for key, tensor in found.items())
    assert encoder.provenance["file"] == name and len(encoder.provenance["sha256"]) == 64
    saved = encoder.save(tmp_path / "encoder")
    assert FrozenEncoder.load(saved).fingerprint == encoder.fingerprint


def test_positions_are_those_of_the_file(state: dict[str, torch.Tensor], write: Callable[..., Path]) -> None:
    state["pos_embed"] = torch.randn(state["pos_embed"].shape, generator=torch.Generator().manual_seed(0))
    encoder = FrozenEncoder.load(write(state))
    assert torch.equal(encoder.backbone.pos_embed, state["pos_embed"])


def test_mae_and_classifiers_are_encoders_too(state: dict[str, torch.Tensor], write: Callable[..., Path]) -> None:
    encoder = {name: tensor for name, tensor in state.items() if not name.startswith(("to_", "decoder_", "mask_"))}
    usual = read_encoder(write(encoder))
    mae = {"mask_token": torch.ones(1), "decoder_embed.weight": torch.ones(1), "head.weight": torch.ones(9, 48)}
    config, weights = read_encoder(write({f"module.{name}": value for name, value in (encoder | mae).items()}))
    assert config == usual[0] and weights.keys() == usual[1].keys() == encoder.keys()


# -- other layouts ---------------------------------------------------------------------------------------------------


def rename(state: dict[str, torch.Tensor], old: str, new: str) -> None:
    for name in [name for name in state if name.startswith(old)]:
        state[new + name.removeprefix(old)] = state.pop(name)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda state: state.pop("cls_token"), "has no cls_token"),
        (lambda state: rename(state, "", "encoder."), r"has no cls_token \(its first weights are encoder.cls_token"),
        (lambda state: state.pop("norm.bias"), "another layout: missing norm.bias; give"),
        (lambda state: state.pop("blocks.1.attn.qkv.bias"), "missing blocks.1.attn.qkv.bias; give"),
        (lambda state: rename(state, "blocks.1.", "blocks.7."), r"missing blocks.1.*; unexpected blocks.7.norm1"),
        (lambda state: state.update({"blocks.0.ls1.gamma": torch.ones(48)}), "unexpected blocks.0.ls1.gamma; give"),
        (lambda state: state.update(reg_token=torch.ones(1, 4, 48)), "unexpected reg_token; give"),
        (lambda state: state.update({"norm.bias": torch.ones(47)}), r"norm.bias is \(47,\) instead of \(48,\)"),
        (lambda state: state.update(pos_embed=torch.ones(1, 16, 48)), "has 16 positions; needed are a class token and"),
        (lambda state: state.update(pos_embed=torch.ones(17, 48)), r"pos_embed of .* has shape \(17, 48\)"),
        (lambda state: state["norm.weight"].fill_(torch.nan), "norm.weight holds values that are not finite"),
        (
            lambda state: state.update({"patch_embed.proj.weight": torch.ones(48, 1, 16, 16)}),
            "embeds patches of 1 x 16 x 16; needed are square RGB",
        ),
    ],
)
def test_another_layout_is_refused_by_name(
    state: dict[str, torch.Tensor], write: Callable[..., Path], edit: Callable[..., object], message: str
) -> None:
    edit(state)
    path = write(state)
    with pytest.raises(UserError, match=message) as caught:
        FrozenEncoder.load(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_heads_that_do_not_divide_the_width_are_refused(
    state: dict[str, torch.Tensor], write: Callable[..., Path]
) -> None:
    with pytest.raises(UserError, match="width 48 must be divisible by 4 and by the 5 heads"):
        read_encoder(write(state, num_heads=5))
