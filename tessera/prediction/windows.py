"""Sliding windows with a stride for question answering over long texts, and the best span of all windows of a text."""

# Shapes: n tokens of a document, c of them of the text.

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tessera.bulk.nearest import Floats
from tessera.data.examples import Question
from tessera.inference.tokenize import Ids
from tessera.tokenizer import templates
from tessera.tokenizer.tokenizer import Tokenizer

LONGEST_QUESTION = 64  # tokens
LONGEST_ANSWER = 30  # tokens; of an answer that has more
LONGEST_IN_CHARACTERS = 120  # it may have so many characters: where tokens are bytes, 30 are ten letters of Thai


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Window:
    """A question with a part of a text, as one document."""

    ids: Ids  # [n]
    question: int  # tokens of the question
    first: int  # where the text begins in the document
    offsets: NDArray[np.int64]  # [c, 2] characters of the whole text that each of its tokens comes from


def cut(
    tokenizer: Tokenizer, question: Ids, text: Ids, offsets: NDArray[np.int64], max_length: int, stride: int
) -> list[Window]:
    """The text in windows of at most `max_length` tokens with the question; one window even where there is no text.

    stride  tokens that two windows have in common, as transformers counts it; half a window where that is less

    A long question loses its end. Raises ValueError where max_length leaves no room for text.
    """
    before, between, after = (np.array(ids, np.int32) for ids in templates.frame(tokenizer))
    special = len(before) + len(between) + len(after)
    question = question[: min(LONGEST_QUESTION, (max_length - special) // 2)]
    room = max_length - special - len(question)
    if room < 2:
        raise ValueError(f"max_length is {max_length}; a question and its special tokens leave no room for a text")
    head = np.concatenate((before, question, between))
    step = room - min(stride, room // 2)
    found = []
    for begin in range(0, max(1, len(text)), step):
        ids = np.concatenate((head, text[begin : begin + room], after))
        part = offsets[begin : begin + room]
        found.append(Window(ids=ids, question=len(question), first=len(head), offsets=part))
        if begin + room >= len(text):
            break
    return found


def target(window: Window, answer: tuple[str, int] | None) -> tuple[int, int]:
    """The first and last token of an answer in the document; (0, 0) where the window does not hold all of it."""
    if answer is None or not len(window.offsets):
        return 0, 0
    words = answer[0].strip()
    begin = answer[1] + len(answer[0]) - len(answer[0].lstrip())
    end = begin + len(words)
    inside = np.flatnonzero((window.offsets[:, 0] < end) & (window.offsets[:, 1] > begin))
    if not len(inside) or window.offsets[inside[0], 0] > begin or window.offsets[inside[-1], 1] < end:
        return 0, 0
    return window.first + int(inside[0]), window.first + int(inside[-1])


def reach(offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """[c] how many tokens the longest answer has that begins with each token: 30, or more in 120 characters.

    offsets  [c, 2] characters of the text that each of its tokens comes from
    """
    first = np.arange(len(offsets))
    ends = np.maximum.accumulate(offsets[:, 1])
    by_letters = np.searchsorted(ends, offsets[:, 0] + LONGEST_IN_CHARACTERS, side="right")
    found: NDArray[np.int64] = np.minimum(np.maximum(first + LONGEST_ANSWER, by_letters), len(offsets)) - first
    return found


def holds(window: Window, answer: tuple[str, int]) -> bool:
    """Whether an answer can be given out of the window: all of it is there, and it is not too long."""
    first, last = (place - window.first for place in target(window, answer))
    return first >= 0 and last - first < reach(window.offsets)[first]


def out_of_reach(tokenizer: Tokenizer, questions: Sequence[Question], max_length: int, stride: int) -> int:
    """How many questions have answers, but none that can be given: too long, or whole in no window."""
    asked = [one for one in questions if one.answers]
    texts = tokenizer.encode_offsets([one.context for one in asked])
    heads = tokenizer.encode_plain([one.question.strip() for one in asked])
    lost = 0
    for one, head, (ids, offsets) in zip(asked, heads, texts, strict=True):
        places = cut(tokenizer, head, ids, offsets, max_length, stride)
        lost += not any(holds(window, answer) for window in places for answer in one.answers)
    return lost


@dataclass(frozen=True, slots=True)
class Best:
    """The best answer so far: characters from and to, its score, and the lowest score of there being none."""

    begin: int = 0
    end: int = 0
    score: float = -np.inf
    none: float = np.inf

    def better(self, window: Window, scores: Floats) -> "Best":
        """After one more window: scores [n, 2] of an answer to start and to end at each token of the document."""
        same = replace(self, none=min(self.none, float(scores[0].sum())))
        inside = scores[window.first : window.first + len(window.offsets)].astype(np.float64)
        if not len(inside):
            return same
        reached = reach(window.offsets)
        ends = np.full((len(inside), int(reached.max())), -np.inf)  # [start, tokens beyond it]
        for beyond in range(ends.shape[1]):
            there = reached[: len(inside) - beyond] > beyond
            ends[: len(inside) - beyond, beyond][there] = inside[beyond:, 1][there]
        both = inside[:, :1] + ends
        start, beyond = divmod(int(both.argmax()), ends.shape[1])
        score = float(both[start, beyond])
        if score <= self.score:
            return same
        return Best(int(window.offsets[start, 0]), int(window.offsets[start + beyond, 1]), score, same.none)

    def text(self, context: str, no_answer: bool) -> str:
        """The answer out of the text; "" where there may be none and that scores higher."""
        return "" if no_answer and self.none > self.score else context[self.begin : self.end].strip()
