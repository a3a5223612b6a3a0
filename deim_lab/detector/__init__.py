"""The detector: backbone, encoder and decoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deim_lab.detector.backbones import BACKBONES, Backbone

__all__ = ["BACKBONES", "Backbone"]


def __getattr__(name: str) -> Any:
    """Import ``BACKBONES`` and ``Backbone`` on first use, to keep other modules independent."""
    if name in __all__:
        from deim_lab.detector import backbones

        return getattr(backbones, name)
    raise AttributeError(f"module 'deim_lab.detector' has no attribute {name!r}")
