from __future__ import annotations

from typing import Any

import pytest
import torch

from rsp_robot.pretrain.finite import FiniteWatch


def see(watch: FiniteWatch, flags: str, first: int = 0) -> None:
    """Steps as a string, x for a skipped one."""
    for step, flag in enumerate(flags, start=first):
        watch.see(step, torch.tensor(float(flag == "x")))


@pytest.mark.parametrize(
    ("flags", "skipped", "in_a_row"),
    [
        ("", [], 0),
        ("...", [], 0),
        ("x", [0], 1),
        (".xx.x", [1, 2, 4], 1),
        ("xxx.", [0, 1, 2], 0),
        ("..xxx", [2, 3, 4], 3),
    ],
)
def test_skipped_steps_are_named_and_counted(flags: str, skipped: list[int], in_a_row: int) -> None:
    watch = FiniteWatch()
    see(watch, flags)
    assert watch.news() == skipped
    assert (watch.skipped, watch.in_a_row) == (len(skipped), in_a_row)


def test_news_come_once_and_counts_go_on() -> None:
    watch = FiniteWatch()
    see(watch, ".x")
    assert watch.news() == [1] and watch.news() == []
    see(watch, "x", first=2)
    assert watch.news() == [2] and (watch.skipped, watch.in_a_row) == (2, 2)
    see(watch, ".", first=3)
    assert watch.news() == [] and (watch.skipped, watch.in_a_row) == (2, 0)


def test_a_resumed_run_goes_on_counting() -> None:
    watch = FiniteWatch(skipped=7, in_a_row=2)
    see(watch, "x", first=40)
    assert watch.news(wait=True) == [40]
    assert (watch.skipped, watch.in_a_row) == (8, 3)


class Event:
    """A copy that arrives when it is told to, or waited for."""

    def __init__(self) -> None:
        self.arrived, self.waited = False, 0

    def query(self) -> bool:
        return self.arrived

    def synchronize(self) -> None:
        self.arrived, self.waited = True, self.waited + 1


def test_news_that_have_not_arrived_are_not_waited_for() -> None:
    watch, events = FiniteWatch(), [Event() for _ in range(3)]
    pending: Any = watch._pending
    pending.extend((step, torch.tensor(1.0), event) for step, event in enumerate(events))
    assert watch.news() == [] and watch.skipped == 0
    events[0].arrived = events[2].arrived = True
    assert watch.news() == [0], "in order: the third may have arrived, the second has not"
    assert watch.news(wait=True) == [1, 2] and watch.in_a_row == 3
    assert [event.waited for event in events] == [0, 1, 0]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_nothing_is_waited_for() -> None:
    watch = FiniteWatch()
    bad = torch.tensor([0.0, 1.0], device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in range(2):
            watch.see(step, bad[step])
        watch.news()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    watch.news(wait=True)
    assert (watch.skipped, watch.in_a_row) == (1, 1)
