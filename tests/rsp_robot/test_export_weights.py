from __future__ import annotations

import os
import re
import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rsp_robot.backbones.vit import VisionTransformer, ViTConfig
from rsp_robot.encoder import FrozenEncoder
from rsp_robot.errors import UserError
from rsp_robot.exporting import export_encoder
from rsp_robot.preprocessing import Preprocessing

ONE = ViTConfig(image_size=32, patch_size=8, width=48, depth=2, heads=3)
TWO = ViTConfig(image_size=64, patch_size=16, width=128, depth=1, heads=2, mlp_ratio=2.5)


def make(config: ViTConfig = ONE, pooling: str = "cls") -> FrozenEncoder:
    """An encoder in which no weight is at a default that others would have, too."""
    generator = torch.Generator().manual_seed(1)
    backbone = VisionTransformer(config)
    backbone.initialise(generator)
    for tensor in backbone.state_dict().values():
        tensor += 0.1 * torch.randn(tensor.shape, generator=generator)
    return FrozenEncoder(backbone, Preprocessing(config.image_size, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)), pooling)


def run(code: str, **names: Any) -> dict[str, Any]:
    """The names that a block of code leaves behind."""
    Path("block.py").write_text(code)
    return runpy.run_path("block.py", names)


def blocks(folder: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("config", [ONE, TWO], ids=["one", "two"])
def test_the_published_form_is_plain_tensors_under_published_names(tmp_path: Path, config: ViTConfig) -> None:
    encoder = make(config)
    folder = export_encoder(encoder, tmp_path / "out", "published")
    assert sorted(os.listdir(folder)) == ["README.md", "encoder.pth"]
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


def test_the_lines_in_the_readme_of_a_folder_load_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = make(pooling="grid2")
    monkeypatch.chdir(export_encoder(encoder, tmp_path / "out", "folder"))
    frames = np.random.default_rng(0).integers(0, 256, (2, 48, 40, 3), dtype=np.uint8)
    whole, weights = blocks(Path())
    names = run(whole, frames=frames)
    assert torch.equal(names["embeddings"], encoder(frames))
    assert run(weights)["weights"].keys() == encoder.backbone.state_dict().keys()


def test_the_lines_in_the_readme_of_a_published_file_load_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = make()
    monkeypatch.chdir(export_encoder(encoder, tmp_path / "out", "published"))
    (code,) = blocks(Path())
    weights = run(code)["weights"]
    for name, tensor in encoder.backbone.state_dict().items():
        assert torch.equal(weights[name], tensor)


@pytest.mark.parametrize("spec", ["random:resnet18@64", "random:vit_tiny_patch16_224@64"])
def test_the_published_form_refuses_other_backbones(tmp_path: Path, spec: str) -> None:
    with pytest.raises(UserError, match="format published holds the plain Vision Transformer, no TimmBackbone"):
        export_encoder(FrozenEncoder.load(spec), tmp_path / "out", "published")
    assert not list(tmp_path.iterdir())
