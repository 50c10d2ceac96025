"""Samples of text by language, identified where neither a column nor a name says which it is."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from tessera.corpus.documents import Document, Lost, language_of, read
from tessera.corpus.language_id import PY3LANGID, identifier
from tessera.corpus.losses import refuse_lost
from tessera.data.languages import script_of, scripts_in, written_with
from tessera.plan.corpus import Columns, Source
from tessera.progress import Progress, silent
from tessera.sources.storage import File, files

UNKNOWN = "und"  # ISO 639-3 for what has not been told
_PASSAGES, _LONGEST = 30, 1_000  # of a language that are identified, and characters of each
MOST_BYTES, _LEAST_BYTES, _ALL_BYTES = 200_000, 10_000, 8_000_000  # of a language, and of all files together
_IN_VAIN = 2_000  # documents in a row that are not kept: the rest of a file is taken to be in the same languages


@dataclass(frozen=True, slots=True, kw_only=True)
class Identified:
    """What language a text seems to be in: by py3langid, which knows about a hundred.

    language  of most passages; None where it has no letters, or those of a script that py3langid does not know
    share     of the passages that seem so
    script    of most of its letters
    """

    language: str | None
    share: float
    script: str | None


@dataclass(frozen=True, slots=True)
class Sample:
    """The first documents of each language, and what it seems to be.

    unnamed  files whose language was taken from what the text seems to be, with that
    skipped  files of a folder that hold no text of the column, with why
    """

    texts: dict[str, list[str]] = field(default_factory=dict)
    identified: dict[str, Identified] = field(default_factory=dict)
    unnamed: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    def bytes(self, language: str) -> int:
        """Of UTF-8."""
        return sum(len(text.encode()) for text in self.texts[language])


def read_sample(
    paths: Sequence[str],
    *,
    language: str | None = None,
    column: str = "text",
    most_bytes: int | None = None,
    skip: bool = False,
    on_progress: Progress = silent,
) -> Sample:
    """Reads files, folders, globs or URLs as a corpus does.

    language    of every document where neither a column nor a name says it; None: as it is identified
    most_bytes  of each language; None: MOST_BYTES, less where there are many files, so that a look stays short
    skip        leaves out a file that cannot be used where there are others, as one of pairs among documents

    Raises ValueError naming a path without text, and a file of which nobody says or sees what language it is in.
    """
    if not paths:
        raise ValueError("no text is given; name files or folders with text of the languages you mean")
    sample, sizes = Sample(), Counter[str]()
    lost: Lost = {}
    all_files = [file for path in paths for file in files(_source(path, language, column))]
    most_bytes = most_bytes or max(_LEAST_BYTES, min(MOST_BYTES, _ALL_BYTES // len(all_files)))
    for number, file in enumerate(all_files):
        on_progress(number, len(all_files), f"reads {file.name}")
        try:
            found = _read(file, language, column, sizes, most_bytes, lost)
        except ValueError as error:
            if not skip or len(sample.skipped) == len(all_files) - 1:
                raise
            sample.skipped[str(file)] = str(error)
            continue
        if UNKNOWN in found:
            code = _named(file, found[UNKNOWN])
            sample.unnamed[str(file)] = code
            found.setdefault(code, []).extend(found.pop(UNKNOWN))
        for code, texts in found.items():
            sample.texts.setdefault(code, []).extend(texts)
            sizes[code] += sum(len(text.encode()) for text in texts)
    on_progress(1, 1, "text")
    refuse_lost(lost, {*sample.texts, UNKNOWN})
    for code, texts in sample.texts.items():
        sample.identified[code] = identify(texts)
    return sample


def identify(texts: Sequence[str]) -> Identified:
    """The language that most of the first passages seem to be in, and the script of most letters."""
    passages = [text[:_LONGEST] for text in texts[:_PASSAGES]]
    script = next(iter(scripts_in("".join(passages))), None)
    if script is None:
        return Identified(language=None, share=0.0, script=None)
    judge = identifier(PY3LANGID)
    found = Counter(judge.likeliest(passage) for passage in passages if scripts_in(passage))
    code, times = found.most_common(1)[0]
    if (written := script_of(code)) is not None and script not in written_with(written):
        return Identified(language=None, share=0.0, script=script)  # a language that it has not been taught
    return Identified(language=code, share=times / found.total(), script=script)


def _source(path: str, language: str | None, column: str) -> Source:
    return Source(name="text", path=str(path), language=language, columns=Columns(text=column))


def _read(
    file: File, language: str | None, column: str, sizes: Counter[str], most_bytes: int, lost: Lost
) -> dict[str, list[str]]:
    """The first documents of each language in a file, as far as there is room for them."""
    told = language or (None if language_of(file) else UNKNOWN)
    found: dict[str, list[str]] = {}
    own, in_vain = Counter(sizes), 0
    for document in read(_source(file.url, told, column), lost_languages=lost):
        assert isinstance(document, Document)
        if own[document.language] >= most_bytes:
            in_vain += 1
            if in_vain == _IN_VAIN:
                break
            continue
        in_vain = 0
        own[document.language] += len(document.text.encode())
        found.setdefault(document.language, []).append(document.text)
    return found


def _named(file: File, texts: Sequence[str]) -> str:
    """The language of a file that says none. Raises ValueError where the text does not either."""
    seems = identify(texts)
    if seems.language is None or seems.share < 0.5:
        raise ValueError(
            f"{file}: neither its name nor a column says what language it is in, and it cannot be told from the text; "
            "give --language, as fao_Latn, or call the file so (fao_Latn.txt)"
        )
    return seems.language
