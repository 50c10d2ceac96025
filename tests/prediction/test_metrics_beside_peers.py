"""Metrics beside independent computations: trec_eval, scikit-learn's indicator matrices, entities that were drawn."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.metrics import f1_score

from tessera.data.examples import Labelled
from tessera.finetune import scores
from tessera.labelled.dataset import Part
from tessera.prediction import metrics

TYPES = ("PER", "ORG", "LOC")
OURS_AND_TRECS = {"ndcg_cut_10": (metrics.ndcg, 10), "recall_10": (metrics.recall, 10)}


def drawn(rng):
    """Grades of some documents, and a ranking of others and of most of these."""
    names = [f"d{n}" for n in range(30)]
    grades = {name: rng.choice([0, 0, 1, 2, 3]) for name in rng.sample(names, 12)} | {"d0": rng.choice([1, 2])}
    return grades, rng.sample(names, rng.randint(1, 25))


@pytest.mark.parametrize("seed", range(20))
def test_rankings_are_measured_as_trec_eval_measures_them(seed):
    trec = pytest.importorskip("pytrec_eval", reason="pytrec_eval-terrier is not installed")
    grades, ranked = drawn(random.Random(seed))
    run = {"q": {name: float(len(ranked) - n) for n, name in enumerate(ranked)}}
    wanted = {"ndcg_cut.10", "recall.10", "map", "recip_rank"}
    theirs = trec.RelevanceEvaluator({"q": grades}, wanted).evaluate(run)["q"]
    for name, (of, k) in OURS_AND_TRECS.items():
        assert of(ranked, grades, k) == pytest.approx(theirs[name], abs=1e-9)
    assert metrics.average_precision(ranked, grades) == pytest.approx(theirs["map"], abs=1e-9)
    assert metrics.mrr(ranked, grades, len(ranked)) == pytest.approx(theirs["recip_rank"], abs=1e-9)


def sentence(rng, length=12):
    """Entities that do not touch each other's words: (kind, first word, word after the last)."""
    found, at = [], 0
    while at < length:
        if rng.random() < 0.4:
            end = min(length, at + rng.randint(1, 3))
            found.append((rng.choice(TYPES), at, end))
            at = end
        else:
            at += 1
    return found


def written(entities, scheme, length=12):
    tags = ["O"] * length
    for kind, first, last in entities:
        alone = scheme == "IOBES" and last == first + 1
        tags[first] = f"{'S' if alone else 'B'}-{kind}"
        for place in range(first + 1, last):
            tags[place] = f"{'E' if scheme == 'IOBES' and place == last - 1 else 'I'}-{kind}"
    return tags


@pytest.mark.parametrize("scheme", ["BIO", "IOBES"])
@pytest.mark.parametrize("seed", range(10))
def test_entity_f1_counts_the_entities_that_were_drawn(scheme, seed):
    rng = random.Random(seed)
    true = [sentence(rng) for _ in range(20)]
    guess = [entities if rng.random() < 0.5 else sentence(rng) for entities in true]
    same = sum(len({*a} & {*b}) for a, b in zip(true, guess, strict=True))
    f1 = 2 * same / (sum(map(len, true)) + sum(map(len, guess)))  # micro: seqeval's default
    names = ["O", *(f"{sign}-{kind}" for kind in TYPES for sign in "BIES")]
    number = {name: n for n, name in enumerate(names)}
    given, right = ([[number[tag] for tag in written(one, scheme)] for one in side] for side in (guess, true))
    assert metrics.score("entity_f1", given, right, names=names) == pytest.approx(f1, abs=1e-12)


def test_squad_f1_counts_a_word_as_often_as_it_stands_in_both():
    # "to be or not to be" and "to be to go": to twice, be once; 3 of 6 words, 3 of 4
    precision, recall = 3 / 6, 3 / 4
    by_hand = 2 * precision * recall / (precision + recall)
    assert metrics.answers("squad_f1", ["To be, or not to be!"], [["to be to go"]]) == pytest.approx(by_hand)
    # over questions it is the mean; of several answers the best counts
    found = metrics.answers("squad_f1", ["To be, or not to be!", "x"], [["nothing", "to be to go"], ["y"]])
    assert found == pytest.approx(by_hand / 2)


@pytest.mark.parametrize("seed", range(5))
def test_several_labels_are_scored_as_scikit_learn_scores_an_indicator_matrix(seed):
    rng = np.random.default_rng(seed)
    chances, true = rng.random((40, 3)), rng.integers(0, 2, (40, 3))
    rows = [Labelled(text="t", label=tuple(np.flatnonzero(row).tolist()), id="i", row="r") for row in true]
    data = SimpleNamespace(kind="multilabel", labels=("a", "b", "c"))
    found = scores.measure(data, Part(rows, [""] * 40), chances.tolist(), (0.3, 0.5, 0.7))
    held = chances >= (0.3, 0.5, 0.7)
    for name, average in (("micro_f1", "micro"), ("macro_f1", "macro")):
        assert found[name] == pytest.approx(f1_score(true, held, average=average), abs=1e-12)
