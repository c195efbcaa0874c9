from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rsp_robot.experiments.comparison.compare import Table, compare
from rsp_robot.experiments.comparison.files import Run, Source
from rsp_robot.experiments.comparison.markdown import to_markdown
from rsp_robot.experiments.comparison.picture import draw_comparison

PNG = b"\x89PNG\r\n\x1a\n"


def runs(policy: str, rates: dict[str, tuple[float, ...]], n: int = 20) -> list[Run]:
    """A run for each task and training seed that succeeds on the first so many start states."""
    found = []
    for task, seeds in rates.items():
        for number, rate in enumerate(seeds):
            rows = {
                seed: {"initial_state": f"{task}-{seed}", "success_once": seed < round(rate * n), "error": None}
                for seed in range(n)
            }
            found.append(Run(task, Source(Path(f"{policy}-{number}.jsonl"), (), {}), policy, rows))
    return found


def table(*rates: dict[str, tuple[float, ...]], against: tuple[str, ...] = ()) -> Table:
    arms = {name: runs(name, arm) for name, arm in zip(("rsp", "ran|dom", "blind"), rates, strict=False)}
    return compare(arms, against=against, resamples=200)


TASKS = (
    {"metaworld/push-v3": (0.9, 0.8), "metaworld/hammer-v3": (0.6, 0.5)},
    {"metaworld/push-v3": (0.2, 0.1), "metaworld/hammer-v3": (0.3, 0.2)},
    {"metaworld/push-v3": (0.0, 0.0), "metaworld/hammer-v3": (0.3, 0.2)},
)


def test_rates_means_and_differences_stand_in_two_tables() -> None:
    found = table(*TASKS, against=("ran|dom",))
    lines = to_markdown(found).splitlines()
    assert lines[0] == "| policy | push | hammer | mean | IQM |"
    assert lines[1] == "|---|---:|---:|---:|---:|"
    assert lines[2].startswith("| rsp | 85 | 55 | 70 % [")
    assert lines[3].startswith("| ran\\|dom | 15 | 25 | 20 % [")
    assert lines[5] == ""
    assert lines[6] == "| compared | difference | p (Holm) | P(better) |"
    first, second = lines[8:]
    assert first.startswith("| rsp less ran\\|dom | **+50 [") and "100 %" in first
    assert second.startswith("| blind less ran\\|dom | −8 [")  # not established, so not bold
    assert [pair.established for pair in found.pairs] == [True, False]


def test_one_run_alone_has_its_rate_and_interval() -> None:
    lines = to_markdown(table({"toy/reach": (0.5,)})).splitlines()
    assert lines == ["| policy | reach |", "|---|---:|", "| rsp | 50 % [30, 70] |"]


def test_the_picture_shows_every_rate_and_mean(tmp_path: Path) -> None:
    found = table(*TASKS)
    figure = draw_comparison(found, tmp_path / "table.png")
    assert (tmp_path / "table.png").read_bytes().startswith(PNG)
    cells, means = figure.axes
    assert [text.get_text() for text in cells.texts] == ["85", "55", "15", "25", "0", "25"]
    assert np.asarray(cells.images[0].get_array()) == pytest.approx(np.array([[0.85, 0.55], [0.15, 0.25], [0.0, 0.25]]))
    assert [tick.get_text() for tick in cells.get_yticklabels()] == ["rsp", "ran|dom", "blind"]
    points = [line.get_xdata()[0] for line in means.lines if line.get_marker() == "o"]  # type: ignore[index]
    assert points == pytest.approx([0.7, 0.2, 0.125])
    spans = [line.get_xdata() for line in means.lines if line.get_marker() != "o"]
    assert [tuple(span) for span in spans] == [  # type: ignore[arg-type]
        (arm.aggregates["mean"].interval.low, arm.aggregates["mean"].interval.high) for arm in found.arms
    ]
