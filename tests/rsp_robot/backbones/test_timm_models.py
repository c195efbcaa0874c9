from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from rsp_robot.backbones.timm_models import TimmBackbone
from rsp_robot.encoder import FrozenEncoder
from rsp_robot.errors import UserError
from rsp_robot.preprocessing import Preprocessing

CPU = torch.device("cpu")


def frames(count: int = 2, size: int = 40, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def drawn(name: str, seed: int = 7, **arguments: object) -> nn.Module:
    """A model of timm made by hand."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return timm.create_model(name, num_classes=0, **arguments).eval()


# -- tokens ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "pooling", "grid", "width"),
    [
        ("test_vit", "cls", 4, 64),  # class token
        ("test_vit2", "mean", 4, 64),  # no class token, a register token
        ("vit_small_patch14_reg4_dinov2", "cls", 4, 384),  # class token, four register tokens
        ("test_resnet", "mean", 2, 96),
        ("test_mambaout", "mean", 2, 64),  # its feature map has the channels last
        ("test_efficientnet", "mean", 2, 256),
    ],
)
def test_tokens_are_a_class_token_where_there_is_one_and_a_raster(
    name: str, pooling: str, grid: int, width: int
) -> None:
    size = 56 if "patch14" in name else 64
    encoder = FrozenEncoder.load(f"random:{name}@{size}#7")
    takes_size = "img_size" in encoder.backbone.arguments
    model = drawn(name, **({"img_size": size} if takes_size else {}))
    features = model.forward_features(encoder.preprocessing(frames(), CPU))
    if features.ndim == 4:
        nhwc = name == "test_mambaout"
        wanted = features.flatten(1, 2) if nhwc else features.permute(0, 2, 3, 1).flatten(1, 2)
    else:
        wanted = features[:, -(grid**2) :]
        if pooling == "cls":
            wanted = torch.cat([features[:, :1], wanted], dim=1)
    assert encoder.pooling == pooling and encoder.backbone.class_token == (pooling == "cls")
    assert (encoder.backbone.grid, encoder.backbone.width) == (grid, width)
    assert torch.equal(encoder.tokens(frames()), wanted)
    whole = encoder.with_pooling("tokens")
    assert whole.embedding_shape == wanted.shape[1:] and torch.equal(whole(frames()), wanted)


def test_the_embedding_is_timms_own() -> None:
    for name, size in (("test_vit", 64), ("test_resnet", 64)):
        encoder = FrozenEncoder.load(f"random:{name}@{size}#7")
        model = drawn(name, **({"img_size": size} if name == "test_vit" else {}))
        torch.testing.assert_close(encoder(frames()), model(encoder.preprocessing(frames(), CPU)))


def test_pictures_are_normalised_as_the_model_was_trained() -> None:
    assert FrozenEncoder.load("random:test_vit").preprocessing == Preprocessing(160, (0.5,) * 3, (0.5,) * 3)
    assert FrozenEncoder.load("random:test_efficientnet@64").preprocessing == Preprocessing(64)


def test_random_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    first = FrozenEncoder.load("random:test_resnet@32#5").weights_checksum()
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(after, torch.rand(1)), "drawing them leaves the program's generator alone"
    assert FrozenEncoder.load("random:test_resnet@32#5").weights_checksum() == first
    assert FrozenEncoder.load("random:test_resnet@32#6").weights_checksum() != first


# -- frozen ----------------------------------------------------------------------------------------------------------


def test_running_statistics_stay_when_the_whole_policy_trains() -> None:
    encoder = FrozenEncoder.load("random:resnet18@32")
    policy = nn.Sequential(encoder, nn.BatchNorm1d(encoder.dim), nn.Linear(encoder.dim, 4))
    before, embedding = encoder.weights_checksum(), encoder(frames())
    optimiser = torch.optim.AdamW(policy.parameters(), lr=0.1, weight_decay=0.5)
    for step in range(2):
        policy.train()
        policy(frames(seed=step)).square().sum().backward()
        optimiser.step()
    assert policy[1].training and int(policy[1].num_batches_tracked) == 2
    assert any("running_var" in name for name in encoder.backbone.state_dict())
    assert encoder.weights_checksum() == before and torch.equal(encoder(frames()), embedding)


def test_the_checksum_sees_running_statistics_and_counters() -> None:
    encoder = FrozenEncoder.load("random:test_resnet@32")
    seen = {encoder.weights_checksum()}
    for name, tensor in encoder.backbone.state_dict().items():
        if name.endswith(("running_mean", "running_var", "num_batches_tracked")):
            tensor += 1
            seen.add(encoder.weights_checksum())
    assert len(seen) > 3


# -- on disk ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["test_vit2", "test_resnet"])
def test_a_folder_brings_it_back(tmp_path: Path, name: str) -> None:
    encoder = FrozenEncoder.load(f"random:{name}@48#3", pooling="grid2")
    folder = encoder.save(tmp_path / "encoder")
    architecture = json.loads((folder / "config.json").read_text())["architecture"]
    assert architecture["kind"] == "timm" and architecture["model"] == name
    loaded = FrozenEncoder.load(folder)
    assert loaded.fingerprint == encoder.fingerprint and loaded.pooling == "grid2"
    assert torch.equal(loaded(frames()), encoder(frames()))
    assert loaded.provenance == encoder.provenance and loaded.provenance["timm"] == timm.__version__


def test_the_fingerprint_tells_sizes_and_models_apart() -> None:
    specs = ("test_resnet@32", "test_resnet@64", "test_resnet@32#1", "test_efficientnet@32")
    assert len({FrozenEncoder.load(f"random:{spec}").fingerprint for spec in specs}) == len(specs)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "hf-hub:someone/model"}, "unknown model of timm 'hf-hub:someone/model'"),
        ({"arguments": {"checkpoint_path": "x.pth"}}, "checkpoint_path is no argument of a model of timm"),
        ({"arguments": {"pretrained": True}}, "pretrained is no argument of a model of timm"),
        ({"arguments": {"colour": 1}}, "is damaged"),
        ({"arguments": None}, "is damaged"),
        ({"image_size": "large"}, "is damaged"),
    ],
)
def test_a_folder_can_have_timm_do_nothing_but_build(tmp_path: Path, change: dict[str, object], message: str) -> None:
    folder = FrozenEncoder.load("random:test_resnet@32").save(tmp_path / "encoder")
    config = json.loads((folder / "config.json").read_text())
    config["architecture"].update(change)
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=message) as caught:
        FrozenEncoder.load(folder)
    assert "\n" not in str(caught.value)


# -- weights of a file -----------------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """What timm's repositories on the Hub hold: all of a classifier."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        save_file(timm.create_model("test_vit").state_dict(), tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def test_a_file_of_timm_is_loaded(file: Path) -> None:
    encoder = FrozenEncoder.load(f"timm:test_vit={file}")
    model = timm.create_model("test_vit", True, pretrained_cfg_overlay={"file": str(file)}, num_classes=0).eval()
    torch.testing.assert_close(encoder(frames()), model(encoder.preprocessing(frames(), CPU)))
    assert encoder.provenance["file"] == "model.safetensors" and len(encoder.provenance["sha256"]) == 64
    assert encoder.image_size == 160 and encoder.source == f"timm:test_vit={file}"
    assert "state_dict" not in encoder.backbone.model.pretrained_cfg, "timm would keep the weights twice"


def test_positions_are_resampled_to_the_size_wanted(file: Path) -> None:
    encoder = FrozenEncoder.load(f"timm:test_vit.r160_in1k@64={file}")
    overlay = {"file": str(file)}
    model = timm.create_model("test_vit", True, pretrained_cfg_overlay=overlay, num_classes=0, img_size=64).eval()
    assert encoder.image_size == 64 and encoder.backbone.model.pos_embed.shape == model.pos_embed.shape
    torch.testing.assert_close(encoder(frames()), model(encoder.preprocessing(frames(), CPU)))


def test_a_pth_is_read_without_running_it_and_decoders_stay_behind(file: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    state = load_file(file) | {"decoder_embed.weight": torch.zeros(2, 2)}
    torch.save({"model": state, "epoch": 3}, tmp_path / "mae.pth")
    found = FrozenEncoder.load(f"timm:test_vit={tmp_path / 'mae.pth'}")
    assert found.weights_checksum() == FrozenEncoder.load(f"timm:test_vit={file}").weights_checksum()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "test_resnet",
            r"does not hold weights of test_resnet: missing conv1.0.weight, conv.* more; unexpected blocks.0.attn",
        ),
        ("test_vit2", r"does not hold weights of test_vit2: missing reg_token.*; unexpected cls_token, norm.bias"),
        ("vit_tiny_patch16_224", r"size|missing blocks\.\d+"),
    ],
)
def test_another_layout_is_refused_by_its_first_keys(file: Path, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        FrozenEncoder.load(f"timm:{name}@160={file}")
    assert "\n" not in str(caught.value) and str(file) in str(caught.value)


def test_a_width_that_differs_is_told_with_both_shapes(file: Path) -> None:
    from safetensors.torch import load_file

    save_file(load_file(file) | {"norm.weight": torch.ones(9)}, file)
    with pytest.raises(UserError, match=r"norm.weight is \(9\) instead of \(64\); give a file of that layout"):
        FrozenEncoder.load(f"timm:test_vit={file}")


# -- folders of timm -------------------------------------------------------------------------------------------------


def test_what_timm_saves_as_a_folder_is_loaded(tmp_path: Path) -> None:
    from timm.models import save_for_hf

    model = drawn("test_vit", img_size=64, embed_dim=96)
    save_for_hf(model, tmp_path / "timm", model_args={"img_size": 64, "embed_dim": 96}, safe_serialization=True)
    config = json.loads((tmp_path / "timm" / "config.json").read_text())
    config["pretrained_cfg"].update(mean=[0.1, 0.2, 0.3], input_size=[3, 64, 64])
    (tmp_path / "timm" / "config.json").write_text(json.dumps(config))
    encoder = FrozenEncoder.load(f"timm:local-dir:{tmp_path / 'timm'}")
    assert encoder.preprocessing.mean == (0.1, 0.2, 0.3) and encoder.image_size == 64 and encoder.dim == 96
    torch.testing.assert_close(encoder(frames()), model(encoder.preprocessing(frames(), CPU)))
    larger = FrozenEncoder.load(f"timm:local-dir:{tmp_path / 'timm'}@96")
    assert larger.image_size == 96 and larger.backbone.grid == 6
    with pytest.raises(UserError, match="holds a model of timm, not an encoder of format 1; give timm:local-dir:"):
        FrozenEncoder.load(tmp_path / "timm")
    (tmp_path / "timm" / "config.json").write_text('{"architecture": "test_vit"}')
    with pytest.raises(UserError, match="config.json is not that of a timm model"):
        FrozenEncoder.load(f"timm:local-dir:{tmp_path / 'timm'}")


# -- what cannot be had ----------------------------------------------------------------------------------------------


def test_without_network_the_way_round_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for spec in ("test_resnet", "test_vit@64"):
        with pytest.raises(UserError, match="cannot download the weights of test_.*give timm:.*=<file>") as caught:
            FrozenEncoder.load(f"timm:{spec}")
        assert "\n" not in str(caught.value) and f"give timm:{spec}=<file>" in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("timm:", "cannot read 'timm:'; write timm:<model>"),
        ("timm:resnet18@", "cannot read 'timm:resnet18@'"),
        ("timm:resnet81", "unknown model of timm 'resnet81'; did you mean resnet18"),
        ("timm:resnet18.a1_in2k", r"unknown weights of timm 'resnet18.a1_in2k'; did you mean resnet18.a1_in1k"),
        ("timm:test_vit=absent.pth", "absent.pth does not exist"),
        ("timm:local-dir:absent", "absent/config.json does not exist"),
        ("random:test_vit/8@64", "test_vit has no patches to choose; leave out /8"),
        ("random:test_vit@0", "the image size of test_vit must be at least 1"),
        ("random:conv64-vgg@96", "conv64-vgg takes pictures of 64 px, not 96 px; leave out the size"),
        ("random:conv64-vgg/8", "conv64-vgg has no patches"),
        ("random:resnet-18", "unknown architecture 'resnet-18'; did you mean resnet18"),
    ],
)
def test_a_spec_that_names_nothing_is_refused(spec: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        FrozenEncoder.load(spec)
    assert "\n" not in str(caught.value)


def test_a_model_that_gives_no_square_is_refused() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward_features(self, images: torch.Tensor) -> torch.Tensor:
            return images.new_zeros(len(images), 8, 2, 3)

    with pytest.raises(UserError, match=r"timm's odd gives \(8, 2, 3\) for a square picture, which is no square"):
        TimmBackbone(Odd(), "odd", {}, 32)
