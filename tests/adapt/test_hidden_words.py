"""Hidden words are scored whole, the same ones for every tokenizer, by the chain rule."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_encoder import small_model

from tessera.adapt.hidden_words import PASSAGE_BYTES, Passage, hidden_words, passages
from tessera.plan.corpus import TokenizerTraining
from tessera.statistics import ratio_interval
from tessera.tokenizer.tokenizer import train

TEXTS = [
    "one two three four five six seven",
    "tveir þrír fjórir fimm sex sjau",
    "שלום עולם and مرحبا",
    "日本語のテキストである" * 30,
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return train({"aaa_Latn": TEXTS * 9}, TokenizerTraining(vocab_size=300), tmp_path_factory.mktemp("t"))


class Counting(torch.nn.Module):
    """Gives every token of the vocabulary the same chance, and keeps what it is asked."""

    def __init__(self, size: int, positions: int | None = None) -> None:
        super().__init__()
        self.size, self.asked, self.config = size, [], SimpleNamespace(positions=positions)
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def losses(self, tokens, starts, positions, targets):
        self.asked.append((tokens, positions, targets))
        return torch.full((len(positions),), math.log(self.size))


def test_a_word_costs_the_sum_of_its_tokens_however_many_there_are(tokenizer):
    model = Counting(300)
    text = "one two three four"
    found = hidden_words(model, tokenizer, [Passage(0, text, ((4, 7), (8, 13)))])
    ((_, offsets),) = tokenizer.encode_offsets([text])
    tokens = sum(bool((begin < 13) and (end > 4)) for begin, end in offsets.tolist())
    assert found.words == 2
    assert found.bytes == (8,)
    assert found.bits[0] == pytest.approx(tokens * math.log2(300))


def test_a_model_with_few_positions_reads_as_much_of_a_passage_as_it_can_and_guesses_only_words_of_that(tokenizer):
    model, text = Counting(300, positions=12), "one two three four five six seven"
    ((_, offsets),) = tokenizer.encode_offsets([text])
    end = int(offsets[12 - 2, 0])  # of the first token that has no place, beside two of the template
    words = ((4, 7), (end - 1, end + 3), (28, 33))
    found = hidden_words(model, tokenizer, [Passage(0, text, words), Passage(1, text, words[1:])])
    assert found.words == 1
    assert found.bytes == (3,)
    assert max(len(tokens) for tokens, _, _ in model.asked) == 12


def test_the_tokens_of_a_word_before_the_one_that_is_guessed_are_shown_and_those_after_it_hidden(tokenizer):
    model = Counting(300)
    text = "sjau fjórir"
    hidden_words(model, tokenizer, [Passage(0, text, ((5, 11),))])
    ((ids, offsets),) = tokenizer.encode_offsets([text])
    group = [1 + n for n, (begin, end) in enumerate(offsets.tolist()) if begin < 11 and end > 5]
    assert len(model.asked) == len(group) > 1
    for step, (tokens, positions, targets) in enumerate(model.asked):
        assert positions.tolist() == [group[step]]
        assert targets.tolist() == [ids[group[step] - 1]]
        hidden = [place for place in range(len(tokens)) if tokens[place] == tokenizer.mask_id]
        assert hidden == group[step:]


@pytest.mark.parametrize("family", ["mmbert", "eurobert"])
def test_a_model_is_asked_about_all_documents_and_gives_finite_bits(tokenizer, family):
    model = small_model(tokenizer, family)
    texts = [text[:40] for text in TEXTS]
    found = hidden_words(model, tokenizer, passages(texts, 10))
    assert len(found.bits) == len(texts)
    assert np.isfinite(found.bits).all()
    assert min(found.bits) > 0
    value, low, high = found.interval()
    assert low <= value <= high


def test_passages_are_short_and_of_all_documents_and_the_same_every_time():
    some = passages(TEXTS, 100)
    assert {passage.document for passage in some} == set(range(len(TEXTS)))
    assert max(len(passage.text.encode()) for passage in some) <= PASSAGE_BYTES
    assert passages(TEXTS, 2) == some[:2]
    assert all(passage.words for passage in some)
    assert passages(["", "   "], 5) == []


def test_words_without_spaces_are_hidden_in_pieces_of_four_characters():
    (passage, *_) = passages([TEXTS[3]], 1)
    assert all(end - begin <= 4 for begin, end in passage.words)


def test_what_cannot_be_written_costs_its_bytes(tokenizer):
    import dataclasses

    lacking = dataclasses.replace(tokenizer, unknown_id=int(tokenizer.encode_plain(["two"])[0][0]))
    found = hidden_words(Counting(2), lacking, [Passage(0, "two", ((0, 3),))])
    count = len(tokenizer.encode_plain(["two"])[0])
    assert found.bits[0] == pytest.approx(count + 8 * 3)


def test_a_bound_on_tokens_leaves_out_later_passages_but_never_all(tokenizer):
    some = passages(TEXTS, 10)
    assert hidden_words(Counting(300), tokenizer, some, most_tokens=1).words == len(some[0].words)
    assert hidden_words(Counting(300), tokenizer, some).words > len(some[0].words)


def test_a_ratio_of_sums_has_an_interval_over_documents():
    value, low, high = ratio_interval([10.0, 12.0, 8.0, 11.0], [5, 5, 5, 5])
    assert value == pytest.approx(41 / 20)
    assert low < value < high
    assert math.isnan(ratio_interval([1.0], [2])[1])
    same, low, high = ratio_interval([1.0, 2.0], [1, 1], less=[1.0, 2.0])
    assert (same, low, high) == (0, 0, 0)
    with pytest.raises(ValueError, match="nothing to take a ratio of"):
        ratio_interval([], [])
