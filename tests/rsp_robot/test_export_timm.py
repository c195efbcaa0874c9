from __future__ import annotations

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
from timm.data import create_transform, resolve_model_data_config

from rsp_robot.backbones.vit import VARIANTS, VisionTransformer, ViTConfig, vit_config
from rsp_robot.encoder import FrozenEncoder
from rsp_robot.errors import UserError
from rsp_robot.export_timm import timm_config
from rsp_robot.exporting import export_encoder
from rsp_robot.pooling import pool
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


def test_half_precision_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = make()
    folder = export_encoder(encoder, tmp_path / "half", "timm", half=True)
    found = run(snippets(folder)[0], folder, monkeypatch).state_dict()
    for name, tensor in encoder.backbone.state_dict().items():
        assert found[name].dtype == torch.float32 and torch.equal(found[name], tensor.half().float())


# -- models that came from timm ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("spec", ["random:resnet18@64", "random:vit_tiny_patch16_224@64", "random:convnext_atto@64"])
def test_a_model_of_timm_goes_back_to_timm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str, half: bool
) -> None:
    encoder = FrozenEncoder.load(spec)
    folder = export_encoder(encoder, tmp_path / "timm", "timm", half)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    expected = encoder.backbone.model.forward_features(images)
    for snippet in snippets(folder):
        model = run(snippet, folder, monkeypatch)
        tolerance = {"rtol": 0.02, "atol": 0.02} if half else {"rtol": 0, "atol": 1e-6}
        with torch.no_grad():
            torch.testing.assert_close(model.forward_features(images), expected, **tolerance)
        seen = resolve_model_data_config(model)
        assert tuple(seen["input_size"]) == (3, 64, 64) and tuple(seen["mean"]) == encoder.preprocessing.mean


def test_a_backbone_of_ones_own_is_refused(tmp_path: Path) -> None:
    encoder = FrozenEncoder.wrap(torch.nn.Conv2d(3, 8, 8, stride=8), image_size=32, mean=(0, 0, 0), std=(1, 1, 1))
    with pytest.raises(UserError, match="format timm holds .* Vision Transformer and models of timm, no Wrapped"):
        export_encoder(encoder, tmp_path / "out", "timm")
    assert not list(tmp_path.iterdir())
