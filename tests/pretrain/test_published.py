from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rsp_robot.backbones.vit import ViTConfig
from rsp_robot.encoder import FrozenEncoder
from rsp_robot.errors import UserError
from rsp_robot.pretrain.objectives.rsp import RSP, RSPConfig
from rsp_robot.pretrain.published import PublishedRSP, load_weights, read_rsp

REFERENCE = Path(__file__).parents[1] / "reference" / "rsp-a.npz"
ARGUMENTS = {
    "model": "rsp_vit_small_patch16", "num_heads": 3, "decoder_num_heads": 4, "stoch": 4, "discrete": 8,
    "noise_scale": 0.25, "mask_ratio": 0.5, "kl_scale": 0.1, "kl_balance": 0.3, "kl_freebit": 0.2,
    "norm_pix_loss": True, "max_distance": 24, "lr": 1e-3, "output_dir": Path("/checkpoints"),
}  # fmt: skip
ENCODER_TENSORS = 2 + 2 + 2 * 12 + 2


@pytest.fixture(scope="module")
def reference() -> dict[str, np.ndarray]:
    with np.load(REFERENCE, allow_pickle=False) as file:
        return dict(file)


@pytest.fixture
def state(reference: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {
        key.removeprefix("state/"): torch.tensor(value) for key, value in reference.items() if key.startswith("state/")
    }


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Save as the published program does."""

    def to_file(state: dict[str, torch.Tensor], without: tuple[str, ...] = (), **arguments: object) -> Path:
        kept = {name: value for name, value in {**ARGUMENTS, **arguments}.items() if name not in without}
        content = {"model": state, "args": argparse.Namespace(**kept), "optimizer": {}, "epoch": 3, "scaler": {}}
        torch.save(content, tmp_path / "rsp.pth")
        return tmp_path / "rsp.pth"

    return to_file


def build(published: PublishedRSP) -> RSP:
    """A model of the sizes that a file tells, with other weights."""
    return RSP(published.vit, RSPConfig(**published.settings))


# -- the whole model -------------------------------------------------------------------------------------------------


def test_a_published_model_reproduces_its_outputs(
    reference: dict[str, np.ndarray], state: dict[str, torch.Tensor], write: Callable[..., Path]
) -> None:
    published = read_rsp(write(state))
    model = build(published).double()
    model.load_state_dict(published.weights)
    inputs = {key.removeprefix("in/"): torch.tensor(value) for key, value in reference.items() if key[:3] == "in/"}
    with torch.no_grad():
        tokens = model.backbone(inputs["src"])
        prior = model.prior(tokens[:, 0])
        posterior = model.posterior(tokens[:, 0], model.backbone(inputs["tgt_noised"])[:, 0])
        future = model.predict_future(tokens, inputs["z_onehot"].flatten(1))
    for name, found in {
        "src_h": tokens,
        "prior_logits": prior,
        "post_logits": posterior,
        "pred_future": future,
    }.items():
        torch.testing.assert_close(found, torch.tensor(reference[f"out/{name}"]), atol=1e-9, rtol=0)


def test_settings_are_those_of_the_file(state: dict[str, torch.Tensor], write: Callable[..., Path]) -> None:
    published = read_rsp(write(state))
    assert published.vit == ViTConfig(image_size=64, patch_size=16, width=48, depth=2, heads=3)
    assert RSPConfig(**published.settings) == RSPConfig(
        decoder_width=32, decoder_depth=2, decoder_heads=4, groups=4, classes=8, noise_std=0.25, mask_ratio=0.5,
        kl_scale=0.1, kl_balance=0.3, free_bits=0.2, normalise_targets=True, max_gap=24,
    )  # fmt: skip
    unknown = read_rsp(write(state, without=("decoder_num_heads", "norm_pix_loss", "max_distance")))
    assert unknown.settings["decoder_heads"] == 16
    assert not {"normalise_targets", "max_gap", "min_gap", "mae_weight"} & unknown.settings.keys()


def widen_latent(state: dict[str, torch.Tensor], logits: int) -> None:
    for name in ("to_prior.2", "to_posterior.2"):
        state |= {f"{name}.weight": torch.zeros(logits, 96), f"{name}.bias": torch.zeros(logits)}
    state["decoder_embed_stoch.weight"] = torch.zeros(32, logits)


@pytest.mark.parametrize(("logits", "side"), [(1024, 32), (16, 4)])
def test_groups_and_classes_of_a_square_latent_need_no_arguments(
    state: dict[str, torch.Tensor], write: Callable[..., Path], logits: int, side: int
) -> None:
    widen_latent(state, logits)
    settings = read_rsp(write(state, without=("stoch", "discrete"))).settings
    assert (settings["groups"], settings["classes"]) == (side, side)


@pytest.mark.parametrize(
    ("arguments", "without", "message"),
    [
        ({}, ("stoch",), "cannot tell groups and classes of the 32 logits"),
        ({"discrete": 0}, (), "has 32 logits but its args say 4 groups of 0 classes; only the categorical"),
        ({"stoch": 8}, (), "has 32 logits but its args say 8 groups of 8 classes"),
    ],
)
def test_a_latent_that_cannot_be_told_is_refused(
    state: dict[str, torch.Tensor],
    write: Callable[..., Path],
    arguments: dict[str, Any],
    without: tuple[str, ...],
    message: str,
) -> None:
    with pytest.raises(UserError, match=message):
        read_rsp(write(state, without, **arguments))


def test_a_checkpoint_of_another_method_is_no_rsp(state: dict[str, torch.Tensor], write: Callable[..., Path]) -> None:
    mae = {name: tensor for name, tensor in state.items() if not name.startswith("to_p")}
    with pytest.raises(UserError, match=r"rsp.pth has no to_prior.2.weight: it is no RSP model"):
        read_rsp(write(mae))


# -- weights to start from -------------------------------------------------------------------------------------------


@pytest.fixture
def model(state: dict[str, torch.Tensor], write: Callable[..., Path]) -> RSP:
    return build(read_rsp(write(state)))


def snapshot(model: RSP) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def changed(model: RSP, before: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}


def test_a_whole_checkpoint_fills_the_model(
    model: RSP, state: dict[str, torch.Tensor], write: Callable[..., Path]
) -> None:
    path = write(state)
    assert load_weights(model, path) == f"encoder and decoder, {len(state)} tensors, from {path}"
    found = model.state_dict()
    assert all(
        torch.equal(found[name if name in found else f"backbone.{name}"], tensor) for name, tensor in state.items()
    )


def test_an_encoder_fills_the_encoder(
    model: RSP, state: dict[str, torch.Tensor], write: Callable[..., Path], tmp_path: Path
) -> None:
    encoder = {name: tensor for name, tensor in state.items() if f"backbone.{name}" in model.state_dict()}
    path = write({**encoder, "head.weight": torch.zeros(10, 48)})
    folder = FrozenEncoder.load(path).save(tmp_path / "run" / "encoder")
    drawn = snapshot(model)
    for source in (path, str(path), folder, folder.parent):
        model.load_state_dict(drawn)
        assert load_weights(model, source) == f"encoder only, {ENCODER_TENSORS} tensors, from {source}"
        assert all(torch.equal(model.backbone.state_dict()[name], tensor) for name, tensor in encoder.items())
        assert all(name.startswith("backbone.") for name in changed(model, drawn))


@pytest.mark.parametrize(
    ("config", "vit", "message"),
    [
        (
            {"decoder_depth": 1},
            {},
            r"does not fit the model: unexpected decoder_blocks.1.norm1.weight, .* and 19 more;",
        ),
        ({"decoder_depth": 3}, {}, "missing decoder_blocks.2.norm1.weight"),
        ({"decoder_width": 64}, {}, r"mask_token is \(1, 1, 32\) instead of \(1, 1, 64\)"),
        ({"decoder_heads": 8}, {}, "decoder_heads is 4 instead of 8;"),
        ({"groups": 8, "classes": 4}, {}, "groups is 4 instead of 8;"),
        ({}, {"heads": 6}, "heads is 3 instead of 6;"),
        ({}, {"image_size": 32}, r"pos_embed is \(1, 17, 48\) instead of \(1, 5, 48\)"),
        ({"latent": "deterministic"}, {}, "unexpected to_posterior.0.weight"),
    ],
)
def test_a_checkpoint_of_other_sizes_is_refused_and_changes_nothing(
    state: dict[str, torch.Tensor],
    write: Callable[..., Path],
    config: dict[str, Any],
    vit: dict[str, Any],
    message: str,
) -> None:
    path = write(state)
    published = read_rsp(path)
    other = RSP(replace(published.vit, **vit), replace(RSPConfig(**published.settings), **config))
    before = snapshot(other)
    with pytest.raises(UserError, match=message) as caught:
        load_weights(other, path)
    assert f"start from its encoder alone: rsp-robot export --encoder {path} --out" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not changed(other, before)


@pytest.mark.parametrize(
    ("vit", "message"),
    [
        ({"heads": 6}, "heads is 3 instead of 6"),
        ({"depth": 1}, "unexpected blocks.1"),
        ({"depth": 3}, "missing blocks.2"),
    ],
)
def test_an_encoder_of_other_sizes_is_refused_and_changes_nothing(
    model: RSP,
    state: dict[str, torch.Tensor],
    write: Callable[..., Path],
    tmp_path: Path,
    vit: dict[str, Any],
    message: str,
) -> None:
    folder = FrozenEncoder.load(write(state)).save(tmp_path / "encoder")
    other = RSP(replace(model.vit, **vit), model.config)
    before = snapshot(other)
    with pytest.raises(UserError, match=f"the encoder in .* does not fit the model's: {message}"):
        load_weights(other, folder)
    assert not changed(other, before)


def test_an_encoder_of_another_kind_is_no_beginning(model: RSP, tmp_path: Path) -> None:
    folder = FrozenEncoder.load("random:resnet18@64").save(tmp_path / "resnet")
    with pytest.raises(UserError, match="holds a timm encoder; pretraining starts from the plain Vision Transformer"):
        load_weights(model, folder)


def test_broken_weights_are_refused_and_change_nothing(
    model: RSP, state: dict[str, torch.Tensor], write: Callable[..., Path]
) -> None:
    state["decoder_norm.bias"][3] = torch.inf
    before = snapshot(model)
    with pytest.raises(UserError, match=r"decoder_norm.bias holds values that are not finite"):
        load_weights(model, write(state))
    assert not changed(model, before)


def test_nothing_there_is_a_user_error(model: RSP, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no encoder in"):
        load_weights(model, tmp_path / "absent")
