"""What the documents point at exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted(path for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")))
FILE = re.compile(r"`((?:rsp_robot|envs|pretrain|policies|experiments|tests|scripts|docs)/[\w./-]+\.\w+)`")
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_named_files_and_links_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    missing = [name for name in FILE.findall(text) if not (ROOT / name).exists()]
    missing += [link for link in LINK.findall(text) if not (document.parent / link).exists()]
    assert missing == []


def test_a_missing_file_would_be_seen() -> None:
    assert FILE.findall("see `envs/metaworld.py` and `demonstrations.hdf5`") == ["envs/metaworld.py"]
    assert LINK.findall("[a](docs/b.md) [c](https://d.e) ![f](g.svg#h)") == ["docs/b.md", "g.svg"]
