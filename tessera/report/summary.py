"""The short table that a run ends with, as data: for the terminal and for summary.json."""

from pathlib import Path
from typing import Any

from tessera.report.results import measures
from tessera.report.run_files import group_mean, open_run


def summarize(folder: Path) -> dict[str, Any]:
    """Of a run: {"tables": [{"title", "columns", "rows", "digits"}], "paths": {name: path}}.

    A row of a table is a model, a column a language group.
    """
    run = open_run(folder)
    tables = []
    for title, metric, values in measures(run):
        factor, digits = (100, 1) if metric == "accuracy" else (1, 3)
        groups = [
            name for name, codes in run.groups.items() if any(group_mean(v, codes) is not None for v in values.values())
        ]
        rows: list[list[Any]] = []
        for model, of in values.items():
            means = (group_mean(of, run.groups[name]) for name in groups)
            rows.append([model, *(None if mean is None else round(factor * mean, digits) for mean in means)])
        tables.append({"title": title, "columns": ["model", *groups], "rows": rows, "digits": digits})
    finished = [folder / name / "final" for name in run.models if (folder / name / "final").exists()]
    paths = {"model": str(finished[-1])} if finished else {}
    return {"tables": tables, "paths": {**paths, "report": str(folder / "report.html")}}
