"""Scores of models on tasks, out of our results and out of the tables of papers.

Our own are read by results/result.py; published ones come with tessera, in results/published/*.csv, in the units of
their papers. Shares are in percent here.
"""

import csv
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tessera.plan.languages import by_language
from tessera.results import result
from tessera.results.remarks import remarks
from tessera.results.result import WORDS, Result

AVERAGE, EUROPEAN = "average", "average of European languages"
# The languages of EuroBERT's second column: its per-language XNLI scores give its average only with these.
EUROPEAN_CODES = frozenset({"eng", "deu", "fra", "spa", "ita", "nld", "pol", "por"})
UNSCALED = frozenset({"bits_per_byte", "loss", "tokens_per_second"})
_PUBLISHED = Path(__file__).with_name("published")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Score:
    """One model on one task by one metric, as tables and pictures show it."""

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
    path: Path | None = None  # the file of our own
    defined: str = ""  # where the task is: see results/result.py
    dtype: str = ""
    settings: dict[str, Any] = field(default_factory=dict)  # of the protocol, besides its name
    limit: int | None = None  # examples of each language that were tested at most
    remarks: tuple[str, ...] = ()

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


def read(path: Path, metric: str | None = None, left_out: list[str] | None = None) -> list[Score]:
    """Our scores in a file or in all files of a folder; `left_out` gets in words what else lies there.

    Raises ValueError naming a file that is no result.
    """
    if not path.is_dir():
        return _scores(path, result.read(path), metric)
    found, besides = result.read_all(path)
    (left_out if left_out is not None else []).extend(f"{path}: {line}" for line in besides)
    if not found:
        why = f" ({'; '.join(besides[:3])})" if besides else ""
        raise ValueError(f"{path}: holds no result{why}; give the folder that `tessera evaluate` wrote into")
    return [score for file, one in found.items() for score in _scores(file, one, metric)]


def _scores(path: Path, one: Result, metric: str | None) -> list[Score]:
    """The score by a metric, or by the task's own; none where it was not measured by that."""
    chosen = metric or one.metric
    if chosen not in one.average:
        return []
    scale = 1.0 if chosen in UNSCALED else 100.0
    half = one.interval.get(chosen)
    tries = one.protocol.get("n_experiments") or one.protocol.get("n_clusters")
    return [
        Score(
            model=one.model,
            task=one.task,
            metric=chosen.replace("_at_", "@"),  # mteb's ndcg_at_10 as everybody writes it
            values={code: scale * row[chosen] for code, row in one.results.items() if chosen in row},
            average=scale * one.average[chosen],
            half=None if half is None else scale * half,
            over="" if half is None else f"{tries} experiments" if tries else f"{len(one.seeds)} seeds",
            repeats=int(tries or len(one.seeds)),
            by_length={name: scale * row[chosen] for name, row in one.by_length.items()},
            outcomes={code: np.asarray(row) for code, row in one.outcomes.get(chosen, {}).items()},
            data=one.data or None,
            protocol=str(one.protocol.get("name") or path.stem),
            settings={key: value for key, value in one.protocol.items() if key not in WORDS},
            oracle=one.oracle,
            path=path,
            defined=one.defined,
            dtype=one.dtype,
            limit=one.protocol.get("test_examples"),
            remarks=tuple(remarks(one)),
        )
    ]


def read_published(folder: Path = _PUBLISHED) -> list[Score]:
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
        values = by_language(values)
        results.append(
            Score(
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
