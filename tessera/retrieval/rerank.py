"""Fine-tuning of a reranker (cross-encoder) out of pairs: query and document are read together, one score comes out.

    found = run(folder, judged(rows), out, protocol=protocol, retriever="runs/retriever")

A document that answers a query shall score 1, one that does not 0, and grades lie between (binary cross-entropy); or
each answer is to be found among others (listwise, softmax cross-entropy: Cao et al. 2007, ListNet). What does not
answer a query comes from the rows, from what a retriever mistakes for an answer, or by chance from other queries.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tessera.data.examples import Choices, Labelled, Search
from tessera.files import model_name, refuse_taken
from tessera.finetune import loop
from tessera.finetune.learner import Learner, pretrained
from tessera.finetune.loop import TrainingSummary, best_of
from tessera.finetune.saved import save
from tessera.inference import sentence_folder as folders
from tessera.plan.recipe import Machine
from tessera.plan.task import Protocol
from tessera.progress import Progress, Silent, Watcher
from tessera.retrieval import pairs
from tessera.retrieval.cards import model_card
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

    summary: TrainingSummary
    before: dict[str, float] | None  # measures on held-out queries of the retriever's ranking; None: there is none
    after: dict[str, float]  # of the same documents, reranked
    test: dict[str, float] | None  # on test queries, where there are some
    rate: float  # the learning rate that was best on held-out queries
    difference: float  # of transformers' logits and CrossEncoder's scores, at most


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


def graded(judged: Sequence[Judged]) -> list[Labelled]:
    """A query with each of its documents; the label is the grade as a share of the highest of all."""
    highest = max((grade for one in judged for grade in one.grades.values()), default=0) or 1
    return [
        Labelled(text=one.query, second=text, label=grade / highest, id=f"{one.query}.{n}", row=one.row)
        for one in judged
        for n, (text, grade) in enumerate(one.grades.items())
    ]


def lists(judged: Sequence[Judged]) -> list[Choices]:
    """Each answer with all documents that do not answer its query; the answer comes first."""
    return [
        Choices(text=one.query, options=(answer, *one.others), label=0, id=f"{one.query}.{n}", row=one.row)
        for one in judged
        for n, answer in enumerate(one.answers)
        if one.others
    ]


def train(
    learner: Learner, judged: Sequence[Judged], protocol: Protocol, *, listwise: bool = False, **how: object
) -> TrainingSummary:
    """Trains a learner of kind rerank, in place, as loop.train, whose other arguments it takes.

    listwise  a batch is so many answers, each among its others; else so many pairs
    """
    if not listwise:
        return loop.train(learner, graded(judged), protocol, **how)  # type: ignore[arg-type]
    # The same encoder and head; only what is asked of their scores is another thing.
    among = dataclasses.replace(learner, reader=dataclasses.replace(learner.reader, kind="choose"))
    return loop.train(among, lists(judged), protocol, **how)  # type: ignore[arg-type]


def reranked(
    learner: Learner, search: Search, ranked: Mapping[str, Sequence[str]], on_progress: Progress | None = None
) -> dict[str, list[str]]:
    """The ranked documents of each query in the order of their scores, of equal ones in the order in which they came.

    ranked  query -> ids of documents, as ranking.rank gives them
    """
    rows = [
        Labelled(text=search.queries[query], second=search.corpus[name], id=name, row=f"query {query[:40]!r}")
        for query, names in ranked.items()
        for name in names
    ]
    answers = iter(loop.predict(learner, rows, on_progress))
    found = {}
    for query, names in ranked.items():
        scores = {name: float(next(answers)) for name in names}  # type: ignore[arg-type]  # of this kind all are numbers
        found[query] = sorted(names, key=scores.__getitem__, reverse=True)
    return found


def candidates(search: Search, seed: int, retriever: Retriever | None = None, top: int = TOP) -> dict[str, list[str]]:
    """What is to be reranked for each query: the first `top` of a retriever.

    Without one it is what was judged for the query, among 20 documents of others, in an order drawn by `seed`.
    """
    if retriever is not None:
        return rank(search, retriever.queries, retriever.documents, top)
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
    retriever       a folder: its mistakes are what is trained on, its first `top` documents what is reranked
    negatives       documents of each query that do not answer it, at least

    Each learning rate of the protocol is tried, with its first seed. Raises as retrieve.run.
    """
    watcher, out, seed = watcher or Silent(), Path(out), protocol.seeds[0]
    refuse_taken(out)
    learn, held = divide(judged, held_out)
    _, inside = folders.read(folders.local(folder))
    start = pretrained(inside, machine)
    finder = None if retriever is None else Retriever.from_pretrained(retriever, machine)[0]
    documents = dict.fromkeys(text for one in learn for text in one.grades)
    asked = pairs.search(held, documents)
    ranked = candidates(asked, seed, finder, top)
    before = averages(measure(asked, ranked)) if finder else None
    taught = with_negatives(learn, negatives, seed, finder)
    said = f"; {METRIC} of the retriever is {before[METRIC]:.4f}" if before else ""
    watcher.say(f"{sum(len(one.grades) for one in taught):,} pairs to train on, {len(ranked):,} queries held out{said}")

    def score(learner: Learner) -> dict[str, float]:
        return averages(measure(asked, reranked(learner, asked, ranked)))

    def once(rate: float) -> tuple[Learner, TrainingSummary, float]:
        learner = start.learner("rerank", 1, protocol, seed=seed)
        course = train(
            learner, taught, protocol, listwise=listwise, rate=rate, seed=seed,
            validate=lambda: score(learner)[METRIC], on_progress=watcher.progress(f"rerank at {rate:g}"),
        )  # fmt: skip
        return learner, course, score(learner)[METRIC]

    learner, summary, rate = best_of(protocol.rates(), once, watcher.say)
    after, tested = score(learner), None
    rows = ({"retriever": before} if before else {}) | {"reranked": after}
    if test:
        other = pairs.search(test, asked.corpus)
        tested = averages(measure(other, reranked(learner, other, candidates(other, seed, finder, top))))
        rows["reranked, test"] = tested
    card = _card(folder, retriever, len(graded(taught)), listwise, rows)
    difference = save(learner, inside, out, graded(held), labels=("score",), pair=True, card=card)
    return Reranked(summary=summary, before=before, after=after, test=tested, rate=rate, difference=difference)


def _card(
    folder: str | Path, retriever: str | Path | None, count: int, listwise: bool, rows: dict[str, dict[str, float]]
) -> str:
    among = f"the first documents of {model_name(Path(retriever))}" if retriever else "documents of other queries"
    what = (
        f"A reranker (cross-encoder), trained on {count:,} pairs of query and document "
        f"({'listwise softmax' if listwise else 'binary'} cross-entropy). Scores lie between 0 and 1. Measures: means "
        f"over held-out queries, whose answers stood among {among}."
    )
    code = (
        "from sentence_transformers import CrossEncoder\n"
        'model = CrossEncoder("<this folder>")\nscores = model.predict([("a query", "a document")])'
    )
    return model_card(folder, "rerank", what, rows, code)
