"""``rsp-robot digits``: what objectives learn from moving digits, of which everything is known."""

from __future__ import annotations

from pathlib import Path

from rsp_robot.experiments.digits.experiment import DigitsConfig, digits


def run_digits(config: DigitsConfig) -> Path:
    """Train, judge and draw; return the picture.

    Raises:
        UserError: a package is missing, or the folder holds something else.
    """
    return digits(config)
