from __future__ import annotations

from typing import get_args

import numpy as np

from rsp_robot.pretrain.streams import Purpose, stream, torch_seed


def test_a_stream_is_the_same_at_every_call() -> None:
    assert stream("frames", 3, 5).random() == stream("frames", 3, 5).random()


def test_streams_of_other_purposes_seeds_and_positions_differ() -> None:
    purposes = [stream(purpose, 0, 0).random() for purpose in get_args(Purpose)]
    elsewhere = [stream("frames", seed, step).random() for seed in range(3) for step in range(3)]
    assert len({*purposes, *elsewhere}) == len(purposes) + len(elsewhere) - 1, "frames, 0, 0 is in both"


def test_seeds_for_torch_fit_its_generators() -> None:
    seeds = [torch_seed(np.random.default_rng(seed)) for seed in range(50)]
    assert all(0 <= seed < 2**62 for seed in seeds) and len(set(seeds)) == 50
