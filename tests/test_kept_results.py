"""The tables and figures in the documents are what the kept rows say, to the last digit."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from rsp_robot.encoder import FrozenEncoder
from rsp_robot.experiments.comparison.compare import Table, compare
from rsp_robot.experiments.comparison.files import read_arms
from rsp_robot.experiments.comparison.markdown import to_markdown
from rsp_robot.experiments.comparison.output import aggregate_text
from rsp_robot.experiments.comparison.wording import points, points_interval
from rsp_robot.experiments.corpora.tabletop import HELD_OUT
from rsp_robot.experiments.verbs.compare import on_tasks
from rsp_robot.files import read_json

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / "docs" / "results"


class Comparison(NamedTuple):
    """What numbers in the documents are computed from."""

    arms: tuple[str, ...]
    """What `rsp-robot compare` is given."""
    against: tuple[str, ...]
    tasks: tuple[str, ...] = ()


PRETRAINED = ("rsp", "mae", "siam-mae", "tobo", "vjepa")
SIX, OTHERS, FEW, ABLATION, BUDGET = (
    f"{KEPT}/{name}" for name in ("tabletop", "tabletop-others", "tabletop-few", "tabletop-ablation", "tabletop-budget")
)
ELEVEN = tuple(f"{arm}={SIX},{OTHERS}" for arm in (*PRETRAINED, "scratch", "random"))
TABLES = {
    "six tasks": Comparison((SIX,), ("random", "mae")),
    "the others": Comparison((OTHERS,), ("random", "mae")),
    "held out": Comparison(ELEVEN, ("random", "mae"), HELD_OUT),
    "eleven tasks": Comparison(ELEVEN, ("random", "mae")),
    "few demonstrations": Comparison((FEW,), ("scratch", "random")),
    "ablation": Comparison(
        (
            f"grid2={SIX}:rsp",
            *(f"{arm}={ABLATION}/{arm}:rsp" for arm in ("cls", "mean", "spatial-softmax", "history-3")),
        ),
        ("grid2",),
        ("metaworld/push-v3", "metaworld/peg-insert-side-v3"),
    ),
    "budget": Comparison((BUDGET,), ("0",)),
}
"""The tables of docs/results.md."""
COMPARISONS = TABLES | {
    **{
        f"{name} against scratch": TABLES[name]._replace(against=("scratch",))
        for name in ("six tasks", "held out", "eleven tasks")
    },
    "budget against 65536": TABLES["budget"]._replace(against=("65536",)),
    "pretraining seeds": Comparison(
        (f"boxed={SIX}:rsp", f"seed1={BUDGET}:262144", f"shorter={BUDGET}:65536"),
        ("boxed",),
        ("metaworld/push-v3", "metaworld/pick-place-v3", "metaworld/assembly-v3"),
    ),
}
CARD = "rsp_robot/boxed/small/README.md"


@cache
def table_of(name: str) -> Table:
    arms, against, tasks = COMPARISONS[name]
    return compare(on_tasks(read_arms(arms, None, []), tasks), against=against)


def read(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8").replace(" points [", " [")


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_computed_from_its_rows(name: str) -> None:
    shown = read("docs/results.md")
    for part in to_markdown(table_of(name)).split("\n\n"):
        assert part.strip() in shown, f"docs/results.md lacks\n{part}"


@pytest.mark.parametrize(
    ("document", "name", "a", "b"),
    [
        ("README.md", "six tasks", "rsp", "random"),
        ("README.md", "six tasks", "rsp", "mae"),
        ("README.md", "eleven tasks", "rsp", "mae"),
        ("README.md", "eleven tasks", "vjepa", "random"),
        ("README.md", "eleven tasks against scratch", "rsp", "scratch"),
        ("README.md", "few demonstrations", "rsp", "scratch"),
        ("README.md", "held out", "rsp", "random"),
        (CARD, "six tasks", "rsp", "random"),
        (CARD, "held out", "rsp", "random"),
        *(
            ("docs/results.md", f"{name} against scratch", "rsp", "scratch")
            for name in ("six tasks", "held out", "eleven tasks")
        ),
        ("docs/results.md", "budget against 65536", "262144", "65536"),
        ("docs/results.md", "pretraining seeds", "seed1", "boxed"),
        ("docs/results.md", "pretraining seeds", "shorter", "boxed"),
    ],
)
def test_a_difference_in_a_sentence_is_computed_from_the_rows(document: str, name: str, a: str, b: str) -> None:
    (found,) = (pair.difference for pair in table_of(name).pairs if (pair.a, pair.b) == (a, b))
    assert f"{points(found.value)} {points_interval(found.interval)}" in read(document)


@pytest.mark.parametrize(
    ("name", "policy"),
    [
        *((table, arm) for table in ("six tasks", "held out") for arm in (*PRETRAINED, "scratch", "random")),
        ("few demonstrations", "rsp"),
        ("few demonstrations", "scratch"),
    ],
)
def test_a_mean_in_the_card_is_computed_from_the_rows(name: str, policy: str) -> None:
    (arm,) = (arm for arm in table_of(name).arms if arm.name == policy)
    assert aggregate_text(arm, "mean") in read(CARD)


def test_the_spread_between_training_seeds_is_computed_from_the_rows() -> None:
    arms = {arm.name: arm for arm in table_of("eleven tasks").arms}
    spread = {name: 100 * np.sqrt(arm.scores.var(axis=0, ddof=1).mean()) for name, arm in arms.items()}
    trained = [spread[name] for name in PRETRAINED]
    shown = read("docs/results.md")
    assert f"of {spread['scratch']:.0f} points from scratch" in shown
    assert f"of {min(trained):.0f} to {max(trained):.0f} on the pretrained encoders" in shown
    assert f"encoders and {spread['random']:.0f} on random weights" in shown


@pytest.mark.parametrize("name", PRETRAINED)
def test_the_judged_encoders_are_those_in_the_box_and_in_the_repository(name: str) -> None:
    summaries = [read_json(Path(suite, "suite.json"))["encoders"] for suite in (SIX, OTHERS)]
    judged = {encoders[name]["fingerprint"] for encoders in summaries if name in encoders}
    kept = "rsp-robot/small" if name == "rsp" else str(KEPT / "encoders" / name)
    assert judged == {FrozenEncoder.load(kept).fingerprint}
