"""The sentence that the panel of MAL against VFL shows."""

from __future__ import annotations

import re

NUMBERS = re.compile(
    r"At score 0\.1 and IoU ([\d.]+), MAL's gradient is (-?[\d.]+|inf) times VFL's"
)
