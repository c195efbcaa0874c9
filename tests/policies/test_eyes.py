from __future__ import annotations

import numpy as np
import pytest
import torch

from rsp_robot.encoder import FrozenEncoder
from rsp_robot.errors import UserError
from rsp_robot.policies.embeddings import encode_rows
from rsp_robot.policies.eyes import (
    ScratchCNN,
    ScratchConfig,
    TrainableEncoder,
    build_eyes,
    describe_eyes,
    random_shift,
)  # fmt: skip


def frames(count: int, size: int = 24) -> torch.Tensor:
    return torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_a_shift_moves_the_picture_and_repeats_its_edge():
    pictures = frames(40, 42).reshape(20, 2, 42, 42, 3)
    shifted = random_shift(pictures, torch.Generator().manual_seed(1))
    offsets = set()
    for before, after in zip(pictures.numpy(), shifted.numpy(), strict=True):
        padded = np.pad(before, [(0, 0), (2, 2), (2, 2), (0, 0)], mode="edge")
        found = [
            (y, x)
            for y in range(5)
            for x in range(5)
            if np.array_equal(padded[:, y : y + 42, x : x + 42], after)  # both pictures of a sample by as much
        ]
        assert len(found) == 1
        offsets.add(found[0])
    assert len(offsets) > 10, "samples are shifted apart"
    assert {y for y, _ in offsets} == {0, 1, 2, 3, 4} == {x for _, x in offsets}


def test_the_same_generator_shifts_alike():
    pictures = frames(8)[:, None]
    one, two = (random_shift(pictures, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(one, two)


def test_scratch_eyes_see_where_things_are():
    eyes = ScratchCNN(ScratchConfig(), generator=torch.Generator().manual_seed(0))
    blank = torch.zeros(2, 32, 32, 3, dtype=torch.uint8)
    blank[0, 4:8, 4:8] = 255
    blank[1, 20:24, 20:24] = 255
    first, second = eyes(blank)
    assert not torch.allclose(first, second, atol=1e-3)
    eyes(blank).sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in eyes.parameters())


def test_eyes_are_built_again_from_their_description():
    scratch = ScratchCNN(ScratchConfig((16, 16), 4, 10), generator=torch.Generator().manual_seed(3))
    tuned = TrainableEncoder(FrozenEncoder.load("random:vit-nano/8@16").with_pooling("mean"))
    for eyes in (scratch, tuned):
        again = build_eyes(describe_eyes(eyes))
        again.load_state_dict(eyes.state_dict())
        assert again.embedding_shape == eyes.embedding_shape
        assert np.array_equal(encode_rows(again, frames(2).numpy()), encode_rows(eyes, frames(2).numpy()))


def test_a_trainable_copy_learns_and_the_original_does_not():
    encoder = FrozenEncoder.load("random:vit-nano/8@16")
    before = encoder.weights_checksum()
    eyes = TrainableEncoder(encoder).train()
    assert torch.allclose(eyes(frames(2)), encoder(frames(2)))
    optimiser = torch.optim.SGD(eyes.parameters(), lr=0.1)
    eyes(frames(2)).square().sum().backward()
    optimiser.step()
    assert not torch.allclose(eyes(frames(2)), encoder(frames(2)))
    assert encoder.weights_checksum() == before
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


def test_a_wrapped_module_cannot_be_fine_tuned():
    module = torch.nn.Conv2d(3, 4, 8, stride=8)
    with pytest.raises(UserError, match="cannot be stored in a policy; use it frozen"):
        TrainableEncoder(FrozenEncoder.wrap(module, 16, pooling="mean"))


@pytest.mark.parametrize("wrong", [{"channels": ()}, {"channels": (12,)}, {"dim": 0}, {"groups": 0}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(UserError, match="correct the settings"):
        ScratchConfig(**wrong)
