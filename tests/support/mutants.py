"""Mutation testing: change one place of one file, and see whether the tests of that file notice.

``python tests/support/mutants.py`` runs a seeded sample of mutants and prints the report. It
changes a copy of the repository in a temporary folder, never the checkout. Results are lines of
JSON in ``build/mutants/results.jsonl``; a second call goes on where the first one stopped, and a
larger ``--sample`` adds to the smaller one. docs/testing.md explains the result.

A mutant is *killed* if a test fails or the tests take too long, and *survives* if they all pass.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import hashlib
import importlib
import json
import math
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from mutations import Mutant, mutants_of, sample_of
from places import ROOT

RESULTS = ROOT / "build" / "mutants" / "results.jsonl"
# Imported once, before the forks.
PRELOADED = (
    "matplotlib.pyplot pandas PIL.Image pycocotools.cocoeval pytest scipy.optimize scipy.special "
    "torch torch.utils.data torchvision tqdm"
)
OPTIONS = "-x -q --no-header -p no:cacheprovider -m 'not slow and not browser and not cluster'"
TIMES_CLEAN, SECONDS_MORE = 5.0, 30.0  # limit of a mutant: so many clean runs, and so much more

_CRITERION = "losses/test_criterion; matching/test_simota"
_LATE = "detector/test_deimv2 detector/test_queries -k 'late_cost or equal_groups'"
_RANKS = "matching/test_assignment -k normalisers"
_ALL_AUGMENT = (
    "augment/test_mixup augment/test_mosaic augment/test_single augment/test_pipeline "
    "study/test_density"
)
_AUGMENT = f"{_ALL_AUGMENT} -k 'not torchvision_does'"
_TRAINING = (
    "training/test_checkpoint training/test_ema training/test_finite training/test_optimizer "
    "training/test_state training/test_tally; "
    "training/test_record training/test_loop; training/test_resume"
)
_EVALUATION = (
    "evaluation/test_backends evaluation/test_detector evaluation/test_scores "
    "evaluation/test_thresholds"
)
# Package file → the tests that own it. What follows a ";" runs if all before it passed.
TESTS = {
    "boxes.py": "test_boxes losses/test_terms matching/test_hungarian; losses/test_criterion",
    "losses/terms.py": "losses/test_terms; losses/test_criterion",
    "losses/criterion.py": f"{_CRITERION}; {_RANKS}",
    "matching/assignment.py": (
        "matching/test_assignment -k 'not normalisers'; matching/test_hungarian; "
        f"{_CRITERION}; config/test_entries; {_LATE}; {_RANKS}"
    ),
    "matching/hungarian.py": (
        f"matching/test_hungarian; matching/test_assignment -k late_matching; {_LATE}; {_CRITERION}"
    ),
    "matching/simota.py": "matching/test_simota",
    "structures.py": f"test_structures; matching/test_hungarian; {_AUGMENT}",
    "schedule.py": "test_schedule; detector/test_deimv2 -k phases",
    "augment/mixup.py": _AUGMENT,
    "augment/mosaic.py": _AUGMENT,
    "augment/pipeline.py": f"{_AUGMENT}; config/test_entries",
    "augment/sampling.py": _AUGMENT,
    "augment/single.py": _ALL_AUGMENT,
    "study/ablation/statistics.py": (
        "study/ablation/test_statistics; "
        "study/ablation/test_reading study/ablation/test_views study/ablation/test_verdict"
    ),
    "evaluation/backends.py": _EVALUATION,
    "evaluation/detector.py": _EVALUATION,
    "evaluation/scores.py": _EVALUATION,
    "evaluation/thresholds.py": _EVALUATION,
    "training/ema.py": "training/test_ema training/test_state",
    "training/optimizer.py": "training/test_optimizer training/test_state",
    "training/checkpoint.py": _TRAINING,
    "training/compute.py": "training/test_compute; training/test_loop training/test_record",
    "training/finite.py": _TRAINING,
    "training/loop.py": _TRAINING,
    "training/record.py": _TRAINING,
    "training/resume.py": _TRAINING,
    "training/state.py": _TRAINING,
    "training/tally.py": _TRAINING,
}


class Copy:
    """A copy of the tracked files, in which tests run in forks of this process."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.stamp = folder, 1_000_000_000
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        )
        for name in filter(None, listed.stdout.split("\0")):
            if (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / name, folder / name)

    def write(self, file: str, source: bytes) -> None:
        """Write a package file with a time of its own, so that no compiled file is up to date."""
        path = self.folder / "deim_lab" / file
        path.write_bytes(source)
        self.stamp += 10
        os.utime(path, (self.stamp, self.stamp))

    def test(self, tests: str, limit: float) -> tuple[str, float]:
        """Outcome (``passed``, ``failed``, ``timeout`` or ``error``) and seconds."""
        outcome, seconds = "error", 0.0
        for stage in tests.split(";"):
            outcome, more = self._test_stage(stage, limit - seconds)
            seconds += more
            if outcome != "passed":
                break
        return outcome, seconds

    def _test_stage(self, tests: str, limit: float) -> tuple[str, float]:
        child = os.fork()
        if child == 0:
            self._in_child(tests)
        status: int | None = None
        seconds, last = 0.0, time.monotonic()
        try:
            while status is None and seconds < limit:
                done, code = os.waitpid(child, os.WNOHANG)
                status = os.waitstatus_to_exitcode(code) if done else None
                time.sleep(0.02)
                seconds += min(time.monotonic() - last, 1.0)  # a pause of all processes is no time
                last = time.monotonic()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)  # the tests, and what they started
        if status is None:
            os.waitpid(child, 0)
            return "timeout", seconds
        if status in (3, 4, 5, -signal.SIGKILL, -signal.SIGTERM):  # pytest's own, or from outside
            return "error", seconds
        return "failed" if status else "passed", seconds

    def _in_child(self, tests: str) -> None:
        """Run the tests on the copy, and end this process."""
        import pytest

        os.setsid()
        os.chdir(self.folder)
        out = os.open(self.folder / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1)
        os.dup2(out, 2)
        os.environ |= {"PYTHONPATH": str(self.folder), "OMP_NUM_THREADS": "1"}
        sys.path[:0] = [str(self.folder)]
        words = [f"tests/{word}.py" if "test_" in word else word for word in shlex.split(tests)]
        temporary = self.folder / "temporary"
        code = int(pytest.main([*shlex.split(OPTIONS), f"--basetemp={temporary}", *words]))
        sys.stdout.flush()
        os._exit(code)


