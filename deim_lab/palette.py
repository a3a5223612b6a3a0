"""Every colour and dash pattern of the lab, by meaning. Nothing here draws.

Most colours are from Okabe and Ito, then from Tol. They are distinct for readers with any common
colour blindness.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import count
from typing import Any

# Okabe and Ito.
ORANGE, SKY, GREEN, YELLOW = "#E69F00", "#56B4E9", "#009E73", "#F0E442"
BLUE, VERMILION, PINK, GREY = "#0072B2", "#D55E00", "#CC79A7", "#6F6F6F"
# Tol.
WINE, TEAL, OLIVE, INDIGO = "#882255", "#44AA99", "#999933", "#332288"
PURPLE, FOREST, MAROON = "#AA4499", "#117733", "#661100"

INK, FAINT = "#222222", "#D9D9D9"  # text and lines · grids and background
PALE_GREY = "#BBBBBB"  # items that are neither a method nor a term of the loss
NOTE, DARK_NOTE = "#888888", "#777777"  # a sentence instead of an empty panel
NOT_SIGNIFICANT = "#8A8A8A"
BAND = "#F5F5F5"  # every second row of a drawn table
ASSIGNED = "#FF3B30"  # marks of assignments on a cost matrix
REPORTED, MEASURED = "#4477AA", "#EE6677"  # published numbers · numbers of this lab's runs (Tol)

METHODS: Mapping[str, str] = {
    "plain": GREY,
    "mosaic": ORANGE,
    "mixup": SKY,
    "dense": BLUE,
    "vfl": VERMILION,
    "mal": GREEN,
    "focal": PINK,
}
OTHERS: tuple[str, ...] = (WINE, TEAL, OLIVE, INDIGO, PURPLE, FOREST, MAROON)  # for other arms
CLASSES: tuple[str, ...] = (
    ORANGE,
    SKY,
    GREEN,
    YELLOW,
    BLUE,
    VERMILION,
    PINK,
    WINE,
    TEAL,
    OLIVE,
    INDIGO,
    PURPLE,
)
DETECTORS: tuple[str, ...] = (BLUE, ORANGE, GREEN, VERMILION, SKY, PINK, GREY, *OTHERS)

# Dash pattern of each method, for grey prints.
DASHES: Mapping[str, Any] = {"plain": (0, (4, 2)), "vfl": (0, (4, 2)), "focal": (0, (1, 1.5))}

# Terms of the loss and stages of a step don't use the colours of methods.
TERMS: Mapping[str, str] = {
    "class": INK,
    "l1": WINE,
    "giou": TEAL,
    "fgl": OLIVE,
    "ddf": INDIGO,
    "denoising": PALE_GREY,
}
STAGES: Mapping[str, str] = {
    "data": PALE_GREY,
    "forward": INDIGO,
    "match": WINE,
    "loss": OLIVE,
    "backward": TEAL,
    "step": PURPLE,
}
# Phases of a run, by ``Phase``'s values.
PHASES: Mapping[str, str] = {
    "warm_up": "#BDBDBD",
    "dense": BLUE,
    "plain": "#8FBFDC",
    "clean": "#E3E3E3",
}
CLEAN_SWITCH = "#C9C9C9"  # operations that stay on in the clean phase; darker than the phase

# Ramps: the stops of a continuous scale, in order.
QUALITY_RAMP = (VERMILION, ORANGE, SKY, BLUE)  # IoU of a match, from poor to good
EPOCH_RAMP = ("#BFD7EA", BLUE, "#08213B")  # light to dark
LEVEL_RAMP = (ORANGE, VERMILION, WINE, INDIGO)  # from the encoder to the last decoder layer

_ALIASES = {
    "both": "dense",
    "deim": "dense",
    "dense o2o": "dense",
    "plain d-fine": "plain",
    "d-fine": "plain",
    "baseline": "plain",
}
# An arm has the colour of a method only if it changes this method alone. DEIM changes two methods
# and has a colour of its own.
_ARMS = {
    "dense o2o": "dense",
    "mal": "mal",
    "plain": "plain",
    "plain d-fine": "plain",
    "vfl": "vfl",
    "mosaic": "mosaic",
    "mixup": "mixup",
}
_MATCHINGS = {"one-to-one": METHODS["plain"], "dense": METHODS["dense"]}
_COMPARATORS = {"SimOTA": OTHERS[0], "groups": OTHERS[1]}


# Added methods (``config.entries``): name → colour and dashes.
_ADDED: dict[str, tuple[str, Any]] = {}
_FURTHER_DASHES = ((0, (6, 1, 1, 1)), (0, (3, 1, 1, 1, 1, 1)), (0, (8, 2)))


def add(name: str, tint: str | None = None) -> None:
    """Set the colour of an added method and its dashes; None: the next colour of ``OTHERS``."""
    position = list(_ADDED).index(name) if name in _ADDED else len(_ADDED)
    dashes_of_it = _FURTHER_DASHES[position % len(_FURTHER_DASHES)]
    _ADDED[name] = (tint or OTHERS[position % len(OTHERS)], dashes_of_it)


def remove(name: str) -> None:
    """Forget the colour of an added method."""
    _ADDED.pop(name, None)


def colour(name: str, position: int = 0) -> str:
    """The colour of a method; another name gets a colour by position.

    Methods are ``plain``, ``mosaic``, ``mixup``, ``dense``/``DEIM``, ``vfl``, ``mal``, ``focal``
    and added methods.
    """
    method = _method(name)
    if method in METHODS:
        return METHODS[method]
    return _ADDED[method][0] if method in _ADDED else OTHERS[position % len(OTHERS)]


def colours(names: Iterable[str]) -> dict[str, str]:
    """A colour for each name: methods have fixed colours, other names get colours in order.

    No colour of ``OTHERS`` repeats before all are used.
    """
    result: dict[str, str] = {}
    others_used = 0
    for name in names:
        result[name] = colour(name, others_used)
        others_used += _method(name) not in METHODS and _method(name) not in _ADDED
    return result


def dashes(name: str) -> Any:
    """The line style of a method."""
    method = _method(name)
    if method in _ADDED and method not in METHODS:
        return _ADDED[method][1]
    return DASHES.get(method, "-")


def arms(names: Iterable[str]) -> dict[str, str]:
    """A distinct colour for each arm: the colour of its method, if it has one."""
    result: dict[str, str] = {}
    for name in names:
        method_colour = METHODS.get(_ARMS.get(name.strip().lower(), ""))
        free = [
            tint
            for tint in (method_colour, *OTHERS, *METHODS.values())
            if tint is not None and tint not in result.values()
        ]
        result[name] = free[0] if free else OTHERS[len(result) % len(OTHERS)]
    return result


def matchings(names: Iterable[str]) -> dict[str, str]:
    """A colour for each kind of matching: one-to-one as plain, Dense O2O as in other figures."""
    return {
        name: _matching(name, OTHERS[position % len(OTHERS)])
        for name, position in zip(names, count(len(_COMPARATORS)), strict=False)
    }


def of_class(label: int) -> str:
    """The colour of a class, by its index."""
    return CLASSES[label % len(CLASSES)]


def ink_on(ground: str, *, light_from: float = 120) -> str:
    """The text colour on a ground: black on a light ground, white on a dark ground.

    Args:
        ground: ``#RRGGBB``.
        light_from: a ground with a luma above this is light; in [0, 255].
    """
    red, green, blue = (int(ground[start : start + 2], 16) for start in (1, 3, 5))
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > light_from else "white"


def _method(name: str) -> str:
    lowered = name.strip().lower()
    return _ALIASES.get(lowered, lowered)


def _matching(name: str, other: str) -> str:
    for start, tint in _MATCHINGS.items():
        if name.lower().startswith(start):
            return tint
    for part, tint in _COMPARATORS.items():
        if part in name:
            return tint
    return other
