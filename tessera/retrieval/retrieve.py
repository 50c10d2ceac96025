"""Fine-tuning of a dense retriever out of pairs: trained by contrast, chosen by nDCG@10 on held-out queries, saved.

found = run(folder, judged(rows), out, protocol=protocol)
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tessera.data.examples import Search
from tessera.files import digest, refuse_taken
from tessera.finetune.checkpoint import Checkpoint
from tessera.finetune.loop import TrainingSummary
from tessera.plan.recipe import Machine
from tessera.plan.task import Protocol
from tessera.progress import Silent, Watcher
from tessera.retrieval import pairs
from tessera.retrieval.cards import model_card
from tessera.retrieval.contrastive import train
from tessera.retrieval.pairs import Judged
from tessera.retrieval.ranking import averages, measure, rank
from tessera.retrieval.retriever import Contrast, Retriever, save_vectors
from tessera.retrieval.sweep import Sweep, model_fingerprint, rows_fingerprint, settings_of, trials_of

HELD_OUT = 0.1  # share of the queries
METRIC = "ndcg@10"


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrieved:
    """What has come of it."""

    summary: TrainingSummary
    before: dict[str, float]  # measures on held-out queries of the model as it was
    after: dict[str, float]
    test: dict[str, float] | None  # on test queries, where there are some
    rate: float  # the learning rate that was best on held-out queries
    difference: float  # of sentence-transformers' vectors, at most
    seeds: dict[str, tuple[float, float]] = field(
        default_factory=dict
    )  # see Best.over_seeds; on test where there is one


def score(retriever: Retriever, search: Search) -> dict[str, float]:
    """nDCG, MRR, recall and average precision of a retriever's rankings, the mean over queries."""
    return averages(measure(search, rank(search, retriever.queries, retriever.documents)))


def divide(judged: Sequence[Judged], held_out: float | Sequence[Judged]) -> tuple[list[Judged], list[Judged]]:
    """(to train on, held out): as they are given, or a share of the queries. Raises ValueError where one has none."""
    learn, held = pairs.split(judged, held_out) if isinstance(held_out, float) else (list(judged), list(held_out))
    for what, some in (("to train on", learn), ("held out", held)):
        if not any(one.answers for one in some):
            raise ValueError(
                f"pairs: none of the {len(some)} queries {what} has a document that answers it; give more rows, a "
                "greater share (--held-out 0.2), or validation rows of your own"
            )
    return learn, held


def run(
    folder: str | Path,
    judged: Sequence[Judged],
    out: Path,
    *,
    protocol: Protocol,
    held_out: float | Sequence[Judged] = HELD_OUT,
    test: Sequence[Judged] = (),
    contrast: Contrast | None = None,
    machine: Machine | None = None,
    watcher: Watcher | None = None,
) -> Retrieved:
    """Trains a copy of the model of a folder on pairs, and writes it to `out` for sentence-transformers.

    held_out   queries that the learning rate and the end of training are chosen by, or the share of them that is, by a
               hash of the query; all documents of the rows are searched
    test       queries that have no part in it, for the score that the card names
    contrast   pooling, prompts, dimensions, hard negatives; None: pooling and prompts as the folder says

    Each learning rate of the protocol is tried with its first seed, the best with all others. Killed, or stopped by
    Ctrl-C, the same call goes on where it was, in <out>.trials. Raises FileExistsError where `out` holds something,
    ValueError for pairs that leave nothing to tell apart.
    """
    watcher, out = watcher or Silent(), Path(out)
    refuse_taken(out)
    learn, held = divide(judged, held_out)
    triples = pairs.triples(learn)
    documents = dict.fromkeys(text for one in learn for text in one.grades)
    asked = pairs.search(held, documents)
    first, inside = Retriever.from_pretrained(folder, machine, contrast=contrast, max_length=protocol.max_length)
    watcher.say(f"{len(triples):,} pairs to train on; {len(asked.queries):,} queries held out, {len(asked.corpus):,} "
                "documents are searched")  # fmt: skip
    before = score(first, asked)
    watcher.say(f"{METRIC} is {before[METRIC]:.4f} as it is")

    def once(model: Retriever, rate: float, seed: int, checkpoint: Checkpoint) -> TrainingSummary:
        return train(
            model, triples, protocol, rate=rate, seed=seed, corpus=list(documents),
            validate=lambda: score(model, asked)[METRIC], on_progress=watcher.progress(f"retrieve at {rate:g}"),
            checkpoint=checkpoint,
        )  # fmt: skip

    of = [model_fingerprint(folder), settings_of(protocol), protocol.seeds[0], asdict(first.contrast),
          first.max_length, rows_fingerprint(learn, held)]  # fmt: skip
    searched = pairs.search(test, asked.corpus) if test else asked
    how: dict[str, Any] = {"contrast": contrast, "max_length": protocol.max_length}
    sweep = Sweep(
        folder=trials_of(out), identity=digest(of), train=once, score=lambda model: score(model, asked)[METRIC],
        measure=lambda model: score(model, searched), seeds=protocol.seeds, say=watcher.say,
        blank=lambda: Retriever.from_pretrained(folder, machine, **how)[0],
    )  # fmt: skip
    best = sweep.best_of(protocol.rates())
    model, after = best.model, score(best.model, asked)
    tested = score(model, searched) if test else None
    rows = {"before": before, "after": after, **({"test": tested} if tested else {}), **best.row()}
    texts = [*asked.queries][:8] + [*asked.corpus][:8]
    difference = save_vectors(model, inside, out, texts, _card(folder, model, len(triples), rows))
    sweep.finished()
    return Retrieved(summary=best.summary, before=before, after=after, test=tested, rate=best.rate,
                     difference=difference, seeds=best.over_seeds())  # fmt: skip


def _card(folder: str | Path, model: Retriever, count: int, rows: dict[str, dict[str, float]]) -> str:
    how = model.contrast
    sizes = f" Vectors may be cut to {', '.join(map(str, how.dimensions))} dimensions." if how.dimensions else ""
    said = [f"{n} prompt {p!r}" for n, p in (("query", how.query_prompt), ("document", how.document_prompt)) if p]
    what = (
        f"A dense retriever of {model.width} dimensions ({', '.join([f'{how.pooling} pooling', *said])}, at most "
        f"{model.max_length} tokens), trained on {count:,} pairs by contrast (InfoNCE).{sizes} Scores: "
        "means over held-out queries, of the model before and after."
    )
    code = (
        'from sentence_transformers import SentenceTransformer\nmodel = SentenceTransformer("<this folder>"'
        f"{f', truncate_dim={min(how.dimensions)}' if how.dimensions else ''})\n"
        'similar = model.similarity(model.encode_query(["a query"]), model.encode_document(["a document"]))'
    )
    return model_card(folder, "retrieve", what, rows, code)
