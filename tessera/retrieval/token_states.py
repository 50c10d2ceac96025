"""Token-level distillation: a student's hidden states drawn to its teacher's, though their tokenizers cut otherwise.

From one place at which both end a token to the next lies a segment of the text; over it the mean of the student's
hidden states is drawn to the mean of the teacher's. A vector says one thing of a text, hidden states one of each word:
new rows of a vocabulary learn somewhat more from as many tokens (docs/results/adapt.md).
Source: Dobler, Elliott and de Melo 2025 (AweDist), arXiv:2505.20133, where new tokens learn from hidden states alike.
"""

# Shapes: T tokens of some texts end to end, S segments of them, C hidden size.

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tessera.inference.encoder import Encoder as Embedder
from tessera.inference.tokenize import Ids, TextTokenizer
from tessera.retrieval.pairs import Sentence
from tessera.retrieval.retriever import Retriever

Places = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class TokenTeacher:
    """What a teacher says of the tokens of a text."""

    teacher: Embedder
    prompt: str  # stands before what it reads

    @classmethod
    def of(cls, teacher: Embedder, prompt: str, student: Retriever, sentences: Sequence[Sentence]) -> Self:
        """Of sentences to learn from. Raises ValueError where the two have other hidden sizes, and for translations:
        a teacher's hidden states in a language that it does not know are no target.
        """
        if translated := next((one for one in sentences if one.translation is not None), None):
            raise ValueError(f"{translated.row}: has a translation; hidden states are learnt of plain sentences alone")
        own, theirs = student.encoder.config.hidden_size, teacher.engine.hidden_size
        if own != theirs:
            raise ValueError(
                f"hidden states are learnt of a model as wide: the student has {own}, its teacher {theirs}"
            )
        return cls(teacher, prompt)

    def lesson(self, student: Retriever, texts: Sequence[str]) -> "TokenLesson":
        """Of a batch of texts, without their prompts."""
        before = student.contrast.document_prompt
        reading = TextTokenizer(tokenizer=student.tokenizer, max_length=student.max_length)
        read = reading.with_offsets([before + text for text in texts])
        said = self.teacher.engine.tokens(texts, self.teacher.how(prompt=self.prompt))
        cut = [
            segments(offsets[:, 1] - len(before), one.offsets[:, 1])
            for (_, offsets, _), one in zip(read, said, strict=True)
        ]
        means = [_means(one.vectors, other) for one, (_, other) in zip(said, cut, strict=True)]
        return TokenLesson([ids for ids, _, _ in read], [mine for mine, _ in cut], means)


class TokenLesson:
    """The segments of a batch of texts.

    ids     of each text, special tokens and those of its prompt included
    owners  [t] of each text, the segment of each of its tokens; -1 for those of none
    means   [s, C] of each text, the mean of the teacher's hidden states over each segment
    """

    def __init__(self, ids: list[Ids], owners: list[Places], means: list[NDArray[np.float32]]) -> None:
        self.ids, self._owners, self._means = ids, owners, means
        self._size = max(1e-12, float(sum(np.square(rows).sum() for rows in means)))

    def loss(self, hidden: Tensor, numbers: Sequence[int]) -> Tensor:
        """The part of some texts in how far a student is from the teacher: squared distances in parts of its lengths.

        hidden   [T, C], the student's hidden states of these texts, end to end
        numbers  of the texts
        Over all texts of the batch it is 1 for a student that says 0 everywhere.
        """
        owners, first = [], 0
        for number in numbers:
            own = self._owners[number]
            owners.append(np.where(own < 0, -1, own + first))
            first += len(self._means[number])
        place = torch.from_numpy(np.concatenate(owners)).to(hidden.device)
        due = torch.from_numpy(np.concatenate([self._means[number] for number in numbers])).to(hidden.device)
        inside = place >= 0
        place = place[inside]
        share = 1 / torch.bincount(place, minlength=first).clamp(min=1)
        found = due.new_zeros(due.shape).index_add(0, place, hidden[inside].float() * share[place, None])
        return (found - due).square().sum() / self._size


def segments(first: Places, second: Places) -> tuple[Places, Places]:
    """The segment of each token of a text that two tokenizers cut, by where their tokens end; -1 for those of none.

    A token that ends before the text begins is special or of the prompt, one behind the last common end has been cut
    off on the other side. Tokens that end at one place, as the bytes of a letter, are in one segment.
    """
    common = np.intersect1d(first[first > 0], second[second > 0])

    def owners(ends: Places) -> Places:
        found = np.searchsorted(common, ends)
        return np.where((ends > 0) & (found < len(common)), found, -1)

    return owners(first), owners(second)


def _means(rows: NDArray[np.float32], owners: Places) -> NDArray[np.float32]:
    """[t, C], [t] -> [s, C]: the mean of each segment."""
    inside = owners >= 0
    count = int(owners.max(initial=-1)) + 1
    sums = np.zeros((count, rows.shape[1]), np.float32)
    np.add.at(sums, owners[inside], rows[inside])
    sums /= np.bincount(owners[inside], minlength=count)[:, None]
    return sums
