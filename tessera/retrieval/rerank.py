"""Fine-tuning of a reranker (cross-encoder): what it learns from, hard negatives mined, and what it is to put in order.

    data, before = prepared(data, retriever="runs/retriever")
    fitted = finetune(folder, data, out)                      # finetune/fit.py, as any other kind

A document that answers a query shall score 1, one that does not 0, and grades lie between (binary cross-entropy); or
each answer is to be found among others (finetune/listwise.py). What does not answer a query comes from the rows, from
what a retriever mistakes for an answer, or by chance from other queries.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tessera.data.examples import Labelled, Search
from tessera.files import model_name
from tessera.finetune.card import Fitted
from tessera.finetune.fit import finetune
from tessera.inference import sentence_folder as folders
from tessera.labelled.dataset import Dataset, Part
from tessera.plan.recipe import Machine
from tessera.plan.task import Protocol
from tessera.progress import Watcher
from tessera.retrieval import pairs
from tessera.retrieval.contrastive import mine
from tessera.retrieval.pairs import Judged
from tessera.retrieval.ranking import averages, measure, rank
from tessera.retrieval.retrieve import HELD_OUT, METRIC, divide
from tessera.retrieval.retriever import Retriever

NEGATIVES = 4  # of each query, to train on
TOP = 50  # documents of a query that are reranked
_BESIDE = 20  # documents of other queries among which an answer is to be found, where there is no retriever


@dataclass(frozen=True, slots=True, kw_only=True)
class Reranked:
    """What has come of it."""

    fitted: Fitted
    before: dict[str, float]  # nDCG@10 of the retriever's order on validation and test; none where there is none


def prepared(
    data: Dataset,
    *,
    retriever: str | Path | None = None,
    negatives: int | None = None,
    top: int = TOP,
    seed: int = 0,
    machine: Machine | None = None,
) -> tuple[Dataset, dict[str, float]]:
    """A dataset of kind rerank with documents that do not answer, and nDCG@10 of the retriever's order of each split.

    retriever  a folder: its mistakes are what is trained on, its first `top` documents, and all that were judged, what
               is put in order on validation and test
    negatives  documents of each query that do not answer it, at least; None: 4 where the rows have none or there is a
               retriever, else those of the rows

    Without a retriever negatives are documents of other queries, drawn by `seed`, and so is what validation and test
    put in order where their rows have answers alone. Raises ValueError for a kind without documents.
    """
    if data.kind != "rerank":
        raise ValueError(f"{data.source}: kind {data.kind} has no documents to put in order; negatives are of rerank")
    splits = {name: _judged(part, data.highest) for name, part in zip(_SPLITS, data.parts, strict=True)}
    finder = None if retriever is None else Retriever.from_pretrained(retriever, machine)[0]
    if negatives is None:
        negatives = NEGATIVES if finder is not None or not any(one.others for one in splits["train"]) else 0
    said, before = list(data.said), dict[str, float]()
    count = len(data.train)
    taught = with_negatives(splits["train"], negatives, seed, finder)
    parts = {"train": _part(taught, data.train, data.highest)}
    if more := len(parts["train"]) - count:
        whence = f"mined with {model_name(Path(retriever))}" if retriever else "drawn from other queries"
        said.append(f"{more:,} documents that do not answer were {whence}, {negatives} of each query")
    corpus = {text: None for some in splits.values() for one in some for text in one.grades}
    for name in ("validation", "test"):
        judged = splits[name]
        if not judged or (finder is None and any(one.others for one in judged)):
            parts[name] = getattr(data, name)
            continue
        asked = pairs.search(judged, corpus)
        ranked = candidates(asked, seed, finder, top)
        parts[name] = _part(_in_order(judged, ranked), getattr(data, name), data.highest)
        if finder is not None:
            before[name] = averages(measure(asked, ranked))[METRIC]
            said.append(f"{METRIC} of the retriever's own order on {name}: {before[name]:.4f}")
    given: dict[str, Any] = {**parts, "said": tuple(said)}
    return dataclasses.replace(data, **given), before


_SPLITS = ("train", "validation", "test")


def _judged(part: Part, highest: float) -> list[Judged]:
    found: dict[str, Judged] = {}
    for one in part.examples:
        here = found.setdefault(one.text, Judged(query=one.text, row=one.row)).grades
        here[one.second] = max(here.get(one.second, 0), round(float(one.label) * highest))
    return list(found.values())


def _part(judged: Sequence[Judged], of: Part, highest: float) -> Part:
    """Examples of queries, in the language in which each was."""
    languages = {one.text: language for one, language in zip(of.examples, of.languages, strict=True)}
    examples = graded(judged, highest)
    return Part(examples, [languages.get(one.text, "") for one in examples])


def _in_order(judged: Sequence[Judged], ranked: Mapping[str, Sequence[str]]) -> list[Judged]:
    """The documents of a ranking with the grades that they have; of those that were not judged 0."""
    return [
        dataclasses.replace(one, grades={text: one.grades.get(text, 0) for text in ranked[one.query]})
        for one in judged
        if one.query in ranked
    ]


def with_negatives(judged: Sequence[Judged], count: int, seed: int, retriever: Retriever | None = None) -> list[Judged]:
    """The queries with at least `count` documents that do not answer them, as far as there are any.

    Those of the rows come first, then hard ones (contrastive.mine) where there is a retriever, then documents of other
    queries, drawn by `seed`.
    """
    documents = list(dict.fromkeys(text for one in judged for text in one.grades))
    hard: dict[str, list[str]] = {}
    if retriever is not None:
        for triple in mine(retriever, pairs.triples(judged), documents, count):
            hard.setdefault(triple.query, []).extend(triple.negatives)
    found = []
    for number, one in enumerate(judged):
        grades = dict(one.grades)
        short = count - len(one.others)
        for text in hard.get(one.query, []):
            if short > 0 and text not in grades:
                grades[text], short = 0, short - 1
        order = np.random.default_rng([seed, number]).permutation(len(documents)) if short > 0 else ()
        for text in (documents[n] for n in order):
            if short < 1:
                break
            if text not in grades:
                grades[text], short = 0, short - 1
        found.append(dataclasses.replace(one, grades=grades))
    return found


def graded(judged: Sequence[Judged], highest: float | None = None) -> list[Labelled]:
    """A query with each of its documents; the label is the grade as a share of the highest, None: of all of these."""
    top = highest or max((grade for one in judged for grade in one.grades.values()), default=0) or 1
    return [
        Labelled(text=one.query, second=text, label=grade / top, id=f"{one.query}.{n}", row=one.row)
        for one in judged
        for n, (text, grade) in enumerate(one.grades.items())
    ]


def candidates(search: Search, seed: int, retriever: Retriever | None = None, top: int = TOP) -> dict[str, list[str]]:
    """What is to be put in order for each query: the first `top` of a retriever, then what else was judged for it.

    Without one it is what was judged for the query, among 20 documents of others, in an order drawn by `seed`.
    """
    if retriever is not None:
        ranked = rank(search, retriever.queries, retriever.documents, top)
        return {query: list(dict.fromkeys((*names, *search.relevant[query]))) for query, names in ranked.items()}
    ids, found = list(search.corpus), {}
    for number, (query, grades) in enumerate(search.relevant.items()):
        rng = np.random.default_rng([seed, number])
        drawn = [ids[n] for n in rng.choice(len(ids), min(_BESIDE, len(ids)), replace=False)]
        both = list(dict.fromkeys((*grades, *drawn)))
        found[query] = [both[n] for n in rng.permutation(len(both))]
    return found


def run(
    folder: str | Path,
    judged: Sequence[Judged],
    out: Path,
    *,
    protocol: Protocol,
    held_out: float | Sequence[Judged] = HELD_OUT,
    test: Sequence[Judged] = (),
    retriever: str | Path | None = None,
    negatives: int = NEGATIVES,
    top: int = TOP,
    listwise: bool = False,
    machine: Machine | None = None,
    watcher: Watcher | None = None,
) -> Reranked:
    """Trains a copy of the model of a folder to rerank, and writes it to `out` for transformers and CrossEncoder.

    held_out, test  as in retrieve.run
    The rest is as of `prepared` and of fit.finetune, which it calls one after the other.
    """
    learn, held = divide(judged, held_out)
    highest = max(grade for one in (*learn, *held, *test) for grade in one.grades.values())
    splits = (Part(some, [""] * len(some)) for some in (graded(part, highest) for part in (learn, held, test)))
    train, validation, tested = splits
    data = Dataset(
        source=str(out), kind="rerank", columns={}, labels=(), train=train, validation=validation, test=tested,
        said=(), left_out=(), highest=highest,
    )  # fmt: skip
    data, before = prepared(
        data, retriever=retriever, negatives=negatives, top=top, seed=protocol.seeds[0], machine=machine
    )
    _, inside = folders.read(folders.local(folder))
    fitted = finetune(inside, data, out, protocol=protocol, machine=machine, listwise=listwise, watcher=watcher)
    return Reranked(fitted=fitted, before=before)
