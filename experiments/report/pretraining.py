"""``curves.png``: what a pretraining run learned, or several side by side, as one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rsp_robot.errors import UserError
from rsp_robot.experiments.report.curves import column, read_metrics, thin
from rsp_robot.experiments.report.markup import ARM_COLOURS, short_number
from rsp_robot.files import atomic_path

INK, MUTED, GRID = "#1d2430", "#5d6775", "#e3e6ea"
STYLES = ("-", (0, (4, 1.6)), (0, (1.2, 1.4)))
"""One line style per metric of a panel, where the colour tells the run."""
REFERENCE = (0, (6, 3))
"""Line style of what a curve is held against."""
ACROSS, PANEL_WIDTH, PANEL_HEIGHT = 4, 4.1, 3.1


@dataclass(frozen=True)
class Line:
    """One metric of a panel."""

    key: str
    label: str
    start: bool = False
    """Also draw its first value, that of random weights, all the way: the one to beat."""


@dataclass(frozen=True)
class Panel:
    """One pair of axes."""

    title: str
    lines: tuple[Line, ...]
    floor: str | None = None
    """Setting of the objective that is a lower limit, to be drawn too."""
    logarithmic: bool = False
    from_zero: bool = False


PANELS = (
    Panel(
        "Losses",
        (Line("loss_future", "future"), Line("loss_mae", "masked"), Line("loss_future_prior", "future, prior")),
    ),
    Panel("KL of posterior and prior (nats)", (Line("kl", "KL"),), floor="free_bits", logarithmic=True),
    Panel("Entropy per group (nats)", (Line("posterior_entropy", "posterior"), Line("prior_entropy", "prior"))),
    Panel("Prior gap: its error less the posterior's", (Line("prior_gap", "gap"),)),
    Panel("Rank of the features (RankMe)", (Line("rank", "embedding"), Line("rank_patches", "patches"))),
    Panel(
        "Linear probe (R², held out)",
        (
            Line("probe_proprio", "proprio", start=True),
            Line("probe_actions", "actions", start=True),
            Line("probe_actions_blind", "actions, blind"),
        ),
    ),
    Panel("Learning rate", (Line("lr", "rate"),)),
    Panel("Pairs per second", (Line("pairs_per_s", "pairs/s"),), from_zero=True),
)


@dataclass(frozen=True)
class PretrainingRun:
    """What a run folder of pretraining says."""

    name: str
    rows: list[dict[str, Any]]
    """Of ``metrics.jsonl``."""
    objective: Mapping[str, Any]
    """Settings of the objective."""


def is_pretraining(folder: Path) -> bool:
    """Whether a folder is a run of `rsp-robot pretrain`."""
    return _objective(folder) is not None


def _objective(folder: Path) -> dict[str, Any] | None:
    """Settings of the objective by a run's own account; None where the folder is no run of pretraining."""
    try:
        settings = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None
    objective = settings.get("objective") if isinstance(settings, dict) else None
    return objective if isinstance(objective, dict) else None


def read_run(folder: Path) -> PretrainingRun:
    """Read the metrics of a run folder of `rsp-robot pretrain`.

    Raises:
        UserError: it is none, or nothing was logged yet.
    """
    objective = _objective(folder)
    if objective is None:
        raise UserError(f"{folder} is no run folder of `rsp-robot pretrain`; give one")
    rows = read_metrics(folder)
    if not rows:
        raise UserError(f"{folder} has no metrics yet; wait for its first row (log_every steps)")
    return PretrainingRun(folder.resolve().name, rows, objective)


