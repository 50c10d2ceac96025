"""Pairs become documents in both directions, quality becomes tiers."""

import numpy as np
import pytest

from tessera.corpus.documents import Pair
from tessera.corpus.parallel import Joined, directions, join, why_not
from tessera.corpus.quality import tier
from tessera.data.tokenizer import train
from tessera.plan.corpus import TokenizerTraining


def pair(source, target, source_language="fao_Latn", target_language="eng_Latn"):
    return Pair(source, target, source_language, target_language)


def test_a_pair_with_english_is_joined_both_ways_and_counts_for_the_other_language():
    expected = [Joined("hey", "hello", "fao_Latn"), Joined("hello", "hey", "fao_Latn")]
    assert list(directions(pair("hey", "hello"))) == expected
    assert list(directions(pair("hello", "hey", "eng", "fao_Latn"))) == expected[::-1]


def test_a_pair_without_english_counts_for_the_language_it_leads_to():
    assert list(directions(pair("hei", "hey", "nob_Latn", "fao_Latn"))) == [
        Joined("hei", "hey", "fao_Latn"),
        Joined("hey", "hei", "nob_Latn"),
    ]


@pytest.mark.parametrize(
    ("source", "target", "reason"),
    [
        ("a fair translation of it", "ein sanniligur týðing", None),
        ("yes", "ja, tað er rætt", None),
        ("x" * 1000, "a short answer", "times as long"),
        ("same text", " same text", "the same text"),
        ("数据库管理系统" * 20, "a database management system " * 20, None),
    ],
)
def test_a_pair_of_very_different_lengths_is_not_trained_on(source, target, reason):
    found = why_not(pair(source, target))
    assert (found is None) if reason is None else (reason in found)
    assert why_not(pair(target, source)) == found


def test_a_pair_in_one_language_is_not_trained_on():
    assert why_not(pair("a b", "c d", "eng_Latn", "eng_Latn")) == "both sides in one language"


def test_a_joined_pair_is_begin_source_separator_target_end(tmp_path):
    tokenizer = train({"eng_Latn": ["hello hey"] * 5}, TokenizerTraining(vocab_size=300), tmp_path)
    first, second = tokenizer.encode_plain(["hello", "hey"])
    found = join(first, second, tokenizer)
    assert found.dtype == np.int32
    assert tokenizer.decode(found, special=True) == "<|begin_of_text|>hello<|parallel_sep|>hey<|end_of_text|>"


def test_scores_fall_into_four_tiers_and_a_threshold_belongs_to_the_tier_above():
    scores = [-1, 0.99, 1, 1.5, 2, 2.9, 3, 100]
    assert [tier(score, (1, 2, 3)) for score in scores] == [1, 1, 2, 2, 3, 3, 4, 4]
