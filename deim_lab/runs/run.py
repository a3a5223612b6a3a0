"""One run folder: start, log, finish, read. The schema is in ``runs/README.md``."""

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
    user_path,
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
    """One run folder.

    ``start`` makes a folder, ``open`` reads one, and ``reopen`` continues to write into the folder
    of an interrupted run.

    Attributes:
        folder: path of the folder.
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
        """Make a run folder and open it for writing.

        Its name is ``<time>_<preset>_<what differs>_s<seed>_<fingerprint>``.

        Args:
            data: at least ``name`` and ``fingerprint`` of the data set.
            overrides: settings that differ from the preset; None: no setting differs.
            what: description of the difference in the name; None: made from ``overrides``.
            device: the resolved device of the run (``cuda:0``).
            fingerprint: fingerprint of the run's computation; None: that of the config.
            weights: start weights (``path``, ``sha256``, ``part`` of a backbone); None: none.
        """
        _check_data(data)
        overrides, fingerprint = dict(overrides or {}), fingerprint or configs.fingerprint(config)
        # "_" separates the parts of the name
        differs = _slug(what or _differs(overrides)).replace("_", "-") or "base"
        name = f"{record.now():%Y%m%d-%H%M%S}_{config.preset}_{differs}_s{seed}_{fingerprint}"
        run = cls(
            make_free_folder(user_path(runs_dir) / name),
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
        """Read a run folder. Raises ``DataError`` if it is no run folder or is damaged."""
        path = user_path(folder)
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
                f"{path / INFO} lacks {', '.join(missing)}, so it is not the record of a run"
            )
        return cls(path, info)

    def reopen(self, *, device: str | None = None) -> Run:
        """Open this folder again for writing, with status ``running``.

        An incomplete last line of a killed run is removed from the log. Raises ``ConfigError`` if
        another process is writing into the folder.
        """
        self._open_log()
        if self.info["status"] == "running":  # killed, so its running time was not recorded
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
        """Append one event to the log; numbers that are not finite become null."""
        if self._events is None:
            raise ConfigError(
                f"{self.folder.name} is not open for writing (status {self.status}). Call "
                f"Run.reopen first"
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
        """Mark the run as done and close its files."""
        self._close("done")

    def fail(self, error: BaseException) -> None:
        """Mark the run as failed by ``error``, and close its files. It can be reopened."""
        self.info["error"] = {
            "type": type(error).__name__,
            "message": str(error),
            "traceback": "".join(traceback.format_exception(error)),
        }
        self._close("failed")

    @property
    def status(self) -> Status:
        """``running``, ``done`` or ``failed``. A killed run keeps the status ``running``."""
        return self.info["status"]

    @property
    def identity(self) -> dict[str, Json]:
        """``fingerprint, seed, data_fingerprint``, which are equal for runs of one experiment.

        The keys are arguments of ``find``.
        """
        return {
            "fingerprint": self.info["fingerprint"],
            "seed": self.info["seed"],
            "data_fingerprint": self.info["data"]["fingerprint"],
        }

    @property
    def config(self) -> Config:
        """The complete resolved config, equal to the one at the start of the run."""
        return configs.from_dict(read_object(self.folder / CONFIG))

    def events(self) -> Iterator[dict[str, Json]]:
        """All events in the order of the log.

        An incomplete last line is left out. Any other broken line raises ``DataError``.
        """
        path = self.folder / LOG
        try:
            lines = path.read_bytes().split(b"\n")
        except FileNotFoundError as error:
            raise DataError(f"{path} does not exist") from error
        # The last item, after the last newline, is empty or an incomplete line.
        for number, line in enumerate(lines[:-1], start=1):
            try:
                event = json.loads(line)
            except ValueError as error:
                raise DataError(f"{path}: line {number} is not JSON: {error}") from error
            if not isinstance(event, dict) or "kind" not in event:
                raise DataError(f"{path}: line {number} is not an event: {line[:80]!r}")
            yield event

    def metrics(self, kinds: Collection[str] | None = None) -> pd.DataFrame:
        """A frame with one row per event: ``kind, epoch, step, time`` and the event's values.

        Dicts are flattened with ``/``, lists are unchanged. If a resumed run repeated an epoch or
        step, the frame has the later event. ``kinds``: only events of these kinds; None: all.
        """
        return frame_of(self.rows(kinds), ("kind", "epoch", "step", "time"))

    def save_detections(self, name: str, rows: Sequence[Mapping[str, Json]]) -> Path:
        """Write ``predictions/<name>.json`` (COCO result rows), replacing an earlier file."""
        return write_json(self.folder / "predictions" / f"{_slug(name)}.json", list(rows))

    def save_evaluation(self, name: str, values: Mapping[str, Json]) -> Path:
        """Write ``eval/<name>.json``; add a number to the name if the file exists."""
        return write_json(free_path(self.folder / "eval" / f"{_slug(name)}.json"), values)

    def rows(self, kinds: Collection[str] | None) -> list[dict[str, Json]]:
        latest: dict[tuple[Json, ...], dict[str, Json]] = {}
        for number, event in enumerate(self.events()):
            if kinds is None or event["kind"] in kinds:
                # Rows of kind "event" are all kept, even several of one step.
                event_number = number if event["kind"] == "event" else None
                key = (event["kind"], event.get("epoch"), event.get("step"), event_number)
                latest[key] = _flatten(event)
        return list(latest.values())

    def _open_log(self) -> None:
        self._take_lock()
        path = self.folder / LOG
        if path.exists():
            content = path.read_bytes()
            complete = content.rfind(b"\n") + 1
            if complete < len(content):
                _log.warning(
                    "%s: removed the incomplete last line, written when the process ended", path
                )
                os.truncate(path, complete)
        self._events = path.open("a", buffering=1, encoding="utf-8")

    def _take_lock(self) -> None:
        """Lock this folder for writing. Raises ``ConfigError`` if another process has the lock.

        The system releases the lock when this process ends.
        """
        try:
            import fcntl
        except ImportError:  # a system without POSIX locks: the user must avoid two writers
            return
        handle = (self.folder / LOCK).open("w", encoding="utf-8")
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            handle.close()
            raise ConfigError(
                f"{self.folder} is being written by another process. Wait until it ends, or start "
                f"another run with resume='never'"
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


def _check_data(data: Mapping[str, Json]) -> None:
    """Raise ``ConfigError`` unless a data set has a name and a fingerprint."""
    for key in ("name", "fingerprint"):
        if key not in data:
            raise ConfigError(
                f"data {dict(data)!r} of a run lacks {key!r}. Expected name and fingerprint"
            )


def frame_of(rows: list[dict[str, Json]], first: Collection[str]) -> pd.DataFrame:
    """Rows as a frame: first the columns ``first``, then other keys in order of appearance.

    The columns ``first`` exist even without rows.
    """
    return pd.DataFrame(
        rows, columns=list(dict.fromkeys([*first, *(key for row in rows for key in row)]))
    )


def _differs(overrides: Mapping[str, Json]) -> str:
    """The last parts of the overridden keys and their values: ``gamma-2.0+mosaic_prob-0.0``."""
    named = {key: value for key, value in overrides.items() if key != "train.plugins"}
    return "+".join(f"{key.rpartition('.')[2]}-{value}" for key, value in named.items())


def _slug(text: str) -> str:
    """``text`` as part of a file name on any system."""
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
