"""Corpora by name, one short file each: demonstrations of many tasks to pretrain an encoder on.

A file holds ``CORPUS`` and ``QUICK``, the same shrunk to a minute; its header says source, command, cost and contents.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from rsp_robot.errors import unknown_name
from rsp_robot.experiments.corpora.corpus import Corpus, Part

CORPORA = tuple(sorted(module.name.replace("_", "-") for module in iter_modules(__path__) if module.name != "corpus"))

__all__ = ["CORPORA", "Corpus", "Part", "find_corpus"]


def find_corpus(name: str, quick: bool = False) -> Corpus:
    """Return the corpus called ``name``, or its quick version.

    >>> len(find_corpus("tabletop").tasks)
    51

    Raises:
        UserError: there is none of that name.
    """
    if name not in CORPORA:
        raise unknown_name("corpus", name, CORPORA)
    module = import_module(f"{__name__}.{name.replace('-', '_')}")
    found: Corpus = module.QUICK if quick else module.CORPUS
    return found
