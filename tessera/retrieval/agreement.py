"""Evaluation of a student on held-out sentences: cosine to its teacher, bitext retrieval by itself."""

# Shapes: N sentences, C width of a vector.

import numpy as np
from numpy.typing import NDArray

from tessera.bulk.nearest import nearest, unit
from tessera.retrieval.retriever import Retriever
from tessera.retrieval.teacher import Lesson

_MOST = 1_000  # held-out pairs of a language that are looked at


def agreement(student: Retriever, lesson: Lesson) -> dict[str, dict[str, float]]:
    """How near a student has come, by language and under "all", each the mean over languages; at most 1,000 pairs each.

    cosine              of the student's and the teacher's vectors of a sentence
    cosine_translation  of the student's vector of the translation and the teacher's of the sentence
    accuracy            bitext retrieval by the student alone: the share of sentences whose nearest translation is
                        theirs, the mean of both directions
    """
    languages: dict[str, list[int]] = {}
    for number, pair in enumerate(lesson.pairs):
        languages.setdefault(pair.language, []).append(number)
    # all languages at once: a call makes the model ready for use, which takes longer than a few sentences do
    asked = [number for numbers in languages.values() for number in numbers[:_MOST]]
    texts = dict.fromkeys(lesson.pairs[number].text for number in asked)
    texts |= dict.fromkeys(other for number in asked if (other := lesson.pairs[number].translation) is not None)
    vectors = unit(student.documents(list(texts)))
    rows = {text: row for row, text in enumerate(texts)}
    found: dict[str, dict[str, float]] = {}
    for language, numbers in languages.items():
        pairs = [lesson.pairs[number] for number in numbers[:_MOST]]
        due = unit(lesson.vectors.rows(lesson.places[numbers[:_MOST]]))
        mine = vectors[[rows[pair.text] for pair in pairs]]
        row = {"cosine": float((mine * due).sum(1).mean())}
        both = [n for n, pair in enumerate(pairs) if pair.translation is not None]
        if both:
            theirs = vectors[[rows[pair.translation] for pair in pairs if pair.translation is not None]]
            row["cosine_translation"] = float((theirs * due[both]).sum(1).mean())
            row["accuracy"] = _accuracy(mine[both], theirs)
        found[language] = row
    measures = dict.fromkeys(name for row in found.values() for name in row)
    mean = {name: float(np.mean([row[name] for row in found.values() if name in row])) for name in measures}
    return {"all": mean, **found} if set(found) - {""} else {"all": mean}


def _accuracy(source: NDArray[np.float32], target: NDArray[np.float32]) -> float:
    truth = np.arange(len(source))
    ways = ((source, target), (target, source))
    return float(np.mean([nearest(a, b, 1)[0][:, 0] == truth for a, b in ways]))


def nearness(asked: Lesson, model: Retriever) -> float:
    """The one number that rates are chosen by: of translations where there are some."""
    found = agreement(model, asked)["all"]
    return found.get("cosine_translation", found["cosine"])
