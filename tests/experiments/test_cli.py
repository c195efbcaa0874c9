from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rsp_robot.errors import Preempted, UserError
from rsp_robot.experiments import cli
from rsp_robot.experiments.usage import first_words, parse_options


@dataclass(frozen=True)
class ToyConfig:
    """A toy."""

    task: str
    """Which one."""
    episodes: int = 3
    """How many."""


def use_toy(monkeypatch: pytest.MonkeyPatch, run: Any) -> None:
    """Make `toy` the only verb; it calls ``run``."""
    verb = cli.Verb("toy:Config", "toy:run", "Play with a toy", "toy --task lego", "the toy goes on")
    monkeypatch.setattr(cli, "VERBS", {"toy": verb})
    monkeypatch.setattr(cli, "resolve", {"toy:Config": ToyConfig, "toy:run": run}.__getitem__)


def rsp_robot(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "rsp_robot.experiments.cli", *words], capture_output=True, text=True, timeout=120
    )


def test_overview_lists_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    for name, verb in cli.VERBS.items():
        assert f"\n  {name} " in shown
        assert verb.summary in shown
    assert cli.main([]) == 0
    assert capsys.readouterr().out == shown


def test_overview_is_quick_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; from rsp_robot.experiments.cli import main; main(['--help'])\n"
        "heavy = {'torch', 'mujoco', 'numpy', 'tyro', 'rich'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert time.perf_counter() - start < 5.0  # 0.2 s on an idle machine


@pytest.mark.parametrize("name", sorted(cli.VERBS))
def test_every_verb_explains_itself_with_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leaving:
        cli.main([name, "--help"])
    assert not leaving.value.code
    shown = " ".join(capsys.readouterr().out.split())
    assert f"Example: rsp-robot {cli.VERBS[name].example}" in shown


@pytest.mark.parametrize("name", sorted(cli.VERBS))
def test_every_example_is_accepted(name: str) -> None:
    verb = cli.VERBS[name]
    assert verb.example.split()[0] == name
    config = cli.read_options(name, verb.example.split()[1:])
    assert isinstance(config, cli.resolve(verb.config))  # type: ignore[arg-type]
    assert callable(cli.resolve(verb.run))


