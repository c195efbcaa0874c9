from __future__ import annotations

import io
import sys

import pytest

from rsp_robot.progress import LOG_PERIOD_S, Progress


class Clock:
    """Time that passes only when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("rsp_robot.progress.time", clock)
    return clock


def test_a_log_gets_a_line_every_ten_seconds_and_one_at_the_end(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress("collect", total=8, unit="demos") as bar:
        for step in range(8):
            clock.now += 4.0
            bar.update(1, success=step / 8)
    assert capsys.readouterr().err.splitlines() == [
        "collect: 3/8 demos  12s elapsed, eta 20s  success 0.25",
        "collect: 6/8 demos  24s elapsed, eta 8s  success 0.625",
        "collect: 8/8 demos  32s elapsed, eta 0s  success 0.875",
    ]


def test_nothing_goes_to_standard_output(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("collect", total=1) as bar:
        bar.update()
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("collect: 1/1")


def test_a_resumed_run_reckons_its_eta_from_fresh_work_alone(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("train", total=100, unit="steps", done=80) as bar:
        clock.now += 20.0
        bar.update(10)
    assert bar.done == 90
    assert capsys.readouterr().err == "train: 90/100 steps  20s elapsed, eta 20s\n"


def test_numbers_shown_stay_until_new_ones_come(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("train", total=9) as bar:
        bar.update(1, loss=0.123456, lr=1e-5)
        clock.now += LOG_PERIOD_S + 1
        bar.update(2)
        clock.now += LOG_PERIOD_S + 1
        bar.update(1, loss=2)
    first, second = capsys.readouterr().err.splitlines()
    assert first.endswith("loss 0.123  lr 1e-05")
    assert second.endswith("s  loss 2")


def test_a_line_before_any_work_has_no_eta_but_does_not_fail(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("wait", total=5) as bar:
        clock.now += LOG_PERIOD_S + 1
        bar.update(0)
    assert "0/5" in capsys.readouterr().err


def test_quiet_counts_and_shows_nothing(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("train", total=2, quiet=True) as bar:
        clock.now += 60
        bar.update(2, loss=1.0)
    assert bar.done == 2
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "160")
    with Progress("collect", total=4, unit="demos", done=1) as bar:
        bar.update(2, success=0.5)
    shown = terminal.getvalue()
    assert bar.done == 3
    for part in ("collect", "3/4", "demos", "eta", "success 0.5"):
        assert part in shown
    assert "elapsed" not in shown  # the plain lines are for logs only


def test_an_error_in_the_block_passes_through_and_ends_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    with pytest.raises(KeyError), Progress("collect", total=4) as bar:
        raise KeyError
    assert bar._rich is not None and bar._rich.finished is False and not bar._rich.live.is_started


def test_a_message_in_a_log_is_a_line_of_its_own(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("train", total=2, unit="steps") as bar:
        bar.say("warning: [bold]collapse[/bold] in runs/a")
        clock.now += 1
        bar.update(2)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "warning: [bold]collapse[/bold] in runs/a",
        "train: 2/2 steps  1s elapsed, eta 0s",
    ]


def test_a_message_on_a_terminal_stands_above_the_bar_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "160")
    with Progress("train", total=4, unit="steps") as bar:
        bar.update(1)
        bar.say("warning: [bold]collapse[/bold] in runs/3")
        bar.update(1)
    shown = terminal.getvalue()
    assert shown.count("warning: [bold]collapse[/bold] in runs/3") == 1, "no markup, no colours"
    assert "2/4" in shown[shown.index("warning") :]


def test_quiet_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("train", total=2, quiet=True) as bar:
        bar.say("warning: collapse")
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""
