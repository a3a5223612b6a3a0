"""List the GPUs of this process without torch, which would take memory on each GPU."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence

from deim_lab.errors import ConfigError

ASK_SECONDS = 20
NONE = "NoDevFiles"  # value that Slurm sets for a job without a GPU


def parse(listed: str | Sequence[str]) -> tuple[str, ...]:
    """Parse GPU ids such as ``0,1`` or ``["0", "1"]``; ``none`` and ``[]`` give no ids.

    Raises:
        ConfigError: an id is empty, repeated or names no GPU. A run with such an id would train
            on the CPU.
    """
    if listed == "none":
        return ()
    entries = listed.split(",") if isinstance(listed, str) else list(listed)
    ids = tuple(str(entry).strip() for entry in entries)
    fault = _fault(ids)
    if fault is not None:
        value = listed if isinstance(listed, str) else entries
        raise ConfigError(
            f"gpus {value!r}: {fault}. Expected the id of each GPU once, such as `0,1`. "
            "Give such a list, or leave it out to use every visible GPU."
        )
    return ids


def _fault(ids: Sequence[str]) -> str | None:
    """The fault of a list of ids, or None."""
    for position, gpu in enumerate(ids):
        if not gpu:
            return f"entry {position + 1} of {len(ids)} is empty"
        if gpu in ("-1", "none", NONE):
            return f"{gpu!r} names no GPU"
        if gpu in ids[:position]:
            return f"{gpu!r} is listed twice"
    return None


def given() -> tuple[str, ...] | None:
    """The distinct ids in ``CUDA_VISIBLE_DEVICES``; None if the variable is not set.

    A -1 hides all ids after it.
    """
    variable = os.environ.get("CUDA_VISIBLE_DEVICES")
    if variable is None:
        return None
    listed = list(dict.fromkeys(item.strip() for item in variable.split(",")))
    end = listed.index("-1") if "-1" in listed else len(listed)
    return tuple(item for item in listed[:end] if item and item != NONE)


def visible() -> tuple[str, ...]:
    """Ids of the visible GPUs, for ``CUDA_VISIBLE_DEVICES``; empty without a GPU.

    They come from ``CUDA_VISIBLE_DEVICES`` if it is set, else from ``nvidia-smi``.
    """
    if (listed := given()) is not None:
        return listed
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ()
    try:
        answer = subprocess.run(
            [tool, "--query-gpu=index", "--format=csv,noheader"],
            capture_output=True,
            encoding="utf-8",
            check=True,
            timeout=ASK_SECONDS,
        )
    except (OSError, subprocess.SubprocessError):  # a driver without a card
        return ()
    return tuple(line.strip() for line in answer.stdout.splitlines() if line.strip().isdigit())