@pytest.mark.parametrize("name", ["collect", "evaluate", "report", "doctor"])
def test_help_of_simulation_verbs_needs_no_torch(name: str) -> None:
    code = (
        "import sys; from rsp_robot.experiments.cli import VERBS, resolve; resolve(VERBS[sys.argv[1]].config)\n"
        "sys.exit('torch' in sys.modules or 'mujoco' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, name], timeout=60).returncode == 0


def test_config_reaches_the_function_and_its_path_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[ToyConfig] = []

    def run(config: ToyConfig) -> Path:
        seen.append(config)
        return Path("runs/toy")

    use_toy(monkeypatch, run)
    assert cli.main(["toy", "--task", "lego", "--debug", "--episodes=7"]) == 0
    assert seen == [ToyConfig("lego", 7)]
    assert capsys.readouterr().out == "runs/toy\n"


def test_an_int_is_the_exit_status(monkeypatch: pytest.MonkeyPatch) -> None:
    use_toy(monkeypatch, lambda config: config.episodes)
    assert cli.main(["toy", "--task", "lego", "--episodes", "1"]) == 1


def test_user_error_is_one_line_and_status_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(config: ToyConfig) -> None:
        raise UserError("lego is missing;\nbuy some")

    use_toy(monkeypatch, run)
    assert cli.main(["toy", "--task", "lego"]) == 2
    told = capsys.readouterr()
    assert told.err == "error: lego is missing; buy some\n"
    assert told.out == ""
    with pytest.raises(UserError):
        cli.main(["--debug", "toy", "--task", "lego"])


def test_interrupt_says_how_to_continue(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def run(config: ToyConfig) -> None:
        raise KeyboardInterrupt

    use_toy(monkeypatch, run)
    assert cli.main(["toy", "--task", "lego"]) == 130
    assert capsys.readouterr().err == "interrupted; the toy goes on\n"


def test_a_run_ended_from_outside_says_what_it_saved(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(config: ToyConfig) -> None:
        raise Preempted("saved at step 7; go on with --resume")

    use_toy(monkeypatch, run)
    assert cli.main(["toy", "--task", "lego"]) == 143
    assert capsys.readouterr().err == "saved at step 7; go on with --resume\n"


@dataclass(frozen=True)
class Brick:
    """A part of a toy."""

    colour: str = "red"
    """Its colour."""


@dataclass(frozen=True)
class LargeBrick(Brick):
    """A part with a setting of its own."""

    holes: int = 4
    """How many."""


@dataclass(frozen=True)
class Castle:
    """A toy with a part."""

    part: Brick
    """The part."""


def test_options_start_from_a_given_instance_and_take_its_types() -> None:
    made = parse_options(Castle, ["--part.holes", "9"], "castle", "", Castle(LargeBrick("blue")))
    assert made == Castle(LargeBrick("blue", 9))
    with pytest.raises(UserError, match="--part.holes"):
        parse_options(Castle, ["--part.holes", "9"], "castle", "")


def test_a_verb_may_choose_its_defaults_by_the_options(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[ToyConfig] = []
    found = {
        "toy:Config": ToyConfig,
        "toy:run": seen.append,
        "toy:defaults": lambda options: ToyConfig("lego" if "--episodes" in options else "wood", 5),
    }
    verb = cli.Verb("toy:Config", "toy:run", "Play", "toy", defaults="toy:defaults")
    monkeypatch.setattr(cli, "VERBS", {"toy": verb})
    monkeypatch.setattr(cli, "resolve", found.__getitem__)
    assert cli.main(["toy"]) == 0
    assert cli.main(["toy", "--episodes", "6"]) == 0
    assert seen == [ToyConfig("wood", 5), ToyConfig("lego", 6)]


@pytest.mark.parametrize(
    ("number", "said"), [(errno.ENOSPC, "no space left"), (errno.EACCES, "may not read or write there (/x)")]
)
def test_what_the_system_refuses_is_explained(
    number: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(config: ToyConfig) -> None:
        raise OSError(number, os.strerror(number), "/x")

    use_toy(monkeypatch, run)
    assert cli.main(["toy", "--task", "lego"]) == 2
    assert said in capsys.readouterr().err


def test_a_bug_is_not_dressed_up_as_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(config: ToyConfig) -> None:
        raise OSError(errno.EIO, "broken")

    use_toy(monkeypatch, run)
    with pytest.raises(OSError, match="broken"):
        cli.main(["toy", "--task", "lego"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["evaluat"], "unknown verb 'evaluat'; did you mean evaluate?"),
        (["--vresion"], "unknown option before the verb '--vresion'; did you mean --version?"),
        (["collect"], "missing from rsp-robot collect: --out PATH"),
        (["evaluate", "a", "--task", "t", "--episods", "4"], "perhaps you meant: --episodes"),
        (["evaluate", "a", "--task", "t", "--episodes", "x"], "error parsing --episodes: invalid literal for int()"),
        (["doctor", "--seconds"], "missing value for argument '--seconds'"),
    ],
)
def test_mistyped_lines(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 2
    told = capsys.readouterr()
    assert told.err.startswith("error: ")
    assert said in told.err
    assert told.err.count("\n") == 1
    assert told.out == ""


def test_as_a_process() -> None:
    wrong = rsp_robot("quikstart")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr == "error: unknown verb 'quikstart'; did you mean quickstart?\n"
    assert rsp_robot("--version").stdout.startswith("rsp-robot ")


def test_a_closed_pipe_is_no_error() -> None:
    words = "-m rsp_robot.experiments.cli collect --help"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; '{sys.executable}' {words} | :"], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_panels_drawn_without_unicode_are_read_as_well() -> None:
    panel = (
        " Unrecognized options \n"
        " -------------------- \n"
        "  Unrecognized options: --episods, 4 \n"
        "  -------------------- \n"
        "  Perhaps you meant: \n"
        "      --episodes INT \n"
        "          How many episodes. (default: 50) \n"
        "  -------------------- \n"
        "  For full helptext, run rsp-robot evaluate --help \n"
    )
    assert first_words(panel) == "unrecognized options: --episods, 4; perhaps you meant: --episodes INT"


def test_unreadable_panels_still_say_something() -> None:
    assert first_words("") == "these options do not fit"
    assert first_words("plain words") == "plain words"
