"""Metrics: accuracy, F1, Matthews' and other correlations, SQuAD's and MLQA's scores, nDCG, MRR, recall.

Pure functions of answers and of what is right, all in [0, 1] but for correlations; by scikit-learn and scipy where
these have them. `score` gives a task's metric for the answers of a model. What is no answer, as NaN, is an error.
"""

import math
import operator
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tessera.plan.errors import some
from tessera.plan.shipped import pip_line
from tessera.plan.task import Metric
from tessera.prediction.ranking_metrics import Grades as Grades
from tessera.prediction.ranking_metrics import average_precision as average_precision
from tessera.prediction.ranking_metrics import mrr as mrr
from tessera.prediction.ranking_metrics import ndcg as ndcg
from tessera.prediction.ranking_metrics import recall as recall

# ------------------------------------------------------------------------------------------------------- classification


def accuracy(predicted: ArrayLike, right: ArrayLike) -> float:
    """Share of equal answers."""
    given, true = _both(predicted, right)
    return float((given == true).mean())


def f1(predicted: ArrayLike, right: ArrayLike, label: int = 1) -> float:
    """F1 of one class; 0 where it is neither there nor predicted. That of a task is of the second of two classes."""
    return float(_sklearn().f1_score(*_both(predicted, right), labels=[label], average="macro", zero_division=0))


def macro_f1(predicted: ArrayLike, right: ArrayLike) -> float:
    """Mean F1 of all classes that are there or predicted."""
    return float(_sklearn().f1_score(*_both(predicted, right), average="macro", zero_division=0))


def micro_f1(predicted: ArrayLike, right: ArrayLike) -> float:
    """F1 over all answers; with one answer each it is the accuracy."""
    return accuracy(predicted, right)


def mcc(predicted: ArrayLike, right: ArrayLike) -> float:
    """Matthews' correlation for any number of classes (Gorodkin 2004); 0 where one side has but one class."""
    given, true = _both(predicted, right)
    several = min(len(np.unique(given)), len(np.unique(true))) > 1
    return float(_sklearn().matthews_corrcoef(true, given)) if several else 0.0


def _sklearn() -> Any:
    try:
        import sklearn.metrics
    except ImportError:
        raise ImportError(f"this metric needs scikit-learn; {pip_line('evaluate')}") from None
    return sklearn.metrics


# ----------------------------------------------------------------------------------------------------------- regression


def pearson(predicted: ArrayLike, right: ArrayLike) -> float:
    """Linear correlation; 0 where one side is constant."""
    given, true = _numbers(predicted, right)
    return float(np.corrcoef(given, true)[0, 1]) if np.ptp(given) and np.ptp(true) else 0.0


def spearman(predicted: ArrayLike, right: ArrayLike) -> float:
    """Correlation of ranks, equal values sharing their mean rank; 0 where one side is constant."""
    from scipy.stats import rankdata

    given, true = _numbers(predicted, right)
    return pearson(rankdata(given), rankdata(true))


# ------------------------------------------------------------------------------------------------------------- entities


