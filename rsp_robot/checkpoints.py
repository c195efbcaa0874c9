"""Checkpoints of other projects, read without running anything that is pickled in them.

A ``.pth`` file is a pickle, and unpickling calls whatever functions it names. Here torch's restricted unpickler does
the reading, and of everything it does not know by itself it meets only classes of this module that do nothing: what a
file names is neither imported nor called. What such an object held is lost; weights and plain settings are not.

Before torch 2.10 that unpickler can be made to corrupt memory (CVE-2026-24747): prefer ``.safetensors`` from strangers.
"""

from __future__ import annotations

import hashlib
import os
import pickletools
import re
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from argparse import Namespace
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from struct import error as StructError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from rsp_robot.errors import UserError

WEIGHTS_KEYS = ("model", "state_dict")
WRAPPERS = ("module.", "_orig_mod.")
# torch refuses these whatever stands in for them; nothing that only holds weights names them.
REFUSED_MODULES = ("os", "posix", "nt", "sys")
# What reading damaged or made-up bytes can raise: the unpickler trusts its input to be well formed.
_UNREADABLE = (
    UnpicklingError,
    EOFError,
    RuntimeError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    AssertionError,
    ArithmeticError,
    MemoryError,
    StructError,
    zipfile.BadZipFile,
)
_LEGACY_PICKLES = 4  # magic number, protocol, machine, content


class Inert:
    """Stands for an object of a class that is not imported: takes anything, keeps nothing, does nothing."""

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


def _empty_dict(*_: object) -> dict[Any, Any]:
    """Stand for a dict of another kind; its items follow."""
    return {}


def _empty_list(*_: object) -> list[Any]:
    """Stand for a sequence of another kind; its items follow."""
    return []


_STANDS_FOR: dict[str, Callable[..., object]] = {
    "argparse.Namespace": Namespace,
    "types.SimpleNamespace": Namespace,
    "collections.defaultdict": _empty_dict,
    "collections.deque": _empty_list,
}


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a ``.safetensors`` file, or what ``torch.save`` wrote, onto the CPU without running any of it.

    Objects of unknown classes come back as :class:`Inert`.

    Returns:
        The file's mapping as it stands, such as ``{"model": weights, "args": Namespace, "epoch": 3}`` or the weights.

    Raises:
        UserError: the file is missing, damaged, no checkpoint, or names the operating system's functions.
    """
    file = Path(path)
    if not file.is_file():
        raise UserError(f"{file} is a folder; give a file" if file.is_dir() else f"{file} does not exist; check it")
    try:
        if file.suffix == ".safetensors":
            return dict(load_file(file))
        names = _unknown_globals(file)
        refused = sorted(name for name in names if name.partition(".")[0] in REFUSED_MODULES)
        if refused:
            raise UserError(f"{file} wants to call {refused[0]}, which no checkpoint needs; do not trust this file")
        with safe_globals([(_STANDS_FOR.get(name, Inert), name) for name in sorted(names)]):
            content = torch.load(file, map_location="cpu", weights_only=True)
    except (*_UNREADABLE, SafetensorError) as error:
        raise UserError(
            f"{file} is damaged or not a checkpoint that can be read safely ({_reason(error)}); download it again, "
            "or have its weights saved as .safetensors"
        ) from None
    if not isinstance(content, dict):
        raise UserError(f"{file} holds a {type(content).__name__} instead of weights by name; give a checkpoint")
    return content


def state_dict_of(content: Mapping[str, Any], source: str = "the checkpoint") -> dict[str, torch.Tensor]:
    """Return the weights of a checkpoint: under ``model`` or ``state_dict``, or the whole of it.

    What a wrapper put before every name (``module.`` of DistributedDataParallel, ``_orig_mod.`` of torch.compile) goes.

    Raises:
        UserError: it holds no weights; ``source`` is what the message calls it.
    """
    within = next((content[key] for key in WEIGHTS_KEYS if isinstance(content.get(key), Mapping)), content)
    state = {
        name: tensor.detach()
        for name, tensor in within.items()
        if isinstance(name, str) and isinstance(tensor, torch.Tensor)
    }
    if not state:
        keys = listed(str(key) for key in content) or "nothing"
        raise UserError(f"{source} holds no weights (found {keys}); give a checkpoint with weights by name")
    for wrapper in WRAPPERS:
        if all(name.startswith(wrapper) for name in state):
            state = {name.removeprefix(wrapper): tensor for name, tensor in state.items()}
    return state


def arguments_of(content: Mapping[str, Any]) -> dict[str, int | float | str | bool]:
    """Return the numbers, strings and switches that the checkpoint's program was called with (its ``args``)."""
    arguments = content.get("args")
    if isinstance(arguments, Namespace):
        arguments = vars(arguments)
    if not isinstance(arguments, Mapping):
        return {}
    return {
        name: value
        for name, value in arguments.items()
        if isinstance(name, str) and isinstance(value, (int, float, str, bool))
    }


def layout_difference(found: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> str | None:
    """Say in one line how the names and shapes of ``found`` differ from those of ``wanted``; None if they do not.

    >>> one, two = torch.zeros(1), torch.zeros(2)
    >>> layout_difference({"a": one, "b": one}, {"a": two, "c": one})
    'missing c; unexpected b; a is (1,) instead of (2,)'
    """
    parts = []
    if missing := listed(name for name in wanted if name not in found):
        parts.append(f"missing {missing}")
    if unexpected := listed(name for name in found if name not in wanted):
        parts.append(f"unexpected {unexpected}")
    shapes = [
        f"{name} is {tuple(found[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in found and found[name].shape != tensor.shape
    ]
    if shapes:
        parts.append(listed(shapes))
    return "; ".join(parts) or None


def file_sha256(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file in hex: which weights exactly were used."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unknown_globals(file: Path) -> set[str]:
    """Names ``module.name`` in the file's pickles that torch does not know, found without unpickling."""
    if zipfile.is_zipfile(file):
        return set(get_unsafe_globals_in_checkpoint(file))
    names = set()
    with open(file, "rb") as stream:  # written before torch 1.6, or so on request: pickles one after another
        for _ in range(_LEGACY_PICKLES):
            for opcode, argument, _position in pickletools.genops(stream):
                if opcode.name == "GLOBAL":
                    module, _, name = str(argument).partition(" ")
                    names |= {f"{module}.{name}", _modern_name(module, name)}
    return {name for name in names if not name.startswith(("torch.", "collections.OrderedDict"))}


def _modern_name(module: str, name: str) -> str:
    """Pickles of protocol 2 name the standard library as Python 2 did.

    >>> _modern_name("__builtin__", "getattr")
    'builtins.getattr'
    """
    module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
    return f"{module}.{name}"


def _reason(error: Exception) -> str:
    """The one telling clause of an error; torch wraps its own in advice that would have the file executed."""
    text = str(error)
    told = re.search(r"WeightsUnpickler error:\s*(.+)", text)
    first = told[1] if told else next(iter(text.splitlines()), "")
    return first.split(". ")[0].strip()[:120] or type(error).__name__


def listed(names: Iterable[str], shown: int = 3) -> str:
    """Name the first few, and say how many more there are.

    >>> listed("abcde")
    'a, b, c and 2 more'
    """
    every = list(names)
    return ", ".join(every[:shown]) + (f" and {len(every) - shown} more" if len(every) > shown else "")
