from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from rsp_robot.errors import UserError
from rsp_robot.experiments import cli
from rsp_robot.experiments.report.markup import ARM_COLOURS
from rsp_robot.experiments.report.pretraining import PANELS, is_pretraining, save_curves
from rsp_robot.files import append_jsonl, write_text

CONFIG = "arch: vit-nano\nobjective:\n  name: rsp\n  free_bits: 0.1\n"


def make_run(folder: Path, steps: int = 10, scale: float = 1.0, config: str = CONFIG) -> Path:
    """A run whose metrics follow simple rules, with probes at steps 0, 100, 200, ..."""
    write_text(folder / "config.yaml", config)
    log = folder / "metrics.jsonl"
    append_jsonl(log, {"step": 0, "probe_proprio": 0.3, "probe_actions": 0.5, "probe_actions_blind": 0.4})
    for i in range(1, steps + 1):
        row: dict[str, Any] = {
            "step": 50 * i, "loss": 2.0 / i, "loss_future": scale / i, "loss_mae": 0.9 / i,
            "loss_future_prior": 1.1 / i, "kl": 0.05 * i**2, "kl_per_group": [0.1, 0.2],
            "posterior_entropy": 3 - 0.1 * i, "prior_entropy": 3.1, "prior_gap": 0.1 / i, "rank": 20.0 + i,
            "rank_patches": 30.0 + i, "lr": 1e-3 / i, "pairs_per_s": 200.0,
        }  # fmt: skip
        append_jsonl(log, row)
        if i % 2 == 0:
            probes = {"probe_proprio": 0.3 + 0.01 * i, "probe_actions": 0.5, "probe_actions_blind": 0.4}
            append_jsonl(log, {"step": 50 * i, **probes})
    return folder


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, Axes]:
    """The axes of the picture by title, once it was saved."""
    axes: dict[str, Axes] = {}
    save = Figure.savefig

    def keep(self: Figure, *args: Any, **kwargs: Any) -> None:
        axes.update({one.get_title(loc="left"): one for one in self.axes})
        axes["figure"] = self  # type: ignore[assignment]
        save(self, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", keep)
    return axes


def curves(axes: Axes) -> list[tuple[list[float], list[float]]]:
    """Curves of a panel: steps and values; the horizontal lines have their ends at 0 and 1."""
    found = [(list(map(float, line.get_xdata())), list(map(float, line.get_ydata()))) for line in axes.lines]  # type: ignore[arg-type]
    return [(x, y) for x, y in found if x != [0.0, 1.0]]


def references(axes: Axes) -> list[float]:
    return [float(line.get_ydata()[0]) for line in axes.lines if list(line.get_xdata()) == [0, 1]]  # type: ignore[index,arg-type]


def keys(axes: Axes) -> list[str]:
    legend = axes.get_legend()
    return [] if legend is None else [text.get_text() for text in legend.get_texts()]


def test_every_panel_is_drawn(tmp_path: Path, drawn: dict[str, Axes]) -> None:
    path = save_curves([make_run(tmp_path / "run")], tmp_path / "run" / "curves.png")
    assert [path.name for path in (tmp_path / "run").iterdir() if path.suffix == ".png"] == ["curves.png"]
    with Image.open(path) as picture:
        assert picture.size[0] >= 1200
        assert np.asarray(picture.convert("L")).std() > 10
    assert {panel.title for panel in PANELS} <= set(drawn)
    steps = [50.0 * i for i in range(1, 11)]
    assert curves(drawn["Losses"])[0] == (steps, [1.0 / i for i in range(1, 11)])
    assert keys(drawn["Losses"]) == ["future", "masked", "future, prior"]
    assert curves(drawn["Rank of the features (RankMe)"])[1][1][-1] == 40.0
    assert curves(drawn["Learning rate"])[0][1][0] == 1e-3
    assert keys(drawn["Learning rate"]) == []
    assert drawn["Pairs per second"].get_ylim()[0] == 0


def test_the_floor_of_the_kl_is_drawn(tmp_path: Path, drawn: dict[str, Axes]) -> None:
    save_curves([make_run(tmp_path / "run")], tmp_path / "a.png")
    kl = drawn["KL of posterior and prior (nats)"]
    assert references(kl) == [0.1]
    assert keys(kl) == ["KL", "floor 0.1"]
    assert kl.get_yscale() == "log"


def test_probes_are_held_against_random_weights(tmp_path: Path, drawn: dict[str, Axes]) -> None:
    save_curves([make_run(tmp_path / "run")], tmp_path / "a.png")
    probe = drawn["Linear probe (R², held out)"]
    assert references(probe) == [0.3, 0.5]  # those of step 0; blind has none
    assert curves(probe)[0] == (
        [0.0, 100.0, 200.0, 300.0, 400.0, 500.0],
        pytest.approx([0.3, 0.32, 0.34, 0.36, 0.38, 0.4]),
    )
    assert keys(probe) == ["proprio", "random weights", "actions", "actions, blind"]


def test_a_run_resumed_before_its_first_probe_claims_no_random_weights(tmp_path: Path, drawn: dict[str, Axes]) -> None:
    run = make_run(tmp_path / "run")
    rows = (run / "metrics.jsonl").read_text().splitlines()[1:]
    write_text(run / "metrics.jsonl", "\n".join(rows) + "\n")
    save_curves([run], tmp_path / "a.png")
    assert references(drawn["Linear probe (R², held out)"]) == []


def test_several_runs_have_a_colour_each(tmp_path: Path, drawn: dict[str, Axes]) -> None:
    runs = [make_run(tmp_path / "one"), make_run(tmp_path / "two", steps=4, scale=2.0)]
    save_curves(runs, tmp_path / "both.png")
    losses = drawn["Losses"].lines
    assert [line.get_color() for line in losses] == [ARM_COLOURS[0][0]] * 3 + [ARM_COLOURS[1][0]] * 3
    patterns = [line._dash_pattern for line in losses]  # get_linestyle() says "--" of them all
    assert len(set(map(str, patterns[:3]))) == 3
    assert patterns[3:] == patterns[:3]
    assert curves(drawn["Losses"])[3] == ([50.0, 100.0, 150.0, 200.0], [2.0, 1.0, 2 / 3, 0.5])
    assert keys(drawn["Losses"]) == ["future", "masked", "future, prior"]
    (legend,) = drawn["figure"].legends  # type: ignore[attr-defined]
    assert [text.get_text() for text in legend.get_texts()] == ["one", "two"]


def test_runs_of_one_name_go_by_their_paths(tmp_path: Path, drawn: dict[str, Axes]) -> None:
    runs = [make_run(tmp_path / "a" / "rsp"), make_run(tmp_path / "b" / "rsp")]
    save_curves(runs, tmp_path / "both.png")
    (legend,) = drawn["figure"].legends  # type: ignore[attr-defined]
    assert [text.get_text() for text in legend.get_texts()] == [str(run) for run in runs]


def test_what_was_not_logged_has_no_panel(tmp_path: Path, drawn: dict[str, Axes]) -> None:
    write_text(tmp_path / "run" / "config.yaml", "objective: {name: other}\n")
    append_jsonl(tmp_path / "run" / "metrics.jsonl", {"step": 5, "lr": 1e-3, "kl": float("nan")})
    save_curves([tmp_path / "run"], tmp_path / "a.png")
    assert {title for title in drawn if title} == {"Learning rate", "figure"}


def test_nothing_to_draw_is_said(tmp_path: Path) -> None:
    run = tmp_path / "run"
    write_text(run / "config.yaml", CONFIG)
    with pytest.raises(UserError, match="no metrics yet"):
        save_curves([run], tmp_path / "a.png")
    append_jsonl(run / "metrics.jsonl", {"step": 1, "valid_loss": 2.0})
    with pytest.raises(UserError, match="nothing that can be drawn"):
        save_curves([run], tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()


@pytest.mark.parametrize("config", [None, "arch: vit-nano\n", "- 1\n", "a: [", "objective: rsp\n"])
def test_other_folders_are_no_runs_of_pretraining(config: str | None, tmp_path: Path) -> None:
    if config is not None:
        write_text(tmp_path / "config.yaml", config)
    assert not is_pretraining(tmp_path)
    with pytest.raises(UserError, match="is no run folder of `rsp-robot pretrain`"):
        save_curves([tmp_path], tmp_path / "a.png")


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """`rsp-robot report` with these words: its status and what it said."""

    def run(*words: str | Path) -> tuple[int, str]:
        status = cli.main(["report", *map(str, words)])
        told = capsys.readouterr()
        return status, (told.out or told.err).strip()

    return run


def test_the_verb_draws_runs_of_pretraining(tmp_path: Path, say: Callable[..., tuple[int, str]]) -> None:
    one, two = make_run(tmp_path / "one"), make_run(tmp_path / "two")
    assert say(one) == (0, str(one / "curves.png"))
    assert say(one, "--out", tmp_path / "x.png") == (0, str(tmp_path / "x.png"))
    assert say(one, two, "--out", tmp_path / "both.png") == (0, str(tmp_path / "both.png"))
    assert (tmp_path / "both.png").stat().st_size > 10_000
    status, said = say(one, two)
    assert status == 2
    assert "give --out" in said


def test_a_picture_is_for_runs_of_pretraining_alone(tmp_path: Path, say: Callable[..., tuple[int, str]]) -> None:
    quickstart = tmp_path / "quickstart"
    write_text(quickstart / "config.yaml", "task: metaworld/push-v3\n")
    run = make_run(quickstart / "pretrain")
    assert say(run) == (0, str(run / "curves.png"))
    assert say(quickstart) == (0, str(quickstart / "report.html"))  # of its pretraining: there is nothing else yet
    for words in ((quickstart,), (run, quickstart)):
        status, said = say(*words, "--out", tmp_path / "a.png")
        assert status == 2
        assert f"a.png is a picture, for runs of pretraining alone; {quickstart} needs a .html" in said
    assert not (tmp_path / "a.png").exists()
    assert "does not exist; check the path" in say(tmp_path / "nowhere")[1]
    assert "the following arguments are required" in say()[1].lower() or "nothing to report on" in say()[1]


def test_runs_of_pretraining_make_a_page_too(tmp_path: Path, say: Callable[..., tuple[int, str]]) -> None:
    one, two = make_run(tmp_path / "one"), make_run(tmp_path / "two")
    out = tmp_path / "both.html"
    assert say(one, two, "--out", out) == (0, str(out))
    page = out.read_text(encoding="utf-8")
    for heading in (
        "Prediction of the future: posterior",
        "Rank of the features: embedding",
        "Linear probe, held out: actions",
    ):
        assert heading in page
    assert page.count('class="last"') == 2 * page.count('class="panel"')
    assert '<section id="success"' not in page
    status, said = say(one, two, "--out", out, "--csv", tmp_path / "a.csv")
    assert status == 2
    assert "no numbers for --csv" in said
