"""Contrastive fine-tuning for dense retrieval: InfoNCE with in-batch and hard negatives, gradient caching.

    retriever = Retriever.of(pretrained(folder), Contrast(query_prompt="query: "), max_length=512)
    train(retriever, triples, protocol, rate=5e-5, seed=0)
    retriever.save(folder, "runs/retriever")

A query is drawn to the document that answers it and away from the others. The documents of a batch serve all its
queries: those of other queries, and hard negatives of any. A text that is known to answer a query is never held against
it, however it came into the batch. Texts are told apart by what they say, so a document that stands in a batch twice is
one document.

A large batch needs the memory of a small one: vectors of all micro-batches first, then the gradient of the loss at the
vectors, then each micro-batch again with its part of that gradient, which together is the gradient of the whole batch
(GradCache: Gao et al. 2021, arXiv:2101.06983).
"""

# Shapes: B queries, D documents, C hidden size.

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tessera.bulk.nearest import nearest
from tessera.checksums import sealed_json
from tessera.data.examples import Triple
from tessera.data.packing import by_length
from tessera.files import write_json
from tessera.finetune.checkpoint import Checkpoint
from tessera.finetune.loop import Plan, TrainingSummary, optimize
from tessera.inference.tokenize import Ids
from tessera.json_files import Strictly, read_own
from tessera.plan.task import Protocol
from tessera.progress import Progress
from tessera.retrieval.retriever import Contrast, Retriever
from tessera.train.embedding import info_nce

Answers = dict[str, set[str]]  # of each query, the documents that are known to answer it

DEPTH = 50  # documents looked at for each query when hard negatives are mined
MARGIN = 0.95  # of the cosine with the positive: what is nearer than that may be an answer that nobody marked


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Batch:
    """Texts that are compared with each other."""

    queries: list[str]
    documents: list[str]  # no two the same: the positives of all queries, then their hard negatives
    targets: NDArray[np.int64]  # [B], the document that each query is drawn to
    ignored: NDArray[np.bool_]  # [B, D], other documents that answer the query


def draw(triples: Sequence[Triple], answers: Answers, negatives: int, rng: np.random.Generator) -> Batch:
    """A batch of these triples, each with at most `negatives` of its hard negatives."""
    texts: dict[str, int] = {}
    targets = np.array([texts.setdefault(triple.positive, len(texts)) for triple in triples], np.int64)
    for triple in triples:
        count = min(negatives, len(triple.negatives))
        for place in rng.choice(len(triple.negatives), count, replace=False).tolist() if count else ():
            texts.setdefault(triple.negatives[place], len(texts))
    ignored = np.zeros((len(triples), len(texts)), np.bool_)
    for row, triple in enumerate(triples):
        ignored[row, [texts[text] for text in answers[triple.query] if text in texts]] = True
    ignored[np.arange(len(triples)), targets] = False
    return Batch(queries=[t.query for t in triples], documents=list(texts), targets=targets, ignored=ignored)


def known(triples: Sequence[Triple]) -> Answers:
    """What answers each query, as far as the triples say."""
    answers: Answers = {}
    for triple in triples:
        answers.setdefault(triple.query, set()).add(triple.positive)
    return answers


def nested(vectors: Tensor, batch: Batch, how: Contrast, temperature: float) -> Tensor:
    """The loss of a batch: of whole vectors, or the mean of it and of that of their first so many dimensions.

    vectors   [B + D, C], queries then documents
    """
    targets, ignored = (torch.from_numpy(part).to(vectors.device) for part in (batch.targets, batch.ignored))

    def at(size: int) -> Tensor:
        queries, documents = vectors[: len(targets), :size], vectors[len(targets) :, :size]
        return info_nce(queries, documents, targets, ignored, temperature, how.symmetric)

    return torch.stack([at(size) for size in sorted({*how.dimensions, vectors.shape[1]})]).mean()


def backward(
    embed: Callable[[Sequence[Ids]], Tensor], texts: Sequence[Ids], loss: Callable[[Tensor], Tensor], max_tokens: int
) -> float:
    """Adds the gradient of loss(vectors of all texts) to that of the weights; returns the loss.

    embed       texts -> [N, C]
    max_tokens  of the texts that are held with what their gradient needs, unless one alone has more
    """
    parts = list(by_length([len(text) for text in texts], max_tokens))
    if len(parts) == 1:
        whole = loss(embed(texts))
        whole.backward()
        return float(whole.detach())
    chances, vectors = [], []  # where the generators stand: the second pass drops what the first one dropped
    with torch.no_grad():
        for part in parts:
            chances.append((torch.get_rng_state(), torch.cuda.get_rng_state_all()))
            vectors.append(embed([texts[i] for i in part]))
    order = torch.tensor([i for part in parts for i in part]).argsort().to(vectors[0].device)
    cached = torch.cat(vectors).requires_grad_()
    whole = loss(cached[order])
    whole.backward()
    assert cached.grad is not None
    gradients = cached.grad.split([len(part) for part in parts])
    for part, (chance, on_cuda), gradient in zip(parts, chances, gradients, strict=True):
        torch.set_rng_state(chance)
        torch.cuda.set_rng_state_all(on_cuda)
        embed([texts[i] for i in part]).backward(gradient)
    return float(whole.detach())


