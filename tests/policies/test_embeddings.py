from __future__ import annotations

import numpy as np
import pytest
import torch

from rsp_robot.demonstrations import DemonstrationFile
from rsp_robot.errors import UserError
from rsp_robot.policies import embeddings
from rsp_robot.policies.embeddings import content_hash, embed_demonstrations, encode_rows, encode_stream


def frames(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 16, 16, 3), np.uint8)


def test_a_row_does_not_depend_on_its_neighbours_or_its_place(encoder):
    pictures = frames(11)
    together = encode_rows(encoder, pictures)
    assert together.shape == (11, 6) and together.dtype == np.float32
    order = np.random.default_rng(0).permutation(11)
    assert np.array_equal(encode_rows(encoder, pictures[order]), together[order])
    assert np.array_equal(np.concatenate([encode_rows(encoder, pictures[i : i + 1]) for i in range(11)]), together)
    assert set(encoder.passes) == {1}, "on the CPU pictures are encoded one by one"


def test_accelerators_get_padded_batches_of_one_size(encoder, monkeypatch):
    monkeypatch.setattr(embeddings, "encoder_device", lambda encoder: torch.device("cuda"))
    pictures = frames(11)
    rows = encode_rows(encoder, pictures)
    assert encoder.passes == [8, 8]
    with torch.inference_mode():
        assert np.allclose(rows, encoder(pictures), atol=1e-6)


def test_no_frames_give_no_rows(encoder):
    assert encode_rows(encoder, frames(0)).shape == (0, 6)


def test_a_stream_keeps_its_order_whatever_the_threads(encoder):
    videos = [frames(count, seed) for seed, count in enumerate((5, 40, 1, 70, 31))]
    alone = np.concatenate(list(encode_stream(encoder, videos, threads=1)))
    assert set(encoder.passes) == {32}, "every pass has one shape; the last is padded"
    before = torch.get_num_threads()
    for threads in (2, 3):
        assert np.array_equal(np.concatenate(list(encode_stream(encoder, videos, threads=threads))), alone)
    assert torch.get_num_threads() == before
    assert alone.shape == (147, 6)
    assert np.allclose(alone, encode_rows(encoder, np.concatenate(videos)), atol=1e-6)


def embed(path, encoder, cache, camera="front"):
    with DemonstrationFile(path) as data:
        return embed_demonstrations(data, content_hash(path), encoder, camera, cache)


def test_embeddings_are_computed_once(make_data, encoder, make_encoder, tmp_path):
    path = make_data(count=4)
    first = embed(path, encoder, tmp_path / "cache")
    passes = len(encoder.passes)
    assert passes > 0
    with DemonstrationFile(path) as data:
        pictures = np.concatenate([data.read_frames(i, "front") for i in range(4)])
    assert np.allclose(first, encode_rows(make_encoder(), pictures), atol=1e-6)
    again = embed(path, encoder, tmp_path / "cache")
    assert np.array_equal(first, again) and len(encoder.passes) == passes
    assert len(list((tmp_path / "cache").iterdir())) == 1
    assert not again.flags.writeable


def test_another_encoder_camera_or_content_is_another_entry(make_data, make_encoder, tmp_path):
    path = make_data(count=2, cameras=("front", "side"))
    cache = tmp_path / "cache"
    rows = [embed(path, make_encoder(0), cache), embed(path, make_encoder(1), cache)]
    rows.append(embed(path, make_encoder(0), cache, "side"))
    rows.append(embed(make_data("other.hdf5", count=2, first_seed=50), make_encoder(0), cache))
    assert len(list(cache.iterdir())) == 4
    assert all(not np.array_equal(a, b) for i, a in enumerate(rows) for b in rows[:i])
    copy = tmp_path / "copy.hdf5"
    copy.write_bytes(path.read_bytes())
    assert np.array_equal(embed(copy, make_encoder(0), cache), rows[0])
    assert len(list(cache.iterdir())) == 4, "the content counts, not the name"


@pytest.mark.parametrize("damage", [lambda raw: raw[:100], lambda raw: b"", lambda raw: raw[:-4]])
def test_a_damaged_entry_is_computed_again(make_data, encoder, tmp_path, damage):
    path = make_data(count=2)
    first = np.array(embed(path, encoder, tmp_path / "cache"))
    entry = next((tmp_path / "cache").iterdir())
    entry.write_bytes(damage(entry.read_bytes()))
    assert np.array_equal(embed(path, encoder, tmp_path / "cache"), first)


def test_embeddings_that_are_not_finite_are_refused(make_data, encoder, tmp_path):
    encoder.weight[0, 0] = np.nan
    with pytest.raises(UserError, match="not finite"):
        embed(make_data(count=2), encoder, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
