"""Answers to questions, compared with the right ones as SQuAD and MLQA do; each score is a mean in [0, 1]."""

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence

_ARTICLES: dict[str, str] = {  # of MLQA, arXiv:1910.07475, section 4.2; by ISO 639-1
    "en": r"\b(a|an|the)\b",
    "es": r"\b(un|una|unos|unas|el|la|los|las)\b",
    "vi": r"\b(của|là|cái|chiếc|những)\b",
    "de": r"\b(ein|eine|einen|einem|eines|einer|der|die|das|den|dem|des)\b",
    "ar": r"ال",  # wherever it stands, as its code has it
}
_CHARACTERS = re.compile(r"[\u4e00-\u9fa5]")  # of Chinese, each a word of its own in MLQA
_SHORT = {"eng": "en", "spa": "es", "vie": "vi", "deu": "de", "ara": "ar", "arb": "ar", "zho": "zh", "cmn": "zh"}


def normalized(text: str) -> str:
    """An answer as SQuAD compares it: lower case, no ASCII punctuation, no English articles, single spaces."""
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(_ARTICLES["en"], " ", text).split())


def words(text: str, language: str) -> list[str]:
    """An answer as MLQA compares it: without any Unicode punctuation and without articles of its language.

    language   ISO 639-1 or 639-3, with or without a script; of those without articles only punctuation goes.
               Chinese is compared by characters
    """
    code = _SHORT.get(language.partition("_")[0], language.partition("_")[0])
    text = "".join(
        c for c in text.lower() if not unicodedata.category(c).startswith("P") and c not in string.punctuation
    )
    if code in _ARTICLES:
        text = re.sub(_ARTICLES[code], " ", text)
    if code == "zh":
        text = _CHARACTERS.sub(lambda found: f" {found[0]} ", text)
    return text.split()


def squad_f1(predicted: Sequence[str], right: Sequence[Sequence[str]]) -> float:
    """Mean over questions of the best overlap with an answer, in words. Source: Rajpurkar et al. 2016, 2018.

    right  the answers of each question; none: there is no answer, and only an empty prediction is right
    """
    return _best(predicted, right, lambda guess, truth: _overlap(normalized(guess).split(), normalized(truth).split()))


def exact_match(predicted: Sequence[str], right: Sequence[Sequence[str]]) -> float:
    """Share of questions of which the prediction is, normalised, one of the answers."""
    return _best(predicted, right, lambda guess, truth: float(normalized(guess) == normalized(truth)))


def mlqa_f1(predicted: Sequence[str], right: Sequence[Sequence[str]], language: str) -> float:
    """`squad_f1` with the normalisation of MLQA for a language."""
    return _best(predicted, right, lambda guess, truth: _overlap(words(guess, language), words(truth, language)))


def mlqa_exact_match(predicted: Sequence[str], right: Sequence[Sequence[str]], language: str) -> float:
    """`exact_match` with the normalisation of MLQA for a language."""
    return _best(predicted, right, lambda guess, truth: float(words(guess, language) == words(truth, language)))


def _best(predicted: Sequence[str], right: Sequence[Sequence[str]], compare: Callable[[str, str], float]) -> float:
    if not len(predicted):
        raise ValueError("there are no answers to score")
    pairs = zip(predicted, right, strict=True)
    return sum(max(compare(guess, truth) for truth in truths or [""]) for guess, truths in pairs) / len(predicted)


def _overlap(guess: list[str], truth: list[str]) -> float:
    if not guess or not truth:
        return float(guess == truth)
    return 2 * (Counter(guess) & Counter(truth)).total() / (len(guess) + len(truth))
