"""Two texts as one document: the ids that transformers' own tokenizers give for the pair, however they are cut."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Inner
from transformers import PreTrainedTokenizerFast

from tessera.plan.corpus import TokenizerTraining
from tessera.tokenizer import tokenizer as tokenizers
from tessera.tokenizer.templates import alone, frame, join, segments, shares
from tessera.tokenizer.tokenizer import Tokenizer

WORDS = ["tree", "fish", "stone", "cloud"]


def written(place, special, processor, *, metaspace=False):
    """A word-level tokenizer with these special tokens and this post-processor."""
    space = "▁" if metaspace else ""
    vocabulary = {token: n for n, token in enumerate([*special, *(space + word for word in WORDS)])}
    inner = Inner(models.WordLevel(vocabulary, unk_token=special[0]))
    inner.normalizer = normalizers.NFC()
    inner.pre_tokenizer = pre_tokenizers.Metaspace() if metaspace else pre_tokenizers.Whitespace()
    inner.add_special_tokens([AddedToken(token, special=True) for token in special])
    inner.post_processor = processor(lambda token: (token, vocabulary[token]))
    inner.save(str(place / "tokenizer.json"))
    return Tokenizer.load(place)


def bert(place):
    special = ["[UNK]", "[CLS]", "[SEP]", "[MASK]", "[PAD]"]
    return written(place, special, lambda at: processors.BertProcessing(at("[SEP]"), at("[CLS]")))


def roberta(place):
    special = ["<unk>", "<s>", "</s>", "<mask>", "<pad>"]
    return written(place, special, lambda at: processors.RobertaProcessing(at("</s>"), at("<s>")))


def gemma(place):
    special = ["<unk>", "<bos>", "<eos>", "<mask>", "<pad>"]
    return written(
        place,
        special,
        lambda at: processors.TemplateProcessing(
            single="<bos> $A <eos>", pair="<bos> $A <eos> $B <eos>", special_tokens=[at("<bos>"), at("<eos>")]
        ),
        metaspace=True,
    )


def llama(place):
    special = ["<unk>", "<|begin_of_text|>", "<|end_of_text|>", "<|mask|>", "<|pad|>"]
    begin = "<|begin_of_text|>"
    return written(
        place,
        special,
        lambda at: processors.TemplateProcessing(
            single=f"{begin} $A", pair=f"{begin} $A {begin} $B", special_tokens=[at(begin)]
        ),
    )


def ours(place):
    return tokenizers.train({"a": [" ".join(WORDS)] * 20}, TokenizerTraining(vocab_size=300), place)


FRAMES = {
    bert: ((1,), (2,), (2,)),
    roberta: ((1,), (2, 2), (2,)),
    gemma: ((1,), (2,), (2,)),
    llama: ((1,), (1,), ()),
    ours: ((1,), (2,), (2,)),
}


@pytest.mark.parametrize("make", FRAMES, ids=lambda make: make.__name__)
def test_the_template_of_each_family_is_read_off_its_tokenizer(make, tmp_path):
    assert frame(make(tmp_path)) == FRAMES[make]


@pytest.mark.parametrize("make", FRAMES, ids=lambda make: make.__name__)
def test_pairs_are_those_of_transformers_at_every_length(make, tmp_path):
    mine = make(tmp_path)
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    taken = sum(map(len, frame(mine)))
    for n in range(1, 8):
        for m in range(1, 8):
            first, second = " ".join(WORDS[:2] * n), " ".join(WORDS[2:] * m)
            ids = mine.encode_plain([first, second])
            for max_length in (taken + 2, taken + 5, taken + 8, 20, 21, 100):
                due = theirs(first, second, truncation=True, max_length=max_length, return_token_type_ids=True)
                assert join(mine, *ids, max_length).tolist() == due.input_ids
                assert segments(mine, *map(len, ids), max_length).tolist() == due.token_type_ids
            for max_length in (len(mine.template[0]) + len(mine.template[1]) + 1, 7, 100):
                due = theirs(first, truncation=True, max_length=max_length).input_ids
                assert alone(mine, ids[0], max_length).tolist() == due


def test_the_second_text_of_a_pair_is_a_segment_of_its_own_where_the_template_says_so(tmp_path):
    assert segments(bert(tmp_path), 2, 3, 20).tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert segments(roberta(tmp_path), 2, 3, 20).tolist() == [0] * 9


@settings(max_examples=300)
@given(st.integers(0, 50), st.integers(0, 50), st.integers(2, 60))
def test_what_is_cut_is_no_more_than_it_must_be_and_fair(first, second, room):
    kept, other = shares(first, second, room)
    assert kept + other == min(room, first + second)
    assert 0 <= kept <= first
    assert 0 <= other <= second
    if kept < first and other < second:
        assert abs(kept - other) <= 1


def test_an_empty_text_is_its_special_tokens_and_room_for_none_is_said(tmp_path):
    mine = ours(tmp_path)
    nothing, some = mine.encode_plain(["", "tree"])
    assert alone(mine, nothing, 8).tolist() == [1, 2]
    assert join(mine, nothing, some, 8).tolist() == [1, 2, *some, 2]
    with pytest.raises(ValueError, match="max_length is 4; the special tokens of a pair take 3, so give at least 5"):
        join(mine, some, some, 4)
    with pytest.raises(ValueError, match="max_length is 2; special tokens alone take 2"):
        alone(mine, some, 2)