def runs(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    """(kind, first word, word after the last) of each chunk of any tags, as seqeval has them by the rules of conlleval.

    A tag is a letter and a kind, with or without a dash: B, I, E and S begin, go on, end and stand alone, O is none,
    any other letter goes on. A kind that changes begins a chunk, so IOB1 is read too.
    Source: get_entities of seqeval 1.2.2, its defaults.
    """
    found = set()
    sign, kind, begin = "O", "", 0
    for place, tag in enumerate([*tags, "O"]):
        next_sign, next_kind = tag[:1], tag[1:].split("-", 1)[-1] or "_"
        other = kind != next_kind
        if sign in "ES" or (sign in "BI" and next_sign in "BSO") or (sign not in "O." and other):
            found.add((kind, begin, place))
        if next_sign in "BS" or (sign in "ESO" and next_sign in "EI") or (next_sign not in "O." and other):
            begin = place
        sign, kind = next_sign, next_kind
    return found


def entities(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    """The chunks of tags of BIO, IOB1 or IOBES, also as BILOU and BMES write it. Raises ValueError for other tags."""
    for tag in tags:
        if not _ENTITY.fullmatch(tag):
            raise ValueError(f"tag {tag!r} is not of BIO or IOBES; entities need tags like B-PER, I-PER and O")
    return runs([_LETTERS.get(tag[0], tag[0]) + tag[1:] for tag in tags])


_ENTITY = re.compile(r"O|[BIESLUM](-.+)?", re.DOTALL)
_LETTERS = {"L": "E", "U": "S", "M": "I"}  # the last, the only (unit) and the middle word


def spans_f1(
    predicted: Sequence[Sequence[str]],
    right: Sequence[Sequence[str]],
    read: Callable[[Sequence[str]], set[tuple[str, int, int]]],
) -> float:
    """F1 of whole chunks over all sentences; kind and both ends must be right. Source: CoNLL-2003, for entities.

    Sentences are read end to end with an O after each, as seqeval does; that tells apart only tags that are no BIO.
    """
    _check_sentences(predicted, right)
    ours, theirs = (read([tag for tags in side for tag in (*tags, "O")]) for side in (predicted, right))
    return 2 * len(ours & theirs) / (len(ours) + len(theirs)) if ours or theirs else 0.0


# ------------------------------------------------------------------------------------------------------------- answers

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


def answers(metric: Metric, predicted: Sequence[str], right: Sequence[Sequence[str]], language: str = "en") -> float:
    """Mean over questions of how well a prediction fits the best of the answers.

    squad_f1, exact_match            overlap in words; equal or not. Source: Rajpurkar et al. 2016, 2018
    mlqa_f1, mlqa_exact_match        the same with the normalisation of MLQA for a language

    right  the answers of each question; none: there is no answer, and only an empty prediction is right
    """
    if not len(predicted):
        raise ValueError("there are no answers to score")
    for guess in predicted:
        if not isinstance(guess, str):
            raise ValueError(f"an answer is {guess!r}; text is needed, empty where there is none")
    for truths in right:
        if isinstance(truths, str) or not all(isinstance(truth, str) for truth in truths):
            raise ValueError(f"the right answers of a question are {truths!r}; a list of texts is needed")
    compare: Callable[[Any, Any], float] = _overlap if metric.endswith("f1") else operator.eq

    def read(text: str) -> list[str]:
        return words(text, language) if metric.startswith("mlqa") else normalized(text).split()

    pairs = zip(predicted, right, strict=True)
    best = (max(compare(read(guess), read(truth)) for truth in truths or [""]) for guess, truths in pairs)
    return float(sum(best)) / len(predicted)


def _overlap(guess: list[str], truth: list[str]) -> float:
    if not guess or not truth:
        return float(guess == truth)
    return 2 * (Counter(guess) & Counter(truth)).total() / (len(guess) + len(truth))


# ------------------------------------------------------------------------------------------------------------ a task's


def score(
    metric: Metric, predicted: Sequence[Any], right: Sequence[Any], *, names: Sequence[str] = (), language: str = "en"
) -> float:
    """One metric of a task that is not of retrieval.

    predicted  numbers of classes or options, numbers, a tag for each word, or texts
    right      the same of the examples: labels, tags, or the texts of all answers to each question
    names      of the tags, for entities
    language   for the normalisation of MLQA

    f1 is of the second of two classes; macro_f1 is the mean of all, however many.
    run_f1 is what seqeval gives for tags as they stand, which is what nlu-evals, and so mmBERT's column of udpos, has:
    runs of equal tags, but by the letter that a tag begins with. So CCONJ and SCONJ are one kind, words of SCONJ or SYM
    never join, and a lone X counts for nothing.

    Raises ValueError for metrics of retrieval, where sides differ in length, and for answers that are none, as NaN.
    """
    if metric in _NUMBERS:
        given, true = _flat(predicted, right)
        found = _NUMBERS[metric](given, true)
        if metric == "f1":
            _refuse_several_classes(names or {0, 1, *given, *true})
        return found
    if metric in _SPANS:
        ours, theirs = ([[names[tag] for tag in tags] for tags in side] for side in (predicted, right))
        return spans_f1(ours, theirs, _SPANS[metric])
    if metric in _ANSWERS:
        return answers(metric, predicted, right, language)
    raise ValueError(f"metric {metric!r} is of retrieval or not known; here are {', '.join(_NUMBERS)} ...")


def check(metric: Metric, names: Sequence[str] = ()) -> None:
    """Raises what would be raised after the training rather before it: ImportError where a metric lacks its library.

    names  of the labels, where they are known: ValueError where the metric is not for these
    """
    if metric in ("f1", "macro_f1", "mcc"):
        _sklearn()
    if metric == "f1":
        _refuse_several_classes(names)
    if metric == "entity_f1":
        entities(names)


def _refuse_several_classes(classes: Collection[Any]) -> None:
    """F1 of one class says nothing of the others; scikit-learn refuses too, unless told how to average."""
    if len(classes) > 2:
        shown = some(sorted(map(str, classes)))
        raise ValueError(
            f"metric f1 is of the second of two classes, but here are {len(classes)} ({shown}); say macro_f1, the mean "
            "of all classes, or micro_f1"
        )


def outcomes(metric: Metric, predicted: Sequence[Any], right: Sequence[Any], **how: Any) -> list[float] | None:
    """The score of each example by itself, where their mean is the score of all; else None.

    The arguments are those of `score`. The accuracy of tags is a mean over words, not over sentences, so it has none.
    """
    of_words = metric in _NUMBERS and any(isinstance(truth, (tuple, list)) for truth in right[:1])
    if metric not in _MEANS or of_words:
        return None
    return [score(metric, [guess], [truth], **how) for guess, truth in zip(predicted, right, strict=True)]


_NUMBERS = {f.__name__: f for f in (accuracy, f1, macro_f1, micro_f1, mcc, pearson, spearman)}
_SPANS = {"entity_f1": entities, "run_f1": runs}
_ANSWERS = ("squad_f1", "exact_match", "mlqa_f1", "mlqa_exact_match")
_MEANS = {"accuracy", "micro_f1", *_ANSWERS}


def _flat(predicted: Sequence[Any], right: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """Tags of all words of all sentences in one row; other answers as they are."""
    if not len(right) or not isinstance(right[0], (tuple, list)):
        return list(predicted), list(right)
    _check_sentences(predicted, right)
    return [tag for tags in predicted for tag in tags], [tag for tags in right for tag in tags]


def _check_sentences(predicted: Sequence[Sequence[Any]], right: Sequence[Sequence[Any]]) -> None:
    if len(predicted) != len(right) or not len(right):
        raise ValueError(f"{len(predicted)} answers for {len(right)} sentences; each sentence has one")
    for number, (guess, truth) in enumerate(zip(predicted, right, strict=True), 1):
        if len(guess) != len(truth):
            raise ValueError(f"sentence {number}: {len(guess)} tags for {len(truth)} words; each word has one")


def _both(predicted: ArrayLike, right: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
    given, true = np.asarray(predicted), np.asarray(right)
    if given.shape != true.shape or given.ndim != 1:
        raise ValueError(f"{given.size} answers for {true.size} examples; each example has one")
    if not given.size:
        raise ValueError("there are no answers to score")
    for side, what in ((given, "answer"), (true, "label")):
        wrong = [] if side.dtype.kind in "biuUS" else [n for n, x in enumerate(side.tolist()) if not _is_answer(x)]
        if wrong:
            raise ValueError(f"{what} {wrong[0] + 1} is {side[wrong[0]]}; a finite number or text is needed")
    if (given.dtype.kind in "US") != (true.dtype.kind in "US"):
        raise ValueError(f"an answer is {given[0]!r}, a label {true[0]!r}; give both as numbers or both as names")
    return given, true


def _numbers(predicted: ArrayLike, right: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    given, true = _both(predicted, right)
    for side, what in ((given, "answer"), (true, "label")):
        if side.dtype.kind in "US":
            raise ValueError(f"{what} 1 is {side.tolist()[0]!r}; a correlation is of numbers")
    return given.astype(np.float64), true.astype(np.float64)


def _is_answer(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, int | float) and math.isfinite(value))
