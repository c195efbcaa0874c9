from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from rsp_robot.pretrain.stopping import StopRequest

BOTH = (signal.SIGTERM, signal.SIGINT)


class Alarm(Exception):  # noqa: N818 (not an error)
    """What the handler of before does."""


@pytest.fixture
def handler() -> Iterator[Callable[..., None]]:
    """Handlers that were there before, for both signals."""

    def heard(number: int, frame: Any) -> None:
        raise Alarm

    before = {number: signal.signal(number, heard) for number in BOTH}
    yield heard
    for number, handler in before.items():
        signal.signal(number, handler)


def handlers() -> list[Any]:
    return [signal.getsignal(number) for number in BOTH]


@pytest.mark.parametrize("number", BOTH)
def test_the_first_signal_is_a_request_the_second_acts(number: signal.Signals, handler: Callable[..., None]) -> None:
    with StopRequest() as stop:
        assert stop.signal is None
        os.kill(os.getpid(), number)
        assert stop.signal == number
        assert handlers() == [handler, handler], "whoever waits no longer is not made to"
        with pytest.raises(Alarm):
            os.kill(os.getpid(), number)
    assert handlers() == [handler, handler]


def test_a_second_signal_of_the_other_kind_acts_as_well(handler: Callable[..., None]) -> None:
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Alarm):
            os.kill(os.getpid(), signal.SIGINT)
        assert stop.signal == signal.SIGTERM


def test_handlers_are_given_back_when_nothing_came(handler: Callable[..., None]) -> None:
    with StopRequest() as stop:
        assert handler not in handlers()
    assert handlers() == [handler, handler] and stop.signal is None
    with pytest.raises(Alarm):
        os.kill(os.getpid(), signal.SIGTERM)


def test_handlers_are_given_back_after_an_error(handler: Callable[..., None]) -> None:
    with pytest.raises(KeyError), StopRequest():
        raise KeyError
    assert handlers() == [handler, handler]


def test_one_after_the_other(handler: Callable[..., None]) -> None:
    for _ in range(2):
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.signal == signal.SIGTERM


def test_a_thread_other_than_the_main_one_hears_nothing_and_runs(handler: Callable[..., None]) -> None:
    seen: list[Any] = []

    def work() -> None:
        with StopRequest() as stop:
            seen.append((stop.signal, handlers()))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(None, [handler, handler])] and handlers() == [handler, handler]
