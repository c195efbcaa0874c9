from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rsp_robot.errors import UserError
from rsp_robot.pretrain.batches import Batches, Prepared, ReadAhead, check_shares
from rsp_robot.pretrain.checkpoints import build_objective
from rsp_robot.pretrain.config import PretrainConfig
from rsp_robot.pretrain.distributed import World
from rsp_robot.pretrain.objectives.rsp import RSPConfig
from rsp_robot.pretrain.samples import Samples

CPU = torch.device("cpu")
RSP = RSPConfig(decoder_width=16, decoder_depth=1, decoder_heads=2, groups=3, classes=4, min_gap=2, max_gap=6)


@pytest.fixture
def config(toy_arch: str) -> PretrainConfig:
    return PretrainConfig(
        "d", Path("o"), arch=toy_arch, image_size=16, patch_size=8, objective=RSP, batch_size=8, seed=3
    )


@pytest.fixture
def make_batches(make_videos: Any, config: PretrainConfig) -> Callable[..., Batches]:
    """The batches of one process among some."""

    def make(rank: int = 0, size: int = 1, **settings: Any) -> Batches:
        changed = replace(config, **settings)
        source = make_videos([20, 30, 40, 50, 60], sizes=[(18, 20)] * 5)
        read, rng = source.read, np.random.default_rng(0)
        texture = rng.integers(0, 60, (18, 20, 3), dtype=np.uint8)
        source.read = lambda video, frames: read(video, frames) + texture
        return Batches(changed, Samples(source, changed.objective.frames), World(rank, size, CPU))

    return make


def prepared(batches: Batches, step: int) -> dict[int, Prepared]:
    objective = build_objective(batches.config)
    return {shard.place: batches.prepare(objective, shard, step) for shard in batches.read(step)}


def assert_same(found: dict[int, Prepared], expected: dict[int, Prepared]) -> None:
    assert found.keys() == expected.keys()
    for place, one in expected.items():
        assert torch.equal(found[place].frames, one.frames)
        for a, b in zip(found[place].draws, one.draws, strict=True):
            assert (a is None and b is None) or torch.equal(a, b)


# -- the same rows for whoever reads them ------------------------------------------------------------------------------


def test_shares_of_a_step(make_batches: Callable[..., Batches]) -> None:
    for rank, size, micro_batch, expected, places in (
        (0, 1, None, (8, 1), [0]),
        (0, 1, 4, (4, 2), [0, 1]),
        (1, 2, None, (4, 1), [1]),
        (1, 2, 2, (2, 2), [1, 3]),
        (3, 4, 1, (1, 2), [3, 7]),
    ):
        batches = make_batches(rank, size, micro_batch=micro_batch)
        shards = batches.read(0)
        assert (batches.micro_batch, batches.accumulation) == expected
        assert [shard.place for shard in shards] == places
        assert all(shard.frames.shape == (batches.micro_batch, 2, 18, 20, 3) for shard in shards)
        assert all(shard.frames.dtype == torch.uint8 for shard in shards)


@pytest.mark.parametrize("repeats", [1, 2])
def test_the_micro_batches_together_are_the_samples_of_the_step(
    make_batches: Callable[..., Batches], repeats: int
) -> None:
    whole = make_batches(repeated_sampling=repeats)
    rows = whole.samples.draw(5, 8, repeats, seed=3)
    expected = whole.samples.read(rows).frames
    assert len(expected) == 8 * repeats
    assert torch.equal(whole.read(5)[0].frames, expected)
    for size, micro_batch in ((1, 2), (2, None), (2, 2), (4, 1)):
        shards = [
            shard
            for rank in range(size)
            for shard in make_batches(rank, size, micro_batch=micro_batch, repeated_sampling=repeats).read(5)
        ]
        in_order = sorted(shards, key=lambda shard: shard.place)
        assert [shard.place for shard in in_order] == list(range(len(shards)))
        assert torch.equal(torch.cat([shard.frames for shard in in_order]), expected)


@pytest.mark.parametrize(
    "settings",
    [{}, {"repeated_sampling": 3}, {"same_augmentation": False}, {"objective": replace(RSP, latent="gaussian")}],
    ids=str,
)
def test_two_processes_see_what_one_sees_that_accumulates(
    make_batches: Callable[..., Batches], settings: dict[str, Any]
) -> None:
    for step in (0, 9):
        alone = prepared(make_batches(micro_batch=4, **settings), step)
        apart = [prepared(make_batches(rank, 2, **settings), step) for rank in (0, 1)]
        assert [set(one) for one in apart] == [{0}, {1}]
        assert_same(apart[0] | apart[1], alone)
        finer = prepared(make_batches(micro_batch=2, **settings), step)
        apart = [prepared(make_batches(rank, 2, micro_batch=2, **settings), step) for rank in (0, 1)]
        assert_same(apart[0] | apart[1], finer)


def test_everything_is_a_function_of_seed_step_and_place(make_batches: Callable[..., Batches]) -> None:
    batches = make_batches(micro_batch=4)
    first = prepared(batches, 2)
    torch.manual_seed(99)
    np.random.seed(99)
    assert_same(prepared(make_batches(micro_batch=4), 2), first)
    objective = build_objective(batches.config)
    shard = batches.read(2)[0]
    base = batches.prepare(objective, shard, 2)
    others = [
        batches.prepare(objective, shard, 3),
        batches.prepare(objective, shard._replace(place=1), 2),
        make_batches(micro_batch=4, seed=4).prepare(objective, shard, 2),
    ]
    for other in others:  # the same pictures at another step, place or seed
        assert not torch.equal(other.frames, base.frames)
        assert all(not torch.equal(a, b) for a, b in zip(other.draws, base.draws, strict=True))


