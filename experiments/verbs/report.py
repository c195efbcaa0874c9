"""``rsp-robot report``: write ``report.html`` again from what a run folder holds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass(frozen=True)
class ReportCommand:
    """What to report on."""

    folder: tyro.conf.Positional[Path]
    """A run folder of ``rsp-robot quickstart``."""


def report(command: ReportCommand) -> Path:
    """Write the report of ``command.folder``; return the path of ``report.html``.

    Raises:
        UserError: the folder is missing or holds no finished evaluation.
    """
    from rsp_robot.experiments.report import write_report

    return write_report(command.folder)
