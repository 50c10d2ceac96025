"""benchmarks/finetuning.py with tiny shapes, and the plain scripts that it and the doc of results hold ours against."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tessera.data.examples import Question, Tagged

WORDS = ("the", "cat", "sat", "on", "mat", "and", "dog", "ran", "to", "big", "red", "house")
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def program(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location("finetuning", BENCHMARKS / "finetuning.py")
    found = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "finetuning", found)
    spec.loader.exec_module(found)
    return found


@pytest.mark.slow
def test_all_five_kinds_run_with_tiny_shapes_beside_both_trainers():
    words = [sys.executable, BENCHMARKS / "finetuning.py", "--rehearse"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert set(result["kinds"]) == {"classify", "pair", "tag", "span", "retrieve"}
    for kind in result["kinds"].values():
        assert set(kind["found"]) == {"tessera", "tessera, float32", "Trainer, float32", "Trainer, bf16"}
        assert all(0 <= score <= 1 for one in kind["found"].values() for score in one["scores"])
        assert set(kind["ratios"]) == {f"{a} / {b}" for a in ("tessera", "tessera, float32")
                                       for b in ("Trainer, float32", "Trainer, bf16")}  # fmt: skip


def test_a_ratio_is_taken_within_each_seed(program):
    ours = program.Found(processor=[1.0, 2.0, 4.0], scores=[0.5, 0.6, 0.7])
    other = program.Found(processor=[3.0, 4.0, 4.0], scores=[0.5, 0.5, 0.5])
    assert program._ratio(ours, other) == {"mean": 2.0, "least": 1.0, "greatest": 3.0, "score": pytest.approx(0.1)}


def test_the_data_is_asked_for_by_name(program, capsys):
    with pytest.raises(SystemExit):
        program.arguments([])
    assert "--data is needed" in capsys.readouterr().err


def test_a_window_knows_its_answer_and_one_without_it_points_at_the_first_token(program, small_tokenizer):
    context = "the cat sat on the mat and the dog ran to the big red house"
    row = Question(question="who?", context=context, answers=(("big red", context.index("big")),), id="1", row="1")
    how = program.peers.Setting(max_length=16, stride=4)
    windows = program.peers.encoded("span", small_tokenizer, [row], how)
    assert len(windows) > 1
    found = set()
    for window in windows:
        start, end = window["start_positions"], window["end_positions"]
        if (start, end) != (0, 0):
            found.add(context[window["_offsets"][start][0] : window["_offsets"][end][1]])
    assert found == {"big red"}


def test_a_word_of_several_tokens_is_asked_once(program, small_tokenizer):
    row = Tagged(words=("abracadabra", "cat"), tags=(1, 0), id="1", row="1")
    (one,) = program.peers.encoded("tag", small_tokenizer, [row], program.peers.Setting(max_length=32))
    assert [label for label in one["labels"] if label != -100] == [1, 0]
    assert len(one["labels"]) > 4


@pytest.fixture(scope="module")
def small_tokenizer():
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    letters = {token: n for n, token in enumerate(["[CLS]", "[SEP]", "[PAD]", "[UNK]", *"abcdefghijklmnopqrstuvwxyz?"])}
    whole = {word: len(letters) + n for n, word in enumerate(WORDS)}
    pieces = {f"##{letter}": len(letters) + len(whole) + n for n, letter in enumerate("abcdefghijklmnopqrstuvwxyz")}
    made = Tokenizer(models.WordPiece(letters | whole | pieces, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.BertProcessing(("[SEP]", 1), ("[CLS]", 0))
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]"
    )
