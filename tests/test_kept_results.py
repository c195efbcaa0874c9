"""The tables in the documents are what the kept rows say, to the last digit."""

from __future__ import annotations

from pathlib import Path

import pytest

from rsp_robot.encoder import FrozenEncoder
from rsp_robot.experiments.compare import compare
from rsp_robot.experiments.compare_files import read_arms
from rsp_robot.experiments.compare_markdown import to_markdown
from rsp_robot.files import read_json

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / "docs" / "results"
TABLES = {"tabletop": ("random", "mae"), "tabletop-budget": ("0",)}
"""Kept suites, and whom each encoder is compared with in docs/results.md."""


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_computed_from_its_rows(name: str) -> None:
    table = compare(read_arms([str(KEPT / name)], None, []), against=TABLES[name])
    shown = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    for part in to_markdown(table).split("\n\n"):
        assert part.strip() in shown, f"docs/results.md lacks\n{part}"


@pytest.mark.parametrize("name", ["rsp", "mae", "siam-mae", "tobo", "vjepa"])
def test_the_judged_encoders_are_those_in_the_box_and_in_the_repository(name: str) -> None:
    judged = read_json(KEPT / "tabletop" / "suite.json")["encoders"][name]
    kept = "rsp-robot/small" if name == "rsp" else str(KEPT / "encoders" / name)
    assert judged["fingerprint"] == FrozenEncoder.load(kept).fingerprint
