import csv
from math import isclose
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tessera.plan.corpus import Bucket
from tessera.plan.fields import Largest
from tessera.plan.mixture import cap, shares
from tessera.plan.phase import Mixture


def bucket(key: str, tokens: int) -> Bucket:
    source, language = key.split("/")
    language, _, tier = language.partition("@")
    return Bucket(
        source=source,
        language=language,
        tier=int(tier) if tier else None,
        tokens=tokens,
        documents=tokens // 10,
        bytes=tokens * 4,
    )


def worked_out(mixture: Mixture, **tokens_by_key: int) -> dict[str, float]:
    """Shares by key, rounded: `web_fao` stands for the bucket web/fao, `web_fao_at_3` for web/fao@3."""
    keys = [key.replace("_at_", "@").replace("_", "/") for key in tokens_by_key]
    buckets = [bucket(key, n) for key, n in zip(keys, tokens_by_key.values(), strict=True)]
    result = shares(mixture, buckets)
    assert isclose(sum(result), 1.0)
    return {b.key: round(share, 6) for b, share in zip(buckets, result, strict=True) if share > 0}


def test_a_bucket_is_named_by_source_language_and_tier():
    assert bucket("web/fao_Latn", 10).key == "web/fao_Latn"
    assert bucket("web/fao_Latn@3", 10).key == "web/fao_Latn@3"


def test_temperature_1_keeps_what_was_found_and_temperature_0_makes_languages_equal():
    found = {"web_eng": 900, "web_fao": 100}
    assert worked_out(Mixture(temperature=1), **found) == {"web/eng": 0.9, "web/fao": 0.1}
    assert worked_out(Mixture(temperature=0), **found) == {"web/eng": 0.5, "web/fao": 0.5}
    assert worked_out(Mixture(temperature=0.5), **found) == {"web/eng": 0.75, "web/fao": 0.25}  # sqrt: 30 to 10


def test_temperature_acts_on_languages_and_tokens_divide_within_one():
    mixture = Mixture(temperature=0.5)
    result = worked_out(mixture, web_eng=300, wiki_eng=600, web_fao=100)
    assert result == {"web/eng": 0.25, "wiki/eng": 0.5, "web/fao": 0.25}


def test_fixed_shares_come_first_and_the_rest_is_left_to_the_temperature():
    mixture = Mixture(temperature=0.5, shares={"eng": 0.3, "code": 0.1})
    result = worked_out(mixture, web_eng=10, web_deu=900, web_fao=100, code_code=5)
    assert result == {"web/eng": 0.3, "code/code": 0.1, "web/deu": 0.45, "web/fao": 0.15}


def test_pairs_of_a_language_enter_with_the_language():
    found = {"web_deu": 100, "web_fao": 10, "pairs_deu": 30, "pairs_fao": 30, "code_code": 5}
    first = worked_out(Mixture(languages=Largest(largest=1), shares={"pairs": 0.4, "code": 0.1}), **found)
    assert first == {"web/deu": 0.5, "pairs/deu": 0.4, "code/code": 0.1}
    named = worked_out(Mixture(languages=("fao",), shares={"pairs": 0.4, "code": 0.1}), **found)
    assert named == {"web/fao": 0.5, "pairs/fao": 0.4, "code/code": 0.1}


def test_pairs_of_a_language_with_a_share_of_its_own_enter_with_it():
    found = {"web_deu": 100, "web_nob": 50, "web_fao": 10, "pairs_deu": 30, "pairs_nob": 30, "pairs_fao": 30}
    for languages in (Largest(largest=2), ("deu", "nob", "fao"), "all"):
        mixture = Mixture(languages=languages, shares={"pairs": 0.3, "web/fao": 0.2}, temperature=0)
        due = {"web/deu": 0.25, "web/nob": 0.25, "web/fao": 0.2, "pairs/deu": 0.1, "pairs/nob": 0.1, "pairs/fao": 0.1}
        assert worked_out(mixture, **found) == due


def test_the_most_specific_key_owns_a_bucket():
    mixture = Mixture(shares={"web/eng": 0.5, "web": 0.2, "eng": 0.1}, temperature=1)
    result = worked_out(mixture, web_eng=100, web_fao=10, wiki_eng=300, books_eng=100, wiki_fao=10)
    assert result == {"web/eng": 0.5, "web/fao": 0.2, "wiki/eng": 0.075, "books/eng": 0.025, "wiki/fao": 0.2}


def test_a_share_of_nothing_leaves_a_bucket_out():
    assert worked_out(Mixture(shares={"eng": 0.0}), web_eng=100, web_fao=10) == {"web/fao": 1.0}


def test_the_largest_languages_are_counted_among_buckets_without_a_fixed_share():
    mixture = Mixture(languages=Largest(largest=2), temperature=1, shares={"eng": 0.5})
    found = {"web_eng": 1000, "web_deu": 30, "wiki_fao": 6, "web_fao": 4, "web_nso": 9}
    assert worked_out(mixture, **found) == {"web/eng": 0.5, "web/deu": 0.375, "wiki/fao": 0.075, "web/fao": 0.05}
    many = Mixture(languages=Largest(largest=50), temperature=0, shares={"eng": 0.7})
    assert worked_out(many, **found)["web/nso"] == 0.1


def test_named_languages_are_read_and_others_are_not():
    mixture = Mixture(languages=("fao", "nso"), temperature=1)
    assert worked_out(mixture, web_eng=1000, web_fao=10, web_nso=30) == {"web/fao": 0.25, "web/nso": 0.75}


