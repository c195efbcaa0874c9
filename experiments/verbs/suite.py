"""``rsp-robot suite``: run a published evaluation protocol from beginning to end, or look at one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

from rsp_robot.experiments.protocols import PROTOCOLS, Protocol, find_protocol, read_header
from rsp_robot.experiments.suite.keep import keep_suite
from rsp_robot.experiments.suite.run import SuiteConfig, run_suite


@dataclass(frozen=True)
class ListSuites:
    """The protocols there are."""


@dataclass(frozen=True)
class ShowSuite:
    """One protocol in full."""

    protocol: Annotated[str, tyro.conf.Positional]
    """Its name."""
    quick: bool = False
    """The quick version."""


@dataclass(frozen=True)
class KeepSuite:
    """What is worth keeping of a suite that was run: its rows, compressed, with their plans, and its summary."""

    folder: Annotated[Path, tyro.conf.Positional]
    """Folder of a `rsp-robot suite run`."""
    out: Path
    """Folder to write; `rsp-robot compare` computes every number from it again."""


Run = Annotated[
    SuiteConfig,
    tyro.conf.subcommand(
        "run", description="Demonstrations, embeddings, training over seeds, evaluation, both scores. Resumable."
    ),
]
List = Annotated[ListSuites, tyro.conf.subcommand("list", description="The protocols there are.")]
Show = Annotated[
    ShowSuite,
    tyro.conf.subcommand("show", description="One protocol: source, settings, differences from the original."),
]

Keep = Annotated[
    KeepSuite,
    tyro.conf.subcommand("keep", description="Copy the rows of a suite, compressed, for the record and for compare."),
]


@dataclass(frozen=True)
class SuiteCommand:
    """What is done with protocols."""

    suite: Annotated[Run | List | Show | Keep, tyro.conf.arg(name="")]


def run_suite_verb(command: SuiteCommand) -> Path | int:
    """Run, list, show or keep; return the file with the scores of a run, or the folder of what is kept.

    Raises:
        UserError: there is no such protocol or suite, or the run fails.
    """
    chosen = command.suite
    if isinstance(chosen, SuiteConfig):
        return run_suite(chosen)
    if isinstance(chosen, KeepSuite):
        return keep_suite(chosen.folder, chosen.out)
    console = Console()
    if isinstance(chosen, ListSuites):
        console.print("\n".join(_overview()), highlight=False, markup=False, soft_wrap=True)
    else:
        _show(chosen, console)
    return 0


def _overview() -> Iterator[str]:
    """Yield a name, the first line of its header, and its size, for each protocol."""
    for name in PROTOCOLS:
        protocol = find_protocol(name)
        yield name
        yield f"  {read_header(name).splitlines()[0]}"
        yield (
            f"  {len(protocol.tasks)} tasks, {protocol.demonstrations} demonstrations, {len(protocol.seeds)} seeds x "
            f"{protocol.episodes} episodes; {protocol.score_in_words}; {_headline(protocol)}"
        )


def _headline(protocol: Protocol) -> str:
    if protocol.headline == "last":
        return "last checkpoint, with intervals"
    return f"max over {protocol.evaluations} evaluations"


def _show(chosen: ShowSuite, console: Console) -> None:
    protocol = find_protocol(chosen.protocol, chosen.quick)
    console.print(read_header(chosen.protocol).strip(), highlight=False, markup=False, soft_wrap=True)
    table = Table("setting", "value", title=f"Settings of {protocol.label}", title_justify="left", title_style="bold")
    for key, value in vars(protocol).items():
        if key == "tasks":
            value = ", ".join(task.task for task in protocol.tasks)
        if key not in ("name", "differences", "quick"):
            table.add_row(key, ", ".join(map(str, value)) if isinstance(value, tuple) else str(value))
    console.print(table)
    for difference in protocol.differences:
        console.print(f"- not as in the original: {difference}", highlight=False, markup=False, soft_wrap=True)
