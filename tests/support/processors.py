"""Run the tests marked ``numeric`` once for every vector width that this processor has.

PyTorch chooses its kernels by the processor. ``ATEN_CPU_CAPABILITY`` and ``ONEDNN_MAX_CPU_ISA``
hold it back to those of an older one, so one machine stands for several. Fails when any of them
fails, after all have run.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time

WIDTHS = {"default": "SSE41", "avx2": "AVX2", "avx512": "AVX512_CORE"}  # PyTorch's name: oneDNN's
TESTS = ["-m", "pytest", "-n", "auto", "--dist", "worksteal", "-m", "numeric and not slow"]
SAY_WIDTH = "import torch; print(torch.backends.cpu.get_cpu_capability())"


def width_of(environment: dict[str, str]) -> str:
    """What a process of this environment computes with, in PyTorch's own words."""
    return (
        subprocess.run(
            [sys.executable, "-c", SAY_WIDTH],
            env=environment,
            check=True,
            capture_output=True,
            encoding="utf-8",
        )
        .stdout.strip()
        .lower()
    )


def widths_here() -> list[str]:
    """Narrowest first. A processor of another make (arm64) has none of the wider ones."""
    names = list(WIDTHS)
    free = {name: value for name, value in os.environ.items() if name != "ATEN_CPU_CAPABILITY"}
    widest = width_of(free)
    return names[: names.index(widest) + 1] if widest in names else names[:1]


def passes(width: str) -> bool:
    """Whether the tests pass at this width; tell, and tell how long they took."""
    held = {"ATEN_CPU_CAPABILITY": width, "ONEDNN_MAX_CPU_ISA": WIDTHS[width]}
    environment = {"OMP_NUM_THREADS": "1", **os.environ, **held}
    used = width_of(environment)
    if used != width:
        print(f"{width}: FAILED, PyTorch computes with {used} all the same", flush=True)
        return False
    began = time.monotonic()
    passed = subprocess.run([sys.executable, *TESTS], env=environment).returncode == 0
    verdict = "passed" if passed else "FAILED"
    print(f"{width}: {verdict} in {time.monotonic() - began:.0f} s", flush=True)
    return passed


def main() -> int:
    """The exit status."""
    here, machine = widths_here(), platform.machine().lower()
    failed = []
    for width in WIDTHS:
        if width not in here:
            print(f"{width}: skipped, this {machine} processor hasn't got it", flush=True)
        elif not passes(width):
            failed.append(width)
    if machine not in {"arm64", "aarch64"}:
        print("arm64: by construction, not run here", flush=True)
    if failed:
        print(f"failed: {', '.join(failed)}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