def train(
    retriever: Retriever,
    triples: Sequence[Triple],
    protocol: Protocol,
    *,
    rate: float,
    seed: int,
    corpus: Sequence[str] = (),
    validate: Callable[[], float] | None = None,
    on_progress: Progress | None = None,
    checkpoint: Checkpoint | None = None,
) -> TrainingSummary:
    """Trains the encoder, in place; on a CPU the same seed gives the same bytes.

    rate      the highest learning rate
    seed      of the order of the triples, the choice among their negatives, and dropout
    corpus    where hard negatives are mined, besides all positives
    validate  a score, the higher the better, for early stopping as in loop.train
    checkpoint  where it goes on if it was stopped

    Texts are tokenized batch by batch. An epoch leaves out what does not fill a batch, since small batches are easier.
    Raises Diverged where the loss is no finite number, ValueError where there are not two documents.
    """
    if len({triple.positive for triple in triples}) < 2:
        raise ValueError(
            f"contrast: {len(triples)} pairs with less than two different documents; nothing to tell apart"
        )
    plan, how = Plan.of(len(triples), protocol, seed, drop_last=True), retriever.contrast
    head = retriever.steps if len(retriever.steps) else None
    mining = None if how.mine_after is None else int(len(plan.batches) * how.mine_after)
    answers, current = known(triples), triples

    def met() -> Iterator[str]:
        """All texts that the training may come across."""
        for triple in (triples[i] for batch in plan.batches for i in batch):
            yield how.query_prompt + triple.query
            yield from (how.document_prompt + text for text in (triple.positive, *triple.negatives))
        if mining is not None:
            yield from (how.document_prompt + text for text in (*corpus, *(triple.positive for triple in triples)))

    def accumulate(step: int, chosen: Sequence[int]) -> tuple[float, int]:
        """The loss of a batch and its cached gradient; hard negatives are mined before the step that is due."""
        nonlocal current
        if mining is not None and step >= mining and current is triples:
            fresh = functools.partial(mine, retriever, triples, corpus, protocol.negatives, on_progress=on_progress)
            beside = None if checkpoint is None else checkpoint.beside
            current = _kept(fresh, triples, corpus, beside, first=step == mining)
        batch = draw([current[i] for i in chosen], answers, protocol.negatives, np.random.default_rng([seed, step]))
        asked, found = (how.query_prompt, batch.queries), (how.document_prompt, batch.documents)
        read = retriever.read([prompt + text for prompt, texts in (asked, found) for text in texts])
        loss = functools.partial(nested, batch=batch, how=how, temperature=protocol.temperature)
        value = backward(retriever.pooled, read, loss, retriever.machine.tokens_at_once)
        return value, sum(map(len, read))

    return optimize(
        retriever.encoder, head, plan, accumulate, protocol, rate=rate, seed=seed, seen=retriever.seen(met()),
        validate=validate, on_progress=on_progress, what="contrastive training", checkpoint=checkpoint,
    )  # fmt: skip


class _Mined(Strictly):
    mined: list[list[int]]


def _kept(
    mine: Callable[[], list[Triple]], triples: Sequence[Triple], corpus: Sequence[str], path: Path | None, first: bool
) -> list[Triple]:
    """Triples with mined negatives: mined when they are due, and kept for a training that is stopped after that.

    path   the file of the numbers of the documents that were mined; None: they are not kept
    first  whether they are due now; else they were mined with weights that are there no more
    """
    documents = list(dict.fromkeys((*corpus, *(triple.positive for triple in triples))))
    if not first and path is not None:
        if not path.is_file():
            raise ValueError(f"{path}: is missing; the checkpoint beside it cannot go on without: remove it too")
        more = read_own(_Mined, path).mined
        negatives = [tuple(documents[n] for n in numbers) for numbers in more]
        return [replace(one, negatives=(*one.negatives, *some)) for one, some in zip(triples, negatives, strict=True)]
    found = mine()
    if path is not None:
        number = {text: n for n, text in enumerate(documents)}
        more = [
            [number[text] for text in new.negatives[len(old.negatives) :]]
            for old, new in zip(triples, found, strict=True)
        ]
        write_json(path, sealed_json({"mined": more}))
    return found


def mine(
    retriever: Retriever,
    triples: Sequence[Triple],
    corpus: Sequence[str],
    count: int,
    *,
    depth: int = DEPTH,
    margin: float = MARGIN,
    on_progress: Progress | None = None,
) -> list[Triple]:
    """The triples with up to `count` hard negatives: those they have, then what the model mistakes for an answer.

    corpus  documents to look in, besides the positives of all triples
    depth   nearest documents of a query that are looked at
    margin  documents whose cosine is above this share of the positive's are left out: among them are answers that
            nobody marked (Moreira et al. 2024, arXiv:2407.15831, section 4, "TopK-PercPos")
    """
    answers = known(triples)
    documents = list(dict.fromkeys((*corpus, *(triple.positive for triple in triples))))
    place = {text: n for n, text in enumerate(documents)}
    row = {text: n for n, text in enumerate(answers)}
    asked, found = retriever.queries(list(answers), on_progress), retriever.documents(documents, on_progress)
    nearby, cosines = nearest(asked, found, depth)
    mined = []
    for triple in triples:
        query = row[triple.query]
        positive = float(asked[query] @ found[place[triple.positive]])
        limit = positive - (1 - margin) * abs(positive)
        near = (documents[n] for n, cosine in zip(nearby[query], cosines[query], strict=True) if cosine <= limit)
        hard = [text for text in near if text not in answers[triple.query]]
        negatives = tuple(dict.fromkeys((*triple.negatives, *hard)))[: max(count, len(triple.negatives))]
        mined.append(replace(triple, negatives=negatives))
    return mined
