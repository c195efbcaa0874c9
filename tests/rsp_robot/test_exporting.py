from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from rsp_robot.backbones.vit import VisionTransformer, ViTConfig
from rsp_robot.encoder import FrozenEncoder
from rsp_robot.errors import UserError
from rsp_robot.exporting import FORMS, PROGRAMS, export_encoder
from rsp_robot.preprocessing import Preprocessing

ONE = ViTConfig(image_size=32, patch_size=8, width=48, depth=2, heads=3)
WEIGHTS = [form for form in FORMS if form not in PROGRAMS]


def make(config: ViTConfig = ONE, pooling: str = "cls") -> FrozenEncoder:
    """An encoder in which no weight is at a default that others would have, too."""
    generator = torch.Generator().manual_seed(1)
    backbone = VisionTransformer(config)
    backbone.initialise(generator)
    for tensor in backbone.state_dict().values():
        tensor += 0.1 * torch.randn(tensor.shape, generator=generator)
    return FrozenEncoder(backbone, Preprocessing(config.image_size, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)), pooling)


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


def test_half_precision_holds_in_the_published_form(tmp_path: Path) -> None:
    encoder = make()
    folder = export_encoder(encoder, tmp_path / "half", "published", half=True)
    found = FrozenEncoder.load(folder / "encoder.pth").backbone.state_dict()
    for name, tensor in encoder.backbone.state_dict().items():
        assert found[name].dtype == torch.float32 and torch.equal(found[name], tensor.half().float())


def test_half_precision_leaves_the_counters_of_a_batch_norm_whole(tmp_path: Path) -> None:
    encoder = FrozenEncoder.load("random:resnet18@64")
    encoder.backbone.state_dict()["model.bn1.num_batches_tracked"].fill_(70001)
    folder = export_encoder(encoder, tmp_path / "half", "folder", half=True)
    counter = load_file(folder / "model.safetensors")["model.bn1.num_batches_tracked"]
    assert counter.dtype == torch.int64 and counter == 70001
    assert FrozenEncoder.load(folder).provenance["rounded_to"] == "float16"


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
    for target in (tmp_path / "full", tmp_path / "full" / "notes.txt"):
        with pytest.raises(UserError, match="holds something already; give a new folder"):
            export_encoder(make(), target, form)
    assert (tmp_path / "full" / "notes.txt").read_text() == "mine"


def test_an_empty_folder_will_do(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert any(export_encoder(make(), tmp_path / "empty", "folder").iterdir())


def test_an_unknown_form_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="unknown export format 'zzz'; choose one of: folder, onnx, published, timm, torch-export"
    ):
        export_encoder(make(), tmp_path / "out", "zzz")


@pytest.mark.parametrize("form", WEIGHTS)
def test_a_frame_size_belongs_to_programs_only(tmp_path: Path, form: str) -> None:
    with pytest.raises(UserError, match=rf"format {form} takes frames of any size; leave .*\(96, 96\) out"):
        export_encoder(make(), tmp_path / "out", form, frame_size=(96, 96))


@pytest.mark.parametrize("form", WEIGHTS)
def test_every_folder_says_how_to_load_it(tmp_path: Path, form: str) -> None:
    folder = export_encoder(make(), tmp_path / "out", form)
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlibrary_name: rsp-robot\n") and "```python\n" in card
    assert f"| fingerprint | `{make().fingerprint}` |" in card
