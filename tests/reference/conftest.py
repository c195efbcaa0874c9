"""What the tests against published numbers share: the files, and how far a result may be off."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

Wrong = dict[str, Any]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test of ``test_<method>_reference.py`` that takes ``path`` with every ``<method>-*.npz`` there is."""
    if "path" not in metafunc.fixturenames:
        return
    method = metafunc.module.__name__.rpartition(".")[2].removeprefix("test_").removesuffix("_reference")
    folder: Path = metafunc.config.getoption("--reference-dir")
    files = sorted(folder.glob(f"{method}-*.npz"))
    if not files:
        raise pytest.UsageError(f"{folder} holds no {method}-*.npz; give --reference-dir a folder that does")
    metafunc.parametrize("path", files, ids=lambda path: path.stem)


def _relative_error(found: Any, expected: np.ndarray) -> float:
    """Largest deviation over the largest magnitude."""
    found = np.asarray(found.detach() if isinstance(found, torch.Tensor) else found)
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / max(np.abs(expected).max(), np.finfo(float).tiny))


@pytest.fixture
def wrong_outputs() -> Callable[[Mapping[str, Any], Mapping[str, np.ndarray], float], Wrong]:
    """Return a function of found and expected arrays and a tolerance: errors that are too large, by name."""

    def compare(found: Mapping[str, Any], expected: Mapping[str, np.ndarray], tolerance: float) -> Wrong:
        assert set(found) == set(expected), "an output has nothing to be compared with"
        errors = {name: _relative_error(found[name], expected[name]) for name in expected}
        return {name: error for name, error in errors.items() if not error <= tolerance}

    return compare


@pytest.fixture
def wrong_gradients() -> Callable[[Mapping[str, torch.nn.Parameter], Mapping[str, float], float], Wrong]:
    """Return a function of parameters, expected norms and a tolerance: found and expected norms that differ."""

    def compare(parameters: Mapping[str, torch.nn.Parameter], expected: Mapping[str, float], tolerance: float) -> Wrong:
        assert set(parameters) == set(expected), "a gradient has nothing to be compared with"
        norms = {name: 0.0 if p.grad is None else float(p.grad.norm()) for name, p in parameters.items()}
        # Where a gradient vanishes in exact arithmetic, rounding is all there is of it.
        floor = 1e-12 * max(expected.values())
        return {
            name: (norms[name], expected[name])
            for name in expected
            if not abs(norms[name] - expected[name]) <= tolerance * expected[name] + floor
        }

    return compare
