from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from rsp_robot import FrozenEncoder as PublicFrozenEncoder
from rsp_robot.backbones.vit import VisionTransformer, ViTConfig, vit_config
from rsp_robot.backbones.vjepa import VideoTransformer, VJEPAConfig
from rsp_robot.encoder import FrozenEncoder
from rsp_robot.errors import UserError
from rsp_robot.pooling import pool
from rsp_robot.preprocessing import Preprocessing

TINY = ViTConfig(image_size=16, patch_size=8, width=16, depth=2, heads=2)


def frames(count: int = 3, size: int = 24, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


@pytest.fixture
def encoder() -> FrozenEncoder:
    return FrozenEncoder.random(TINY)


@pytest.fixture
def folder(encoder: FrozenEncoder, tmp_path: Path) -> Path:
    return encoder.save(tmp_path / "encoder")


# -- what it computes ------------------------------------------------------------------------------------------------


def test_an_embedding_is_preprocessing_backbone_pooling(encoder: FrozenEncoder) -> None:
    for pooling, dim in (("cls", 16), ("mean", 16), ("cls+mean", 32), ("grid2", 64)):
        other = FrozenEncoder(encoder.backbone, pooling=pooling)
        tokens = encoder.backbone(Preprocessing(16)(frames(), torch.device("cpu")))
        assert other.dim == dim and other.image_size == 16
        assert torch.equal(other.tokens(frames()), tokens) and tokens.shape == (3, 1 + 4, 16)
        embedding = other(frames())
        assert embedding.shape == (3, dim) and embedding.dtype == torch.float32
        assert torch.equal(embedding, pool(tokens, pooling))


def test_its_own_preprocessing_is_used(encoder: FrozenEncoder) -> None:
    halves = Preprocessing(16, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    other = FrozenEncoder(encoder.backbone, halves)
    assert torch.equal(other.tokens(frames()), encoder.backbone(halves(frames(), torch.device("cpu"))))
    assert not torch.allclose(other(frames()), encoder(frames()), atol=1e-3)


def test_arrays_and_tensors_of_any_size_are_taken(encoder: FrozenEncoder) -> None:
    assert torch.equal(encoder(torch.from_numpy(frames())), encoder(frames()))
    assert encoder(np.zeros((2, 40, 30, 3), np.uint8)).shape == (2, 16)
    assert encoder(frames(0)).shape == (0, 16)


def test_normalised_frames_are_refused(encoder: FrozenEncoder) -> None:
    with pytest.raises(TypeError, match="uint8"):
        encoder(frames().astype(np.float32) / 255)


def test_a_pooling_or_image_size_that_does_not_fit_is_refused() -> None:
    with pytest.raises(UserError, match="unknown pooling 'max'"):
        FrozenEncoder(VisionTransformer(TINY), pooling="max")
    with pytest.raises(UserError, match="makes pictures of 32 px but the backbone takes 16 px; give both one"):
        FrozenEncoder(VisionTransformer(TINY), Preprocessing(32))


def test_the_package_offers_it_by_name() -> None:
    assert PublicFrozenEncoder is FrozenEncoder


# -- frozen ----------------------------------------------------------------------------------------------------------


def test_no_parameter_asks_for_a_gradient() -> None:
    backbone = VisionTransformer(TINY).train()
    assert any(parameter.requires_grad for parameter in backbone.parameters())
    encoder = FrozenEncoder(backbone)
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert not encoder(frames()).requires_grad and not encoder.tokens(frames()).requires_grad


def test_train_keeps_evaluation_mode() -> None:
    encoder = FrozenEncoder(VisionTransformer(TINY).train())
    assert not any(module.training for module in encoder.modules())
    policy = nn.Sequential(encoder, nn.BatchNorm1d(16)).train()
    assert policy.training and policy[1].training
    assert not any(module.training for module in encoder.modules())
    assert encoder.train() is encoder and encoder.train(True).training is False


def test_the_checksum_is_unchanged_by_training_a_head(encoder: FrozenEncoder) -> None:
    policy = nn.Sequential(encoder, nn.BatchNorm1d(16), nn.Linear(16, 4)).train()
    before, head = encoder.weights_checksum(), policy[2].weight.clone()
    optimiser = torch.optim.AdamW(policy.parameters(), lr=0.1, weight_decay=0.5)  # the encoder's parameters too
    for step in range(3):
        optimiser.zero_grad()
        policy(frames(seed=step)).square().sum().backward()
        optimiser.step()
    assert not torch.equal(policy[2].weight, head)
    assert encoder.weights_checksum() == before


def test_the_checksum_sees_every_weight(encoder: FrozenEncoder) -> None:
    seen = {encoder.weights_checksum()}
    state = encoder.backbone.state_dict()
    for tensor in state.values():
        last = tensor.view(-1)[-1:]
        last.copy_(torch.nextafter(last, torch.tensor(torch.inf)))
        seen.add(encoder.weights_checksum())
    assert len(seen) == 1 + len(state)


# -- fingerprint -----------------------------------------------------------------------------------------------------


def test_the_fingerprint_changes_with_weights_pooling_and_preprocessing(encoder: FrozenEncoder) -> None:
    usual = encoder.fingerprint
    assert re.fullmatch("[0-9a-f]{16}", usual)
    assert FrozenEncoder.random(TINY).fingerprint == usual
    preprocessing = Preprocessing(16)
    others = [
        FrozenEncoder.random(TINY, seed=1),
        FrozenEncoder.random(TINY, pooling="mean"),
        FrozenEncoder(encoder.backbone, replace(preprocessing, mean=(0.5, 0.456, 0.406))),
        FrozenEncoder(encoder.backbone, replace(preprocessing, std=(0.229, 0.224, 0.5))),
        FrozenEncoder.random(replace(TINY, image_size=32)),
    ]
    prints = {usual, *(other.fingerprint for other in others)}
    assert len(prints) == 1 + len(others)


def test_fingerprints_of_plain_encoders_are_those_that_policies_store() -> None:
    """Taken when plain Vision Transformers were the only backbones there were."""
    backbone = VisionTransformer(TINY)
    for index, (_, tensor) in enumerate(sorted(backbone.state_dict().items())):
        tensor.copy_(((torch.arange(tensor.numel()) % 251 - 125).reshape(tensor.shape) + index) / 256)
    halves = Preprocessing(16, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    assert FrozenEncoder(backbone).fingerprint == "3a0b4b5714115111"
    assert FrozenEncoder(backbone, halves, "grid2").fingerprint == "7f267ac836aee426"
    config_then = {"fingerprint": "c2c2862083d5c743", "golden": [0.025214, -0.347694, -0.712997, -0.940773]}
    encoder = FrozenEncoder(backbone, halves, "cls+mean")
    assert encoder.fingerprint == config_then["fingerprint"]
    torch.testing.assert_close(encoder._golden()[:4].tolist(), config_then["golden"], atol=1e-5, rtol=0)


def test_the_fingerprint_does_not_change_with_provenance_or_mode(encoder: FrozenEncoder) -> None:
    other = FrozenEncoder(encoder.backbone, provenance={"found": "in the attic"})
    assert other.train().fingerprint == encoder.fingerprint


def test_the_fingerprint_follows_the_weights_as_they_are(encoder: FrozenEncoder) -> None:
    before = encoder.fingerprint
    with torch.no_grad():
        encoder.backbone.blocks[1].mlp.fc2.bias[0] += 1e-3
    assert encoder.fingerprint != before


# -- on disk ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pooling", ["cls", "grid2"])
def test_what_is_saved_is_loaded(tmp_path: Path, pooling: str) -> None:
    backbone = VisionTransformer(TINY)
    backbone.initialise(torch.Generator().manual_seed(7))
    preprocessing = Preprocessing(16, (0.5, 0.4, 0.3), (0.5, 0.6, 0.7))
    encoder = FrozenEncoder(backbone, preprocessing, pooling, {"objective": "rsp", "steps": 10})
    assert encoder.save(tmp_path / "runs" / "encoder") == tmp_path / "runs" / "encoder"
    loaded = FrozenEncoder.load(tmp_path / "runs" / "encoder")
    assert torch.equal(loaded(frames()), encoder(frames()))
    assert loaded.backbone.config == TINY
    assert loaded.preprocessing == preprocessing and loaded.pooling == pooling and loaded.dim == encoder.dim
    assert loaded.fingerprint == encoder.fingerprint and loaded.weights_checksum() == encoder.weights_checksum()
    assert loaded.provenance == {"objective": "rsp", "steps": 10}
    assert not any(parameter.requires_grad for parameter in loaded.parameters()) and not loaded.training


def test_the_folder_holds_json_and_safetensors_only(encoder: FrozenEncoder, folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    config = json.loads((folder / "config.json").read_text())
    assert config["format"] == 1 and config["fingerprint"] == encoder.fingerprint
    assert config["architecture"] == {
        "kind": "vit", "image_size": 16, "patch_size": 8, "width": 16, "depth": 2, "heads": 2, "mlp_ratio": 4.0,
    }  # fmt: skip
    assert load_file(folder / "model.safetensors").keys() == encoder.backbone.state_dict().keys()


def test_the_golden_picture_is_the_one_of_format_1(encoder: FrozenEncoder, folder: Path) -> None:
    """Another picture would refuse every encoder saved so far."""
    picture = np.zeros((1, 16, 16, 3), np.uint8)
    for row in range(16):
        for column in range(16):
            for channel in range(3):
                picture[0, row, column, channel] = (7 * row + 13 * column + 61 * channel + row * column // 5) % 256
    golden = json.loads((folder / "config.json").read_text())["golden"]
    torch.testing.assert_close(torch.tensor(golden), encoder(picture)[0], atol=1e-5, rtol=0)


def test_saving_again_replaces_the_folder_and_a_failure_keeps_it(
    encoder: FrozenEncoder, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = FrozenEncoder.random(TINY, seed=1)
    other.save(folder)
    assert FrozenEncoder.load(folder).fingerprint == other.fingerprint

    def full(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("rsp_robot.encoder.write_tensors", full)
    with pytest.raises(OSError, match="no space"):
        encoder.save(folder)
    assert FrozenEncoder.load(folder).fingerprint == other.fingerprint
    assert [path.name for path in folder.parent.iterdir()] == ["encoder"]


def test_a_run_folder_stands_for_the_encoder_in_it(encoder: FrozenEncoder, folder: Path) -> None:
    assert FrozenEncoder.load(folder.parent).fingerprint == encoder.fingerprint
    assert FrozenEncoder.load(str(folder.parent), device="cpu").device == torch.device("cpu")


# -- damage ----------------------------------------------------------------------------------------------------------


def edit_config(folder: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    config = json.loads((folder / "config.json").read_text())
    edit(config)
    (folder / "config.json").write_text(json.dumps(config))


def edit_weights(folder: Path, edit: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    weights = load_file(folder / "model.safetensors")
    edit(weights)
    save_file(weights, folder / "model.safetensors")


def refusal(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        FrozenEncoder.load(folder)
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)
    return str(caught.value)


def test_weights_that_were_altered_do_not_reproduce_the_golden_embedding(folder: Path) -> None:
    edit_weights(folder, lambda weights: weights["blocks.0.attn.proj.weight"].mul_(-1))
    message = refusal(folder)
    assert re.search(r"does not reproduce its golden embedding \(off by [\d.]+%\); export it again", message)


def test_weights_of_another_encoder_are_refused(folder: Path, tmp_path: Path) -> None:
    other = FrozenEncoder.random(TINY, seed=1).save(tmp_path / "other")
    (folder / "model.safetensors").write_bytes((other / "model.safetensors").read_bytes())
    assert "golden" in refusal(folder)


def test_weights_that_are_not_numbers_are_refused(folder: Path) -> None:
    edit_weights(folder, lambda weights: weights["norm.weight"].fill_(torch.nan))
    assert "golden" in refusal(folder)


def test_another_preprocessing_than_at_export_is_refused(folder: Path) -> None:
    edit_config(folder, lambda config: config["preprocessing"].update(mean=[0.0, 0.0, 0.0], std=[1.0, 1.0, 1.0]))
    assert "golden" in refusal(folder)


@pytest.mark.parametrize("keep", [0, 4, 100, -1000, -1])
def test_truncated_weights_are_refused(folder: Path, keep: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    assert re.search(r"is damaged \(.+\); export it again", refusal(folder))


def test_missing_weights_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert re.search(r"is damaged \(.+\); export it again", refusal(folder))


@pytest.mark.parametrize(
    "edit",
    [
        lambda weights: weights.pop("norm.bias"),
        lambda weights: weights.update(extra=torch.zeros(1)),
        lambda weights: weights.update(cls_token=torch.zeros(1, 1, 8)),
    ],
    ids=["missing", "extra", "shape"],
)
def test_weights_of_another_architecture_are_refused(
    folder: Path, edit: Callable[[dict[str, torch.Tensor]], Any]
) -> None:
    edit_weights(folder, edit)
    assert "is damaged" in refusal(folder)


@pytest.mark.parametrize("format_", [0, 2, "1", None])
def test_another_format_is_refused(folder: Path, format_: object) -> None:
    edit_config(folder, lambda config: config.update(format=format_))
    assert "config.json is not an encoder of format 1; export the encoder again" in refusal(folder)


def test_a_config_that_is_something_else_is_refused(folder: Path) -> None:
    (folder / "config.json").write_text("[1, 2]")
    assert "is not an encoder of format 1" in refusal(folder)
    (folder / "config.json").write_text('{"format": 1')
    assert "is not valid JSON" in refusal(folder)


@pytest.mark.parametrize("key", ["architecture", "preprocessing", "pooling", "golden"])
@pytest.mark.parametrize("value", ["absent", None, "text", [0.5], {"a": "b"}], ids=str)
def test_a_config_with_a_part_missing_or_wrong_is_refused(folder: Path, key: str, value: object) -> None:
    edit_config(folder, lambda config: config.pop(key) if value == "absent" else config.update({key: value}))
    with pytest.raises(UserError) as caught:
        FrozenEncoder.load(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [0, 1, 15, 17])
def test_a_golden_embedding_of_another_width_is_refused(folder: Path, size: int) -> None:
    edit_config(folder, lambda config: config.update(golden=(2 * config["golden"])[:size]))
    assert "is damaged" in refusal(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "resnet"}, "unknown architecture 'resnet'; choose one of: conv64, timm, vit, vjepa"),
        ({"patch_size": 0}, "patch_size of a Vision Transformer must be at least 1"),
        ({"depth": 3}, "is damaged"),
        ({"image_size": 32}, "makes pictures of 16 px but the backbone takes 32 px|is damaged"),
        ({"colour": 1}, "is damaged"),
    ],
)
def test_an_architecture_that_does_not_fit_is_refused(folder: Path, change: dict[str, Any], message: str) -> None:
    edit_config(folder, lambda config: config["architecture"].update(change))
    with pytest.raises(UserError, match=message):
        FrozenEncoder.load(folder)


def test_pictures_of_another_size_than_the_backbones_are_refused(folder: Path) -> None:
    edit_config(folder, lambda config: config["preprocessing"].update(image_size=32))
    with pytest.raises(UserError, match="makes pictures of 32 px but the backbone takes 16 px"):
        FrozenEncoder.load(folder)


@pytest.mark.parametrize("name", ["absent", "empty"])
def test_a_folder_without_an_encoder_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    kinds = r"an encoder folder, a run folder, a checkpoint \(.*\), or rsp-robot/small, random:<arch"
    message = rf"no encoder in .*{name}; give {kinds}"
    with pytest.raises(UserError, match=message):
        FrozenEncoder.load(tmp_path / name)


# -- random weights --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "variant", "image_size", "patch_size", "seed"),
    [
        ("random:vit-nano/8@64#3", "vit-nano", 64, 8, 3),
        ("random:vit-nano@32", "vit-nano", 32, 16, 0),
        ("random:vit-nano/32#12", "vit-nano", 224, 32, 12),
        ("random:vit-tiny/16@32", "vit-tiny", 32, 16, 0),
        ("random:vit-nano", "vit-nano", 224, 16, 0),
    ],
)
def test_a_random_encoder_is_what_its_name_says(
    spec: str, variant: str, image_size: int, patch_size: int, seed: int
) -> None:
    encoder = FrozenEncoder.load(spec)
    assert encoder.backbone.config == vit_config(variant, image_size, patch_size)
    assert encoder.provenance == {"source": "random weights", "seed": seed}
    assert encoder.pooling == "cls" and not encoder.backbone.cls_token.requires_grad
    wanted = VisionTransformer(vit_config(variant, image_size, patch_size))
    wanted.initialise(torch.Generator().manual_seed(seed))
    assert encoder.weights_checksum() == FrozenEncoder(wanted).weights_checksum()


def test_random_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    first = FrozenEncoder.random(TINY, seed=5)
    torch.manual_seed(2)
    assert FrozenEncoder.random(TINY, seed=5).weights_checksum() == first.weights_checksum()
    assert FrozenEncoder.random(TINY, seed=6).weights_checksum() != first.weights_checksum()


@pytest.mark.parametrize(
    "spec", ["random:", "random:vit-nano#x", "random:vit-nano@", "random:vit-nano@64/8", "random:a b"]
)
def test_a_random_name_that_cannot_be_read_is_refused(spec: str) -> None:
    with pytest.raises(UserError, match=re.escape(f"cannot read '{spec}'; write random:<architecture>[/patch][@size]")):
        FrozenEncoder.load(spec)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("random:vit-nan", "unknown architecture 'vit-nan'; did you mean vit-nano"),
        ("random:vit-nano/7@64", "image size 64 is no multiple of patch size 7"),
        ("random:vit-nano/0@64", "patch_size of a Vision Transformer must be at least 1"),
        ("random:vit-nano@0", "image_size of a Vision Transformer must be at least 1"),
    ],
)
def test_a_random_encoder_that_cannot_be_built_is_refused(spec: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        FrozenEncoder.load(spec)


# -- clips -----------------------------------------------------------------------------------------------------------


def video_encoder(rotary: bool = False, pooling: str = "mean") -> FrozenEncoder:
    torch.manual_seed(0)
    config = VJEPAConfig(16, 8, 2, 2 if rotary else 6, width=16, depth=1, heads=2, mlp_hidden=32, rotary=rotary)
    return FrozenEncoder(VideoTransformer(config), pooling=pooling)


def short_histories(length: int) -> np.ndarray:
    return np.stack([frames(length, seed=seed) for seed in (1, 2)])


def test_an_embedding_of_a_clip_is_the_mean_over_time_pooled() -> None:
    history = short_histories(4)
    for pooling, shape in (("mean", (2, 16)), ("grid2", (2, 64)), ("tokens", (2, 4, 16))):
        encoder = video_encoder(pooling=pooling)
        pictures = torch.stack([Preprocessing(16)(clip, torch.device("cpu")) for clip in history])
        tokens = encoder.backbone.clip(pictures.transpose(1, 2))  # two times of four patches
        found = encoder.clip(history)
        assert found.shape == shape and found.dtype == torch.float32
        torch.testing.assert_close(found, pool((tokens[:, :4] + tokens[:, 4:]) / 2, pooling, class_token=False))
    assert torch.equal(encoder.clip(torch.from_numpy(history)), encoder.clip(history))


def test_a_clip_of_one_still_is_embedded_as_the_frame() -> None:
    for rotary in (False, True):
        encoder = video_encoder(rotary)
        still = np.stack([frames(3)] * 2, axis=1)
        torch.testing.assert_close(encoder.clip(still), encoder(frames(3)))


def test_a_clip_tells_which_way_things_move() -> None:
    for rotary in (False, True):
        encoder, history = video_encoder(rotary), short_histories(6)
        assert not torch.allclose(encoder.clip(history), encoder.clip(history[:, ::-1].copy()), atol=1e-4)


@pytest.mark.parametrize(
    ("length", "rotary", "message"),
    [
        (3, False, "clips of 3 frames do not fit; give a multiple of 2 frames, 6 at most"),
        (8, False, "clips of 8 frames do not fit; give a multiple of 2 frames, 6 at most"),
        (5, True, "clips of 5 frames do not fit; give a multiple of 2 frames$"),
    ],
)
def test_clips_of_other_lengths_are_refused(length: int, rotary: bool, message: str) -> None:
    with pytest.raises(UserError, match=message):
        video_encoder(rotary).clip(short_histories(length))
    assert video_encoder(rotary=True).clip(short_histories(8)).shape == (2, 16)


def test_an_encoder_of_single_frames_takes_no_clips(encoder: FrozenEncoder) -> None:
    with pytest.raises(UserError, match="this encoder's VisionTransformer sees single frames; embed them one by one"):
        encoder.clip(short_histories(2))
