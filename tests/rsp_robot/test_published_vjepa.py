from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from rsp_robot.backbones.positions import sincos_1d
from rsp_robot.backbones.vjepa import VideoTransformer, VJEPAConfig
from rsp_robot.encoder import FrozenEncoder
from rsp_robot.errors import UserError
from rsp_robot.preprocessing import Preprocessing
from rsp_robot.published_vjepa import vjepa_encoder

ROTARY = VJEPAConfig(
    image_size=32, patch_size=8, tubelet=2, frames=2, width=24, depth=2, heads=2, mlp_hidden=48, rotary=True
)
FIXED = VJEPAConfig(
    image_size=24, patch_size=8, tubelet=2, frames=8, width=24, depth=2, heads=2, mlp_hidden=48, rotary=False
)


def frames(size: int = 40) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, size, size, 3), dtype=np.uint8)


def positions(config: VJEPAConfig) -> torch.Tensor:
    """Time, row, column, each an eighth, a quarter and the rest of the width: as V-JEPA lays them out."""
    grid, times, width = config.grid, config.frames // config.tubelet, config.width
    places = torch.cartesian_prod(torch.arange(times), torch.arange(grid), torch.arange(grid)).unbind(1)
    return torch.cat([sincos_1d(width // 3, axis) for axis in places], dim=1).float()[None]


def drawn(config: VJEPAConfig, seed: int = 0) -> dict[str, torch.Tensor]:
    generator, state = torch.Generator().manual_seed(seed), VideoTransformer(config).state_dict()
    state = {name: torch.randn(tensor.shape, generator=generator) / 4 for name, tensor in state.items()}
    return state if config.rotary else {**state, "pos_embed": positions(config)}


def prefixed(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"module.backbone.{name}": tensor for name, tensor in state.items()}


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Save as the published programs do, target encoder beside encoder and predictor."""

    def to_file(target: dict[str, torch.Tensor], **arguments: object) -> Path:
        content = {
            "encoder": {name: torch.zeros_like(tensor) for name, tensor in prefixed(target).items()},
            "predictor": {"module.backbone.predictor_embed.weight": torch.zeros(4, 4)},
            "target_encoder": prefixed(target),
            "opt": {"state": {}}, "epoch": 3, "args": argparse.Namespace(**{"num_heads": 2, **arguments}),
        }  # fmt: skip
        torch.save(content, tmp_path / "vjepa.pt")
        return tmp_path / "vjepa.pt"

    return to_file


def by_hand(config: VJEPAConfig, state: dict[str, torch.Tensor]) -> torch.Tensor:
    model = VideoTransformer(config).eval()
    model.load_state_dict(state)
    with torch.no_grad():
        tokens: torch.Tensor = model(Preprocessing(config.image_size)(frames(), torch.device("cpu")))
    return tokens


# -- published files -------------------------------------------------------------------------------------------------


def test_v_jepa_is_an_encoder_of_single_frames(write: Callable[..., Path]) -> None:
    state = drawn(FIXED)
    encoder = FrozenEncoder.load(write(state))
    assert encoder.backbone.config == FIXED, "frames and size are read off the positions"
    assert torch.equal(encoder.tokens(frames()), by_hand(FIXED, state)), "the target encoder's weights are taken"
    assert (
        encoder.pooling == "mean" and encoder.embedding_shape == (24,) and encoder.tokens(frames()).shape == (2, 9, 24)
    )
    assert encoder.provenance["model"] == "V-JEPA" and encoder.provenance["file"] == "vjepa.pt"


def test_v_jepa_2_has_rotary_positions_at_the_size_wanted(write: Callable[..., Path]) -> None:
    state = drawn(ROTARY)
    path = write(state)
    encoder = FrozenEncoder.load(f"{path}@32")
    assert encoder.backbone.config == ROTARY and torch.equal(encoder.tokens(frames()), by_hand(ROTARY, state))
    assert encoder.provenance["model"] == "V-JEPA 2" and encoder.source == f"{path}@32"
    assert FrozenEncoder.load(path).image_size == 256, "as most of the published ones"


def test_positions_of_zeros_are_a_relic_that_tells_the_size(write: Callable[..., Path]) -> None:
    state = drawn(ROTARY)
    for count, size in ((8 * 24 * 24, 24 * 8), (32 * 16 * 16, 16 * 8), (77, 256)):
        encoder = FrozenEncoder.load(write({**state, "pos_embed": torch.zeros(1, count, 24)}))
        assert encoder.image_size == size and encoder.backbone.config.rotary
    assert torch.equal(FrozenEncoder.load(f"{write(state)}@32")(frames()), by_hand(ROTARY, state).mean(dim=1))


@pytest.mark.parametrize(
    ("width", "heads"), [(192, 3), (384, 6), (768, 12), (1024, 16), (1280, 16), (1408, 22), (1664, 26), (640, 10)]
)
def test_heads_of_published_widths_are_known(width: int, heads: int) -> None:
    config = VJEPAConfig(32, 16, 2, 2, width, 1, heads, 4 * width, True)
    with torch.device("meta"):
        state = VideoTransformer(config).state_dict()
    state = {name: torch.zeros(()).expand(tensor.shape) for name, tensor in state.items()}
    assert vjepa_encoder(state, {}, "x", 32)[0] == config


@pytest.mark.parametrize("config", [FIXED, ROTARY])
def test_its_folder_brings_it_back(write: Callable[..., Path], tmp_path: Path, config: VJEPAConfig) -> None:
    path = write(drawn(config))
    encoder = FrozenEncoder.load(f"{path}@32" if config.rotary else path, pooling="spatial-softmax")
    loaded = FrozenEncoder.load(encoder.save(tmp_path / "encoder"))
    assert loaded.fingerprint == encoder.fingerprint and torch.equal(loaded(frames()), encoder(frames()))
    assert json.loads((tmp_path / "encoder" / "config.json").read_text())["architecture"]["kind"] == "vjepa"


# -- the layout of transformers ----------------------------------------------------------------------------------------


def test_v_jepa_2_as_transformers_stores_it(tmp_path: Path) -> None:
    state, named = drawn(ROTARY), {}
    for name, tensor in state.items():
        theirs = name.replace("blocks.", "encoder.layer.").replace(".attn.", ".attention.")
        theirs = theirs.replace("patch_embed.", "encoder.embeddings.patch_embeddings.")
        theirs = theirs.replace("norm.", "encoder.layernorm.") if name.startswith("norm.") else theirs
        if "qkv" in theirs:
            for part, third in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                named[theirs.replace("qkv", part)] = third.contiguous()
        else:
            named[theirs] = tensor
    named["predictor.layer.0.norm1.weight"] = torch.ones(3)
    save_file(named, tmp_path / "model.safetensors")
    config = {"model_type": "vjepa2", "num_attention_heads": 2, "crop_size": 32}
    (tmp_path / "config.json").write_text(json.dumps(config))
    encoder = FrozenEncoder.load(tmp_path / "model.safetensors")
    assert encoder.backbone.config == ROTARY and torch.equal(encoder.tokens(frames()), by_hand(ROTARY, state))
    del named["encoder.layer.1.attention.key.bias"]
    save_file(named, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="another layout: missing blocks.1.attn.qkv.bias"):
        FrozenEncoder.load(tmp_path / "model.safetensors")


# -- other layouts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda state: state.pop("norm.bias"), "another layout: missing norm.bias; give"),
        (lambda state: state.update(img_mod_embed=torch.ones(1, 1, 24)), "unexpected img_mod_embed; give"),
        (lambda state: state.update({"norm.bias": torch.ones(9)}), r"norm.bias is \(9,\) instead of \(24,\)"),
        (lambda state: state["norm.bias"].fill_(torch.nan), "norm.bias holds values that are not finite"),
        (lambda state: state.pop("blocks.0.mlp.fc1.weight"), "missing blocks.0.mlp.fc1.weight"),
        (lambda state: state.update(pos_embed=torch.rand(1, 7, 24)), "no table of 3-D positions; give a V-JEPA"),
        (lambda state: state.update(pos_embed=torch.ones(9, 24)), r"pos_embed of .* has shape \(9, 24\)"),
        (
            lambda state: state.update({"patch_embed.proj.weight": torch.ones(24, 1, 2, 8, 8)}),
            "embeds patches of 1 x 8 x 8; needed are square RGB",
        ),
    ],
)
def test_another_layout_is_refused_by_name(
    write: Callable[..., Path], edit: Callable[..., object], message: str
) -> None:
    state = drawn(FIXED)
    edit(state)
    path = write(state)
    with pytest.raises(UserError, match=message) as caught:
        FrozenEncoder.load(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_sizes_that_cannot_be_had_are_refused(write: Callable[..., Path]) -> None:
    path = write(drawn(FIXED))
    with pytest.raises(UserError, match=r"positions of .* are for 24 px, not 32 px; leave out @32"):
        FrozenEncoder.load(f"{path}@32")
    assert FrozenEncoder.load(f"{path}@24").image_size == 24
    path = write(drawn(ROTARY), num_heads="many")
    with pytest.raises(UserError, match=r"cannot tell the number of attention heads of .* \(width 24\)"):
        FrozenEncoder.load(path)
    with pytest.raises(UserError, match="image size 30 is no multiple of patch size 8"):
        FrozenEncoder.load(f"{write(drawn(ROTARY))}@30")
