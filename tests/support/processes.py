"""Processes of a test."""

from __future__ import annotations

import sys
from typing import Any

import torch

# A forked process has torch already; a spawned one takes seconds to import it. Forks are safe on
# Linux, as long as no process group and no backward pass of the parent goes on in them.
CONTEXT: Any = torch.multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
