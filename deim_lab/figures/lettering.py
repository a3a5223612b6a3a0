"""Show text of data in a figure as it is: never as a formula, in any script.

Names of classes, files, runs and arms come from users. A "$" in them starts no formula. Signs that
the paper's font lacks are drawn with an installed font that has them. Without such a font, the sign
is written as its code, for example ``\\u7ec6``.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterable, Sequence

from matplotlib import font_manager
from matplotlib.artist import Artist
from matplotlib.figure import FigureBase
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text

# Searched first, because they have all signs of their scripts in one style.
_PREFERRED = ("Noto Sans", "Source Han Sans", "WenQuanYi", "Droid Sans Fallback")
_PRINTABLE = re.compile(r"[ -~\n]*")  # signs that every font has
_NO_LETTERS = "Last Resort"  # a font of boxes


def as_text(artist: Artist) -> None:
    """Make the text of an artist plain text, except formulas that somebody set before."""
    for text in artist.findobj(Text):
        if isinstance(text, Text) and "$" not in text.get_text():
            text.set_parse_math(False)


def complete(fig: FigureBase) -> None:
    """Give every text of a figure the fonts for its signs, or codes for signs without a font."""
    for text in fig.findobj(Text):
        if isinstance(text, Text) and not _PRINTABLE.fullmatch(text.get_text()):
            _complete(text)


def _complete(text: Text) -> None:
    families = list(text.get_fontfamily())
    signs = frozenset(sign for sign in text.get_text() if not _PRINTABLE.fullmatch(sign))
    absent = signs - _signs(font_manager.findfont(text.get_fontproperties()))
    if not absent:
        return
    fonts = _fonts_for(absent)
    fresh = [name for name in fonts if name not in families]
    if fresh:
        text.set_fontfamily([*families, *fresh])
    drawn = frozenset().union(*(_signs(path) for path in _paths(fonts)))
    codes = {ord(sign): _code(sign) for sign in absent - drawn}
    if codes:
        text.set_text(text.get_text().translate(codes))


def _code(sign: str) -> str:
    """``\\u7ec6`` for a letter, a space for a control sign, nothing for an invisible sign."""
    if unicodedata.category(sign) == "Cc":
        return " "
    if unicodedata.category(sign) == "Cf" or "\ufe00" <= sign <= "\ufe0f":
        return ""
    return sign.encode("ascii", "backslashreplace").decode("ascii")


@functools.cache
def _fonts_for(signs: frozenset[str]) -> tuple[str, ...]:
    """Names of installed fonts that together have as many of ``signs`` as can be."""
    names: list[str] = []
    absent = set(signs)
    while absent:
        name, covered = _best(absent)
        if not covered:
            break
        names.append(name)
        absent -= covered
    return tuple(names)


def _best(signs: Iterable[str]) -> tuple[str, frozenset[str]]:
    """The installed font with most of ``signs``, and those signs."""
    best: tuple[str, frozenset[str]] = ("", frozenset())
    for name, path in _installed():
        covered = _signs(path) & frozenset(signs)
        if len(covered) > len(best[1]):
            best = (name, covered)
    return best


@functools.cache
def _installed() -> tuple[tuple[str, str], ...]:
    """Name and path of each upright, regular font of this machine; preferred ones first."""
    regular: dict[str, str] = {}
    for entry in font_manager.fontManager.ttflist:
        if entry.style == "normal" and not entry.name.startswith(_NO_LETTERS):
            regular.setdefault(entry.name, font_manager.findfont(entry.name))
    order = sorted(regular, key=lambda name: (not name.startswith(_PREFERRED), name))
    return tuple((name, regular[name]) for name in order)


def _paths(names: Sequence[str]) -> list[str]:
    return [path for name, path in _installed() if name in names]


@functools.cache
def _signs(path: str) -> frozenset[str]:
    """Every sign that a font file can draw; none for bitmaps, such as coloured emoji."""
    try:
        font = FT2Font(path)
    except (OSError, RuntimeError):
        return frozenset()
    return frozenset(map(chr, font.get_charmap())) if font.scalable else frozenset()
