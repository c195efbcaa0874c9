"""Tables that a reader can sort: every cell knows the value it is sorted by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rsp_robot.experiments.report.markup import arm_class, tag, text


@dataclass(frozen=True)
class Cell:
    """One cell: its markup, and the number it is sorted by; without one it is sorted as text."""

    markup: str
    value: float | None = None


def cell(shown: object, value: float | None = None) -> Cell:
    """A cell of plain text; a bare number is sorted as such."""
    if value is None and isinstance(shown, int | float):
        value = float(shown)
    return Cell(text(shown), value)


def arm_cell(index: int, label: str) -> Cell:
    """The name of an arm with its colour."""
    name = tag("span", tag("span", class_="dot"), text(label), class_=f"arm-name {arm_class(index)}")
    return Cell(name)


def sortable_table(label: str, headings: Sequence[str], rows: Sequence[Sequence[Cell]], names: int = 1) -> str:
    """A table in a box that scrolls; the page's script makes buttons of its headings.

    Args:
        label: what the box is called by a screen reader.
        headings: of the columns.
        rows: one cell per column.
        names: so many columns at the left hold names: they are aligned left, the first is the heading of its row.
    """
    head = tag("thead", tag("tr", *(tag("th", text(heading), scope="col") for heading in headings)))
    body = []
    for row in rows:
        cells = [
            tag(
                "td" if number else "th",
                one.markup,
                data_value=None if one.value is None else f"{one.value:.12g}",
                **({} if number else {"scope": "row"}),
            )
            for number, one in enumerate(row)
        ]
        body.append(tag("tr", *cells))
    table = tag("table", head, tag("tbody", *body), class_="sortable" if names == 1 else f"sortable names-{names}")
    return tag("div", table, class_="table", tabindex=0, role="region", aria_label=text(label))
