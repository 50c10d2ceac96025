"""Text by language, with a held-out split by hash: what tokens are counted on, and what the outcome is proved on."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from tessera.corpus.documents import NO_LANGUAGE, Document, Lost, read
from tessera.corpus.losses import refuse_lost
from tessera.plan.corpus import Columns, Source
from tessera.progress import Progress, silent

HELD_OUT = 0.05  # of the documents of each language
MOST_BYTES = 20_000_000  # read of each language
_ANY = "mul_Latn"  # where the language of a text does not matter


@dataclass(frozen=True, slots=True)
class Texts:
    """Documents of each language, in the order of the files.

    used      tokens are counted, and pieces learnt, on these
    held_out  never on these: what is said of the outcome is measured on them
    """

    used: dict[str, list[str]] = field(default_factory=dict)
    held_out: dict[str, list[str]] = field(default_factory=dict)

    @property
    def languages(self) -> list[str]:
        return sorted(self.used)

    def sizes(self) -> dict[str, int]:
        """Bytes of UTF-8 of each language that are used."""
        return {language: sum(len(text.encode()) for text in self.used[language]) for language in self.languages}


def read_texts(
    paths: Sequence[str],
    *,
    language: str | None = None,
    column: str = "text",
    held_out: float = HELD_OUT,
    most_bytes: int = MOST_BYTES,
    on_progress: Progress = silent,
) -> Texts:
    """Reads files, folders, globs or URLs as a corpus does; a file's name says its language (fao_Latn.jsonl).

    language    of every document where neither a column nor a name says it
    held_out    share of the documents, in (0, 1), chosen by the hash of each text: copies never stand on both sides
    most_bytes  of each language; what comes after is not read into memory

    Raises ValueError naming a path without text, and a language of which no document, or only one, is there; also where
    rows of a language are there and none can be used.
    """
    if not 0.0 < held_out < 1.0:
        raise ValueError(f"held_out is {held_out}; it is a share of the documents, so give a value between 0 and 1")
    if not paths:
        raise ValueError("no text is given; name files or folders with text of the languages to keep (--text)")
    texts, sizes = Texts(), dict[str, int]()
    lost: Lost = {}
    for document in _documents(paths, language, column, lost):
        code = document.language
        if code not in sizes:
            on_progress(0, 0, f"reading {code}")
        if sizes.get(code, 0) >= most_bytes:
            continue
        sizes[code] = sizes.get(code, 0) + len(document.text.encode())
        side = texts.held_out if _chance(document.text) < held_out else texts.used
        side.setdefault(code, []).append(document.text)
    on_progress(1, 1, "text")
    refuse_lost(lost, sizes)
    for code in sorted({*texts.used, *texts.held_out}):
        if code not in texts.used or code not in texts.held_out:
            _share_out(texts, code)
    return texts


def read_whole(paths: Sequence[str], *, column: str = "text") -> Texts:
    """All of a text, to its last byte, as `used`: nothing is proved on it, so it may be one document of any language.

    Raises ValueError naming a path without text, and a language of which no row can be used.
    """
    texts = Texts()
    lost: Lost = {}
    for document in _documents(paths, _ANY, column, lost):
        texts.used.setdefault(document.language, []).append(document.text)
    refuse_lost(lost, texts.used)
    if not texts.used:
        raise ValueError(f"{', '.join(map(str, paths))}: there is no text")
    return texts


def _share_out(texts: Texts, code: str) -> None:
    """Gives a language of few documents one on either side. Raises ValueError where it has only one."""
    found = [*texts.used.get(code, ()), *texts.held_out.get(code, ())]
    first = min(found, key=_chance)
    rest = [text for text in found if text != first]
    if not rest:
        raise ValueError(
            f"{code}: there is only one document, and what is said of the outcome is measured on documents that were "
            "not counted; give it as several, e.g. a paragraph a line"
        )
    texts.held_out[code], texts.used[code] = [first], rest


def _documents(paths: Iterable[str], language: str | None, column: str, lost: Lost) -> Iterator[Document]:
    for path in paths:
        source = Source(name="text", path=str(path), language=language, columns=Columns(text=column))
        try:
            for document in read(source, lost_languages=lost):
                assert isinstance(document, Document)
                yield document
        except ValueError as error:
            if NO_LANGUAGE not in str(error):
                raise
            raise ValueError(f"{error}. Here: give --language, as fao_Latn, or call the file so") from None


def _chance(text: str) -> float:
    """A number in [0, 1) that only the text decides."""
    drawn = hashlib.blake2b(text.encode(), digest_size=8, person=b"vocabulary").digest()
    return int.from_bytes(drawn, "big") / 2**64
