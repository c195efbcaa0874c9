"""One encoder from every source, and what they share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from rsp_robot.backbones.vit import VisionTransformer, ViTConfig
from rsp_robot.encoder import FrozenEncoder
from rsp_robot.errors import UserError

TINY = ViTConfig(image_size=16, patch_size=8, width=16, depth=2, heads=2)


def frames(count: int = 3, size: int = 24) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


@pytest.fixture(
    params=["folder", "random:vit-nano/8@16", "random:conv64-dcgan", "random:test_resnet@64", "random:test_vit2@32"]
)
def spec(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "folder":
        return str(FrozenEncoder.random(TINY).save(tmp_path / "encoder"))
    return str(request.param)


def test_every_source_takes_a_pooling_and_remembers_itself(spec: str) -> None:
    encoder = FrozenEncoder.load(spec, pooling="grid2")
    assert encoder.source == spec and encoder.pooling == "grid2" and encoder(frames()).shape == (3, encoder.dim)
    assert FrozenEncoder.load(spec).source == spec
    assert FrozenEncoder.random(TINY).source is None


@pytest.mark.parametrize("pooling", ["cls", "mean", "cls+mean", "grid2", "spatial-softmax", "tokens"])
def test_the_embeddings_have_the_shape_that_is_told(spec: str, pooling: str) -> None:
    encoder = FrozenEncoder.load(spec)
    if pooling.startswith("cls") and not encoder.backbone.class_token:
        with pytest.raises(UserError, match=r"needs a class token, and this backbone has none; choose mean, grid<k>"):
            encoder.with_pooling(pooling)
        with pytest.raises(UserError, match="needs a class token"):
            FrozenEncoder.load(spec, pooling=pooling)
        return
    other = encoder.with_pooling(pooling)
    embeddings = other(frames())
    assert embeddings.shape == (3, *other.embedding_shape) and embeddings.dtype == torch.float32
    assert other.dim == embeddings[0].numel()
    assert other.backbone is encoder.backbone and other.source == encoder.source
    assert other.fingerprint != encoder.fingerprint or pooling == encoder.pooling


def test_tokens_are_saved_and_loaded_as_a_pooling(tmp_path: Path) -> None:
    encoder = FrozenEncoder.random(TINY, pooling="tokens")
    loaded = FrozenEncoder.load(encoder.save(tmp_path / "encoder"))
    assert loaded.embedding_shape == (5, 16) and loaded.dim == 80
    assert torch.equal(loaded(frames()), encoder.tokens(frames()))


def test_half_precision_weights_give_float32_embeddings(spec: str) -> None:
    encoder = FrozenEncoder.load(spec, pooling="mean")
    usual = encoder(frames())
    rough = encoder.to(torch.bfloat16)(frames())
    assert rough.dtype == torch.float32 and not torch.equal(rough, usual)
    assert torch.nn.functional.cosine_similarity(rough, usual).min() > 0.99


def test_a_checkpoint_of_a_plain_encoder_leaves_no_choice_of_size(tmp_path: Path) -> None:
    model = VisionTransformer(ViTConfig(32, 16, width=192, depth=1, heads=3))
    torch.save(model.state_dict(), tmp_path / "mae.pth")
    assert FrozenEncoder.load(f"{tmp_path / 'mae.pth'}@32").image_size == 32
    with pytest.raises(UserError, match=r"is for pictures of 32 px, not 64 px; leave out @64, or have timm resample"):
        FrozenEncoder.load(f"{tmp_path / 'mae.pth'}@64")
    with pytest.raises(UserError, match="no encoder in .*absent.pth@64; give an encoder folder"):
        FrozenEncoder.load(f"{tmp_path / 'absent.pth'}@64")


@pytest.mark.slow
def test_an_encoder_is_one_graph_for_torch_compile() -> None:
    encoder = FrozenEncoder.load("random:test_resnet@64", pooling="spatial-softmax")
    compiled = torch.compile(encoder, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(torch.from_numpy(frames())), encoder(frames()), atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_compiled_code_agrees() -> None:
    encoder = FrozenEncoder.random(TINY, pooling="grid2")
    compiled = torch.compile(encoder)
    torch.testing.assert_close(compiled(torch.from_numpy(frames())), encoder(frames()), atol=1e-4, rtol=1e-4)
