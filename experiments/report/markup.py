"""Small helpers for writing HTML and SVG by hand: escaped tags, axis ticks, the colours of the arms."""

from __future__ import annotations

import math
import re
from html import escape

ARM_COLOURS = (
    ("#1f67c9", "#74b0ff"),
    ("#c96a00", "#ffb454"),
    ("#6a7380", "#a9b2be"),
    ("#4a0a10", "#d23a47"),
    ("#27124b", "#9f2efb"),
)
"""(light scheme, dark scheme) per arm, in order; more arms than colours begin again. They stay apart (a CIELAB distance
above 20) for readers without red, green or blue cones, and have a contrast of at least 3 to the page; tests hold both.
"""

_TOGETHER = re.compile(r" %|(?<=\d) points| ?\[[+\u2212\d]+, [+\u2212\d]+\]|p [=<] ")


def arm_class(index: int) -> str:
    """CSS class that gives an element the colour of the arm at ``index`` as ``var(--arm)``."""
    return f"arm-{index % len(ARM_COLOURS)}"


def line_class(index: int) -> str:
    """CSS classes of the line of the arm at ``index``: its colour, and a dash where the colours begin again."""
    dash = ("", "second", "third")[index // len(ARM_COLOURS) % 3]
    return f"{arm_class(index)} {dash}".strip()


def arm_styles() -> str:
    """CSS rules that define the colours of the arms, for both colour schemes."""
    light = "".join(f".arm-{i}{{--arm:{light}}}" for i, (light, _) in enumerate(ARM_COLOURS))
    dark = "".join(f".arm-{i}{{--arm:{dark}}}" for i, (_, dark) in enumerate(ARM_COLOURS))
    return f"{light}\n@media screen and (prefers-color-scheme: dark){{{dark}}}"


def text(value: object) -> str:
    """Escape ``value`` for use as HTML text. Percent signs and short intervals stay on one line with their number."""
    kept = _TOGETHER.sub(lambda match: match[0].replace(" ", "\u00a0"), str(value))
    return escape(kept)


def tag(name: str, /, *content: str, **attributes: object) -> str:
    """An element. ``content`` is markup already; attribute values are escaped, ``class_`` and ``text_anchor`` renamed.

    >>> tag("p", text("a < b"), class_="note")
    '<p class="note">a &lt; b</p>'
    >>> tag("line", x1="5%", stroke_width=2)
    '<line x1="5%" stroke-width="2"></line>'
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_number(value), quote=True)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return f"<{name}{written}>" if name == "img" else f"<{name}{written}>{''.join(content)}</{name}>"


def _number(value: object) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def pct(share: float) -> str:
    """A share in [0, 1] as an SVG length: ``62%``."""
    return f"{100 * share:.3f}".rstrip("0").rstrip(".") + "%"


def nice_ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) inside ``[low, high]``, about ``count`` of them.

    >>> nice_ticks(0, 1.0)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    if not high > low:
        return [low]
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.75)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]


def short_number(value: float) -> str:
    """A number as it stands on an axis: at most three significant digits, ``k`` for thousands.

    >>> [short_number(x) for x in (0, 0.05, 1.234, 250, 2000, 1.5e-4)]
    ['0', '0.05', '1.23', '250', '2k', '1.5e-4']
    """
    size = abs(value)
    if size >= 1e6:
        return f"{value / 1e6:.3g}M"
    if size >= 1000:
        return f"{value / 1000:.3g}k"
    if 0 < size < 0.001:
        mantissa, exponent = f"{value:.2g}".split("e") if "e" in f"{value:.2g}" else f"{value:.1e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:.3g}"


def note(message: str) -> str:
    """A calm placeholder for something that is not there."""
    return tag("p", text(message), class_="note")
