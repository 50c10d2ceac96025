"""Features and targets out of labelled examples (tokenization, truncation, label alignment); logits back to answers.

classify, pair, reward, regress   a document, one target
multilabel                        a document, a target for each label
rerank                            a document of query and text, one target from 0 to 1
choose                            a document for each option, one target
tag                               a document for each part of a sentence, a target for each word or each of its tokens
span                              a document for each window of a text, the first and last token of the answer
"""

# Shapes: n tokens of a document, m of them asked for, K labels.

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from tessera.bulk.nearest import Floats
from tessera.data.examples import Choices, Labelled, Question, Tagged
from tessera.data.languages import code_points, spaceless_letters
from tessera.inference.tokenize import Ids
from tessera.model.task_config import TaskKind
from tessera.prediction import windows
from tessera.tokenizer import templates
from tessera.tokenizer.templates import encode_words
from tessera.tokenizer.tokenizer import Tokenizer

Places = NDArray[np.int64]
Kind = Literal["classify", "pair", "reward", "multilabel", "regress", "rerank", "choose", "tag", "span"]
Labelling = Literal["first", "majority"]
Example = Labelled | Choices | Tagged | Question
Answer = int | float | str | tuple[int, ...]
Label = int | float | tuple[int, ...] | None

KINDS: tuple[Kind, ...] = get_args(Kind)
HEADS: dict[Kind, TaskKind] = {
    **dict.fromkeys(("classify", "pair", "reward"), "classify"),
    **{kind: kind for kind in ("multilabel", "regress", "rerank", "choose", "tag", "span")},
}
"""The kind of head that each kind of task has."""
_NOTHING = np.zeros(0, np.int64)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Item:
    """What goes through the network together."""

    example: int  # its number among the examples
    documents: tuple[Ids, ...]
    segments: tuple[Ids, ...] = ()  # of each document, that of each token; none: 0 for all
    places: Places = field(default_factory=lambda: _NOTHING)  # [m], tag: tokens that are asked for; elsewhere nothing
    owners: Places = field(default_factory=lambda: _NOTHING)  # [m], tag: the word that each of them belongs to
    # one; [m] for tag; first and last token for span; [K] of 0 and 1 for multilabel; none: unknown
    targets: NDArray[np.float64] | Places = field(default_factory=lambda: _NOTHING)
    window: windows.Window | None = None  # span
    truncated: bool = False  # whether a text of it, or a question, lost its end

    @property
    def tokens(self) -> int:
        return sum(map(len, self.documents))

    @property
    def rows(self) -> int:
        """Of scores: for tokens that are asked for, all tokens of a window, or documents."""
        return len(self.places) or (len(self.documents) if self.window is None else self.tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """How examples of a task are put to a model.

    max_length  tokens of a document; of longer ones a part is read, or several windows where an answer may be anywhere
    labelling   first: the first token of a word bears its tag. majority: each does, and they vote (EuroBERT,
                arXiv:2503.05500, section 3.1)
    stride      tokens that two windows have in common
    no_answer   whether a question may have none; then the answer is "" where that scores higher
    segments    whether the model is told the two texts of a pair apart
    labels      multilabel: how many there are
    """

    kind: Kind
    tokenizer: Tokenizer
    max_length: int
    labelling: Labelling = "first"
    stride: int = 128
    no_answer: bool = False
    segments: bool = False
    labels: int = 0

    def items(self, examples: Sequence[Example]) -> list[Item]:
        """Documents of all examples, in order. Raises ValueError where max_length leaves no room for text."""
        match self.kind:
            case "tag":
                return self._tagged([e for e in examples if isinstance(e, Tagged)])
            case "span":
                return self._windows([e for e in examples if isinstance(e, Question)])
            case "choose":
                choices = [e for e in examples if isinstance(e, Choices)]
                return self._joined([e.text for e in choices], [e.options for e in choices], [e.label for e in choices])
            case _:
                rows = [e for e in examples if isinstance(e, Labelled)]
                others = [() if e.second is None else (e.second,) for e in rows]
                return self._joined([e.text for e in rows], others, [e.label for e in rows])

    def _joined(self, texts: Sequence[str], others: Sequence[Sequence[str]], labels: Sequence[Label]) -> list[Item]:
        """Each text with each of its others as a document; alone where it has none."""
        firsts = self.tokenizer.encode_plain(texts)
        every = iter(self.tokenizer.encode_plain([other for several in others for other in several]))
        found = []
        special = sum(map(len, self.tokenizer.template))
        paired = sum(map(len, templates.frame(self.tokenizer))) if any(others) else special
        for number, first in enumerate(firsts):
            seconds = [next(every) for _ in others[number]]
            joined = [templates.join(self.tokenizer, first, second, self.max_length) for second in seconds]
            longest = len(first) + max(map(len, seconds), default=0)
            found.append(
                Item(
                    example=number,
                    documents=tuple(joined or [templates.alone(self.tokenizer, first, self.max_length)]),
                    segments=self._segments(len(first), map(len, seconds)),
                    targets=self._target(labels[number]),
                    truncated=longest + (paired if seconds else special) > self.max_length,
                )
            )
        return found

    def _target(self, label: Label) -> NDArray[np.float64] | Places:
        if label is None:
            return _NOTHING
        if self.kind == "multilabel":
            assert isinstance(label, tuple)
            return np.isin(np.arange(self.labels), label).astype(np.float64)
        return np.array([label])

    def _segments(self, first: int, others: Iterable[int]) -> tuple[Ids, ...]:
        """Of the documents of a text of so many tokens with each of the others."""
        if not self.segments:
            return ()
        return tuple(templates.segments(self.tokenizer, first, other, self.max_length) for other in others)

    def _tagged(self, examples: Sequence[Tagged]) -> list[Item]:
        before, after = (np.array(ids, np.int32) for ids in self.tokenizer.template)
        room = self.max_length - len(before) - len(after)
        if room < 1:
            raise ValueError(f"max_length is {self.max_length}; special tokens alone take {self.max_length - room}")
        found = []
        for number, example in enumerate(examples):
            ids, owners = encode_words(self.tokenizer, example.words, example.spaced or spaced(example.words))
            for begin, end in parts(owners, room):
                mine = owners[begin:end]
                asked = np.arange(len(mine))
                if self.labelling == "first":
                    asked = asked[np.concatenate(([True], mine[1:] != mine[:-1]))]
                tags = np.array(example.tags, np.int64)
                found.append(
                    Item(
                        example=number,
                        documents=(np.concatenate((before, ids[begin:end], after)),),
                        places=asked + len(before),
                        owners=mine[asked],
                        targets=tags[mine[asked]] if len(tags) else _NOTHING,
                    )
                )
        return found

    def _windows(self, examples: Sequence[Question]) -> list[Item]:
        questions = self.tokenizer.encode_plain([e.question.strip() for e in examples])
        contexts = self.tokenizer.encode_offsets([e.context for e in examples])
        found = []
        for number, (example, question, (ids, offsets)) in enumerate(zip(examples, questions, contexts, strict=True)):
            for window in windows.cut(self.tokenizer, question, ids, offsets, self.max_length, self.stride):
                target = windows.target(window, example.answers[0] if example.answers else None)
                found.append(
                    Item(
                        example=number,
                        documents=(window.ids,),
                        segments=self._segments(window.question, [len(window.offsets)]),
                        targets=np.array(target, np.int64),
                        window=window,
                        truncated=window.question < len(question),
                    )
                )
        return found

    def answers(self, examples: Sequence[Example], items: Sequence[Item], scores: Sequence[Floats]) -> list[Answer]:
        """What the model says of each example.

        scores   of each item: [K] for a document, [options], [m, K] for tokens asked for, [n, 2] for a window
        returns  the number of a class or an option; the numbers of the labels that are likelier than not; a number; a
                 tag for each word; the text of an answer
        """
        match self.kind:
            case "regress" | "rerank":
                return [float(row[0]) for row in scores]
            case "multilabel":
                return [tuple(np.flatnonzero(row > 0).tolist()) for row in scores]
            case "tag":
                return list(_tags([e for e in examples if isinstance(e, Tagged)], items, scores))
            case "span":
                contexts = [e.context for e in examples if isinstance(e, Question)]
                best = [windows.Best() for _ in examples]
                for item, row in zip(items, scores, strict=True):
                    assert item.window is not None
                    best[item.example] = best[item.example].better(item.window, row)
                return [found.text(contexts[number], self.no_answer) for number, found in enumerate(best)]
            case _:
                return [int(row.argmax()) for row in scores]


def spaced(words: Sequence[str]) -> bool:
    """Whether words of a sentence have spaces between them: not where most are of a script that has none."""
    letters = [word for word in words if any(map(str.isalpha, word))]
    without = sum(bool(spaceless_letters()[code_points(word)].any()) for word in letters)
    return 2 * without <= len(letters)


def parts(owners: Places, room: int) -> list[tuple[int, int]]:
    """A sentence of len(owners) tokens in parts of at most `room`, cut between words: (begin, end) of each.

    A word of more tokens than that loses what comes after; no word goes without a token.
    """
    if not len(owners):
        return []
    starts = np.flatnonzero(np.concatenate(([True], owners[1:] != owners[:-1])))
    ends = np.append(starts[1:], len(owners))
    found: list[tuple[int, int]] = []
    begin = 0
    for number, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
        if number and end - begin > room:
            found.append((begin, min(start, begin + room)))
            begin = start
    return [*found, (begin, min(len(owners), begin + room))]


def _tags(examples: Sequence[Tagged], items: Sequence[Item], scores: Sequence[Floats]) -> list[tuple[int, ...]]:
    """The tag that most tokens of a word bear; of equally many, the one that comes first in the word."""
    votes: list[list[dict[int, int]]] = [[{} for _ in e.words] for e in examples]
    for item, rows in zip(items, scores, strict=True):
        for word, tag in zip(item.owners.tolist(), rows.argmax(1).tolist(), strict=True):
            counts = votes[item.example][word]
            counts[tag] = counts.get(tag, 0) + 1
    return [tuple(max(counts, key=lambda tag: counts[tag]) for counts in words) for words in votes]
