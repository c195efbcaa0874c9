"""Options of a verb: read by tyro, and a mistake in them told like any other, in one line."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from io import StringIO
from typing import Any

from rsp_robot.errors import UserError

_FRAME = "╭╮╰╯│─- "  # tyro draws with "-" alone where stdout is not UTF-8
_HELP_INDENT = 8  # tyro puts an option at 5 or 6 columns and its help text 4 further


def parse_options(
    config: Callable[..., Any], options: Sequence[str], prog: str, description: str, default: Any = None
) -> Any:
    """Return the config that ``options`` describe.

    Args:
        config: a dataclass; its fields are the options and their docstrings the help text.
        options: the words after the verb.
        prog: what the help text calls the command.
        description: what the help text begins with.
        default: an instance that the options change; None leaves the dataclass's own defaults. Its types count: a field
            declared as a base class takes the options of the subclass found in it.

    Raises:
        UserError: the options do not fit the dataclass.
        SystemExit: ``--help`` was among them, and was printed.
    """
    import tyro

    said = StringIO()
    try:
        with redirect_stderr(said):
            start = {} if default is None else {"default": default}
            try:
                return tyro.cli(config, args=list(options), prog=prog, description=description, **start)
            finally:
                sys.stdout.flush()  # here, where a closed pipe is caught; at the exit it would be an error
    except BrokenPipeError:  # who read the help has seen enough: rsp-robot bc --help | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None
    except SystemExit as leaving:
        if not leaving.code:
            raise
        raise UserError(f"{first_words(said.getvalue())}; see {prog} --help") from None


def first_words(panel: str) -> str:
    """Flatten tyro's error panel into one line, without the help texts it repeats.

    >>> first_words('''╭─ Unrecognized options ──────────╮
    ... │ Unrecognized options: --sed, 4  │
    ... │ ─────────────────────────────── │
    ... │ Perhaps you meant:              │
    ... │     --seed INT                  │
    ... │         Seed of the first one.  │
    ... │ ─────────────────────────────── │
    ... │ For full helptext, run x --help │
    ... ╰─────────────────────────────────╯''')
    'unrecognized options: --sed, 4; perhaps you meant: --seed INT'
    """
    title, *body = panel.splitlines() or [""]
    sections: list[list[str]] = [[]]
    for line in body or [title]:
        inner = line.removeprefix("│").removesuffix("│").rstrip()
        if not inner.strip(_FRAME):
            sections.append([])
        elif len(inner) - len(inner.lstrip()) < _HELP_INDENT:
            sections[-1].append(inner.strip())
    texts = [" ".join(lines) for lines in sections if lines]
    kept = [text for text in texts if not text.startswith(("For full helptext", "Argument helptext"))]
    return "; ".join(text[0].lower() + text[1:] for text in kept) or "these options do not fit"
