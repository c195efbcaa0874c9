"""``rsp-robot report``: what runs hold as one page, its numbers as files, or curves of pretraining as a picture."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from rsp_robot.errors import UserError

PAGES, PICTURES = (".html", ".htm"), (".png",)


@dataclass(frozen=True)
class ReportCommand:
    """What to report on."""

    runs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[NAME=]RUN[,RUN...] ...")]
    """Run folders of quickstart, pretrain, bc, rl, suite run or suite keep; rows files (*.jsonl or *.jsonl.gz, their
    *.plan.json beside); results.json files. Several with one NAME are training seeds, or other tasks, as in
    `rsp-robot compare`; PATH:POLICY picks a policy."""
    out: Path | None = None
    """Page to write, *.html. By default report.html: in the folder, if one is given alone, else here. Runs of
    pretraining alone are drawn as a picture, curves.png in the folder by default, unless this is a page."""
    csv: Path | None = None
    """CSV file for the numbers of the page."""
    json: Path | None = None
    """JSON file for them."""
    latex: Path | None = None
    """LaTeX file for the table of success rates."""
    allow_mismatch: bool = False
    """Show results side by side although simulators, settings or start states differ: unpaired, with a note."""


def report(command: ReportCommand) -> Path:
    """Write the page, or the picture of pretraining curves; return its path.

    Raises:
        UserError: a path holds nothing to report on, or results cannot be compared.
    """
    if not command.runs:
        raise UserError("nothing to report on; give runs, for example: rsp-robot report runs/quickstart")
    out = command.out
    if out is not None and out.suffix.lower() not in PAGES + PICTURES:
        raise UserError(f"--out {out} is neither a page (.html) nor a picture of pretraining (.png); rename it")
    numbers = command.csv, command.json, command.latex
    if out is None or out.suffix.lower() in PICTURES:
        picture = _picture(command, any(numbers))
        if picture is not None:
            return picture
    from rsp_robot.experiments.report.export import save_numbers
    from rsp_robot.experiments.report.material import gather
    from rsp_robot.experiments.report.page import write_page

    material = gather(command.runs, allow_mismatch=command.allow_mismatch)
    for note in material.table.notes if material.table else ():
        print(f"note: {note}", file=sys.stderr)
    line = shlex.join(["rsp-robot", "report", *command.runs])
    save_numbers(material, line, csv_file=command.csv, json_file=command.json, latex_file=command.latex)
    return write_page(material, out or _place(command.runs))


def _picture(command: ReportCommand, numbers: bool) -> Path | None:
    """The picture, where every run is one of pretraining and no page is asked for; else None."""
    folders = [Path(word) for word in command.runs]
    for folder in folders:
        if not folder.exists() and "=" not in str(folder) and "," not in str(folder) and ":" not in str(folder):
            raise UserError(f"{folder} does not exist; check the path, or finish the run first")
    from rsp_robot.experiments.report.pretraining import is_pretraining, save_curves

    alone = [folder.is_dir() and is_pretraining(folder) for folder in folders]
    if not all(alone) or numbers:
        if command.out is not None:
            stranger = next((folder for folder, fits in zip(folders, alone, strict=True) if not fits), folders[0])
            raise UserError(f"{command.out} is a picture, for runs of pretraining alone; {stranger} needs a .html")
        return None
    if len(folders) > 1 and command.out is None:
        raise UserError("several runs in one picture need a place for it; give --out curves.png, or --out report.html")
    return save_curves(folders, command.out or folders[0] / "curves.png")


def _place(runs: tuple[str, ...]) -> Path:
    """Where the page goes by default."""
    folder = Path(runs[0])
    return folder / "report.html" if len(runs) == 1 and folder.is_dir() else Path("report.html")
