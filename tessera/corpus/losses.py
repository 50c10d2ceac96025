"""What of a corpus comes to nothing: files and languages without a document are errors; odd language codes are told."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from tessera.corpus.documents import check_usable, language_of, nothing_of
from tessera.data.languages import doubts, language_code
from tessera.plan.corpus import Corpus
from tessera.plan.errors import some

_SHOWN = 3


def check(corpus: Corpus, written: Sequence[Any]) -> None:
    """Looks at what was read, `ingest.DocumentFile`s with their counts.

    Raises ValueError for a source of which more than half cannot be used; and, unless it says `allow_empty`, for a file
    of which no line can, for a source and for a language of which filters leave nothing.
    """
    for source in corpus.sources:
        of = [w for w in written if (w.source.name, w.source.split) == (source.name, source.split)]
        good, bad = (sum(getattr(w.counts, name) for w in of) for name in ("readable", "unreadable"))
        examples = {reason: example for w in of for reason, example in w.counts.examples.items()}
        check_usable(source, good=good, bad=bad, examples=examples)
        if source.allow_empty or source.kind == "tokens":
            continue
        if lost := {str(w.origin): _why(w.counts) for w in of if w.counts.unreadable and not w.counts.readable}:
            raise ValueError(nothing_of(source, lost))
        if not any(w.counts.wanted for w in of):
            why = "; ".join(f"{reason} (first: {example})" for reason, example in list(examples.items())[:_SHOWN])
            raise ValueError(
                f"source {source.name!r}: no document to train on is left of it: {why or 'its files are empty'}. See "
                "`corpus.filters`, or say `allow_empty: true`"
            )
    _check_languages(written)


def _check_languages(written: Sequence[Any]) -> None:
    wanted = {language for w in written for language in w.counts.wanted}
    lost: dict[str, dict[str, int]] = {}  # {language: {reason: documents}}
    for w in written:
        for reason, languages in {} if w.source.allow_empty else w.counts.dropped.items():
            for language in languages.keys() - wanted - {""}:
                reasons = lost.setdefault(language, {})
                reasons[reason] = reasons.get(reason, 0) + languages[language]
        if not (w.counts.readable or w.counts.unreadable or w.source.allow_empty or w.source.kind == "pairs"):
            language = language_code(w.source.language) if w.source.language else language_of(w.origin)
            if language and language not in wanted:
                lost.setdefault(language, {})["an empty file"] = 1
    if lost:
        raise ValueError(
            f"{_nothing_left(lost)}. See `corpus.filters` and how these documents are "
            "labelled; `tessera prepare --show-dropped 3` shows some; or say `allow_empty: true` of their source"
        )


def refuse_lost(lost: Mapping[str, Mapping[str, int]], kept: Collection[str]) -> None:
    """Raises ValueError for languages of which rows were read and none could be used, as documents.read counts them."""
    if gone := {language: why for language, why in lost.items() if language not in kept}:
        raise ValueError(f"{_nothing_left(gone)}. Mend these rows or take them out")


def _nothing_left(lost: Mapping[str, Mapping[str, int]]) -> str:
    told = [
        f"{name} ({', '.join(f'{n} x {why}' for why, n in list(lost[name].items())[:_SHOWN])})" for name in sorted(lost)
    ]
    return f"nothing is left of {len(lost)} languages: {some(told)}"


def _why(counts: Any) -> str:
    reason, example = next(iter(counts.examples.items()))
    return f"{reason} ({example})"


def lost_since(written: Sequence[Any], languages: Mapping[str, Any], skipped: Mapping[str, Any]) -> str | None:
    """What people should know where a language was read and none of it is trained on: it was all held out, or copies.

    languages, skipped   as in the report of a token store
    """
    asked = {code for w in written if w.source.split != "held_out" for code in w.counts.wanted}
    told = []
    for code in sorted(code for code in asked if "train" not in languages.get(code, ())):
        why = {reason: one["languages"][code] for reasons in skipped.values() for reason, one in reasons.items()
               if code in one.get("languages", ())}  # fmt: skip
        if held := languages.get(code, {}).get("held_out"):
            why["held out"] = held["documents"]
        told.append(f"{code} ({', '.join(f'{n} x {reason}' for reason, n in list(why.items())[:_SHOWN])})")
    if not told:
        return None
    return f"train: nothing of {len(told)} languages that were read: {some(told)}; see corpus.duplicates and held_out"


def odd_languages(written: Sequence[Any]) -> Iterator[str]:
    """What people should know of the languages and files that were read, one line each."""
    yield from doubts({language for w in written for language in w.counts.wanted})
    if empty := [str(w.origin) for w in written if not (w.counts.readable or w.counts.unreadable)]:
        yield f"{len(empty)} files are empty: {some(empty, _SHOWN)}"
    if mostly := [str(w.origin) for w in written if 0 < w.counts.readable < w.counts.unreadable]:
        yield f"more than half of {len(mostly)} files cannot be used: {some(mostly, _SHOWN)}"
    other = [w for w in written if w.source.language and language_of(w.origin) not in (None, w.source.language)]
    if other:
        names = [f"{w.origin.name} as {w.source.language}" for w in other]
        yield f"`language` of the source counts for {len(names)} files that are called otherwise: {some(names, _SHOWN)}"
