"""Passages of plain text for a student to learn on: sentences, and runs of them, so that it meets short and long."""

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from tessera.retrieval.pairs import Sentence

RUNS = (1, 2, 1, 4)  # sentences of a passage, in turns
_LONGEST = 2_000  # characters of a passage; a text without an end of a sentence is cut
_END = re.compile(r"(?<=[.!?…])\s+|(?<=[。！？।॥۔؟])\s*|\n+")


def passages(texts: Mapping[str, Iterable[str]], prompts: Sequence[str] = ()) -> list[Sentence]:
    """The passages of texts by language, each once; the languages one after the other.

    prompts  of the model: they stand before passages in turns, as they will when it is used
    """
    before = itertools.cycle(prompts or ("",))
    found: dict[str, Sentence] = {}
    for language in sorted(texts):
        for number, document in enumerate(texts[language]):
            for passage in _passages(document):
                if passage not in found:
                    text = next(before) + passage
                    found[passage] = Sentence(
                        text=text, translation=None, language=language, row=f"{language}:{number}"
                    )
    return list(found.values())


def sentences(document: str) -> Iterator[str]:
    """The sentences of a document by their punctuation and its lines, white space made one blank."""
    return (one for part in _END.split(document) if (one := " ".join(part.split())))


def _passages(document: str) -> Iterator[str]:
    """Runs of whole sentences, as RUNS says."""
    left = sentences(document)
    for size in itertools.cycle(RUNS):
        some = list(itertools.islice(left, size))
        if not some:
            return
        passage = " ".join(some)
        yield from (passage[n : n + _LONGEST] for n in range(0, len(passage), _LONGEST))