def recorded(seed: int) -> dict[Mutant, dict[str, object]]:
    """The last result of each mutant, of the sources as they are now."""
    latest: dict[Mutant, dict[str, object]] = {}
    if not RESULTS.is_file():
        return latest
    for line in RESULTS.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        path = ROOT / "deim_lab" / row["mutant"]["file"]
        if row["seed"] == seed and path.is_file() and row["source"] == _digest(path.read_bytes()):
            latest[Mutant(**row["mutant"])] = row
    return latest


def _digest(source: bytes) -> str:
    return hashlib.sha256(source).hexdigest()[:12]


def run(files: list[str], sample: int, seed: int, again: bool) -> None:
    """Test what has no result yet; ``again``: also what survived or took too long."""
    done = recorded(seed)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    for name in PRELOADED.split():
        importlib.import_module(name)
    with tempfile.TemporaryDirectory(prefix="mutants-", ignore_cleanup_errors=True) as folder:
        copy = Copy(Path(folder))
        for file in files:
            source = (ROOT / "deim_lab" / file).read_bytes()
            kept = {"killed"} if again else {"killed", "timeout", "survived"}
            open_ = [
                mutant
                for mutant in sample_of(file, source, sample, seed)
                if done.get(mutant, {}).get("outcome") not in kept
            ]
            if not open_:
                continue
            outcome, clean = copy.test(TESTS[file], 600.0)
            if outcome != "passed":
                print((copy.folder / "output.txt").read_text(encoding="utf-8")[-3000:])
                print(f"{file}: the tests don't pass on the unchanged file ({outcome})", flush=True)
                continue
            print(f"{file}: {len(open_)} mutants, clean run {clean:.1f} s", flush=True)
            for mutant in open_:
                copy.write(file, mutant.applied(source))
                limit = TIMES_CLEAN * clean + SECONDS_MORE
                outcome, seconds = copy.test(TESTS[file], limit)
                row = {
                    "mutant": asdict(mutant),
                    "seed": seed,
                    "source": _digest(source),
                    "outcome": {"passed": "survived", "failed": "killed"}.get(outcome, outcome),
                    "tests": TESTS[file],
                    "seconds": round(seconds, 2),
                }
                with RESULTS.open("a", encoding="utf-8") as results:
                    results.write(json.dumps(row) + "\n")
            copy.write(file, source)


