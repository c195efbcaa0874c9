"""``rsp-robot report``: what run folders hold, as a page (quickstart) or as a picture of curves (pretraining)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from rsp_robot.errors import UserError


@dataclass(frozen=True)
class ReportCommand:
    """What to report on."""

    folders: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER [FOLDER ...]")]
    """A run folder of ``rsp-robot quickstart``, or one or more of ``rsp-robot pretrain`` to draw together."""
    out: Path | None = None
    """Picture to write for runs of pretraining; curves.png in the folder by default. Needed for several."""


def report(command: ReportCommand) -> Path:
    """Write ``report.html`` of a quickstart folder, or the curves of pretraining; return its path.

    Raises:
        UserError: a folder is missing or holds neither a finished evaluation nor a run of pretraining.
    """
    folders = command.folders
    if not folders:
        raise UserError("no folder to report on; give a run folder, for example runs/quickstart")
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder} does not exist or is no folder; give a run folder")
    from rsp_robot.experiments.report.pretraining import is_pretraining, save_curves

    if len(folders) == 1 and not is_pretraining(folders[0]):
        if command.out is not None:
            raise UserError(f"--out is for runs of pretraining, the report of {folders[0]} stays in it; leave it out")
        from rsp_robot.experiments.report import write_report

        return write_report(folders[0])
    if len(folders) > 1 and command.out is None:
        raise UserError("several runs in one picture need a place for it; give --out, for example --out curves.png")
    return save_curves(folders, command.out or folders[0] / "curves.png")
