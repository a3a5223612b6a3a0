"""Optional packages: imported where used, one typed error where they lack."""

from __future__ import annotations

import json
import sys

import pytest

from deim_lab.errors import ConfigError, MissingExtraError
from deim_lab.host import optional


def test_what_is_installed_is_imported() -> None:
    assert optional.require("json", extra="export", purpose="This test") is json
    assert optional.is_installed("json")


@pytest.mark.parametrize("module", ["safetensors.torch", "no_such_package"])
def test_an_absent_package_names_its_use_the_extra_and_the_command(
    module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    says = (
        rf"^Reading it needs the package {module.partition('.')[0]}, which is not installed here\. "
        r"Install it: pip install 'deim-lab\[pretrained\]'$"
    )
    with pytest.raises(MissingExtraError, match=says) as caught:
        optional.require(module, extra="pretrained", purpose="Reading it")
    assert isinstance(caught.value, ConfigError)


def test_a_look_does_not_import() -> None:
    assert not optional.is_installed("no_such_package")