def wilson(killed: int, total: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927)."""
    if not total:
        return 0.0, 1.0
    z, share = 1.959964, killed / total
    middle = share + z * z / (2 * total)
    half = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return (middle - half) / (1 + z * z / total), (middle + half) / (1 + z * z / total)


def report(files: list[str], seed: int) -> None:
    """Print a table by file, and each survivor with its change."""
    rows = recorded(seed)
    print("| file | mutants | sampled | killed | timeouts | survived | rate | 95 % interval |")
    print("|---|---|---|---|---|---|---|---|")
    total: list[str] = []
    for file in [*files, "all"]:
        outcomes = [
            str(row["outcome"]) for mutant, row in rows.items() if file in (mutant.file, "all")
        ]
        outcomes = [item for item in outcomes if item != "error"]
        every = "" if file == "all" else _number_of_mutants(file)
        timeouts, survived = outcomes.count("timeout"), outcomes.count("survived")
        total = outcomes
        if not outcomes:
            print(f"| {file} | {every} | 0 | not run | | | | |")
            continue
        caught = len(outcomes) - survived
        low, high = wilson(caught, len(outcomes))
        print(
            f"| {file} | {every} | {len(outcomes)} | {caught} | {timeouts} | {survived} | "
            f"{caught / len(outcomes):.1%} | {low:.1%} to {high:.1%} |"
        )
    print(f"\n{total.count('survived')} survivors")
    for mutant in sorted(rows, key=lambda item: (files.index(item.file), item.line)):
        if rows[mutant]["outcome"] != "killed":
            print(f"\n{mutant.file}:{mutant.line} {mutant.kind} ({rows[mutant]['outcome']})")
            source = (ROOT / "deim_lab" / mutant.file).read_bytes()
            before = source.decode().splitlines()
            after = mutant.applied(source).decode().splitlines()
            lines = list(difflib.unified_diff(before, after, n=0, lineterm=""))
            print("\n".join(line for line in lines[2:] if not line.startswith("@@")))


def _number_of_mutants(file: str) -> str:
    return str(len(mutants_of(file, (ROOT / "deim_lab" / file).read_bytes())))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("files", nargs="*", help="files of the package (default: the whole table)")
    parser.add_argument("--sample", type=int, default=60, help="mutants a file (default: 60)")
    parser.add_argument("--seed", type=int, default=0, help="of the sample (default: 0)")
    parser.add_argument("--report", action="store_true", help="print the report, run nothing")
    parser.add_argument("--again", action="store_true", help="test survivors and timeouts anew")
    options = parser.parse_args()
    unknown = sorted(set(options.files) - set(TESTS))
    if unknown:
        parser.error(f"{', '.join(unknown)}: no entry in the table; entries: {', '.join(TESTS)}")
    files = options.files or list(TESTS)
    if not options.report:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # removes the copy
        run(files, options.sample, options.seed, options.again)
    report(list(TESTS), options.seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
