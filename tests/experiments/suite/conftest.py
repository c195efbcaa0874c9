"""What every test of a suite works on."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def material(toy_suite: Path, tmp_path: Path) -> ModuleType:
    """Record demonstrations of the toy suite in ``data/``; return ``suite_material.py``."""
    module = import_module("suite_material")  # beside the toy suite, which is on the import path in such a test
    module.demonstrate(tmp_path / "data")
    return module
