"""The tables and figures in the documents are what the kept rows say, to the last digit."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from rsp_robot.encoder import FrozenEncoder
from rsp_robot.experiments.compare import Table, compare
from rsp_robot.experiments.compare_files import read_arms
from rsp_robot.experiments.compare_markdown import to_markdown
from rsp_robot.experiments.compare_output import aggregate_text
from rsp_robot.experiments.wording import points, points_interval
from rsp_robot.files import read_json

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / "docs" / "results"
TABLES = {"tabletop": ("random", "mae"), "tabletop-budget": ("0",)}
"""Kept suites, and whom each encoder is compared with in docs/results.md."""
PRETRAINED = ("rsp", "mae", "siam-mae", "tobo", "vjepa")
CARD = "rsp_robot/boxed/small/README.md"


@cache
def table_of(name: str) -> Table:
    return compare(read_arms([str(KEPT / name)], None, []), against=TABLES[name])


def read(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8").replace(" points [", " [")


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_computed_from_its_rows(name: str) -> None:
    shown = read("docs/results.md")
    for part in to_markdown(table_of(name)).split("\n\n"):
        assert part.strip() in shown, f"docs/results.md lacks\n{part}"


@pytest.mark.parametrize(
    ("document", "a", "b"),
    [
        ("README.md", "rsp", "random"),
        ("README.md", "rsp", "mae"),
        ("README.md", "vjepa", "random"),
        (CARD, "rsp", "random"),
    ],
)
def test_a_difference_in_a_sentence_is_computed_from_the_rows(document: str, a: str, b: str) -> None:
    (found,) = (pair.difference for pair in table_of("tabletop").pairs if (pair.a, pair.b) == (a, b))
    assert f"{points(found.value)} {points_interval(found.interval)}" in read(document)


@pytest.mark.parametrize("name", [*PRETRAINED, "random"])
def test_a_mean_in_the_card_is_computed_from_the_rows(name: str) -> None:
    (arm,) = (arm for arm in table_of("tabletop").arms if arm.name == name)
    assert aggregate_text(arm, "mean") in read(CARD)


@pytest.mark.parametrize("name", PRETRAINED)
def test_the_judged_encoders_are_those_in_the_box_and_in_the_repository(name: str) -> None:
    judged = read_json(KEPT / "tabletop" / "suite.json")["encoders"][name]
    kept = "rsp-robot/small" if name == "rsp" else str(KEPT / "encoders" / name)
    assert judged["fingerprint"] == FrozenEncoder.load(kept).fingerprint
