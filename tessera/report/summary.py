"""The short table that a run ends with, as data: for the terminal and for summary.json."""

from pathlib import Path
from typing import Any

from tessera.report.files import group_mean, open_run
from tessera.report.results import measures


def summarize(folder: Path) -> dict[str, Any]:
    """{"tables": [{"title", "columns", "rows"}], "paths": {name: path}} of a run: a row a model, a column a group."""
    run = open_run(folder)
    tables = []
    for title, _, values in measures(run):
        groups = [
            name for name, codes in run.groups.items() if any(group_mean(v, codes) is not None for v in values.values())
        ]
        rows = [[model, *(group_mean(of, run.groups[name]) for name in groups)] for model, of in values.items()]
        tables.append({"title": title, "columns": ["model", *groups], "rows": rows})
    finished = [folder / name / "final" for name in run.models if (folder / name / "final").exists()]
    paths = {"model": str(finished[-1])} if finished else {}
    return {"tables": tables, "paths": {**paths, "report": str(folder / "report.html")}}
