"""Encoders that come with the package: a folder each, loaded as ``rsp-robot/<name>`` without any network."""

from __future__ import annotations

from pathlib import Path

from rsp_robot.errors import unknown_name

PREFIX = "rsp-robot/"
"""What their specs begin with."""


def boxed_names() -> list[str]:
    """Return the specs of the encoders that there are, sorted.

    >>> boxed_names()
    ['rsp-robot/small']
    """
    return sorted(PREFIX + config.parent.name for config in Path(__file__).parent.glob("*/config.json"))


def boxed_encoder(spec: str) -> Path:
    """Return the encoder folder of a spec such as ``rsp-robot/small``.

    Raises:
        UserError: there is none of that name.
    """
    names = boxed_names()
    if spec not in names:
        raise unknown_name("encoder", spec, names)
    return Path(__file__).parent / spec.removeprefix(PREFIX)
