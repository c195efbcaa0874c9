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
from rsp_robot.pretrain.objectives.vjepa import VideoJEPA, VideoJEPAConfig
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
    with pytest.raises(UserError, match="holds a timm encoder, but the one to train is vit; give such a one"):
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


# -- V-JEPA ----------------------------------------------------------------------------------------------------------

VIDEO = VideoJEPAConfig(length=4, stride=1, predictor_width=8, predictor_depth=1)
VIDEO_VIT = ViTConfig(image_size=16, patch_size=8, width=16, depth=1, heads=2)
PARTS = {"encoder": "context_encoder", "predictor": "predictor", "target_encoder": "backbone"}


def video_jepa(seed: int, vit: ViTConfig = VIDEO_VIT, **settings: Any) -> VideoJEPA:
    torch.manual_seed(seed)
    model = replace(VIDEO, **settings).build(vit)
    for name, parameter in model.named_parameters():
        if "pos_embed" not in name:
            torch.nn.init.normal_(parameter)  # the two encoders differ, as after training
    return model


def published_video(model: VideoJEPA, path: Path, leave_out: tuple[str, ...] = (), **arguments: object) -> Path:
    """Save a model as the published program does."""
    content: dict[str, Any] = {"opt": {"state": {}}, "epoch": 300, "args": argparse.Namespace(num_heads=2, **arguments)}
    for theirs, ours in PARTS.items():
        state = model.get_submodule(ours).state_dict()
        content[theirs] = {f"module.backbone.{name}": value for name, value in state.items()}
    torch.save({name: value for name, value in content.items() if name not in leave_out}, path)
    return path


def test_a_published_v_jepa_goes_on(tmp_path: Path) -> None:
    published, model = video_jepa(1), video_jepa(2)
    path = published_video(published, tmp_path / "vjepa.pth.tar")
    assert load_weights(model, path) == f"encoders and predictor, {len(model.state_dict())} tensors, from {path}"
    assert all(torch.equal(value, published.state_dict()[name]) for name, value in model.state_dict().items())
    assert not any(parameter.requires_grad for parameter in model.backbone.parameters())


def test_a_target_encoder_alone_fills_both_encoders(tmp_path: Path) -> None:
    published = video_jepa(1)
    wanted = published.backbone.state_dict()
    file = published_video(published, tmp_path / "vjepa.pth.tar", leave_out=("encoder", "predictor"))
    folder = published.encoder().save(tmp_path / "run" / "encoder")
    for source in (file, folder, folder.parent):
        model = video_jepa(2)
        predictor = {name: value.clone() for name, value in model.predictor.state_dict().items()}
        assert load_weights(model, source) == f"encoder only, {len(wanted)} tensors, from {source}"
        for encoder in (model.backbone, model.context_encoder):
            assert all(torch.equal(value, wanted[name]) for name, value in encoder.state_dict().items())
        assert all(torch.equal(value, predictor[name]) for name, value in model.predictor.state_dict().items())


@pytest.mark.parametrize(
    ("vit", "settings", "message"),
    [
        ({"depth": 2}, {}, "missing context_encoder.blocks.1.norm1.weight"),
        ({"heads": 4}, {}, "heads is 2 instead of 4"),
        ({"image_size": 32}, {}, r"pos_embed is \(1, 8, 16\) instead of \(1, 32, 16\)"),
        ({}, {"length": 8}, r"pos_embed is \(1, 8, 16\) instead of \(1, 16, 16\)"),
        ({}, {"tubelet": 4}, r"pos_embed is \(1, 8, 16\) instead of \(1, 4, 16\)"),
        ({}, {"predictor_depth": 2}, "missing predictor.predictor_blocks.1.norm1.weight"),
        ({}, {"blocks": (8, 2, 1), "block_scales": (0.1, 0.2, 0.3)}, "missing predictor.mask_tokens.2"),
    ],
)
def test_a_v_jepa_of_other_sizes_is_refused_and_changes_nothing(
    tmp_path: Path, vit: dict[str, Any], settings: dict[str, Any], message: str
) -> None:
    path = published_video(video_jepa(1), tmp_path / "vjepa.pth.tar")
    model = video_jepa(2, replace(VIDEO_VIT, **vit), **settings)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(UserError, match=f"does not fit the model: .*{message}.*; set arch") as caught:
        load_weights(model, path)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_broken_weights_of_a_predictor_are_refused(tmp_path: Path) -> None:
    published, model = video_jepa(1), video_jepa(2)
    published.predictor.predictor_norm.bias.data[0] = torch.nan
    with pytest.raises(UserError, match=r"predictor.predictor_norm.bias holds values that are not finite"):
        load_weights(model, published_video(published, tmp_path / "vjepa.pth.tar"))


def test_v_jepa_and_plain_transformers_do_not_begin_as_each_other(
    model: RSP, state: dict[str, torch.Tensor], write: Callable[..., Path], tmp_path: Path
) -> None:
    video = video_jepa(1)
    path = published_video(video, tmp_path / "vjepa.pth.tar")
    with pytest.raises(UserError, match=r"holds V-JEPA, but the encoder to train is vit; take --objective vjepa"):
        load_weights(model, path)
    with pytest.raises(UserError, match="holds a vjepa encoder, but the one to train is vit"):
        load_weights(model, video.encoder().save(tmp_path / "video"))
    with pytest.raises(UserError, match="holds a vit encoder, but the one to train is vjepa"):
        load_weights(video, FrozenEncoder.load(write(state)).save(tmp_path / "plain"))
    with pytest.raises(UserError, match="does not fit"):
        load_weights(video, write(state))
    rotary = {name: value for name, value in video.backbone.state_dict().items() if name != "pos_embed"}
    torch.save({"encoder": rotary, "args": argparse.Namespace(num_heads=2)}, tmp_path / "vjepa2.pt")
    with pytest.raises(UserError, match="holds V-JEPA 2, with rotary positions; give V-JEPA"):
        load_weights(video, tmp_path / "vjepa2.pt")
