"""What models reach on tasks, read from result files and from the tables of papers.

Results are the JSON files of tessera/evaluation; published ones come with tessera, in evaluation/published/*.csv, in
the units of their papers. Shares are in percent here.
"""

import csv
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

AVERAGE, EUROPEAN = "average", "average of European languages"
# The languages of EuroBERT's second column: its per-language XNLI scores give its average only with these.
EUROPEAN_CODES = frozenset({"eng", "deu", "fra", "spa", "ita", "nld", "pol", "por"})
# One language under two codes: what mteb and others write, and what FineWeb2 does.
_CODES = {
    **{"ara": "arb", "aze": "azj", "est": "ekk", "kur": "kmr", "lav": "lvs", "mlg": "plt", "mon": "khk", "msa": "zsm"},
    **{"nep": "npi", "nor": "nob", "ori": "ory", "pes": "fas", "pus": "pbt", "sqi": "als", "swa": "swh", "tgl": "fil"},
    **{"uzb": "uzn", "yid": "ydd", "zho": "cmn"},
}
UNSCALED = frozenset({"bits_per_byte", "loss", "tokens_per_second"})
_DEFAULT = {"held_out": "bits_per_byte", "bitext": "f1", "probe": "accuracy"}  # of files that name no metric
_PUBLISHED = Path(__file__).parent.parent / "evaluation" / "published"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Result:
    """One model on one task by one metric."""

    model: str
    task: str
    metric: str
    values: dict[str, float]  # by language
    average: float | None
    half: float | None = None  # half the width of the 95% interval of the average
    over: str = ""  # what the interval is over
    repeats: int = 0  # how many of them
    by_length: dict[str, float] = field(default_factory=dict)  # "1000-5000" -> value
    outcomes: dict[str, NDArray[np.float64]] = field(default_factory=dict)  # by language, one for each example
    data: Any = None  # equal where two were measured on the same rows
    size: str = ""
    protocol: str = ""  # its name, else that of the file
    oracle: bool = False  # chosen on the test set
    source: str = ""  # of a published one

    @property
    def name(self) -> str:
        """The model with its size."""
        return f"{self.model} {self.size}" if self.size and self.size not in self.model else self.model

    @property
    def label(self) -> str:
        """What the model is called in tables and pictures."""
        return f"{self.name} †" if self.source else self.name

    @property
    def european(self) -> float | None:
        """As EuroBERT's papers average."""
        if EUROPEAN in self.values:
            return self.values[EUROPEAN]
        found = [value for code, value in self.values.items() if code[:3] in EUROPEAN_CODES]
        return sum(found) / len(found) if len(found) > 1 else None


def read(path: Path, metric: str | None = None) -> list[Result]:
    """The results of a file or of all files of a folder. Raises ValueError naming a file that is none."""
    if path.is_dir():
        found = [result for file in sorted(path.glob("*.json")) for result in _read_file(file, metric, strict=False)]
        if not found:
            raise ValueError(f"{path}: holds no result; give the folder that `tessera evaluate` wrote into")
        return found
    return _read_file(path, metric, strict=True)


def _read_file(path: Path, metric: str | None, *, strict: bool) -> list[Result]:
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
        task, model, rows = given["task"], given["model"], given["results"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        if not strict:
            return []
        raise ValueError(f"{path}: is no result of `tessera evaluate` ({type(error).__name__}: {error})") from error
    metrics = {name for row in rows.values() for name in row}
    chosen = metric or given.get("metric") or _DEFAULT.get(given.get("kind", ""), "accuracy")
    if chosen not in metrics:
        if metric is None:
            raise ValueError(f"{path}: names the metric {chosen!r}, but has {', '.join(sorted(metrics))}")
        return []
    scale = 1.0 if chosen in UNSCALED else 100.0
    half = (given.get("interval") or {}).get(chosen)
    each = (given.get("outcomes") or {}).get(chosen) or {}
    trials = (given.get("protocol") or {}).get("n_experiments") or (given.get("protocol") or {}).get("n_clusters")
    return [
        Result(
            model=model,
            task=task,
            metric=_metric(chosen),
            values=_canonical({code: scale * row[chosen] for code, row in rows.items() if chosen in row}),
            average=scale * given["average"][chosen],
            half=None if half is None else scale * half,
            over="" if half is None else f"{trials} experiments" if trials else f"{len(given.get('seeds', ()))} seeds",
            repeats=trials or len(given.get("seeds") or ()),
            by_length={name: scale * row[chosen] for name, row in (given.get("by_length") or {}).items()},
            outcomes=_canonical({code: np.asarray(row) for code, row in each.items()}),
            data=given.get("data") or (given.get("protocol") or {}).get("data"),
            protocol=str((given.get("protocol") or {}).get("name") or path.stem),
            oracle=bool(given.get("oracle")),
        )
    ]


def read_published(folder: Path = _PUBLISHED) -> list[Result]:
    """What papers and leaderboards report; see the files' last column for where."""
    rows: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for path in sorted(folder.glob("*.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                source = re.sub(r" (table|figure|split).*", "", row["source"])
                rows.setdefault((row["model"], row["size"], row["task"], row["metric"], source), []).append(row)
    results = []
    for (model, size, task, metric, source), several in rows.items():
        values = {row["language"]: float(row["value"]) for row in several if not row["length"]}
        average = values.pop(AVERAGE, None)
        values = _canonical(values)
        results.append(
            Result(
                model=model,
                size=size,
                task=task,
                metric=metric,
                values=values,
                average=average,
                by_length={row["length"]: float(row["value"]) for row in several if row["length"]},
                source=source,
            )
        )
    return results


def _metric(name: str) -> str:
    """mteb's ndcg_at_10 as everybody writes it."""
    return name.replace("_at_", "@")


def _canonical(by_language: dict[str, Any]) -> dict[str, Any]:
    """The same with codes as FineWeb2 has them, where that makes no two languages one."""
    made = {_CODES.get(code[:3], code[:3]) + code[3:]: value for code, value in by_language.items()}
    return made if len(made) == len(by_language) else by_language
