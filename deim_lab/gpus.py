"""The GPUs that a sweep may hand out, without asking torch: a process that asks it holds memory on each."""

from __future__ import annotations

import os
import shutil
import subprocess

ASK_SECONDS = 20


def visible() -> tuple[str, ...]:
    """Ids as ``CUDA_VISIBLE_DEVICES`` takes them: its own where it is set, else those that ``nvidia-smi`` lists; empty without a GPU."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        listed = [item.strip() for item in given.split(",")]
        return tuple(listed[: listed.index("-1")] if "-1" in listed else [item for item in listed if item])
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ()
    try:
        answer = subprocess.run([tool, "--query-gpu=index", "--format=csv,noheader"], capture_output=True, text=True, check=True, timeout=ASK_SECONDS)
    except (OSError, subprocess.SubprocessError):  # a driver without a card
        return ()
    return tuple(line.strip() for line in answer.stdout.splitlines() if line.strip().isdigit())
