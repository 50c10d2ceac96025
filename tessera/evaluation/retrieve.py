"""Retrieval as a kind of trial: trained by contrast, documents ranked for each query, nDCG, MRR and recall of that."""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence

import numpy as np

from tessera.data.examples import Search
from tessera.evaluation.trial import NOT_OF_A_TRIAL, Group, Json, Kind, Scores, Trial, training_summary
from tessera.finetune.learner import Pretrained
from tessera.progress import Progress
from tessera.retrieval.contrastive import train
from tessera.retrieval.ranking import MEASURES, averages, measure, rank
from tessera.retrieval.retriever import Contrast, Retriever

LENGTHS = (1_000, 5_000, 9_000, 17_000, 26_000, 151_000)  # characters, as in figure 3 of EuroBERT, arXiv:2503.05500
CONTRAST = Contrast()


def _settings(group: Group, trial: Trial) -> list[object]:
    if not group.task.trained:
        return [CONTRAST.pooling, CONTRAST.query_prompt, CONTRAST.document_prompt, trial.protocol.max_length]
    return [trial.protocol.model_dump(mode="json", exclude=NOT_OF_A_TRIAL), dataclasses.asdict(CONTRAST)]


def _fit(group: Group, trial: Trial, start: Pretrained, report: Progress) -> tuple[Retriever, Json]:
    retriever = Retriever.of(start, CONTRAST, max_length=trial.protocol.max_length)
    if trial.rate is None:
        return retriever, {}
    course = train(retriever, group.train, trial.protocol, rate=trial.rate, seed=trial.seed, on_progress=report)
    return retriever, training_summary(course)


def _predict(retriever: Retriever, searches: Mapping[str, Search], report: Progress | None) -> Json:
    """Measures of each ranking; rankings themselves are not kept."""
    found = {x: measure(one, rank(one, retriever.queries, retriever.documents)) for x, one in searches.items()}
    return {
        "test": {x: averages(rows) for x, rows in found.items()},
        "lengths": {x: by_length(searches[x], rows) for x, rows in found.items()},
        "outcomes": {x: outcomes(rows) for x, rows in found.items()},
    }


def _more(first: Sequence[Json]) -> Json:
    """The measures by the length of what answers, in each language and over languages."""
    lengths: dict[str, Scores] = {language: rows for one in first for language, rows in one["lengths"].items()}
    names = list(dict.fromkeys(name for rows in lengths.values() for name in rows))
    return {
        "lengths": lengths,
        "by_length": {
            name: {m: statistics.fmean(rows[name][m] for rows in lengths.values() if name in rows) for m in MEASURES}
            for name in names
        },
    }


RETRIEVAL = Kind(
    settings=_settings,
    fit=_fit,
    predict=_predict,
    measure=lambda group, found, searches: found.get("test", {}),
    outcomes=lambda group, found, searches: found["outcomes"],
    more=_more,
    protocol={"contrast": dataclasses.asdict(CONTRAST)},
)
"""retrieve: an encoder that puts queries near the documents that answer them, or one that is searched with as it is."""


def outcomes(rows: Mapping[str, Mapping[str, float]]) -> dict[str, list[float]]:
    """Each measure of each query, in the order of the queries, to 6 digits."""
    return {name: [round(row[name], 6) for row in rows.values()] for name in next(iter(rows.values()))}


def by_length(
    search: Search, rows: Mapping[str, Mapping[str, float]], lengths: Sequence[int] = LENGTHS
) -> dict[str, dict[str, float]]:
    """The means by the length of what answers a query, in characters: the longest of its documents counts.

    lengths   rising bounds; a bound belongs to the group below it
    returns   "1000-5000" -> means and "queries", how many there are; groups of no query are left out. Documents up to
              the first bound are "0-1000", those beyond the last ">151000"
    """
    groups: dict[int, dict[str, Mapping[str, float]]] = {}
    for query, row in rows.items():
        answers = [name for name, grade in search.relevant[query].items() if grade > 0 and name in search.corpus]
        longest = max((len(search.corpus[name]) for name in answers), default=0)
        groups.setdefault(int(np.searchsorted(lengths, longest)), {})[query] = row
    names = [f"{low}-{high}" for low, high in zip((0, *lengths), lengths, strict=False)] + [f">{lengths[-1]}"]
    return {names[n]: {**averages(groups[n]), "queries": len(groups[n])} for n in sorted(groups)}