def save_curves(folders: Sequence[Path], path: Path) -> Path:
    """Draw the runs into one PNG, written atomically: a colour per run, or per metric where there is one run.

    Raises:
        UserError: a folder is no run folder of pretraining or has no metrics.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.lines import Line2D

    runs = _named_apart([read_run(folder) for folder in folders], folders)
    panels = [panel for panel in PANELS if any(column(run.rows, line.key) for run in runs for line in panel.lines)]
    if not panels:
        raise UserError(f"{folders[0]} logged nothing that can be drawn; is it a run of pretraining?")
    down = -(-len(panels) // ACROSS)
    with rc_context({"font.family": "sans-serif", "font.size": 10, "text.parse_math": False}):
        height = PANEL_HEIGHT * down + 0.7
        layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1)
        figure = Figure(figsize=(PANEL_WIDTH * ACROSS, height), dpi=100, facecolor="white", layout=layout)
        FigureCanvasAgg(figure)
        grid = figure.subplots(down, ACROSS, squeeze=False)
        for axes, panel in zip(grid.flat, panels, strict=False):
            _draw(axes, panel, runs)
        for axes in grid.flat[len(panels) :]:
            axes.set_axis_off()
        if len(runs) == 1:
            figure.suptitle(runs[0].name, color=INK, fontsize=14, fontweight="bold", x=0.012, ha="left")
        else:
            handles = [Line2D([], [], color=_colour(i), linewidth=2.5, label=run.name) for i, run in enumerate(runs)]
            figure.legend(handles=handles, loc="outside upper left", ncols=min(5, len(runs)), frameon=False)
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format="png", dpi=100)
    return path


def _named_apart(runs: Sequence[PretrainingRun], folders: Sequence[Path]) -> list[PretrainingRun]:
    """Runs whose folders have one name go by their paths."""
    names = [run.name for run in runs]
    return [
        run if names.count(run.name) == 1 else PretrainingRun(str(folder), run.rows, run.objective)
        for run, folder in zip(runs, folders, strict=True)
    ]


def _colour(index: int) -> str:
    return ARM_COLOURS[index % len(ARM_COLOURS)][0]


def _draw(axes: Any, panel: Panel, runs: Sequence[PretrainingRun]) -> None:
    """Draw one panel: its lines of every run, the values at step 0 and the floor."""
    alone = len(runs) == 1
    named: dict[str, Any] = {}
    for place, run in enumerate(runs):
        for number, line in enumerate(panel.lines):
            points = column(run.rows, line.key)
            if not points:
                continue
            colour, style = _colour(number if alone else place), "-" if alone else STYLES[number]
            xs, ys = zip(*thin(points), strict=True)
            (drawn,) = axes.plot(
                xs, ys, color=colour, linestyle=style, linewidth=1.8, zorder=3,
                marker="o" if line.start and len(points) < 30 else None, markersize=3,
            )  # fmt: skip
            named.setdefault(line.label, drawn if alone else _in_grey(style))
            if line.start and points[0][0] == 0:
                mark = axes.axhline(points[0][1], color=colour, linestyle=REFERENCE, linewidth=1.0, zorder=2)
                named.setdefault("random weights", mark if alone and number == 0 else _in_grey(REFERENCE, 1.0))
        floor = run.objective.get(panel.floor) if panel.floor else None
        if isinstance(floor, int | float) and floor > 0:
            mark = axes.axhline(floor, color=MUTED, linestyle=REFERENCE, linewidth=1.0, zorder=2)
            named.setdefault(f"floor {floor:g}", mark)
    values = [y for run in runs for line in panel.lines for _, y in column(run.rows, line.key)]
    if panel.logarithmic and min(values) > 0 and max(values) > 5 * min(values):
        axes.set_yscale("log")
    elif panel.from_zero:
        axes.set_ylim(0, 1.08 * max(values))
    _dress(axes, panel)
    if len(named) > 1:
        axes.legend(
            named.values(), named.keys(), loc="best", fontsize=8.5, frameon=True, framealpha=0.85, edgecolor=GRID
        )


def _in_grey(style: Any, width: float = 1.8) -> Any:
    """A key for a line style whose colours are many."""
    from matplotlib.lines import Line2D

    return Line2D([], [], color=MUTED, linestyle=style, linewidth=width)


def _dress(axes: Any, panel: Panel) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axes.set_title(panel.title, loc="left", color=INK, fontsize=11, fontweight="bold")
    axes.set_xlabel("step", color=MUTED, fontsize=9)
    axes.set_xlim(left=0)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(which="both", colors=MUTED, length=0, labelsize=9)
    axes.grid(color=GRID, zorder=0)
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)
