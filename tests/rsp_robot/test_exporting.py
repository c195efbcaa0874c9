from __future__ import annotations

import os
import re
import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from packaging.version import Version
from PIL import Image
from safetensors.torch import load_file
from timm.data import create_transform, resolve_model_data_config

from rsp_robot.backbones.vit import VARIANTS, VisionTransformer, ViTConfig, vit_config
from rsp_robot.encoder import FrozenEncoder
from rsp_robot.errors import UserError
from rsp_robot.exporting import FORMS, export_encoder, timm_config
from rsp_robot.pooling import pool
from rsp_robot.preprocessing import Preprocessing

ONE = ViTConfig(image_size=32, patch_size=8, width=48, depth=2, heads=3)
TWO = ViTConfig(image_size=64, patch_size=16, width=128, depth=1, heads=2, mlp_ratio=2.5)


def make(config: ViTConfig = ONE, pooling: str = "cls") -> FrozenEncoder:
    """An encoder in which no weight is at a default that timm would have, too."""
    generator = torch.Generator().manual_seed(1)
    backbone = VisionTransformer(config)
    backbone.initialise(generator)
    for tensor in backbone.state_dict().values():
        tensor += 0.1 * torch.randn(tensor.shape, generator=generator)
    return FrozenEncoder(backbone, Preprocessing(config.image_size, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)), pooling)


def images(config: ViTConfig) -> torch.Tensor:
    shape = (2, 3, config.image_size, config.image_size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def snippets(folder: Path) -> list[str]:
    """The blocks of code in the folder's README that the installed timm can run."""
    new, any_version = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    return [any_version, new] if Version(timm.__version__) >= Version("1.0.16") else [any_version]


def run(snippet: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> torch.nn.Module:
    (folder.parent / "snippet.py").write_text(snippet)
    monkeypatch.chdir(folder)
    return runpy.run_path(str(folder.parent / "snippet.py"))["model"].eval()


# -- timm ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [ONE, TWO], ids=["one", "two"])
@pytest.mark.parametrize("pooling", ["cls", "mean", "grid2"])
def test_the_calls_in_the_readme_give_the_same_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: ViTConfig, pooling: str
) -> None:
    encoder = make(config, pooling)
    folder = export_encoder(encoder, tmp_path / "timm", "timm")
    expected = encoder.backbone.double()(images(config))
    for snippet in snippets(folder):
        model = run(snippet, folder, monkeypatch).double()
        with torch.no_grad():
            tokens, embedding = model.forward_features(images(config)), model(images(config))
        torch.testing.assert_close(tokens, expected, atol=1e-6, rtol=0)
        pooled = pool(expected, "mean" if pooling == "mean" else "cls")
        torch.testing.assert_close(embedding, pooled, atol=1e-6, rtol=0)


def test_timm_sees_the_same_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = make()
    folder = export_encoder(encoder, tmp_path / "timm", "timm")
    ready, wide = (np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8) for size in ((32, 32), (48, 96)))
    for snippet in snippets(folder):
        transform = create_transform(**resolve_model_data_config(run(snippet, folder, monkeypatch)))
        for frame, tolerance in ((ready, 1e-5), (wide, 2 / 255 / 0.2)):  # PIL rounds resized pictures to grey levels
            found = transform(Image.fromarray(frame))
            expected = encoder.preprocessing(frame[None], torch.device("cpu"))[0]
            torch.testing.assert_close(found, expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_timm_knows_the_architecture_of_every_variant(variant: str) -> None:
    encoder = FrozenEncoder(VisionTransformer(replace(vit_config(variant, 64), depth=1)))  # deeper is only slower
    config = timm_config(encoder)
    model = timm.create_model(config["architecture"], num_classes=0, **config["model_args"])
    model.load_state_dict(encoder.backbone.state_dict())
    assert model.blocks[0].attn.num_heads == VARIANTS[variant]["heads"]


# -- published and folder --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [ONE, TWO], ids=["one", "two"])
def test_the_published_form_is_plain_tensors_under_published_names(tmp_path: Path, config: ViTConfig) -> None:
    encoder = make(config)
    folder = export_encoder(encoder, tmp_path / "out", "published")
    assert os.listdir(folder) == ["encoder.pth"]
    content = torch.load(folder / "encoder.pth", weights_only=True)
    assert content["model"].keys() == encoder.backbone.state_dict().keys()
    assert all(type(tensor) is torch.Tensor and not tensor.requires_grad for tensor in content["model"].values())
    back = FrozenEncoder.load(folder / "encoder.pth")
    assert back.backbone.config == config and back.weights_checksum() == encoder.weights_checksum()


def test_the_folder_form_is_an_encoder_folder(tmp_path: Path) -> None:
    encoder = make(pooling="cls+mean")
    folder = export_encoder(encoder, tmp_path / "out", "folder")
    assert FrozenEncoder.load(folder).fingerprint == encoder.fingerprint


def test_weights_of_every_form_can_be_read_back(tmp_path: Path) -> None:
    encoder = make(replace(ONE, width=64, heads=1))
    for form, file in {"timm": "model.safetensors", "folder": "model.safetensors", "published": "encoder.pth"}.items():
        folder = export_encoder(encoder, tmp_path / form, form)
        assert FrozenEncoder.load(folder / file).weights_checksum() == encoder.weights_checksum()


# -- half precision --------------------------------------------------------------------------------------------------


def test_half_precision_halves_the_file_and_keeps_its_own_golden_embedding(tmp_path: Path) -> None:
    encoder = make()
    whole = export_encoder(encoder, tmp_path / "whole", "folder")
    half = export_encoder(encoder, tmp_path / "half", "folder", half=True)
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (whole, half)]
    assert sizes[1] < 0.55 * sizes[0]
    assert all(tensor.dtype == torch.float16 for tensor in load_file(half / "model.safetensors").values())
    loaded = FrozenEncoder.load(half)
    stated = re.search(r'"fingerprint": "(\w+)"', (half / "config.json").read_text())
    assert stated and loaded.fingerprint == stated[1] != encoder.fingerprint
    assert loaded.provenance["rounded_to"] == "float16" and "rounded_to" not in encoder.provenance
    assert next(loaded.backbone.parameters()).dtype == torch.float32
    frames = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    drift = (loaded(frames) - encoder(frames)).norm() / encoder(frames).norm()
    assert 0 < drift < 5e-3


