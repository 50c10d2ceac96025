import math
import sys

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from tessera.prediction import metrics

CLASSES = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=40)
NUMBERS = st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=3, max_size=40)


@given(CLASSES)
def test_classes_are_scored_by_the_definitions(pairs):
    guess, truth = (np.array(side) for side in zip(*pairs, strict=True))
    labels = sorted({*guess.tolist(), *truth.tolist()})
    table = np.array([[((truth == t) & (guess == g)).sum() for g in labels] for t in labels], float)
    of_class = 2 * table.diagonal() / (table.sum(0) + table.sum(1))
    assert metrics.accuracy(guess, truth) == pytest.approx(table.trace() / len(pairs), abs=1e-12)
    assert metrics.micro_f1(guess, truth) == metrics.accuracy(guess, truth)
    assert metrics.macro_f1(guess, truth) == pytest.approx(of_class.mean(), abs=1e-12)
    assert metrics.f1(guess, truth) == pytest.approx(dict(zip(labels, of_class, strict=True)).get(1, 0.0), abs=1e-12)
    n, given, true = table.sum(), table.sum(0), table.sum(1)
    spread = math.sqrt((n**2 - given @ given) * (n**2 - true @ true))
    wanted = (table.trace() * n - given @ true) / spread if spread else 0.0
    assert metrics.mcc(guess, truth) == pytest.approx(wanted, abs=1e-12)


def test_labels_may_be_words():
    assert metrics.macro_f1(["cat", "dog"], ["cat", "cat"]) == pytest.approx((2 / 3 + 0) / 2)


