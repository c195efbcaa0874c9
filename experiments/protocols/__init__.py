"""Evaluation protocols by name, one short file each: its header says source, command, cost, and what to expect.

A file holds ``PROTOCOL`` and ``QUICK``, the same shrunk to minutes. What of an original cannot be had, its header says.
"""

from __future__ import annotations

from importlib import import_module

from rsp_robot.errors import unknown_name
from rsp_robot.experiments.protocols.protocol import Protocol, ProtocolTask, from_plain, to_collect

PROTOCOLS = (
    "honest",
    "objectives",
    "tabletop",
    "cortexbench-metaworld",
    "cortexbench-dmc",
    "cortexbench-adroit",
    "franka-kitchen",
)

__all__ = ["PROTOCOLS", "Protocol", "ProtocolTask", "find_protocol", "from_plain", "read_header", "to_collect"]


def find_protocol(name: str, quick: bool = False) -> Protocol:
    """Return the protocol called ``name``, or its quick version.

    >>> find_protocol("cortexbench-metaworld").evaluations
    20

    Raises:
        UserError: there is none of that name.
    """
    module = import_module(_module(name))
    found: Protocol = module.QUICK if quick else module.PROTOCOL
    return found


def read_header(name: str) -> str:
    """Return the header of a protocol's file: source, command, hardware, hours, expected numbers, differences.

    Raises:
        UserError: there is none of that name.
    """
    return import_module(_module(name)).__doc__ or ""


def _module(name: str) -> str:
    if name not in PROTOCOLS:
        raise unknown_name("protocol", name, PROTOCOLS)
    return f"{__name__}.{name.replace('-', '_')}"