@pytest.mark.parametrize("form", ["timm", "published"])
def test_half_precision_holds_in_every_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    encoder = make()
    folder = export_encoder(encoder, tmp_path / "half", form, half=True)
    if form == "timm":
        found = run(snippets(folder)[0], folder, monkeypatch).state_dict()
    else:
        found = FrozenEncoder.load(folder / "encoder.pth").backbone.state_dict()
    for name, tensor in encoder.backbone.state_dict().items():
        assert found[name].dtype == torch.float32 and torch.equal(found[name], tensor.half().float())


def test_a_weight_too_large_for_half_precision_is_refused(tmp_path: Path) -> None:
    encoder = make()
    encoder.backbone.norm.bias[0] = 1e6
    with pytest.raises(UserError, match="norm.bias is too large for float16; export without half"):
        export_encoder(encoder, tmp_path / "half", "folder", half=True)
    assert not list(tmp_path.iterdir())


# -- where it goes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_what_is_there_is_not_replaced(tmp_path: Path, form: str) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    (tmp_path / "empty").mkdir()
    for target in (tmp_path / "full", tmp_path / "full" / "notes.txt"):
        with pytest.raises(UserError, match="holds something already; give a new folder"):
            export_encoder(make(), target, form)
    assert (tmp_path / "full" / "notes.txt").read_text() == "mine"
    assert any(export_encoder(make(), tmp_path / "empty", form).iterdir())


def test_an_unknown_form_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown export format 'onnx'; choose one of: folder, published, timm"):
        export_encoder(make(), tmp_path / "out", "onnx")
