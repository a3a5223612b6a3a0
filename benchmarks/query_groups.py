"""What folding query groups into the batch saves: self-attention of k groups, folded and masked.

    python benchmarks/query_groups.py [--queries 300] [--denoising 200] [--batch 4] [--dim 256]
    [--repeats 15] [--device auto] [--threads 1]

Both compute the same (``tests/detector/test_queries.py`` compares them). They take turns call by
call, so a busy machine slows both alike. The table has the median milliseconds of forward and
backward, and their ratio.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from deim_lab.detector.queries import attend_in_groups
from deim_lab.training.compute import resolve

GROUPS = (1, 2, 4, 8)


def masks(queries: int, denoising: int, groups: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Masks of the folded and of the whole attention, True where a query may not attend.

    Denoising queries and the first group are the folded one's; every query the whole one's.
    Denoising queries see the first group, and no matching query sees a denoising one.
    """
    first = torch.zeros(denoising + queries, denoising + queries, dtype=torch.bool, device=device)
    first[denoising:, :denoising] = True
    number = denoising + groups * queries
    owner = torch.arange(number, device=device).sub(denoising).div(queries, rounding_mode="floor")
    whole = owner[:, None] != owner[None, :]
    whole[: denoising + queries, : denoising + queries] = first
    return first, whole


def milliseconds(call: Callable[[], Tensor], device: torch.device) -> float:
    """Forward and backward once."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    begin = time.perf_counter()
    call().sum().backward()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return 1000 * (time.perf_counter() - begin)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--denoising", type=int, default=200)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = resolve(options.device, "fp32").device
    attention = nn.MultiheadAttention(options.dim, 8, batch_first=True).to(device)
    print(f"{options.queries} queries a group, {options.denoising} denoising, {device}")
    print(f"{'groups':>6} {'folded ms':>10} {'masked ms':>10} {'masked / folded':>16}")
    for groups in GROUPS:
        number = options.denoising + groups * options.queries
        x = torch.randn(options.batch, number, options.dim, device=device, requires_grad=True)
        first, whole = masks(options.queries, options.denoising, groups, device)

        def folded(x: Tensor = x, first: Tensor = first) -> Tensor:
            return attend_in_groups(attention, x, x, first, options.queries)

        def masked(x: Tensor = x, whole: Tensor = whole) -> Tensor:
            return attention(x, x, x, attn_mask=whole, need_weights=False)[0]

        torch.testing.assert_close(folded(), masked(), rtol=1e-3, atol=1e-4)
        times: dict[str, list[float]] = {"folded": [], "masked": []}
        for _ in range(options.repeats):
            times["folded"].append(milliseconds(folded, device))
            times["masked"].append(milliseconds(masked, device))
        quick, slow = (statistics.median(times[name]) for name in ("folded", "masked"))
        print(f"{groups:>6} {quick:>10.1f} {slow:>10.1f} {slow / quick:>16.2f}")


if __name__ == "__main__":
    main()
