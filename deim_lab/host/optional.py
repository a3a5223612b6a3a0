"""Import optional packages; a missing package gives an error that names its extra."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from deim_lab.errors import MissingExtraError


def require(module: str, extra: str, purpose: str = "This") -> Any:
    """Import an optional module.

    Args:
        extra: the extra of this package that installs the module.
        purpose: what needs the module; the error begins with these words.

    Raises:
        MissingExtraError: the module can't be imported. The message says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise missing(module, extra=extra, purpose=purpose) from error


def is_installed(module: str) -> bool:
    """Whether a module can be found, without importing it."""
    return importlib.util.find_spec(module) is not None


def missing(module: str, *, extra: str, purpose: str) -> MissingExtraError:
    """The error of ``require``, to raise after a check with ``is_installed``."""
    package = module.partition(".")[0]
    return MissingExtraError(
        f"{purpose} needs the package {package}, which is not installed here. "
        f"Install it: pip install 'deim-lab[{extra}]'"
    )
