"""Answers out of windows: how long they may be, whatever a tokenizer makes of the letters."""

import json
import random

import learnable
import numpy as np
import pytest
import task_folders

from tessera.prediction import windows
from tessera.tokenizer.tokenizer import Tokenizer

THAI = "กรุงเทพมหานครเป็นเมืองหลวงและนครที่มีประชากรมากที่สุดของประเทศไทยเป็นศูนย์กลางการปกครองการศึกษาการคมนาคมขนส่ง"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return Tokenizer.load(learnable.model(tmp_path_factory.mktemp("model")))


def whole(tokenizer, context):
    """A text in one window without a question, that begins at the first token."""
    ((ids, offsets),) = tokenizer.encode_offsets([context])
    return windows.Window(ids=np.concatenate(([0], ids)), question=0, first=1, offsets=offsets)


def best(window, context, answer):
    """What is answered where the model is sure of this one."""
    first, last = windows.target(window, (answer, context.index(answer)))
    scores = np.zeros((len(window.ids), 2), np.float32)
    scores[first, 0] = scores[last, 1] = 9.0
    return windows.Best().better(window, scores).text(context, no_answer=False)


@pytest.mark.parametrize("letters", [11, 40, 100])
def test_an_answer_in_a_script_of_bytes_can_be_given(tokenizer, letters):
    window, answer = whole(tokenizer, THAI), THAI[3 : 3 + letters]
    assert len(tokenizer.encode_plain([answer])[0]) > windows.LONGEST_ANSWER
    assert windows.holds(window, (answer, 3))
    assert best(window, THAI, answer) == answer


def test_an_answer_that_is_too_long_cannot_be_given_and_does_not_count_as_held(tokenizer):
    context = THAI * 3
    window, answer = whole(tokenizer, context), context[5 : 5 + windows.LONGEST_IN_CHARACTERS + 10]
    assert not windows.holds(window, (answer, 5))
    assert best(window, context, answer) != answer
    assert not windows.holds(window, ("nowhere", len(context)))


@pytest.mark.parametrize("seed", range(30))
def test_the_best_answer_is_the_best_of_all_that_are_short_enough(seed):
    rng = np.random.default_rng(seed)
    count, letters = int(rng.integers(1, 90)), int(rng.integers(1, 8))
    ends = np.cumsum(rng.integers(0, letters + 1, count))
    offsets = np.stack((np.concatenate(([0], ends[:-1])), ends), 1)
    window = windows.Window(ids=np.zeros(count + 1, np.int32), question=0, first=1, offsets=offsets)
    scores = rng.normal(size=(count + 1, 2)).astype(np.float32)
    found = windows.Best().better(window, scores)
    due = max(
        float(scores[1 + a, 0]) + float(scores[1 + b, 1])
        for a in range(count)
        for b in range(a, count)
        if b - a < windows.LONGEST_ANSWER or ends[b] - offsets[a, 0] <= windows.LONGEST_IN_CHARACTERS
    )
    assert found.score == pytest.approx(due)


def test_of_ordinary_text_an_answer_has_thirty_tokens_as_before():
    words = random.Random(0).choices(["bread", "cloud", "night", "river"], k=200)
    ends = np.cumsum([len(word) + 1 for word in words])
    offsets = np.stack((np.concatenate(([0], ends[:-1])), ends), 1)
    assert windows.reach(offsets)[:-30].tolist() == [windows.LONGEST_ANSWER] * 170
    assert windows.reach(offsets)[-3:].tolist() == [3, 2, 1]


@pytest.mark.parametrize("answer", ["Hue\u0302\u0301", "cafe\u0301", "L\u00e9on", "Le\u0301on"])
def test_an_answer_that_ends_in_a_mark_can_be_learnt_and_given_whole(answer, tmp_path):
    folder = task_folders.bert(tmp_path / "bert")
    inner = json.loads((folder / "tokenizer.json").read_text())
    inner["normalizer"] = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True,
                           "strip_accents": True, "lowercase": True}  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(inner))
    context = f"to {answer} and on"
    window = whole(Tokenizer.load(folder), context)
    assert windows.holds(window, (answer, 3))
    assert best(window, context, answer) == answer