def test_a_metric_whose_library_is_missing_is_refused_before_anything_is_trained(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.metrics", None)
    metrics.check("accuracy")
    with pytest.raises(ImportError, match=r'needs scikit-learn; pip install "tessera-encoders\[evaluate\]"'):
        metrics.check("macro_f1")


@given(NUMBERS)
def test_correlations_are_those_of_scipy_and_nothing_where_a_side_is_constant(pairs):
    guess, truth = zip(*pairs, strict=True)
    if len(set(guess)) == 1 or len(set(truth)) == 1:
        assert metrics.pearson(guess, truth) == metrics.spearman(guess, truth) == 0
        return
    assert metrics.pearson(guess, truth) == pytest.approx(scipy.stats.pearsonr(guess, truth)[0], abs=1e-12)
    assert metrics.spearman(guess, truth) == pytest.approx(scipy.stats.spearmanr(guess, truth)[0], abs=1e-12)


def test_sides_of_different_length_are_refused():
    with pytest.raises(ValueError, match="2 answers for 3 examples; each example has one"):
        metrics.accuracy([1, 0], [1, 0, 1])
    with pytest.raises(ValueError, match="no answers to score"):
        metrics.accuracy([], [])


def test_entities_are_whole_and_iob1_is_read_too():
    assert metrics.entities(["B-PER", "I-PER", "O", "B-LOC", "B-LOC"]) == {("PER", 0, 2), ("LOC", 3, 4), ("LOC", 4, 5)}
    assert metrics.entities(["I-PER", "I-PER", "I-LOC", "O", "I-PER"]) == {("PER", 0, 2), ("LOC", 2, 3), ("PER", 4, 5)}
    with pytest.raises(ValueError, match="tag 'NOUN' is not of BIO"):
        metrics.entities(["NOUN"])


def test_an_entity_with_a_wrong_end_is_wrong():
    right = [["B-PER", "I-PER", "O", "B-LOC"]]
    guess = [["B-PER", "O", "O", "B-LOC"]]
    assert metrics.spans_f1(guess, right, metrics.entities) == 0.5  # 1 of 2 found is right, 1 of 2 there is found
    assert metrics.spans_f1(right, right, metrics.entities) == 1
    assert metrics.spans_f1([["O", "O", "O", "O"]], right, metrics.entities) == 0


BIO = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
IOBES = [*BIO, "E-PER", "S-PER", "E-LOC", "S-LOC"]
POS = ["ADP", "CCONJ", "INTJ", "NOUN", "SCONJ", "SYM", "X"]

# What get_entities of seqeval 1.2.2 gives, ends one further: its own are those of the last word.
SEQEVAL = [
    (["B-PER", "I-PER", "O", "B-LOC", "B-LOC"], {("PER", 0, 2), ("LOC", 3, 4), ("LOC", 4, 5)}),
    (["I-PER", "I-LOC", "O", "I-PER"], {("PER", 0, 1), ("LOC", 1, 2), ("PER", 3, 4)}),
    (["B-PER", "I-PER", "E-PER", "S-PER", "O"], {("PER", 0, 3), ("PER", 3, 4)}),
    (["B-PER", "E-PER", "I-PER", "S-LOC", "E-LOC"], {("PER", 0, 2), ("PER", 2, 3), ("LOC", 3, 4), ("LOC", 4, 5)}),
    (["B", "I", "O", "I"], {("_", 0, 2), ("_", 3, 4)}),  # spans of one kind, which has no name
    (["B-A-B", "I-A-B", "I-A"], {("A-B", 0, 2), ("A", 2, 3)}),
    (["NOUN", "NOUN", "VERB", "SYM", "SYM"], {("OUN", 0, 2), ("ERB", 2, 3), ("YM", 3, 4), ("YM", 4, 5)}),
    (["CCONJ", "SCONJ", "CCONJ"], {("CONJ", 1, 2), ("CONJ", 1, 3)}),  # C ends nothing and begins nothing of one kind
    (["X"], set()),
    (["NOUN", "X", "NOUN"], {("OUN", 0, 1), ("_", 1, 2), ("OUN", 2, 3)}),
]


@pytest.mark.parametrize(("tags", "chunks"), SEQEVAL)
def test_chunks_are_those_of_seqeval_for_bio_iobes_and_tags_without_a_prefix(tags, chunks):
    assert metrics.runs(tags) == chunks


def test_entity_f1_by_hand_for_iobes():
    names = tuple(IOBES)
    right, guess = (
        [["B-PER", "E-PER", "O", "S-LOC"]],
        [["B-PER", "I-PER", "O", "S-PER"]],
    )  # PER 0-2 | LOC; PER 0-2 | PER
    given, true = ([tuple(names.index(tag) for tag in tags) for tags in side] for side in (guess, right))
    assert metrics.score("entity_f1", given, true, names=names) == 0.5


def test_bilou_and_bmes_are_iobes_in_other_letters():
    assert metrics.entities(["B-PER", "M-PER", "E-PER", "S-LOC"]) == {("PER", 0, 3), ("LOC", 3, 4)}
    assert metrics.entities(["B-PER", "I-PER", "L-PER", "U-LOC"]) == {("PER", 0, 3), ("LOC", 3, 4)}


def test_run_f1_takes_cconj_for_sconj_and_a_lone_x_for_nothing_as_seqeval_does():
    number = {tag: n for n, tag in enumerate(POS)}
    right, guess = [["NOUN", "CCONJ", "NOUN"], ["X"]], [["NOUN", "SCONJ", "NOUN"], ["NOUN"]]
    given, true = ([tuple(number[tag] for tag in tags) for tags in side] for side in (guess, right))
    # right: OUN, CONJ, OUN and nothing; guessed: OUN, CONJ, OUN and OUN: all three are found, three of four are right
    assert metrics.score("run_f1", given, true, names=POS) == pytest.approx(2 * 3 / (3 + 4))
    assert metrics.score("accuracy", given, true) == 2 / 4


def test_tags_of_other_sentences_are_no_answer():
    for metric in ("accuracy", "macro_f1", "entity_f1", "run_f1"):
        with pytest.raises(ValueError, match="sentence 1: 2 tags for 1 words"):
            metrics.score(metric, [(0, 1), (1,)], [(0,), (1, 1)], names=("O", "B-PER"))
        with pytest.raises(ValueError, match="1 answers for 2 sentences"):
            metrics.score(metric, [(0, 1)], [(0,), (1,)], names=("O", "B-PER"))


def test_f1_of_more_than_two_classes_is_refused():
    assert metrics.score("f1", [1, 0, 1], [1, 1, 0], names=("no", "yes")) == 0.5
    for names in (("a", "b", "c"), ()):
        with pytest.raises(ValueError, match=r"f1 is of the second of two classes, but here are 3 .*say macro_f1"):
            metrics.score("f1", [1, 0, 2], [1, 1, 0], names=names)
    with pytest.raises(ValueError, match=r"here are 3 \(a, b, c\); say macro_f1"):
        metrics.check("f1", ("a", "b", "c"))
    with pytest.raises(ValueError, match="tag 'NOUN' is not of BIO or IOBES"):
        metrics.check("entity_f1", ("O", "NOUN"))
    metrics.check("entity_f1", IOBES)


NOTHING = [math.nan, math.inf, None]


@pytest.mark.parametrize("nothing", NOTHING)
@pytest.mark.parametrize("metric", ["accuracy", "f1", "macro_f1", "micro_f1", "mcc", "pearson", "spearman"])
def test_what_is_no_answer_is_never_scored(metric, nothing):
    with pytest.raises(ValueError, match=r"answer 2 is (nan|inf|None); a finite number or text is needed"):
        metrics.score(metric, [1.0, nothing, 0.0], [1.0, 0.0, 0.0])
    with pytest.raises(ValueError, match=r"label 2 is (nan|inf|None)"):
        metrics.score(metric, [1.0, 0.0, 0.0], [1.0, nothing, 0.0])


@pytest.mark.parametrize("metric", ["squad_f1", "exact_match", "mlqa_f1", "mlqa_exact_match"])
def test_an_answer_in_words_that_is_no_text_is_never_scored(metric):
    with pytest.raises(ValueError, match="an answer is None; text is needed"):
        metrics.score(metric, ["x", None], [["x"], ["x"]])


def test_names_are_not_compared_with_numbers():
    with pytest.raises(ValueError, match="give both as numbers or both as names"):
        metrics.accuracy([0, 1], ["0", "1"])


MEASURES = (metrics.ndcg, metrics.recall, metrics.mrr, metrics.average_precision)


@pytest.mark.parametrize("of", MEASURES)
def test_a_ranking_that_repeats_a_document_is_refused_and_no_measure_exceeds_one(of):
    with pytest.raises(ValueError, match="the ranking has document 'a' more than once"):
        of(["a", "a"], {"a": 1})
    with pytest.raises(ValueError, match="no document answers the query"):
        of(["a"], {"a": 0})
    assert of(["a", "b"], {"a": 3, "b": 1, "c": -2}) == 1


def test_answers_are_compared_without_case_articles_and_punctuation():
    assert metrics.normalized("The  Cat's-Paw, a toy!") == "catspaw toy"
    assert metrics.answers("exact_match", ["the cat"], [["Cat.", "dog"]]) == 1
    # "big cat" of "cat": precision 1/2, recall 1, so F1 is 2/3; the better of two answers counts
    assert metrics.answers("squad_f1", ["big cat"], [["dog", "a cat"]]) == pytest.approx(2 / 3)


def test_where_there_is_no_answer_only_silence_is_right():
    assert metrics.answers("squad_f1", ["", "something"], [[], []]) == 0.5
    assert metrics.answers("exact_match", ["", "something"], [[], []]) == 0.5


@pytest.mark.parametrize(
    ("language", "text", "words"),
    [
        ("en", "The tower—of «London»", ["towerof", "london"]),
        ("de", "Der Turm und das Tor.", ["turm", "und", "tor"]),
        ("deu_Latn", "Der Turm", ["turm"]),
        ("es", "¿La torre?", ["torre"]),
        ("vi", "những cái tháp", ["tháp"]),
        ("ar", "البرج", ["برج"]),
        ("hi", "यह, घर।", ["यह", "घर"]),
        ("zh", "公元2008年。", ["公", "元", "2008", "年"]),
        ("fo", "Hin nýggi", ["hin", "nýggi"]),
    ],
)
def test_mlqa_knows_the_articles_of_its_languages(language, text, words):
    assert metrics.words(text, language) == words


def test_mlqa_gives_part_of_a_chinese_answer_its_due_where_squad_gives_none():
    assert metrics.answers("squad_f1", ["北京"], [["北京市"]]) == 0
    assert metrics.answers("mlqa_f1", ["北京"], [["北京市"]], "zh") == pytest.approx(2 * 2 / (2 + 3))
    assert metrics.answers("mlqa_exact_match", ["der Turm"], [["Turm"]], "de") == 1


def test_retrieval_by_hand():
    ranked, grades = ["a", "b", "c", "d"], {"b": 1, "d": 1, "z": 1}
    # gains 0 1 0 1 at discounts log2 of 2 3 4 5; best is 1 1 1
    got = 1 / math.log2(3) + 1 / math.log2(5)
    best = 1 + 1 / math.log2(3) + 1 / math.log2(4)
    assert metrics.ndcg(ranked, grades) == pytest.approx(got / best)
    assert metrics.recall(ranked, grades, 10) == pytest.approx(2 / 3)
    assert metrics.recall(ranked, grades, 2) == pytest.approx(1 / 3)
    assert metrics.mrr(ranked, grades) == 1 / 2
    assert metrics.average_precision(ranked, grades) == pytest.approx((1 / 2 + 2 / 4) / 3)
    measures = (metrics.ndcg, metrics.recall, metrics.mrr, metrics.average_precision)
    assert [of(["x", "y"], {"x": 2}) for of in measures] == [1, 1, 1, 1]
    assert [of([], {"x": 2}) for of in measures] == [0, 0, 0, 0]


def test_score_takes_the_metric_of_a_task():
    assert metrics.score("accuracy", [1, 0], [1, 1]) == 0.5
    assert metrics.score("accuracy", [(1, 0), (2,)], [(1, 1), (2,)]) == pytest.approx(2 / 3)  # of words
    names = ("O", "B-PER", "I-PER")
    assert metrics.score("entity_f1", [(1, 2, 0)], [(1, 2, 0)], names=names) == 1
    assert metrics.score("squad_f1", ["cat"], [["a cat"]]) == 1
    assert metrics.score("mlqa_f1", ["Turm"], [["der Turm"]], language="de") == 1
    with pytest.raises(ValueError, match=r"'ndcg@10' is of retrieval"):
        metrics.score("ndcg@10", [], [])


def test_what_is_no_truth_is_never_scored_either():
    for of in (metrics.ndcg, metrics.mrr, metrics.recall, metrics.average_precision):
        with pytest.raises(ValueError, match=r"the grade of document 'a' is nan; a finite number"):
            of(["a", "b"], {"a": float("nan"), "b": 1})
    for of in (metrics.ndcg, metrics.mrr, metrics.recall):
        with pytest.raises(ValueError, match="k is 0"):
            of(["a"], {"a": 1}, k=0)
    for of in (metrics.pearson, metrics.spearman):
        with pytest.raises(ValueError, match="answer 1 is 'a'; a correlation is of numbers"):
            of(["a", "b"], ["a", "c"])
    for truths in ("here", [float("nan")], [None]):
        with pytest.raises(ValueError, match=r"the right answers of a question are .*; a list of texts is needed"):
            metrics.answers("exact_match", ["x"], [truths])
