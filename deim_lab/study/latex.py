"""Escape text for pdflatex, so that it prints as it reads, without a package.

``SIGNS`` is the one table of signs. Accents, superscripts and subscripts are composed. A sign that
is still left over is a ``ConfigError``, because pdflatex would stop at it.
"""

from __future__ import annotations

import unicodedata

from deim_lab.errors import ConfigError

# Letters from alpha to omega. Those with one letter look like Latin ones and have no command.
_GREEK = (
    *("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa"),
    *("lambda", "mu", "nu", "xi", "o", "pi", "rho", "varsigma", "sigma", "tau", "upsilon"),
    *("phi", "chi", "psi", "omega"),
)
_GREEK_CAPITALS = (
    *("A", "B", "Gamma", "Delta", "E", "Z", "H", "Theta", "I", "K", "Lambda", "M", "N", "Xi"),
    *("O", "Pi", "P", "", "Sigma", "T", "Upsilon", "Phi", "X", "Psi", "Omega"),
)

# Signs of mathematics, by the name of their command in math mode.
_MATHEMATICS = {
    "pm": "±",
    "mp": "∓",
    "times": "×",
    "div": "÷",
    "cdot": "·⋅",
    "geq": "≥⩾",
    "leq": "≤⩽",
    "gg": "≫",
    "ll": "≪",
    "neq": "≠",
    "approx": "≈",
    "equiv": "≡",
    "sim": "∼",
    "simeq": "≃",
    "propto": "∝",
    "infty": "∞",
    "partial": "∂",
    "nabla": "∇",
    "sum": "∑",
    "prod": "∏",
    "int": "∫",
    "surd": "√✓✔",
    "in": "∈",
    "notin": "∉",
    "cup": "∪",
    "cap": "∩",
    "subset": "⊂",
    "subseteq": "⊆",
    "emptyset": "∅",
    "forall": "∀",
    "exists": "∃",
    "neg": "¬",
    "wedge": "∧",
    "vee": "∨",
    "oplus": "⊕",
    "otimes": "⊗",
    "perp": "⊥",
    "parallel": "∥",
    "|": "‖",
    "langle": "⟨",
    "rangle": "⟩",
    "lfloor": "⌊",
    "rfloor": "⌋",
    "lceil": "⌈",
    "rceil": "⌉",
    "rightarrow": "→⟶",
    "leftarrow": "←⟵",
    "leftrightarrow": "↔",
    "uparrow": "↑",
    "downarrow": "↓",
    "Rightarrow": "⇒",
    "Leftarrow": "⇐",
    "Leftrightarrow": "⇔",
    "mapsto": "↦",
    "ell": "ℓ",
    "hbar": "ℏ",
    "Re": "ℜ",
    "Im": "ℑ",
    "aleph": "ℵ",
    "ast": "∗",
    "star": "★☆⋆",
    "bullet": "•●∙",
    "circ": "∘○",
    "diamond": "◇⋄",
    "triangle": "△",
    "prime": "′",
    "angle": "∠",
    "cdots": "⋯",
    "vdots": "⋮",
    "mu": "µ",
    "epsilon": "ϵ",
    "vartheta": "ϑ",
    "varphi": "ϕ",
    "varpi": "ϖ",
    "varrho": "ϱ",
}

SIGNS: dict[str, str] = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",
    "*": "{*}",  # after \\ LaTeX would read [ and * as arguments
    "`": r"\textasciigrave{}",
    "−": "$-$",
    "–": "--",
    "—": "---",
    "‐": "-",
    "‑": "-",
    "⁄": "/",
    "…": r"\ldots{}",
    "²": "$^2$",
    "³": "$^3$",
    "¹": "$^1$",
    "°": r"$^\circ$",
    "″": "$''$",
    "½": r"$\frac{1}{2}$",
    "¼": r"$\frac{1}{4}$",
    "¾": r"$\frac{3}{4}$",
    "“": "``",
    "”": "''",
    "„": "''",
    "‘": r"\textquoteleft{}",
    "’": r"\textquoteright{}",
    "†": r"\dag{}",
    "‡": r"\ddag{}",
    "€": r"\texteuro{}",
    "‰": r"\textperthousand{}",
    "✗": r"$\times$",
    "✘": r"$\times$",
    **{sign: rf"$\{name}$" for name, signs in _MATHEMATICS.items() for sign in signs},
    **{
        chr(ord("α") + place): rf"$\{name}$" if len(name) > 1 else name
        for place, name in enumerate(_GREEK)
    },
    **{
        chr(ord("Α") + place): rf"$\{name}$" if len(name) > 1 else name
        for place, name in enumerate(_GREEK_CAPITALS)
        if name
    },
}

# Commands of accents, by the combining sign.
_ACCENTS = {
    "\u0300": r"\`",
    "\u0301": r"\'",
    "\u0302": r"\^",
    "\u0303": r"\~",
    "\u0304": r"\=",
    "\u0306": r"\u",
    "\u0307": r"\.",
    "\u0308": r"\"",
    "\u030a": r"\r",
    "\u030b": r"\H",
    "\u030c": r"\v",
    "\u0323": r"\d",
    "\u0326": r"\textcommabelow",
    "\u0327": r"\c",
    "\u0328": r"\k",
    "\u0331": r"\b",
}
_LATIN = "\u017f"  # LaTeX reads letters up to this one as they are


def escape(text: str) -> str:
    """``text`` as LaTeX; runs of white space become one space.

    Raises ``ConfigError`` for a sign without LaTeX.
    """
    composed = unicodedata.normalize("NFC", " ".join(text.split()))
    return "".join(_sign(sign, text) for sign in composed)


def _sign(sign: str, text: str) -> str:
    """LaTeX of one sign of ``text``."""
    if sign in SIGNS:
        return SIGNS[sign]
    if sign.isascii() or (sign.isalpha() and sign <= _LATIN):
        return sign
    if unicodedata.category(sign) == "Cf" or "\ufe00" <= sign <= "\ufe0f":
        return ""  # nothing to see
    kind, _, parts = unicodedata.decomposition(sign).rpartition("> ")
    simpler = "".join(chr(int(part, 16)) for part in parts.split())
    if kind in ("<super", "<sub"):
        inner = "".join(_sign(part, text) for part in simpler)
        return rf"\text{kind[1:]}script{{{inner}}}"
    if kind:  # another form of the same signs: fullwidth, ligature, bold
        return "".join(_sign(part, text) for part in simpler)
    if len(simpler) == 2 and simpler[1] in _ACCENTS:
        return f"{_ACCENTS[simpler[1]]}{{{_sign(simpler[0], text)}}}"
    if len(simpler) == 1:
        return _sign(simpler, text)
    if "\xa0" <= sign <= "\xff":  # such as ©, £ and §
        return sign
    name = unicodedata.name(sign, "no name")
    raise ConfigError(
        f"{text!r} has the sign {sign!r} (U+{ord(sign):04X}, {name}). LaTeX cannot print it with "
        f"booktabs alone. Rename it in the table, or write the table with to_markdown."
    )
