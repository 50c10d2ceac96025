"""Listwise training of a reranker: each answer is to be found among what does not answer its query (softmax, ListNet).

Source: Cao et al. 2007, "Learning to rank: from pairwise approach to listwise approach".
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from tessera.data.examples import Choices, Labelled
from tessera.finetune import loop
from tessera.finetune.learner import Learner
from tessera.finetune.loop import TrainingSummary
from tessera.plan.task import Protocol


def lists(graded: Sequence[Labelled]) -> list[Choices]:
    """Each answer with all documents that do not answer its query; the answer comes first."""
    queries: dict[str, list[Labelled]] = {}
    for one in graded:
        queries.setdefault(one.text, []).append(one)
    found = []
    for query, some in queries.items():
        others = [one.second or "" for one in some if not one.label]
        found += [
            Choices(text=query, options=(one.second or "", *others), label=0, id=one.id, row=one.row)
            for one in some
            if one.label and others
        ]
    return found


def train_listwise(learner: Learner, graded: Sequence[Labelled], protocol: Protocol, **how: Any) -> TrainingSummary:
    """Trains a learner of kind rerank, in place, as loop.train, whose other arguments it takes.

    A batch is so many answers, each among its others. Raises ValueError where no query has both.
    """
    if not (several := lists(graded)):
        raise ValueError("rerank: no query has both an answer and a document that is none; give negatives, or let some "
                         "be drawn (--negatives)")  # fmt: skip
    # The same encoder and head; only what is asked of their scores is another thing.
    among = dataclasses.replace(learner, reader=dataclasses.replace(learner.reader, kind="choose"))
    return loop.train(among, several, protocol, **how)
