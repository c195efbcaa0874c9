"""Recipes for pretraining, one short file each: its header says what it is, what it costs and what to expect.

The file ``rsp_small.py`` is the preset ``rsp-small``; a new file is a new preset.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING

from rsp_robot.errors import unknown_name

if TYPE_CHECKING:
    from rsp_robot.pretrain.config import PretrainConfig

PRESETS = tuple(sorted(module.name.replace("_", "-") for module in iter_modules(__path__)))


def find_preset(name: str) -> PretrainConfig:
    """Return the configuration of a preset; its ``data`` and ``out`` are examples to replace.

    >>> find_preset("rsp-vits16-k400").batch_size
    1536

    Raises:
        UserError: there is none of that name.
    """
    if name not in PRESETS:
        raise unknown_name("preset", name, PRESETS)
    found: PretrainConfig = import_module(f"{__name__}.{name.replace('-', '_')}").CONFIG
    return found
