"""The gigatoken library as a faster engine of a tokenizer, used only where its ids are those of `tokenizers`.

It splits text by code of its own, written for the patterns of well-known tokenizers, and refuses other patterns; what
it accepts is held against `tokenizers`. It keeps the ids of all words it has met, without bound: about a byte for each
byte of web text, ten for random letters. So it begins anew from time to time.
"""

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tessera.plan.shipped import pip_line

# Where splitters go wrong: white space at all places, marks without letters, digits, apostrophes, joiners, rare spaces.
HARD_TEXTS = (
    "",
    " ",
    "  two  spaces   three\t\ttabs \t mixed \n\n\r\n lines \r and\u00a0hard\u3000wide\u2028spaces   ",
    "\n \n  \n\tindented\n    code(x)[0] = {'a': \"b\"};  // §§ \r\n\r\n",
    "DON'T don’t 'twas 'S 's 'ſ o'clock l'école ’em rock'n'roll I'LL we'Ve",
    "1 12 123 1234 12345678 3.14 1,000,000 ٣٤٥ १२३४ ５６７ Ⅷ ² ½ x2y 4th",
    "camelCase HTTPServer ǅ ǈ ᾈ ﬁ ﬀ ß ẞ İ ı Σίσυφος ΌΣΟΣ",
    "बिल्ली কুকুর ଓଡ଼ିଆ தமிழ் ไทยภาษา ພາສາ မြန်မာ ខ្មែរ བོད་ ⵜⴰⵎ ߒߞߏ",
    "猫坐在垫子上。「狗」是，ひらがなカタカナー漢字 한국어 조선말 ᄒᆞᆫ글",
    "שָׁלוֹם עִבְרִית العَرَبِيَّة ‏مرحبا‎ فارسی‌نویسی اُردُو",
    "e\u0301 e\u0301\u0323 \u0301lonely \u0301 a\u200db \ufeffbom \u00ad soft \u200b zero 👩‍👩‍👧‍👦 🇫🇴 ✌🏽 ❤️ \U0001f9ff",
    "!!! ... ?! ([{<>}]) @#$%^&*_+=|~` -- — … „Zitat“ «guillemets» /path/to/file https://a.b/c?d=e#f",
    "\x00 \x01\x7f \x85 \u200e \ue000 \U000f0000 \U00020000𠮷 \u0378 \ufffd",
    "a" * 300 + " " + "ab" * 200 + " " * 200 + "\n" * 100 + "=" * 200 + "7" * 100 + "猫" * 200,
)


_RENEWED = 2**27  # characters; reading a tokenizer anew costs as much as 10 MB of text


class Gigatoken:
    """A tokenizer.json read by gigatoken; special tokens are ordinary text to it. May be used by several threads."""

    def __init__(self, definition: dict[str, Any]) -> None:
        """Raises ImportError without the library, ValueError where it cannot read this tokenizer."""
        self._definition = definition
        self._inner = _read(definition)
        self._characters = 0

    def __reduce__(self) -> tuple[type["Gigatoken"], tuple[dict[str, Any]]]:
        return Gigatoken, (self._definition,)

    def encode(self, texts: Sequence[str]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """The ids of all texts in a row, and where each begins, int64 [texts + 1]. On all cores."""
        if not texts:
            return np.zeros(0, np.int32), np.zeros(1, np.int64)
        self._characters += sum(map(len, texts))
        if self._characters > _RENEWED:
            self._inner, self._characters = _read(self._definition), 0
        layout = self._inner.encode_batch(list(texts)).layout  # rows of an awkward array: offsets and content
        starts = np.asarray(layout.offsets.data, dtype=np.int64)
        return np.asarray(layout.content.data).view(np.int32)[starts[0] : starts[-1]], starts - starts[0]


def _read(definition: dict[str, Any]) -> Any:
    try:
        import gigatoken
    except ImportError:
        raise ImportError(f"the engine gigatoken is not installed; {pip_line('gigatoken')}") from None
    # It would look for special tokens in the text; one that it does not know of is text.
    plain = [token for token in definition.get("added_tokens") or () if not token.get("special")]
    try:
        return gigatoken.Tokenizer.from_json(json.dumps({**definition, "added_tokens": plain}))
    except Exception as error:  # the library raises RuntimeError and others
        raise ValueError(
            f"gigatoken cannot read this tokenizer: {str(error).splitlines()[0]}; use the engine tokenizers"
        ) from None


def rows(flat: NDArray[np.int32], starts: NDArray[np.int64]) -> list[NDArray[np.int32]]:
    """Views of a flat array, one for each text."""
    edges = starts.tolist()
    return [flat[a:b] for a, b in itertools.pairwise(edges)]


def framed(
    flat: NDArray[np.int32], starts: NDArray[np.int64], before: Sequence[int], after: Sequence[int]
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """The same with the ids of a template around each text."""
    texts = len(starts) - 1
    edges = starts + (len(before) + len(after)) * np.arange(texts + 1)
    out = np.empty(edges[-1], np.int32)
    inside = np.ones(len(out), bool)
    for place, ids in ((edges[:-1], before), (edges[1:] - len(after), after)):
        for n, token in enumerate(ids):
            out[place + n] = token
            inside[place + n] = False
    out[inside] = flat
    return out, edges


def hard_texts(definition: dict[str, Any]) -> Iterator[str]:
    """Texts that tell two engines apart, with the names of this tokenizer's own added tokens."""
    yield from HARD_TEXTS
    for token in definition.get("added_tokens") or ():
        name = token["content"]
        yield from (name, f"a {name} b", f"a{name}b", f" {name}{name}\n{name} ")


def difference(text: str, found: NDArray[np.int32], due: NDArray[np.int32], decode: Callable[..., str]) -> str | None:
    """Where the ids of one text part, for people; None where they do not."""
    if np.array_equal(found, due):
        return None
    pairs = enumerate(zip(found, due, strict=False))
    at = next((i for i, (a, b) in pairs if a != b), min(len(found), len(due)))
    shown = text if len(text) <= 80 else text[:80] + "..."
    return (
        f"gigatoken gives other ids than tokenizers from token {at} on, after {decode(due[max(0, at - 8) : at])!r}: "
        f"{found[at : at + 8].tolist()} for {due[at : at + 8].tolist()} in {shown!r}; use the engine tokenizers"
    )
