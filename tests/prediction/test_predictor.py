"""Predictions beside transformers' pipelines, long texts in windows, rows of a user that are good or bad."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from task_models import TEXTS, bert, named

from tessera.huggingface import transformers_model
from tessera.prediction import tags, words
from tessera.prediction.predictor import Predictor
from tessera.tokenizer.tokenizer import Tokenizer


def pipeline(task, folder, **more):
    with transformers_model.quietly():
        return transformers.pipeline(task, model=str(folder), device="cpu", **more)


def predictor(folder):
    return Predictor.from_pretrained(folder, device="cpu", dtype="float32")


NAMES = named("water", "food", "sky")
PAIRS = [("the river", "bread of the cloud"), ("", "night"), ("clouds, rivers", "the")]


@pytest.mark.parametrize("rows", [TEXTS, PAIRS], ids=["texts", "pairs"])
def test_classes_are_those_of_the_pipeline(rows, tmp_path):
    folder = bert(tmp_path / "m", "BertForSequenceClassification", **NAMES)
    given = [row if isinstance(row, str) else {"text": row[0], "text_pair": row[1]} for row in rows]
    due = [pipeline("text-classification", folder, top_k=None)(one) for one in given]
    for found, theirs in zip(predictor(folder).predict(rows), due, strict=True):
        scores = {one["label"]: one["score"] for one in (theirs[0] if isinstance(theirs[0], list) else theirs)}
        assert found["scores"] == pytest.approx(scores, abs=1e-5)
        assert found["label"] == max(scores, key=scores.get)
        assert found["score"] == pytest.approx(max(scores.values()), abs=1e-5)


def test_several_labels_are_those_of_the_pipeline(tmp_path):
    folder = bert(tmp_path / "m", "BertForSequenceClassification", problem_type="multi_label_classification", **NAMES)
    due = pipeline("text-classification", folder, top_k=None)(TEXTS)
    for found, theirs in zip(predictor(folder).predict(TEXTS), due, strict=True):
        assert found["scores"] == pytest.approx({one["label"]: one["score"] for one in theirs}, abs=1e-5)
        assert set(found["labels"]) == {one["label"] for one in theirs if one["score"] >= 0.5}


def test_thresholds_of_a_folder_decide_which_labels_hold(tmp_path):
    folder = bert(tmp_path / "m", "BertForSequenceClassification", problem_type="multi_label_classification", **NAMES)
    place = folder / "config.json"
    task = {"kind": "multilabel", "thresholds": [0.0, 1.1, 0.5]}
    place.write_text(json.dumps({**json.loads(place.read_text()), "task": task}))
    for found in predictor(folder).predict(TEXTS):
        assert "water" in found["labels"]
        assert "food" not in found["labels"]
        assert ("sky" in found["labels"]) == (found["scores"]["sky"] >= 0.5)


def test_a_number_is_that_of_the_pipeline(tmp_path):
    folder = bert(tmp_path / "m", "BertForSequenceClassification", problem_type="regression", num_labels=1)
    due = pipeline("text-classification", folder)(TEXTS)
    found = predictor(folder).predict(TEXTS)
    assert [one["score"] for one in found] == pytest.approx([one["score"] for one in due], abs=1e-5)


@pytest.mark.parametrize("named", ["B-X", "X"])
def test_tags_are_those_of_the_pipeline(named, tmp_path):
    labels = {0: "O", 1: named, 2: named.replace("B-", "I-") if named != "X" else "Y"}
    folder = bert(
        tmp_path / "m", "BertForTokenClassification", id2label=labels, label2id={v: k for k, v in labels.items()}
    )
    found = predictor(folder).predict(TEXTS)
    if named == "X":
        by_token = pipeline("token-classification", folder, aggregation_strategy="none", ignore_labels=[])
        for text, one in zip(TEXTS, found, strict=True):
            theirs = [token for token in (by_token(text) if text else []) if not token["word"].startswith("##")]
            assert [(t["label"], t["start"]) for t in one["tags"]] == [(t["entity"], t["start"]) for t in theirs]
            assert [t["score"] for t in one["tags"]] == pytest.approx([t["score"] for t in theirs], abs=1e-5)
        return
    by_word = pipeline("token-classification", folder, aggregation_strategy="first")
    for text, one in zip(TEXTS, found, strict=True):
        theirs = by_word(text) if text else []
        mine = [(e["label"], e["start"], e["end"]) for e in one["entities"]]
        assert mine == [(e["entity_group"], e["start"], e["end"]) for e in theirs]
        assert all(e["text"] == text[e["start"] : e["end"]] for e in one["entities"])


def test_a_cross_encoder_of_sentence_transformers_scores_alike(tmp_path):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    folder = bert(
        tmp_path / "m",
        "BertForSequenceClassification",
        num_labels=1,
        sentence_transformers={"activation_fn": "torch.nn.modules.activation.Sigmoid", "version": "5.0.0"},
    )
    due = sentence_transformers.CrossEncoder(str(folder), device="cpu").predict(PAIRS)
    assert [one["score"] for one in predictor(folder).predict(PAIRS)] == pytest.approx(due.tolist(), abs=1e-5)


@torch.no_grad()
def test_an_answer_is_the_best_span_of_the_model(tmp_path):
    folder = bert(tmp_path / "m", "BertForQuestionAnswering")
    question, context = "the cloud", "the river of bread, the nights of the clouds."
    found = predictor(folder).predict([(question, context)])[0]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    given = tokenizer(question, context, return_tensors="pt", return_offsets_mapping=True)
    places, of = given.pop("offset_mapping")[0].tolist(), given.sequence_ids(0)
    model = transformers.BertForQuestionAnswering.from_pretrained(folder).eval()
    logits = model(**given)
    starts, ends = logits.start_logits[0], logits.end_logits[0]
    inside = [n for n, side in enumerate(of) if side == 1]
    score, first, last = max((float(starts[a] + ends[b]), a, b) for a in inside for b in inside if a <= b)
    assert (found["start"], found["end"]) == (places[first][0], places[last][1])
    assert found["answer"] == context[found["start"] : found["end"]]
    chance = starts.softmax(-1)[first] * ends.softmax(-1)[last]
    assert found["score"] == pytest.approx(float(chance), abs=1e-5)
    assert score == pytest.approx(float(starts[first] + ends[last]))


def test_a_long_text_is_read_in_windows_whose_probabilities_are_averaged(tmp_path):
    folder = bert(tmp_path / "m", "BertForSequenceClassification", **NAMES)
    ask = predictor(folder)
    text = " ".join(["river", "bread", "the", "cloud", "night"] * 9)  # 45 tokens; a window has room for 30
    found, cut = ask.predict([text, "bread"]), ask.predict([text], long="truncate")
    assert found[0]["windows"] == 2
    assert "windows" not in found[1]
    assert "windows" not in cut[0]
    parts = text.split()
    windows = [" ".join(parts[:30]), " ".join(parts[15:])]
    each = [one["scores"] for one in ask.predict(windows)]
    due = {name: (each[0][name] + each[1][name]) / 2 for name in each[0]}
    assert found[0]["scores"] == pytest.approx(due, abs=1e-6)
    assert cut[0]["scores"] == pytest.approx(each[0], abs=1e-6)


def test_predictions_do_not_depend_on_neighbours_or_on_the_size_of_batches(tmp_path):
    folder = bert(tmp_path / "m", "BertForSequenceClassification", **NAMES)
    ask = predictor(folder)
    together = ask.predict(TEXTS * 3)
    assert [one["label"] for one in together] == [ask.predict([text], max_tokens=8)[0]["label"] for text in TEXTS * 3]
    assert [one["label"] for one in ask.stream(iter(TEXTS))] == [one["label"] for one in together[: len(TEXTS)]]


@pytest.mark.parametrize(
    ("head", "row", "message"),
    [
        ("BertForSequenceClassification", 3, r"rows\[1\]: 3 is a int; classify needs text"),
        ("BertForSequenceClassification", {"title": "x"}, r"rows\[1\]: has no 'text', .* its fields are title"),
        ("BertForSequenceClassification", ("a", "b", "c"), r"rows\[1\]: .*needs text and second"),
        ("BertForSequenceClassification", "\ud800", r"rows\[1\]: has half a character"),
        ("BertForQuestionAnswering", "the", r"rows\[1\]: 'the' is given, but span needs question and context"),
        ("BertForMultipleChoice", {"text": "a", "options": ["b"]}, r"rows\[1\]: .*two options or more"),
        ("BertForTokenClassification", {"words": ["a", ""]}, r"rows\[1\]: word 1 is empty"),
    ],
)
def test_a_row_that_is_not_of_the_kind_is_named(head, row, message, tmp_path):
    folder = bert(tmp_path / "m", head)
    good = {"BertForQuestionAnswering": ("a", "b"), "BertForMultipleChoice": ("a", ["b", "c"])}.get(head, "the")
    with pytest.raises(ValueError, match=message):
        predictor(folder).predict([good, row])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("the river", r"rows is one str; give a list of rows: \['the river'\]"),
        (b"the", "rows is one bytes"),
        ({"text": "the"}, "rows is one dict, which yields its keys"),
        ({"the", "of"}, "rows is a set, which has no order"),
        (3, "rows is a int; give a list of rows"),
    ],
)
def test_what_holds_no_rows_is_refused_at_once(rows, message, tmp_path):
    with pytest.raises(TypeError, match=message):
        predictor(bert(tmp_path / "m", "BertForSequenceClassification")).stream(rows)


def test_odd_rows_are_read_as_they_are_meant(tmp_path):
    ask = predictor(bert(tmp_path / "m", "BertForSequenceClassification", **NAMES))
    assert ask.predict([]) == []
    (due,) = ask.predict(["the river"])
    rows = [
        np.array(["the river"])[0],  # a str of numpy
        {"text": "the river", "document": "7.txt", "text_pair": None},  # no pair
        {"sentence": "the river", "label": 3},
    ]
    for found in ask.predict(row for row in rows):
        assert found["scores"] == pytest.approx(due["scores"], abs=1e-6)
    (pair,) = ask.predict([("the river", "bread")])
    assert ask.predict(np.array([["the river", "bread"]]))[0]["scores"] == pytest.approx(pair["scores"], abs=1e-6)
    assert len(ask.predict(["[CLS] [SEP]", "\u200b", "the" * 5000, "שלום עולם", "\N{THUMBS UP SIGN}", "\0"])) == 6


def test_words_that_the_tokenizer_drops_or_cannot_hold_have_a_tag(tmp_path):
    ask = predictor(bert(tmp_path / "m", "BertForTokenClassification", **named("O", "X")))
    words = ["the", "\u200b", "river" * 300, "שלום", "\N{THUMBS UP SIGN}"]
    tags = ask.predict([words])[0]["tags"]
    assert [tag["text"] for tag in tags] == words
    assert all(tag["score"] >= 0.5 for tag in tags)
    assert ask.predict([[], ""]) == [{"tags": []}, {"tags": []}]


def test_what_lost_its_end_says_so(tmp_path):
    ask = predictor(bert(tmp_path / "m", "BertForSequenceClassification", **NAMES))
    long = "the river " * 30
    found = ask.predict([long, "the", (long, "the"), ("the", "of")])
    assert ["truncated" in one for one in found] == [False, False, True, False]
    assert [one.get("truncated") for one in ask.predict([long, "the"], long="truncate")] == [True, None]
    reader = predictor(bert(tmp_path / "q", "BertForQuestionAnswering"))
    found = reader.predict([("the " * 30, "river"), ("the", long)])
    assert [one.get("truncated") for one in found] == [True, None]


def test_threads_may_share_one(tmp_path):
    ask = predictor(bert(tmp_path / "m", "BertForSequenceClassification", **NAMES))
    due = ask.predict(TEXTS)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: ask.predict(TEXTS), range(8)):
            assert [one["scores"] for one in found] == [pytest.approx(one["scores"], abs=1e-6) for one in due]


@pytest.mark.parametrize("length", [0, 2, 41, -1])
def test_a_length_that_cannot_be_is_refused(length, tmp_path):
    folder = bert(tmp_path / "m", "BertForSequenceClassification")
    with pytest.raises(ValueError, match=rf"max_length is {length}; special tokens take 2, and the model reads at"):
        Predictor.from_pretrained(folder, max_length=length)


def test_a_folder_without_a_head_is_refused_by_name(tmp_path):
    folder = bert(tmp_path / "m", "BertModel")
    with pytest.raises(ValueError, match="which is no model with the head of a task"):
        predictor(folder)


# --------------------------------------------------------------------------------------------------- words, entities


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return Tokenizer.load(bert(tmp_path_factory.mktemp("words") / "m", "BertModel"))


@pytest.mark.parametrize(
    ("text", "due"),
    [
        ("Jógvan á Heygum, Tórshavn.", ["Jógvan", "á", "Heygum", ",", "Tórshavn", "."]),
        ("l'eau d'Évian", ["l'eau", "d'Évian"]),
        ("नमस्ते दुनिया।", ["नमस्ते", "दुनिया", "।"]),
        ("a 'b' c-", ["a", "'", "b", "'", "c", "-"]),
        (" \t\n", []),
        ("שלום, עולם", ["שלום", ",", "עולם"]),
    ],
)
def test_words_are_letters_with_their_marks(text, due, tokenizer):
    found = words.split(text, tokenizer)
    assert list(found.texts) == due
    assert [text[a:b] for a, b in found.places] == due


@given(st.text())
def test_words_cover_all_that_is_no_space_once(tokenizer, text):
    found = words.split(text, tokenizer)
    covered = [n for a, b in found.places for n in range(a, b)]
    assert covered == sorted(set(covered))
    assert all(text[n].isspace() for n in set(range(len(text))) - set(covered))
    assert all(found.texts)


@pytest.mark.parametrize(
    ("labels", "due"),
    [
        ("B-A I-A O B-A B-A", [(0, 2, "A"), (3, 4, "A"), (4, 5, "A")]),
        ("I-A I-B O", [(0, 1, "A"), (1, 2, "B")]),
        ("S-A B-B I-B E-B O U-C", [(0, 1, "A"), (1, 4, "B"), (5, 6, "C")]),
        ("B-A L-A I-A", [(0, 2, "A"), (2, 3, "A")]),
        ("B I O I B", [(0, 2, "_"), (3, 4, "_"), (4, 5, "_")]),
        ("O O", []),
        ("", []),
    ],
)
def test_entities_of_every_scheme(labels, due):
    assert tags.entities(labels.split()) == due


@pytest.mark.parametrize(
    ("names", "due"),
    [
        (["O", "B-PER", "I-PER"], True), (["O", "I-PER", "I-LOC"], True), (["B", "I", "O"], True),
        (["O", "S-PER", "B-PER", "E-PER", "I-PER"], True), (["O", "E-MAIL", "PHONE"], False),
        (["O", "E-MAIL", "S-BAHN"], False), (["O", "B-PER", "I-PER", "MISC"], False), (["NOUN", "VERB"], False),
    ],
)  # fmt: skip
def test_entities_are_said_where_no_tag_would_be_lost_by_it(names, due):
    assert tags.says_entities(names) is due


def test_probabilities_add_up_to_one(tmp_path):
    folder = bert(tmp_path / "m", "BertForMultipleChoice")
    found = predictor(folder).predict([{"text": "the", "options": ["bread", "night", "river"]}])[0]
    assert np.sum(found["scores"]) == pytest.approx(1.0)
    assert found["choice"] == int(np.argmax(found["scores"]))
