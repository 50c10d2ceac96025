"""What a phase reads: its dataloader, and the mixture that this was planned as."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from tessera.data.pair_stream import EmbeddingStream, PairStream, with_negatives
from tessera.data.stream import Stream
from tessera.plan.mixture import MixtureSchedule, mixture_of, mixtures_of_embeddings
from tessera.plan.phase import Phase
from tessera.plan.recipe import Recipe
from tessera.train.embedding import Guide, TeacherVectors
from tessera.train.start import Text


@dataclass(frozen=True, slots=True, eq=False)
class Taught:
    """What a teacher said of every text that a phase reads.

    keys      uint64 [n], rising, of the texts as pair_stream.text_keys tells them apart
    vectors   the row of each
    """

    keys: NDArray[np.uint64]
    vectors: TeacherVectors

    def rows(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Where the vectors of texts are. Raises ValueError for a text that the teacher did not read."""
        place = np.searchsorted(self.keys, keys)
        if (self.keys[np.minimum(place, len(self.keys) - 1)] != keys).any():
            raise ValueError("a text has no vector of the teacher: its vectors are of other text; remove them")
        return place

    def guide(self, phase: Phase, device: torch.device) -> Guide:
        """What the steps of a phase learn from, its anchors on the device."""
        return Guide.of(self.vectors, len(self.keys), 0 if phase.distil is None else phase.distil.anchors, device)


@dataclass(frozen=True, slots=True, eq=False)
class Mined:
    """The hard negatives of every pair that a phase reads.

    numbers     int64 [n], rising, of the pairs in their store
    negatives   int64 [n, k], the pairs whose second sides they are; -1 where there are fewer
    """

    numbers: NDArray[np.int64]
    negatives: NDArray[np.int64]

    def of(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """[len(numbers), k]. Raises ValueError for a pair that was none of those."""
        place = np.minimum(np.searchsorted(self.numbers, numbers), len(self.numbers) - 1)
        if (self.numbers[place] != numbers).any():
            raise ValueError("a pair has no hard negatives: they were mined for other pairs; remove them")
        return self.negatives[place]


def reading(
    recipe: Recipe, phase: Phase, text: Text, beforehand: Taught | Mined | None = None
) -> tuple[Stream | EmbeddingStream, MixtureSchedule]:
    """The dataloader of a phase, and the planned shares of its buckets.

    beforehand   what was computed for it: what a teacher said, or hard negatives

    Raises ValueError where the mixture does not fit the text.
    """
    if phase.kind == "masked":
        planned = mixture_of(phase, text.train.buckets)
        return _documents(recipe, phase, text, planned), planned
    of_pairs = text.pairs.buckets if text.pairs is not None else ()
    hard = 0 if phase.contrast is None else phase.contrast.negatives
    if hard and text.pairs is not None:
        of_pairs = with_negatives(text.pairs, hard)
    plain, sides = mixtures_of_embeddings(phase, text.train.buckets, of_pairs)
    documents = None if plain is None else _documents(recipe, phase, text, plain)
    pairs = None
    if sides is not None:
        assert text.pairs is not None, "pairs that are read have a store"
        pairs = PairStream(
            text.pairs, sides, context=phase.context, seed=recipe.seed, phase_name=phase.name, negatives=hard
        )
    taught = beforehand.rows if isinstance(beforehand, Taught) else None
    negatives = beforehand.of if isinstance(beforehand, Mined) else None
    stream = EmbeddingStream(documents, pairs, phase.pairs, taught, negatives)
    shares = [*_scaled(plain, 1 - phase.pairs), *_scaled(sides, phase.pairs)]
    return stream, MixtureSchedule((0, phase.tokens), (shares,))


def _scaled(planned: MixtureSchedule | None, share: float) -> Sequence[float]:
    return () if planned is None else [part * share for part in planned.mean()]


def _documents(recipe: Recipe, phase: Phase, text: Text, planned: MixtureSchedule) -> Stream:
    tokenizer = text.tokenizer
    return Stream(
        text.train, planned, context=phase.context, seed=recipe.seed, phase_name=phase.name,
        replacement=phase.mask_replacement, crop=phase.crop, mask_id=tokenizer.mask_id,
        special_ids=tokenizer.special_ids, vocab_size=tokenizer.vocab_size,
    )  # fmt: skip
