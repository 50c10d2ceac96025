"""The text that an adaptation is given: the paths of the command with what they hold, and a sample to look at."""

from collections.abc import Mapping
from dataclasses import replace

from tessera.adapt.asked import AdaptError, Asked
from tessera.adapt.recipe import Text
from tessera.adapt.sample import MOST_BYTES as LOOKED_AT
from tessera.adapt.sample import Sample, read_sample
from tessera.progress import Watcher
from tessera.vocabulary.texts import MOST_BYTES

FEWEST = 20  # documents of a new language
_LANGUAGES, _BYTES = 10, 50_000  # that the new ones are looked at beside, and text of each


def read_given(asked: Asked, watcher: Watcher) -> tuple[list[Text], Sample]:
    """The paths of the command with what they hold, and a sample of the new languages beside some of the others.

    Raises ValueError for a path without text.
    """
    found, sample, progress = list[Text](), Sample(), watcher.progress("text")
    for role, paths in (("new", asked.text), ("replay", asked.replay), ("watch", asked.watch)):
        for number, path in enumerate(paths):
            most = MOST_BYTES if role == "new" else _BYTES
            here = read_sample(
                [path], language=asked.language if role == "new" else None, column=asked.column, most_bytes=most,
                on_progress=progress,
            )  # fmt: skip
            name = role if not number else f"{role}-{number + 1}"
            language = _language(asked if role == "new" else replace(asked, language=None), path, here)
            sizes = {code: here.bytes(code) for code in here.texts}
            counts = {code: len(texts) for code, texts in here.texts.items()}
            if role == "new":
                _refuse_few(path, counts)
            found.append(Text(name=name, role=role, path=str(path), language=language, bytes=sizes, documents=counts))
            _add(sample, here, LOOKED_AT if role == "new" else _BYTES, None if role == "new" else _LANGUAGES)
    return found, sample


def _refuse_few(path: str, documents: Mapping[str, int]) -> None:
    """Raises AdaptError where so little is given that nothing could be held out to measure by."""
    for code, count in documents.items():
        if count < FEWEST:
            raise AdaptError(
                f"{path}: {count} documents of {code}; at least {FEWEST} are needed, since what is gained is measured "
                "on some that are not trained on: give more, or the same text in smaller ones, as a paragraph a line"
            )


def _language(asked: Asked, path: str, here: Sample) -> str | None:
    """What the recipe says of a path whose files do not say their language."""
    if asked.language is not None or not here.unnamed:
        return asked.language
    codes = set(here.unnamed.values())
    if len(codes) > 1 or set(here.texts) != codes:
        some = ", ".join(f"{file} ({code})" for file, code in list(here.unnamed.items())[:3])
        raise AdaptError(f"{path}: files do not say their language: {some}; call them so, as fao_Latn.txt")
    return codes.pop()


def _add(sample: Sample, here: Sample, most_bytes: int, most: int | None) -> None:
    """Adds languages that are not there yet, with so much text of each, as long as there are fewer than `most`."""
    for code, texts in here.texts.items():
        if code in sample.texts or (most is not None and len(sample.texts) >= most):
            continue
        kept, size = [], 0
        for text in texts:
            if size >= most_bytes:
                break
            kept.append(text)
            size += len(text.encode())
        sample.texts[code], sample.identified[code] = kept, here.identified[code]
