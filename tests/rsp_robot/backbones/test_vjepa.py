from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rsp_robot.backbones.registry import BACKBONES
from rsp_robot.backbones.rope import rotate, rotation_3d
from rsp_robot.backbones.vjepa import VideoTransformer, VJEPAConfig
from rsp_robot.errors import UserError
from rsp_robot.published_vjepa import vjepa_encoder, vjepa_weights

TRANSFORMERS = Path(__file__).parents[1] / "data" / "vjepa2-transformers.npz"
TINY = VJEPAConfig(
    image_size=8, patch_size=4, tubelet=2, frames=4, width=12, depth=1, heads=1, mlp_hidden=24, rotary=True
)


def drawn(config: VJEPAConfig) -> VideoTransformer:
    model, generator = VideoTransformer(config), torch.Generator().manual_seed(0)
    for tensor in model.state_dict().values():
        tensor.copy_(torch.randn(tensor.shape, generator=generator) / 2)
    return model.eval()


# -- V-JEPA 2 against transformers -------------------------------------------------------------------------------------


def test_v_jepa_2_computes_what_transformers_computes() -> None:
    """Two blocks of VJEPA2Model (transformers 5.23) with random weights, computed in float64."""
    with np.load(TRANSFORMERS, allow_pickle=False) as file:
        found = {key: torch.tensor(file[key]).double() for key in file.files}
    state = vjepa_weights({key.removeprefix("state/"): value for key, value in found.items() if "state/" in key})
    assert state is not None
    told = {"num_heads": int(found["config/heads"]), "image_size": found["in/still"].shape[-1]}
    config, weights = vjepa_encoder(state, told, "transformers")
    assert config.rotary and config.width // config.heads % 6, "some channels of a head do not turn"
    model = VideoTransformer(config).double()
    model.load_state_dict(weights)
    with torch.no_grad():
        still, clip = model(found["in/still"]), model.clip(found["in/clip"].transpose(1, 2))
    torch.testing.assert_close(still, found["out/still"], atol=1e-5, rtol=0)
    torch.testing.assert_close(clip, found["out/clip"], atol=1e-5, rtol=0)


# -- rotary positions --------------------------------------------------------------------------------------------------


def test_rotation_by_hand() -> None:
    cos, sin = rotation_3d(2, 2, 13)  # four channels per axis, of frequencies 1, 0.01, 1, 0.01; one does not turn
    assert cos.shape == sin.shape == (8, 13)
    assert torch.equal(cos[0], torch.ones(13)) and not sin[0].any()
    angles = torch.tensor([1.0, 0.01, 1.0, 0.01])
    nothing = torch.zeros(4)
    for place, wanted in (
        (1, [nothing, nothing, angles]),  # one column to the right
        (2, [nothing, angles, nothing]),  # one row down
        (7, [angles, angles, angles]),  # the last of all
    ):
        torch.testing.assert_close(sin[place], torch.cat([*wanted, torch.zeros(1)]).sin())
        torch.testing.assert_close(cos[place], torch.cat([*wanted, torch.zeros(1)]).cos())


def test_a_quarter_turn_takes_the_first_channel_to_the_second() -> None:
    vectors = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    turned = rotate(vectors, torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([[1.0, 1.0, 0.0, 0.0]]))
    assert turned.tolist() == [[-2.0, 1.0, 3.0, 4.0]]


# -- frames and clips --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rotary", [True, False])
def test_a_frame_is_a_still_clip_of_one_tubelet(rotary: bool) -> None:
    model = drawn(replace(TINY, rotary=rotary))
    images = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        tokens = model(images)
        assert torch.equal(tokens, model.clip(torch.stack([images, images], dim=2)))
        assert model.clip(torch.stack([images] * 4, dim=2)).shape == (3, 2 * 4, 12)
    assert tokens.shape == (3, 4, 12) and model.grid == 2 and not model.class_token


@pytest.mark.parametrize("rotary", [True, False])
def test_where_a_patch_lies_matters(rotary: bool) -> None:
    model = drawn(replace(TINY, rotary=rotary))
    images = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    swapped = torch.cat([images[..., 4:], images[..., :4]], dim=-1)  # left and right change places
    with torch.no_grad():
        tokens, others = model(images), model(swapped)
    assert not torch.allclose(tokens[:, [1, 0, 3, 2]], others, atol=1e-3)


@pytest.mark.parametrize("rotary", [True, False])
def test_some_tokens_are_encoded_at_their_own_places(rotary: bool) -> None:
    model = drawn(replace(TINY, rotary=rotary))
    tokens = model.embed(torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(1)))
    shuffle = torch.stack([torch.randperm(8, generator=torch.Generator().manual_seed(seed)) for seed in (2, 3)])
    with torch.no_grad():
        everything, shuffled = model.encode(tokens), model.encode(tokens, shuffle)
        some, cut = model.encode(tokens, shuffle[:, :3]), model.encode(tokens[:1], torch.tensor([[0, 1, 2, 3]]))
        first = model.encode(tokens[:1, :4])  # the first of two times
    torch.testing.assert_close(shuffled, everything.gather(1, shuffle[:, :, None].expand(-1, -1, 12)))
    assert some.shape == (2, 3, 12) and not torch.allclose(some, shuffled[:, :3], atol=1e-3), "the others are not seen"
    torch.testing.assert_close(cut, first)


@pytest.mark.parametrize("rotary", [True, False])
def test_a_description_builds_the_same_model(rotary: bool) -> None:
    model = drawn(replace(TINY, rotary=rotary))
    description: dict[str, Any] = model.describe()
    other = BACKBONES[description["kind"]](description)
    other.load_state_dict(model.state_dict())
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(other.eval()(images), model(images))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": 9}, "image size 9 is no multiple of patch size 4"),
        ({"heads": 5}, "width 12 is not divisible by the 5 heads"),
        ({"heads": 4}, "rotary positions need heads of even width, not 3"),
        ({"depth": 0}, "depth of a video Vision Transformer must be at least 1"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(change: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        replace(TINY, **change)
