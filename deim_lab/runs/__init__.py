"""A run folder: start, log, finish, read; and many runs as one tidy table. Its schema is in
``runs/README.md``.

Only the run folder crosses from training to tables and figures. JSON is written under a temporary
name and renamed, the log only grows, and nothing of another run is overwritten; so whatever moment
a process is killed at, what is on disk can be read.
"""

from deim_lab.host.files import free_path, write_json
from deim_lab.runs.frame import BASE_COLUMNS, flat_config, table
from deim_lab.runs.run import STATUSES, SUBFOLDERS, Json, Run, Status
from deim_lab.runs.search import all_runs, by_identity, find

__all__ = [
    "BASE_COLUMNS",
    "STATUSES",
    "SUBFOLDERS",
    "Json",
    "Run",
    "Status",
    "all_runs",
    "by_identity",
    "find",
    "flat_config",
    "free_path",
    "table",
    "write_json",
]
