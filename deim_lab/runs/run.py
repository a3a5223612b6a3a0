"""One run folder: start, log, finish, read. Its schema is in ``runs/README.md``."""

from __future__ import annotations

import datetime
import json
import logging
import os
import platform
import re
import time
import traceback
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Literal

import pandas as pd

from deim_lab import config as configs
from deim_lab.config import Config, plugins
from deim_lab.errors import ConfigError, DataError
from deim_lab.host.files import (
    free_path,
    json_text,
    make_free_folder,
    nearest_beside,
    read_object,
    write_json,
)
from deim_lab.runs import record

Json = Any
Status = Literal["running", "done", "failed"]

_log = logging.getLogger(__name__)

STATUSES: tuple[Status, ...] = ("running", "done", "failed")
SUBFOLDERS = ("eval", "predictions", "checkpoints", "figures")
CONFIG, INFO, LOG, LOCK = "config.json", "run.json", "metrics.jsonl", ".lock"


class Run:
    """One run folder. ``start`` makes one, ``open`` reads one, ``reopen`` goes on writing into one
    that was cut.

    Attributes:
        folder: where it lies.
        info: the content of ``run.json``.
    """

    def __init__(self, folder: Path, info: dict[str, Json]) -> None:
        self.folder = folder
        self.info = info
        self._events: IO[str] | None = None
        self._lock: IO[str] | None = None
        self._since = time.monotonic()

    @classmethod
    def start(
        cls,
        runs_dir: str | Path,
        config: Config,
        *,
        seed: int,
        data: Mapping[str, Json],
        overrides: Mapping[str, Json] | None = None,
        what: str | None = None,
        device: str | None = None,
        fingerprint: str | None = None,
        weights: Mapping[str, Json] | None = None,
    ) -> Run:
        """Make ``<runs_dir>/<time>_<preset>_<what differs>_s<seed>_<fingerprint>/`` and open it for
        writing.

        Args:
            data: at least ``name`` and ``fingerprint`` of the data set.
            overrides: what makes this run differ from its preset; None: nothing.
            what: the part of the name that says so; None: made from ``overrides``.
            device: where it runs, as it was resolved (``cuda:0``).
            fingerprint: of what it computes; None: the config's.
            weights: what it starts from (``path``, ``sha256``, ``part`` where it is the backbone
                alone); None: from scratch.
        """
        for key in ("name", "fingerprint"):
            if key not in data:
                raise ConfigError(f"data {dict(data)!r} of a run lacks {key!r}")
        overrides, fingerprint = dict(overrides or {}), fingerprint or configs.fingerprint(config)
        # "_" stands between the parts of the name
        differs = _slug(what or _differs(overrides)).replace("_", "-") or "base"
        name = f"{record.now():%Y%m%d-%H%M%S}_{config.preset}_{differs}_s{seed}_{fingerprint}"
        run = cls(
            make_free_folder(Path(runs_dir) / name),
            {
                "status": "running",
                "preset": config.preset,
                "seed": seed,
                "fingerprint": fingerprint,
                "overrides": overrides,
                "data": dict(data),
                "weights": dict(weights) if weights else None,
                "plugins": plugins.record(config),
                "device": device,
                "started": record.stamp(),
                "resumed": [],
                "finished": None,
                "seconds": 0.0,
                "error": None,
                "versions": record.versions(),
                "git": record.git_commit(),
                "platform": platform.platform(),
            },
        )
        for subfolder in SUBFOLDERS:
            (run.folder / subfolder).mkdir()
        write_json(run.folder / CONFIG, configs.to_dict(config))
        run._write_info()
        run._open_log()
        return run

    @classmethod
    def open(cls, folder: str | Path) -> Run:
        """Read a run folder. Raises ``DataError`` for one that isn't, or that is damaged."""
        path = Path(folder)
        if not path.is_dir():
            raise DataError(f"run folder {path} does not exist{nearest_beside(path)}")
        info = read_object(path / INFO)
        plugins.recall(info.get("plugins") or ())
        missing = [
            key
            for key in ("status", "preset", "seed", "fingerprint", "overrides", "data")
            if key not in info
        ]
        if missing:
            raise DataError(
                f"{path / INFO} lacks {', '.join(missing)}: it is not the record of a run"
            )
        return cls(path, info)

    def reopen(self, *, device: str | None = None) -> Run:
        """Go on writing into this folder: the torn last line of a killed run is cut off, the status
        is ``running`` again.

        Raises ``ConfigError`` when another process is writing into it.
        """
        self._open_log()
        if self.info["status"] == "running":  # killed: nobody wrote down how long it had run
            times = [event["time"] for event in self.events() if "time" in event]
            begun = datetime.datetime.fromisoformat(
                [self.info["started"], *self.info["resumed"]][-1]
            ).timestamp()
            self.info["seconds"] += max(0.0, times[-1] - begun) if times else 0.0
        self.info |= {
            "status": "running",
            "error": None,
            "finished": None,
            "resumed": [*self.info["resumed"], record.stamp()],
        }
        if device is not None:
            self.info["device"] = device
        self._since = time.monotonic()
        self._write_info()
        return self

    def log(self, kind: str, *, epoch: int, step: int, **values: Json) -> None:
        """Append one event; numbers that are not finite become null."""
        if self._events is None:
            raise ConfigError(
                f"{self.folder.name} is not open for writing (status {self.status}); Run.reopen "
                f"opens it"
            )
        event = {
            "kind": kind,
            "epoch": epoch,
            "step": step,
            "time": round(time.time(), 3),
            **values,
        }
        self._events.write(json_text(event) + "\n")

    def finish(self) -> None:
        """Mark it done and close it."""
        self._close("done")

    def fail(self, error: BaseException) -> None:
        """Mark it failed by ``error``, with its traceback, and close it. It can be reopened."""
        self.info["error"] = {
            "type": type(error).__name__,
            "message": str(error),
            "traceback": "".join(traceback.format_exception(error)),
        }
        self._close("failed")

    @property
    def status(self) -> Status:
        """``running`` (also: killed before it could say so), ``done`` or ``failed``."""
        return self.info["status"]

    @property
    def identity(self) -> dict[str, Json]:
        """What makes two runs the same experiment: ``fingerprint, seed, data_fingerprint``, as
        ``find`` takes them.
        """
        return {
            "fingerprint": self.info["fingerprint"],
            "seed": self.info["seed"],
            "data_fingerprint": self.info["data"]["fingerprint"],
        }

    @property
    def config(self) -> Config:
        """The resolved whole, equal to the one that it was started with."""
        return configs.from_dict(read_object(self.folder / CONFIG))

    def events(self) -> Iterator[dict[str, Json]]:
        """Every event in the order of the log. A torn last line is left out; another broken line
        raises ``DataError``.
        """
        path = self.folder / LOG
        try:
            lines = path.read_bytes().split(b"\n")
        except FileNotFoundError as error:
            raise DataError(f"{path} does not exist") from error
        for number, line in enumerate(
            lines[:-1], start=1
        ):  # after the last newline: nothing, or a torn line
            try:
                event = json.loads(line)
            except ValueError as error:
                raise DataError(f"{path}: line {number} is no JSON: {error}") from error
            if not isinstance(event, dict) or "kind" not in event:
                raise DataError(f"{path}: line {number} is no event: {line[:80]!r}")
            yield event

    def metrics(self, kinds: Collection[str] | None = None) -> pd.DataFrame:
        """One row an event: ``kind, epoch, step, time`` and its values, dicts flattened with ``/``,
        lists as they are.

        Where a resumed run repeated an epoch or step, the later event stands. ``kinds``: those
        only; None: all.
        """
        return frame_of(self.rows(kinds), ("kind", "epoch", "step", "time"))

    def save_detections(self, name: str, rows: Sequence[Mapping[str, Json]]) -> Path:
        """Write ``predictions/<name>.json`` (COCO result rows). A resumed run that repeats an epoch
        replaces that epoch's file.
        """
        return write_json(self.folder / "predictions" / f"{_slug(name)}.json", list(rows))

    def save_evaluation(self, name: str, values: Mapping[str, Json]) -> Path:
        """Write ``eval/<name>.json``, with a number behind the name where that is taken."""
        return write_json(free_path(self.folder / "eval" / f"{_slug(name)}.json"), values)

    def rows(self, kinds: Collection[str] | None) -> list[dict[str, Json]]:
        latest: dict[tuple[Json, ...], dict[str, Json]] = {}
        for number, event in enumerate(self.events()):
            if kinds is None or event["kind"] in kinds:
                own = (
                    number if event["kind"] == "event" else None
                )  # two events of one step are two things that happened
                latest[(event["kind"], event.get("epoch"), event.get("step"), own)] = _flatten(
                    event
                )
        return list(latest.values())

    def _open_log(self) -> None:
        self._take_lock()
        path = self.folder / LOG
        if path.exists():
            content = path.read_bytes()
            whole = content.rfind(b"\n") + 1
            if whole < len(content):
                _log.warning(
                    "%s: the last line was torn off by the end of the process; dropped", path
                )
                os.truncate(path, whole)
        self._events = path.open("a", buffering=1, encoding="utf-8")

    def _take_lock(self) -> None:
        """Let no second process write into this folder. The system lets go of the lock when this
        process ends, however it ends.
        """
        try:
            import fcntl
        except ImportError:  # a system without POSIX locks: two writers are the user's to avoid
            return
        handle = (self.folder / LOCK).open("w", encoding="utf-8")
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            handle.close()
            raise ConfigError(
                f"{self.folder} is being written by another process: wait for it, or start another "
                f"run with resume='never'"
            ) from error
        except OSError:  # a file system without locks
            handle.close()
            return
        self._lock = handle

    def _close(self, status: Status) -> None:
        now = time.monotonic()
        self.info |= {
            "status": status,
            "finished": record.stamp(),
            "seconds": round(self.info["seconds"] + now - self._since, 3),
        }
        self._since = now
        self._write_info()
        for handle in (self._events, self._lock):
            if handle is not None:
                handle.close()
        self._events = self._lock = None

    def _write_info(self) -> None:
        write_json(self.folder / INFO, self.info)

    def __repr__(self) -> str:
        return f"Run({self.folder.name!r}, {self.status})"


def frame_of(rows: list[dict[str, Json]], first: Collection[str]) -> pd.DataFrame:
    """Rows as a frame that has the ``first`` columns in any case, then the others in order of
    appearance.
    """
    return pd.DataFrame(
        rows, columns=list(dict.fromkeys([*first, *(key for row in rows for key in row)]))
    )


def _differs(overrides: Mapping[str, Json]) -> str:
    """``gamma-2.0+mosaic-prob-0.0``: the last parts of the overridden keys and their values."""
    named = {key: value for key, value in overrides.items() if key != "train.plugins"}
    return "+".join(f"{key.rpartition('.')[2]}-{value}" for key, value in named.items())


def _slug(text: str) -> str:
    """``text`` as a part of a file name on any system."""
    return re.sub(r"(?:[^A-Za-z0-9._+-]|-)+", "-", text)[:60].strip("-.+")


def _flatten(values: Mapping[str, Json], prefix: str = "") -> dict[str, Json]:
    flat: dict[str, Json] = {}
    for key, value in values.items():
        flat |= (
            _flatten(value, f"{prefix}{key}/")
            if isinstance(value, Mapping)
            else {f"{prefix}{key}": value}
        )
    return flat
