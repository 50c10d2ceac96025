"""Reranking: documents that a search found, put into the order of a cross-encoder that reads each with its query."""

from collections.abc import Sequence

from tessera.bulk.search_index import Hit, with_scores
from tessera.prediction.predictor import Predictor
from tessera.progress import Progress

_KINDS = ("rerank", "regress")  # a number of two texts


def check_reranker(predictor: Predictor) -> None:
    """Raises ValueError where it gives no score of a query and a document."""
    if predictor.kind not in _KINDS:
        raise ValueError(
            f"{predictor.source}: is of {predictor.kind}; a reranker gives one number for a query and a document, as a "
            "CrossEncoder of sentence-transformers and what `tessera finetune` makes of kind rerank"
        )


def rerank(
    predictor: Predictor, queries: Sequence[str], found: Sequence[Sequence[Hit]], on_progress: Progress | None = None
) -> list[list[Hit]]:
    """The hits of each query by the predictor's score, the highest first; `similarity` keeps what they had.

    Raises ValueError for a model that is no reranker.
    """
    check_reranker(predictor)
    pairs = [(query, hit.text) for query, hits in zip(queries, found, strict=True) for hit in hits]
    scores = iter(predictor.predict(pairs, on_progress=on_progress))
    return [with_scores(hits, [next(scores)["score"] for _ in hits]) for hits in found]