def test_tiers_choose_and_sources_without_tiers_are_read_whole():
    mixture = Mixture(tiers=(3, 4), temperature=1)
    found = {"web_eng_at_1": 900, "web_eng_at_3": 30, "web_eng_at_4": 10, "wiki_eng": 60}
    assert worked_out(mixture, **found) == {"web/eng@3": 0.3, "web/eng@4": 0.1, "wiki/eng": 0.6}


def test_empty_buckets_get_nothing():
    assert worked_out(Mixture(temperature=0), web_eng=0, web_fao=10) == {"web/fao": 1.0}


def test_fixed_shares_that_nearly_fill_the_whole_are_scaled():
    assert worked_out(Mixture(shares={"web": 0.6995, "code": 0.3}), web_eng=10, code_code=1) == {
        "web/eng": round(0.6995 / 0.9995, 6),
        "code/code": round(0.3 / 0.9995, 6),
    }


@pytest.mark.parametrize(
    ("mixture", "complaint"),
    [
        (Mixture(shares={"web/fao_Latm": 0.1}), "'web/fao_Latm' is no source.*did you mean 'web/fao_Latn'"),
        (Mixture(languages=("fao_Latn", "xyz_Latn", "qqq")), "no text in xyz_Latn, qqq; "),
        (Mixture(shares={"web": 0.5, "code": 0.2}), "shares add up to 0.7000 and no selected language is left"),
        (Mixture(shares={"web": 0.9, "fao_Latn": 0.1}), "'fao_Latn' has a share of 0.1 but no tokens"),
        (Mixture(tiers=(4,)), "the text has no tiers"),
    ],
)
def test_a_mixture_that_does_not_fit_the_text_says_what_to_change(mixture, complaint):
    with pytest.raises(ValueError, match=complaint):
        shares(mixture, [bucket("web/fao_Latn", 10), bucket("code/code", 10)])


def test_a_tier_that_is_not_there_is_an_error():
    with pytest.raises(ValueError, match=r"\[4\] are asked for, but the text has tiers \[1, 2\]"):
        shares(Mixture(tiers=(4,)), [bucket("web/fao@1", 10), bucket("web/fao@2", 10)])


def test_a_store_without_text_is_an_error():
    with pytest.raises(ValueError, match="there is no text"):
        shares(Mixture(), [bucket("web/fao", 0)])


def capped(before: list[float], available: list[float], total: int, max_epochs: float) -> list[float]:
    """The cap on shares that stand still."""
    (row,) = cap([before], [0, total], available, max_epochs)
    return row


def test_caps_by_hand():
    # 100 tokens, at most 2 epochs: the first may give 10 and the second 40. The third takes what they lose.
    assert capped([0.5, 0.25, 0.25], [5, 20, 1000], 100, 2) == pytest.approx([0.1, 0.4, 0.5])
    # Its overflow lifts the second above its limit only after the first is full: water finds its level.
    assert capped([0.6, 0.2, 0.2], [10, 15, 1000], 100, 2) == pytest.approx([0.2, 0.3, 0.5])
    assert capped([0.5, 0.5], [1000, 1000], 100, 2) == [0.5, 0.5]
    assert capped([0.0, 1.0], [1, 100], 100, 1) == [0.0, 1.0]


def test_a_phase_longer_than_all_epochs_of_everything_says_how_long_it_may_be():
    with pytest.raises(ValueError, match="2 epochs of all that is read are 60 tokens, but the phase has 100"):
        capped([0.5, 0.5, 0.0], [10, 20, 1000], 100, 2)


@given(
    st.lists(st.tuples(st.floats(0.001, 1), st.integers(1, 10_000)), min_size=1, max_size=30),
    st.floats(0.1, 10),
    st.integers(1, 100_000),
)
def test_capped_shares_keep_the_limit_and_the_order_of_the_others(pairs, max_epochs, total):
    whole = sum(share for share, _ in pairs)
    before = [share / whole for share, _ in pairs]
    available = [tokens for _, tokens in pairs]
    limits = [max_epochs * tokens / total for tokens in available]
    assume(abs(sum(limits) - 1) > 1e-6)
    if sum(limits) < 1:
        with pytest.raises(ValueError, match="max_epochs"):
            capped(before, available, total, max_epochs)
        return
    after = capped(before, available, total, max_epochs)
    assert isclose(sum(after), 1.0, rel_tol=1e-9)
    assert all(share <= limit * (1 + 1e-9) for share, limit in zip(after, limits, strict=True))
    free = [a / b for a, b, limit in zip(after, before, limits, strict=True) if a < limit * (1 - 1e-6)]
    assert all(isclose(ratio, free[0], rel_tol=1e-6) for ratio in free)  # one water level for all that are not full
    assert all(ratio >= 1 - 1e-6 for ratio in free)


def test_the_inventory_of_mmbert_predicts_its_published_mid_training():
    """Published counts: pre-training used exponent 0.7, mid-training 0.5, both on the sizes as found."""
    table = Path(__file__).parents[2].parent / "shared" / "facts" / "mmbert_language_token_counts.csv"
    if not table.is_file():
        pytest.skip("the published token counts of mmBERT are not here")
    with table.open() as file:
        rows = [row for row in csv.DictReader(file) if row["language"] not in ("eng", "code")]
    common = [row for row in rows if int(row["pretrain"]) and int(row["ext"])]
    assert len(common) == 59
    inventory = [bucket(f"web/{row['language']}", round(int(row["pretrain"]) ** (1 / 0.7))) for row in common]
    predicted = shares(Mixture(temperature=0.5), inventory)
    whole = sum(int(row["ext"]) for row in common)
    errors = [p / (int(row["ext"]) / whole) - 1 for p, row in zip(predicted, common, strict=True)]
    assert sum(abs(error) < 0.04 for error in errors) >= 57
