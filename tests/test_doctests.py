"""The examples in docstrings say what is true."""

from __future__ import annotations

import doctest
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("rsp_robot", "envs", "pretrain", "policies", "experiments")


def modules_with_examples() -> list[str]:
    found = []
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if ">>>" in path.read_text(encoding="utf-8"):
                parts = [part for part in path.relative_to(ROOT).with_suffix("").parts if part != "__init__"]
                found.append(".".join(parts if folder == "rsp_robot" else ["rsp_robot", *parts]))
    return found


@pytest.mark.parametrize("name", modules_with_examples())
def test_examples(name: str) -> None:
    result = doctest.testmod(import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.attempted > 0
    assert result.failed == 0
