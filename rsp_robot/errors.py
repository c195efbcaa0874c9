"""The one exception for mistakes a user can mend: a single line that names the cause and the fix."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """A mistake in the input or the set-up. ``str(error)`` is one line: the cause, then the fix.

    The command line prints it without a traceback and exits with status 2.
    """


class Preempted(Exception):  # noqa: N818 (not an error)
    """The process was asked to end (SIGTERM) and has saved what it had; ``str`` says what and how to go on."""


def unknown_name(kind: str, name: str, options: Iterable[str]) -> UserError:
    """Build the error for a name that is not registered, with the nearest ones that are.

    >>> str(unknown_name("task", "metaworld/pusk-v3", ["metaworld/push-v3", "robosuite/Lift"]))
    "unknown task 'metaworld/pusk-v3'; did you mean metaworld/push-v3?"
    >>> str(unknown_name("arch", "zzz", ["vit-tiny", "vit-small"]))
    "unknown arch 'zzz'; choose one of: vit-small, vit-tiny"
    """
    known = sorted(options)
    near = get_close_matches(name, known, n=3, cutoff=0.5)
    if near:
        return UserError(f"unknown {kind} {name!r}; did you mean {' or '.join(near)}?")
    shown = ", ".join(known[:8]) + (f" and {len(known) - 8} more" if len(known) > 8 else "")
    return UserError(f"unknown {kind} {name!r}; choose one of: {shown}")
