"""Run folders: start, log, finish and read one; read many as one table.

The schema of a run folder is in ``runs/README.md``. Tables and figures read only run folders, never
the training itself. JSON files are written under a temporary name and renamed, the log only grows,
and no run overwrites another. The files therefore stay readable when a process is killed.
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
