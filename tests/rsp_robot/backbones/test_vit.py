from __future__ import annotations

import math

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer as TimmVisionTransformer
from torch import nn

from rsp_robot.backbones.positions import sincos_2d
from rsp_robot.backbones.vit import VARIANTS, VisionTransformer, ViTConfig, initialise_transformer, vit_config
from rsp_robot.errors import UserError

TINY = ViTConfig(image_size=16, patch_size=4, width=32, depth=2, heads=4)


def images(count: int = 2, size: int = 16, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def shaken(module: nn.Module, seed: int = 0) -> None:
    """Draw every parameter, biases, norms and positions included: nothing is left at a value that hides a mistake."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))


@torch.no_grad()
def silenced(config: ViTConfig) -> VisionTransformer:
    """Blocks that add nothing: what is left is the embedding and the final norm."""
    model = VisionTransformer(config).eval()
    for parameter in model.blocks.parameters():
        parameter.zero_()
    return model


@torch.no_grad()
def test_hand_values_of_one_pixel_patches() -> None:
    model = silenced(ViTConfig(image_size=2, patch_size=1, width=4, depth=1, heads=1))
    # Patch = (red, green, blue, red + 1).
    model.patch_embed.proj.weight.copy_(torch.eye(4, 3)[:, :, None, None])
    model.patch_embed.proj.weight[3, 0] = 1.0
    model.patch_embed.proj.bias.copy_(torch.tensor([0.0, 0.0, 0.0, 1.0]))
    model.cls_token.copy_(torch.tensor([1.0, 3.0, 1.0, 3.0]).expand(1, 1, 4))
    picture = torch.zeros(1, 3, 2, 2)
    picture[0, :, 0, 1] = torch.tensor([5.0, 6.0, 7.0])  # row 0, column 1
    embedded = model.embed(picture)
    assert embedded.shape == (1, 4, 4)
    patches = [[0.0, 0.0, 0.0, 1.0], [5.0, 6.0, 7.0, 6.0], [0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 1.0]]
    places = [(0, 0), (0, 1), (1, 0), (1, 1)]  # row by row
    for token, patch, (row, column) in zip(embedded[0], patches, places, strict=True):
        position = [math.sin(column), math.cos(column), math.sin(row), math.cos(row)]
        torch.testing.assert_close(token, torch.tensor(patch) + torch.tensor(position))
    tokens = model(picture)
    assert tokens.shape == (1, 5, 4)
    # The class token has position zero; (1, 3, 1, 3) has mean 2 and deviation 1.
    torch.testing.assert_close(tokens[0, 0], torch.tensor([-1.0, 1.0, -1.0, 1.0]), atol=1e-5, rtol=0)
    # Patch (0, 1) with its position is (5 + sin 1, 6 + cos 1, 7, 7).
    values = [5 + math.sin(1), 6 + math.cos(1), 7.0, 7.0]
    mean = sum(values) / 4
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / 4 + 1e-6)
    wanted = torch.tensor([(value - mean) / deviation for value in values])
    torch.testing.assert_close(tokens[0, 2], wanted, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_equals_timms_with_timms_weights_loaded_by_name() -> None:
    theirs = TimmVisionTransformer(img_size=16, patch_size=4, embed_dim=32, depth=2, num_heads=4, num_classes=0).eval()
    shaken(theirs)
    ours = VisionTransformer(TINY).eval()
    ours.load_state_dict(theirs.state_dict())  # strict: every name and shape, pos_embed included
    found, wanted = ours(images()), theirs.forward_features(images())
    assert found.shape == (2, 1 + 16, 32)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    assert float(wanted.std()) > 0.1


@torch.no_grad()
def test_positions_are_fixed_sines_and_part_of_the_weights() -> None:
    model = VisionTransformer(TINY)
    assert torch.equal(model.pos_embed, sincos_2d(32, 4))
    assert not model.pos_embed.requires_grad
    assert "pos_embed" in model.state_dict()
    assert all(parameter.requires_grad for name, parameter in model.named_parameters() if name != "pos_embed")


@torch.no_grad()
def test_a_subset_of_patches_is_encoded_without_regard_to_its_order() -> None:
    model = VisionTransformer(TINY).eval()
    shaken(model)
    patches = model.embed(images())
    torch.testing.assert_close(model.encode(patches), model(images()))
    few = model.encode(patches[:, [3, 7, 11]])
    assert few.shape == (2, 4, 32)
    turned = model.encode(patches[:, [11, 3, 7]])
    torch.testing.assert_close(turned[:, [0, 2, 3, 1]], few, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(few[:, 0], model(images())[:, 0], atol=1e-2)  # the class token does see the patches


@torch.no_grad()
def test_half_precision_patches_keep_their_type() -> None:
    model = VisionTransformer(TINY).to(torch.bfloat16).eval()
    assert model(images().bfloat16()).dtype == torch.bfloat16


@torch.no_grad()
def test_initialisation_is_xavier_zero_one_and_small_tokens() -> None:
    model = VisionTransformer(TINY)
    shaken(model)
    model.pos_embed.data.copy_(sincos_2d(32, 4))
    model.initialise(torch.Generator().manual_seed(0))
    checked = set()
    for name, parameter in model.named_parameters():
        if name == "pos_embed":
            assert torch.equal(parameter, sincos_2d(32, 4))
        elif name == "cls_token":
            assert 0.01 < float(parameter.std()) < 0.03
        elif name.endswith("bias"):
            assert torch.equal(parameter, torch.zeros_like(parameter))
        elif "norm" in name:
            assert torch.equal(parameter, torch.ones_like(parameter))
        else:  # the patch projection counts as one linear map of 3 * 4 * 4 inputs
            fan_out, fan_in = parameter.shape[0], parameter[0].numel()
            bound = math.sqrt(6 / (fan_in + fan_out))
            assert 0.9 * bound < float(parameter.abs().max()) <= bound, name
            assert float(parameter.std()) == pytest.approx(bound / math.sqrt(3), rel=0.1)
        checked.add(name.rpartition(".")[2])
    assert checked == {"weight", "bias", "cls_token", "pos_embed"}


def test_initialisation_draws_from_its_generator_alone() -> None:
    first, second, third = (VisionTransformer(TINY) for _ in range(3))
    first.initialise(torch.Generator().manual_seed(1))
    torch.rand(5)
    before = torch.get_rng_state()
    second.initialise(torch.Generator().manual_seed(1))
    assert torch.equal(torch.get_rng_state(), before)
    third.initialise(torch.Generator().manual_seed(2))
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name])
    for name in ("cls_token", "patch_embed.proj.weight", "blocks.1.mlp.fc2.weight"):
        assert not torch.equal(first.state_dict()[name], third.state_dict()[name])


@torch.no_grad()
def test_mask_tokens_are_drawn_too() -> None:
    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mask_token = nn.Parameter(torch.zeros(1, 1, 256))

    decoder = Decoder()
    initialise_transformer(decoder, torch.Generator().manual_seed(0))
    assert float(decoder.mask_token.std()) == pytest.approx(0.02, rel=0.2)


@pytest.mark.parametrize(
    ("variant", "parameters"),  # timm's counts of these models without a classifier
    [("vit-tiny", 5_524_416), ("vit-small", 21_665_664), ("vit-base", 85_798_656), ("vit-large", 303_301_632)],
)
def test_variants_have_the_published_sizes(variant: str, parameters: int) -> None:
    with torch.device("meta"):
        model = VisionTransformer(vit_config(variant))
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


def test_a_named_variant_takes_its_image_and_patch_size() -> None:
    assert vit_config("vit-nano", 64, 8) == ViTConfig(image_size=64, patch_size=8, width=128, depth=6, heads=4)
    assert (vit_config("vit-nano", 64, 8).grid, vit_config("vit-nano", 64, 8).patches) == (8, 64)
    assert (vit_config("vit-small").image_size, vit_config("vit-small").patch_size) == (224, 16)
    for variant in VARIANTS:
        assert vit_config(variant).patches == 196


def test_an_unknown_variant_is_refused() -> None:
    with pytest.raises(UserError, match="unknown architecture 'vit-smal'; did you mean vit-small"):
        vit_config("vit-smal")


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"image_size": 65, "patch_size": 8}, "image size 65 is no multiple of patch size 8; change one"),
        ({"width": 30, "heads": 2}, "width 30 must be divisible by 4 and by the 2 heads; change one"),
        ({"width": 32, "heads": 3}, "width 32 must be divisible by 4 and by the 3 heads; change one"),
        ({"patch_size": 0}, "patch_size of a Vision Transformer must be at least 1, not 0"),
        ({"image_size": 0}, "image_size of a Vision Transformer must be at least 1, not 0"),
        ({"heads": 0}, "heads of a Vision Transformer must be at least 1, not 0"),
        ({"depth": -1}, "depth of a Vision Transformer must be at least 1, not -1"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(sizes: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ViTConfig(**sizes)


def test_an_image_of_another_size_is_not_taken_silently() -> None:
    with pytest.raises(AssertionError):
        VisionTransformer(TINY)(images(size=32))
