"""The command line: one verb per job, one file per verb, one shared Config.

Results go to stdout, progress and messages to stderr. A typed error becomes one line on stderr and
exit code 2. Heavy imports happen only in the verb that needs them.
"""

from __future__ import annotations

import argparse
import importlib
import io
import logging
import os
import select
import sys
from collections.abc import Sequence
from typing import TextIO

import deim_lab
from deim_lab.cli import options
from deim_lab.errors import (
    ConfigError,
    DataError,
    ExportError,
    NonFiniteError,
    RunFailedError,
    TargetsError,
    WeightsError,
)

TYPED = (
    ConfigError,
    DataError,
    ExportError,
    NonFiniteError,
    RunFailedError,
    TargetsError,
    WeightsError,
)
# One file of this folder per verb: ``add`` adds its options, ``run`` runs it.
VERBS = (
    "train",
    "evaluate",
    "score",
    "predict",
    "export",
    "latency",
    "doctor",
    "convert",
    "presets",
    "notebooks",
    "demo",
    "sweep",
)

_CLOSED_PIPE = 141  # as a shell reports a program that SIGPIPE ended


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code.

    0: success; 1: runs of a sweep failed; 2: a typed error; 130: interrupted; 141: the reader of
    the output is gone, as in ``deim-lab presets | head -1``.
    """
    try:
        try:
            return _run(argv)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
    except BrokenPipeError:
        if not _silence_closed_streams():
            raise  # of another pipe, so a fault of the lab
        return _CLOSED_PIPE


def _silence_closed_streams() -> bool:
    """Send output streams without a reader to the null device; return whether there was one.

    Otherwise Python would report the closed pipe once more at its end.
    """
    closed = [stream for stream in (sys.stdout, sys.stderr) if _has_no_reader(stream)]
    for stream in closed:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
    return bool(closed)


def _has_no_reader(stream: TextIO) -> bool:
    """Whether a stream is a pipe that nobody reads."""
    try:
        poll = select.poll()
        poll.register(stream.fileno(), 0)  # errors are reported without being requested
    except (AttributeError, OSError):  # a system without poll; a stream without a file
        return False
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def _run(argv: Sequence[str] | None) -> int:
    """Run one verb and return the exit code; a typed error becomes one line."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(
                errors="replace"
            )  # characters missing in the terminal's encoding are shown as "?"
    parser = build_parser()
    args = parser.parse_args(argv)
    logging.basicConfig(stream=sys.stderr, format="%(message)s")
    logging.getLogger("deim_lab").setLevel(
        logging.INFO
    )  # messages of the lab, not of every library
    try:
        code = args.run(args)
    except KeyboardInterrupt:
        options.say(
            "interrupted"
            + ("; the same command continues it" if args.verb in ("train", "demo", "sweep") else "")
        )
        return 130
    except Exception as error:
        message = _message(error)
        if message is None or args.debug:
            raise
        options.say(f"deim-lab {args.verb}: error: {message}")
        return 2
    return int(code or 0)


def build_parser() -> argparse.ArgumentParser:
    """Build the parser with all verbs and their options."""
    parser = argparse.ArgumentParser(
        prog="deim-lab",
        description="Train, score and use detectors of the D-FINE/DEIM family.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"deim-lab {deim_lab.__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    shared = options.shared_options()
    for verb in VERBS:
        importlib.import_module(f"deim_lab.cli.{verb}").add(verbs, shared)
    return parser


def _message(error: Exception) -> str | None:
    """Format an error that the user can fix in one line; None for a bug of the lab."""
    if isinstance(error, TYPED):
        return " ".join(str(error).split())
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    if type(error).__name__ == "OutOfMemoryError":
        return (
            "out of GPU memory: halve data.batch_size and double train.accumulate "
            f"({' '.join(str(error).split())[:160]})"
        )
    return None
