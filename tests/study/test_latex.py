"""Signs for LaTeX: only what pdflatex prints without a package, or an error that names the sign."""

from __future__ import annotations

import string

import pandas as pd
import pytest

from deim_lab.errors import ConfigError
from deim_lab.study import latex
from deim_lab.study.tables import to_latex

GREEK = "αβγδεζηθικλμνξοπρςστυφχψωΓΔΘΛΞΠΣΥΦΨΩΑΒΕΖΗΙΚΜΝΟΡΤΧ"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("α = 0.25", r"$\alpha$ = 0.25"),
        ("β₁ 0.9", r"$\beta$\textsubscript{1} 0.9"),
        ("τ → 5", r"$\tau$ $\rightarrow$ 5"),
        ("λ_fgl", r"$\lambda$\_fgl"),
        ("Ω ο Α ς ε", r"$\Omega$ o A $\varsigma$ $\epsilon$"),
        ("10⁻³ xᵢ m²", r"10\textsuperscript{$-$}$^3$ x\textsubscript{i} m$^2$"),
        ("≈ ≠ ∞ ∑ ∈ ✓", r"$\approx$ $\neq$ $\infty$ $\sum$ $\in$ $\surd$"),
        ("‖x‖", r"$\|$x$\|$"),
        ("“a” ‘b’ — c", r"``a'' \textquoteleft{}b\textquoteright{} --- c"),
        ("café ß ø ł", "café ß ø ł"),
        ("cafe\u0301", "café"),  # as a Mac writes it
        ("ș ế ά", r"\textcommabelow{s} \'{ê} \'{$\alpha$}"),
        ("ﬁne ＡＢ", "fine AB"),
        ("µm 45° ±1", r"$\mu$m 45$^\circ$ $\pm$1"),
        ("a\u200bb\ufe0f", "ab"),
        ("© £ §", "© £ §"),
        ("½ ⅓", r"$\frac{1}{2}$ 1/3"),
    ],
)
def test_signs_as_latex(text: str, expected: str) -> None:
    assert latex.escape(text) == expected


def test_every_greek_letter_has_its_own_latex() -> None:
    made = [latex.escape(letter) for letter in GREEK]
    assert all(text.isascii() for text in made)
    commands = [text for text in made if text.startswith("$")]
    assert len(set(commands)) == len(commands) == 24 + 11
    assert all(text in string.ascii_letters for text in made if not text.startswith("$"))


def test_the_table_of_signs_is_ascii_and_in_balance() -> None:
    for sign, text in latex.SIGNS.items():
        assert text.isascii(), sign
        assert text.replace(r"\$", "").count("$") % 2 == 0, sign


@pytest.mark.parametrize("name", ["细胞", "日本", "ячейка", "🙂", "خلية", "a\ud800"])
def test_what_is_left_over_is_an_error_that_names_the_sign(name: str) -> None:
    frame = pd.DataFrame({"arm": ["plain", name], "AP": [0.5, 0.6]})
    with pytest.raises(ConfigError, match=r"U\+[0-9A-F]{4}") as raised:
        to_latex(frame)
    message = str(raised.value)
    assert "to_markdown" in message
    assert "LaTeX cannot print it" in message
    with pytest.raises(ConfigError):
        to_latex(pd.DataFrame({name: [1]}))
    with pytest.raises(ConfigError):
        to_latex(pd.DataFrame({"a": [1]}), caption=name)
