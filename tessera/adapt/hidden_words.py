"""Pseudo-perplexity of whole words: bits per byte that compare between tokenizers, and so before and after.

Bits per byte of hidden tokens do not: where a vocabulary cuts a word small, its pieces stand beside the hidden one and
give it away. Here words are hidden, all their tokens at once, and guessed from left to right, so that what is added up
is the probability of the word in its context by the chain rule, however it is cut.

Source: Kauf and Ivanova 2023, arXiv:2305.10588 (PLL-word-l2r); Salazar et al. 2020, arXiv:1910.14659.
"""

# Shapes: t tokens of a passage, T of all passages of a batch end to end, M positions that are scored.

import hashlib
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from tessera.data.packing import by_length
from tessera.huggingface.hub import AnyMaskedLM
from tessera.progress import Progress, silent
from tessera.statistics import ratio_interval
from tessera.tokenizer.tokenizer import Tokenizer

PASSAGE_BYTES = 480  # so that a passage fits the positions of any model, even where each byte is a token
_HIDDEN = 0.15  # of the words
_LONGEST_WORD, _PIECE = 24, 4  # characters: longer runs are of scripts without spaces, and cut
_AT_ONCE = 8_192  # tokens of a batch


@dataclass(frozen=True, slots=True, kw_only=True)
class HiddenWords:
    """What a model makes of the hidden words of one language, by document.

    bits, bytes  [documents]: how surprising the hidden words are, and how much text they are
    words        that were hidden, in all
    """

    bits: tuple[float, ...]
    bytes: tuple[int, ...]
    words: int

    def interval(self) -> tuple[float, float, float]:
        """(bits per byte, both ends of the 95% interval); the ends are nan where there is one document."""
        return ratio_interval(self.bits, self.bytes)


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of a document, with the words that are hidden in it: places in characters."""

    document: int
    text: str
    words: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class _Task:
    """A passage in tokens: `groups` are the places of the tokens of each hidden word."""

    document: int
    ids: NDArray[np.int64]  # [t]
    groups: tuple[NDArray[np.int64], ...]


def passages(texts: Sequence[str], most: int) -> list[Passage]:
    """At most so many passages, of as many documents as there are, chosen by the hash of each: the same for every
    model. Without words there are none."""
    waiting = [list(cut(text)) for text in texts]
    drawn = [(rank, _chance(text), number, text) for number, cut in enumerate(waiting) for rank, text in enumerate(cut)]
    found = (Passage(number, text, _hidden(text)) for _, _, number, text in sorted(drawn))
    return [passage for passage, _ in zip((one for one in found if one.words), range(most), strict=False)]


@torch.inference_mode()
def hidden_words(
    model: AnyMaskedLM,
    tokenizer: Tokenizer,
    some: Sequence[Passage],
    *,
    most_tokens: int | None = None,
    on_progress: Progress = silent,
) -> HiddenWords:
    """How well a model guesses hidden words.

    most_tokens  that are read, all passes together: passages after that are left out, at least one is read

    What a vocabulary cannot write at all costs 8 bits a byte. On the device of the model, without dropout.
    """
    model.eval()
    positions = getattr(model.config, "positions", None) or _AT_ONCE  # ours have no table of them
    tasks, budget = list[_Task](), math.inf if most_tokens is None else most_tokens
    bits, size, words = dict[int, float](), dict[int, int](), 0
    for passage in some:
        task, spans = _task(tokenizer, passage, positions)
        if not task.groups:
            continue
        budget -= len(task.ids) * max(len(group) for group in task.groups)
        if budget < 0 and tasks:
            break
        tasks.append(task)
        words += len(task.groups)
        size[task.document] = size.get(task.document, 0) + sum(len(span.encode()) for span in spans)
        unknown = [(task.ids[group] == tokenizer.unknown_id).any() for group in task.groups]
        lost = sum(len(span.encode()) for span, gone in zip(spans, unknown, strict=True) if gone)
        bits[task.document] = bits.get(task.document, 0.0) + 8.0 * lost
    longest = max((len(group) for task in tasks for group in task.groups), default=0)
    for step in range(longest):
        left = [task for task in tasks if max(map(len, task.groups)) > step]
        for batch in by_length([len(task.ids) for task in left], _AT_ONCE):
            for document, nats in _guess(model, tokenizer, [left[n] for n in batch], step):
                bits[document] += nats / math.log(2)
        on_progress(step + 1, longest, "hidden words")
    order = sorted(bits)
    return HiddenWords(bits=tuple(bits[n] for n in order), bytes=tuple(size[n] for n in order), words=words)


def _guess(model: AnyMaskedLM, tokenizer: Tokenizer, tasks: Sequence[_Task], step: int) -> Iterator[tuple[int, float]]:
    """(document, nats) of token `step` of every hidden word that has it, the tokens before it being shown."""
    documents, starts, positions, targets, owner = [], [0], [], [], []
    for task in tasks:
        ids = task.ids.copy()
        for group in task.groups:
            ids[group[step:]] = tokenizer.mask_id
            if len(group) > step:
                positions.append(starts[-1] + int(group[step]))
                targets.append(int(task.ids[group[step]]))
                owner.append(task.document)
        documents.append(ids)
        starts.append(starts[-1] + len(ids))
    device = next(model.parameters()).device
    arrays = (np.concatenate(documents), np.array(starts), np.array(positions), np.array(targets))
    losses = model.losses(*(torch.from_numpy(array.astype(np.int64)).to(device) for array in arrays))
    yield from zip(owner, losses.double().cpu().tolist(), strict=True)


def _task(tokenizer: Tokenizer, passage: Passage, longest: int) -> tuple[_Task, list[str]]:
    """The passage in at most `longest` tokens, and the text that each group of hidden ones stands for."""
    ((ids, offsets),) = tokenizer.encode_offsets([passage.text])
    before, after = (np.array(part, np.int64) for part in tokenizer.template)
    room = max(1, longest - len(before) - len(after))
    end = len(passage.text) if len(ids) <= room else int(offsets[room, 0])
    ids, offsets = ids[:room], offsets[:room]
    groups, spans, free = [], [], 0  # tokens before `free` belong to a word before
    for begin, stop in passage.words:
        if stop > end:
            break
        inside = np.flatnonzero((offsets[:, 0] < stop) & (offsets[:, 1] > begin))
        inside = inside[inside >= free]
        if len(inside):
            free = int(inside[-1]) + 1
            groups.append(inside + len(before))
            spans.append(
                passage.text[min(begin, int(offsets[inside, 0].min())) : int(offsets[inside, 1].max())].strip()
            )
    whole = np.concatenate((before, ids.astype(np.int64), after))
    return _Task(passage.document, whole, tuple(groups)), spans


def cut(text: str, most_bytes: int = PASSAGE_BYTES) -> Iterator[str]:
    """Passages of at most so many bytes, where there are spaces cut at them; what is shorter than a tenth of that only
    where a text has nothing else."""
    rest = text.strip()
    while rest:
        piece = rest.encode()[:most_bytes].decode(errors="ignore")
        space = piece.rfind(" ")
        if len(piece) < len(rest) and space > len(piece) // 2:
            piece = piece[:space]
        if len(piece.encode()) >= most_bytes // 10 or len(piece) == len(text.strip()):
            yield piece
        rest = rest[len(piece) :].lstrip()


def _hidden(text: str) -> tuple[tuple[int, int], ...]:
    """The words of a passage that are hidden: about 15%, at least one, by a hash."""
    words = []
    for match in re.finditer(r"\S+", text):
        begin, end = match.span()
        step = end - begin if end - begin <= _LONGEST_WORD else _PIECE
        words += [(n, min(end, n + step)) for n in range(begin, end, step)]
    if not words:
        return ()
    chances = [_chance(f"{place} {text}") for place in range(len(words))]
    least = min(chances)
    return tuple(word for word, chance in zip(words, chances, strict=True) if chance < _HIDDEN or chance == least)


def _chance(text: str) -> float:
    """A number in [0, 1) that only the text decides."""
    drawn = hashlib.blake2b(text.encode(), digest_size=8, person=b"hiddenwords").digest()
    return int.from_bytes(drawn, "big") / 2**64
