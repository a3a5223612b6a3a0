"""The GPUs of this process, without asking torch: a process that asks it holds memory on each."""

from __future__ import annotations

import os
import shutil
import subprocess

ASK_SECONDS = 20
NONE = "NoDevFiles"  # what Slurm sets for a job without a GPU


def given() -> tuple[str, ...] | None:
    """The ids in ``CUDA_VISIBLE_DEVICES``, up to a -1, which hides the rest; None where it is not set."""
    said = os.environ.get("CUDA_VISIBLE_DEVICES")
    if said is None:
        return None
    listed = [item.strip() for item in said.split(",")]
    return tuple(listed[: listed.index("-1")] if "-1" in listed else [item for item in listed if item and item != NONE])


def visible() -> tuple[str, ...]:
    """Ids as ``CUDA_VISIBLE_DEVICES`` takes them: its own where it is set, else those that ``nvidia-smi`` lists; empty without a GPU."""
    if (listed := given()) is not None:
        return listed
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ()
    try:
        answer = subprocess.run([tool, "--query-gpu=index", "--format=csv,noheader"], capture_output=True, text=True, check=True, timeout=ASK_SECONDS)
    except (OSError, subprocess.SubprocessError):  # a driver without a card
        return ()
    return tuple(line.strip() for line in answer.stdout.splitlines() if line.strip().isdigit())
