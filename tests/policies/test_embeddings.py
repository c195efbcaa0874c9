from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

from rsp_robot.demonstrations import DemonstrationFile
from rsp_robot.encoder import FrozenEncoder
from rsp_robot.errors import UserError
from rsp_robot.policies import embedding_entry, embeddings
from rsp_robot.policies.embedding_cache import EmbeddingCache
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


def test_threads_started_later_are_as_before(encoder, monkeypatch) -> None:
    def fresh() -> int:
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(torch.get_num_threads).result()

    monkeypatch.setattr(embeddings, "available_cores", lambda: 2)
    embeddings._threads.cache_clear()
    own = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        embeddings.encode_rows(encoder, frames(4))
        assert (torch.get_num_threads(), fresh()) == (2, 2)
    finally:
        torch.set_num_threads(own)
        embeddings._threads.cache_clear()


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


def embed(path, encoder, cache, camera="front", half=False):
    with DemonstrationFile(path) as data:
        return embed_demonstrations(data, content_hash(path), encoder, camera, cache, half=half)


@pytest.fixture
def cache(tmp_path):
    return EmbeddingCache(tmp_path / "cache")


def test_embeddings_are_computed_once(make_data, encoder, make_encoder, cache):
    path = make_data(count=4)
    first = embed(path, encoder, cache)
    passes = len(encoder.passes)
    assert passes > 0
    with DemonstrationFile(path) as data:
        pictures = np.concatenate([data.read_frames(i, "front") for i in range(4)])
    assert first.dtype == np.float32
    assert np.allclose(first, encode_rows(make_encoder(), pictures), rtol=1e-5, atol=1e-6)
    again = embed(path, encoder, cache)
    assert np.array_equal(first, again) and len(encoder.passes) == passes
    assert len(cache.entries()) == 1
    assert not again.flags.writeable


def test_the_users_own_cache_is_the_default(make_data, encoder, tmp_path, monkeypatch):
    monkeypatch.setenv("RSP_ROBOT_CACHE", str(tmp_path / "user"))
    embed(make_data(count=1), encoder, None)
    (entry,) = EmbeddingCache(tmp_path / "user" / "embeddings").entries()
    assert (entry.data, entry.camera, entry.frames, entry.encoder) == ("demos.hdf5", "front", 10, encoder.fingerprint)


def test_half_precision_is_an_entry_of_its_own_that_agrees(make_data, encoder, cache):
    path = make_data(count=3)
    whole, half = embed(path, encoder, cache), embed(path, encoder, cache, half=True)
    assert half.dtype == np.float16 and len(cache.entries()) == 2
    assert np.allclose(half, whole, rtol=1e-3, atol=1e-3) and not np.array_equal(half, whole)


def test_what_half_precision_cannot_hold_is_refused(make_data, encoder, cache):
    encoder.weight *= 1e6
    path = make_data(count=2)
    with pytest.raises(UserError, match="half precision ends at 65504; leave half off"):
        embed(path, encoder, cache, half=True)
    assert cache.entries() == []
    assert np.isfinite(embed(path, encoder, cache)).all()


class TokenEncoder(nn.Module):
    """Gives four tokens, one for each quarter of the picture."""

    dim, embedding_shape, fingerprint, source = 12, (4, 3), "f" * 16, "quarters"

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.eye(3), requires_grad=False)

    def forward(self, frames):
        pictures = torch.as_tensor(frames).permute(0, 3, 1, 2).float() / 255
        return nn.functional.adaptive_avg_pool2d(pictures, 2).flatten(2).transpose(1, 2) @ self.weight


@pytest.mark.parametrize("half", [False, True])
def test_tokens_are_kept_as_tokens(make_data, cache, half):
    path = make_data(count=4)
    cached = embed(path, TokenEncoder(), cache, half=half)
    with DemonstrationFile(path) as data:
        pictures = np.concatenate([data.read_frames(i, "front") for i in range(4)])
    assert cached.shape == (len(pictures), 4, 3) and encode_rows(TokenEncoder(), frames(0)).shape == (0, 4, 3)
    assert np.allclose(cached, encode_rows(TokenEncoder(), pictures), rtol=1e-2 if half else 1e-5)


def test_a_real_encoder_gives_the_same_live_and_from_the_cache(make_data, cache):
    path = make_data(count=5)
    eyes = FrozenEncoder.load("random:vit-nano/8@32")
    with DemonstrationFile(path) as data:
        pictures = np.concatenate([data.read_frames(i, "front") for i in range(5)])
    live = encode_rows(eyes, pictures)
    assert np.abs(embed(path, eyes, cache) - live).max() < 1e-5
    half = embed(path, eyes, cache, half=True).astype(np.float32)
    assert np.linalg.norm(half - live) < 1e-2 * np.linalg.norm(live)


def test_another_encoder_camera_or_content_is_another_entry(make_data, make_encoder, cache, tmp_path):
    path = make_data(count=2, cameras=("front", "side"))
    rows = [embed(path, make_encoder(0), cache), embed(path, make_encoder(1), cache)]
    rows.append(embed(path, make_encoder(0), cache, "side"))
    rows.append(embed(make_data("other.hdf5", count=2, first_seed=50), make_encoder(0), cache))
    assert len(cache.entries()) == 4
    assert all(not np.array_equal(a, b) for i, a in enumerate(rows) for b in rows[:i])
    copy = tmp_path / "copy.hdf5"
    copy.write_bytes(path.read_bytes())
    assert np.array_equal(embed(copy, make_encoder(0), cache), rows[0])
    assert len(cache.entries()) == 4, "the content counts, not the name"


def test_embeddings_that_are_not_finite_are_refused(make_data, encoder, cache):
    encoder.weight[0, 0] = np.nan
    with pytest.raises(UserError, match="not finite"):
        embed(make_data(count=2), encoder, cache)
    assert cache.entries() == []


def test_work_cut_short_goes_on_where_it_stopped(make_data, make_encoder, cache, tmp_path, monkeypatch):
    monkeypatch.setattr(embedding_entry, "FLUSH_S", 0.0)
    monkeypatch.setattr(embeddings, "READ_FRAMES", 7)
    path = make_data(count=20)
    undisturbed = embed(path, make_encoder(), EmbeddingCache(tmp_path / "undisturbed"))

    class Tired(make_encoder):
        def forward(self, frames):
            if len(self.passes) == 4:
                raise KeyboardInterrupt
            return super().forward(frames)

    monkeypatch.setattr(embeddings, "available_cores", lambda: 1)
    with pytest.raises(KeyboardInterrupt):
        embed(path, Tired(), cache)
    (entry,) = cache.entries()
    assert entry.frames == len(undisturbed) == 219 and entry.frames_done in (32, 64, 96, 128)
    rested = make_encoder()
    assert np.array_equal(embed(path, rested, cache), undisturbed)
    assert len(rested.passes) == -(-(219 - entry.frames_done) // 32), "no frame is encoded twice"
