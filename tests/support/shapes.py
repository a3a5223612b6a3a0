"""The check of the shapes that annotations state, in tests only (``conftest``)."""

from __future__ import annotations

from beartype import BeartypeConf, beartype

# Modules whose annotated shapes are checked at every call. Not detector.attention
# and detector.queries: an export traces them with sizes that are tensors.
CHECKED = (
    "deim_lab.boxes",
    "deim_lab.structures",
    "deim_lab.losses",
    "deim_lab.matching",
    "deim_lab.detector.edges",
)

# An int is a float, as mypy has it.
typechecker = beartype(conf=BeartypeConf(is_pep484_tower=True))