def test_a_prepared_batch_is_what_the_objective_takes(make_batches: Callable[..., Batches]) -> None:
    batches = make_batches(repeated_sampling=2)
    objective = build_objective(batches.config)
    (batch,) = prepared(batches, 0).values()
    assert batch.frames.shape == (16, 2, 3, 16, 16) and batch.frames.dtype == torch.float32
    assert objective(batch.frames, batch.draws)["loss"].isfinite()


@pytest.mark.parametrize(
    ("batch", "micro_batch", "processes", "said"),
    [
        (8, None, 3, "a batch of 8 does not divide among 3 processes; make it a multiple of 3"),
        (8, 3, 1, "a batch of 8 does not divide among 1 processes of micro-batches of 3; make it a multiple of 3"),
        (8, 4, 4, "a batch of 8 does not divide among 4 processes of micro-batches of 4; make it a multiple of 16"),
    ],
)
def test_batches_that_do_not_divide_are_refused(
    make_batches: Callable[..., Batches], batch: int, micro_batch: int | None, processes: int, said: str
) -> None:
    with pytest.raises(UserError) as error:
        make_batches(0, processes, batch_size=batch, micro_batch=micro_batch)
    assert str(error.value) == said


@pytest.mark.parametrize(("micro_batch", "processes"), [(None, 1), (None, 8), (8, 1), (2, 4), (1, 8)])
def test_batches_that_divide_are_taken(config: PretrainConfig, micro_batch: int | None, processes: int) -> None:
    check_shares(replace(config, micro_batch=micro_batch), processes)


# -- reading ahead -----------------------------------------------------------------------------------------------------


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("read-ahead")]


def eventually(holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 10
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.005)
    return holds()


@pytest.mark.parametrize("depth", [0, 1, 2, 50])
@pytest.mark.parametrize("steps", [range(0), range(1), range(3, 20)])
def test_batches_come_in_order(depth: int, steps: range) -> None:
    read: list[int] = []
    ahead = ReadAhead(lambda step: (read.append(step), 10 * step)[1], steps, depth)
    assert list(ahead) == [(step, 10 * step) for step in steps]
    assert read == list(steps), "each once"
    assert readers() == []


@pytest.mark.parametrize("depth", [1, 3])
def test_so_many_are_read_ahead_and_no_more(depth: int) -> None:
    read: list[int] = []
    for step, _ in ReadAhead(read.append, range(12), depth):
        expected = min(12, step + 1 + depth)
        deadline = time.monotonic() + 10
        while len(read) < expected and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(0.005)
        assert len(read) == expected


def test_without_depth_nothing_is_read_before_it_is_asked_for() -> None:
    read: list[int] = []
    for step, _ in ReadAhead(read.append, range(4), 0):
        assert read == list(range(step + 1))
        assert readers() == []


def test_reading_goes_on_while_the_loop_works() -> None:
    threads = set()
    for _, thread in ReadAhead(lambda step: threading.current_thread(), range(5), 2):
        threads.add(thread)
    assert len(threads) == 1 and threading.main_thread() not in threads


class Seconds:
    """A clock that only reading and training move."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now

    def pass_by(self, seconds: float) -> None:
        self.now += seconds


def test_waiting_for_data_is_counted_and_work_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Seconds()
    monkeypatch.setattr("rsp_robot.pretrain.batches.time", clock)
    ahead = ReadAhead(lambda step: clock.pass_by(2.0), range(3), 0)
    for step, _ in ahead:
        assert ahead.waited == 2.0 * (step + 1)
        clock.pass_by(50.0)
    assert ahead.waited == 6.0


def test_waiting_for_the_reader_is_counted() -> None:
    slow = ReadAhead(lambda step: time.sleep(0.05), range(4), 1)
    list(slow)
    assert 0.1 < slow.waited < 5
    ready, done = ReadAhead(lambda step: None, range(4), 3), 0
    for _ in ready:
        time.sleep(0.05)
        done += 1
    assert done == 4 and ready.waited < 0.15, "what was read while the loop worked costs nothing"


@pytest.mark.parametrize("depth", [0, 2])
def test_an_error_of_the_reader_comes_out_at_its_step(depth: int) -> None:
    def read(step: int) -> int:
        if step == 3:
            raise UserError("video 3 is damaged; leave it out")
        return step

    seen = []
    with pytest.raises(UserError, match="video 3 is damaged"):
        for step, _ in ReadAhead(read, range(10), depth):
            seen.append(step)
    assert seen == [0, 1, 2]
    assert readers() == []


def test_a_loop_left_early_leaves_no_thread() -> None:
    read: list[int] = []

    def leave() -> None:
        for step, _ in ReadAhead(read.append, range(1000), 3):
            if step == 5:
                return

    leave()
    gc.collect()
    assert eventually(lambda: readers() == [])
    assert len(read) <= 5 + 1 + 3


def test_a_loop_left_early_does_not_wait_for_what_nobody_wants() -> None:
    begun: list[int] = []

    def read(step: int) -> None:
        begun.append(step)
        time.sleep(0.02)

    for _ in ReadAhead(read, range(1000), 40):
        break
    gc.collect()
    assert eventually(lambda: readers() == [])
    assert len(begun) < 20, "41 were asked for"


def test_an_error_of_the_loop_leaves_no_thread() -> None:
    def fail() -> None:
        for step, _ in ReadAhead(lambda step: step, range(1000), 3):
            if step == 5:
                raise KeyError

    with pytest.raises(KeyError):
        fail()
    gc.collect()
    assert eventually(lambda: readers() == [])
