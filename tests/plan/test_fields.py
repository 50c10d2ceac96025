"""Numbers as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from tessera.plan.fields import Bytes, Ratio, Share, Tokens, TokensOrNone, parse_bytes, parse_tokens, show_tokens


class Numbers(BaseModel):
    tokens: Tokens = 1
    ramp: TokensOrNone = 0
    size: Bytes = 1
    share: Share = 0.5
    ratio: Ratio = 0.5


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (7, 7),
        ("0", 0),
        ("4k", 4_000),
        ("1.5M", 1_500_000),
        ("100B", 10**11),
        ("2.3T", 2_300_000_000_000),
        ("18_874_368_000", 18_874_368_000),
        ("18.874368B", 18_874_368_000),
        (1e9, 10**9),
        ("1e9", 10**9),
        ("6e+10", 60_000_000_000),
        (" 5 M ", 5_000_000),
        ("9007199254740993", 2**53 + 1),
    ],
)
def test_a_token_count_is_read_exactly(written, meant):
    assert parse_tokens(written) == meant


@pytest.mark.parametrize(
    ("written", "meant"),
    [(12, 12), ("12MB", 12_000_000), ("1.5kB", 1_500), ("2GB", 2 * 10**9), ("3B", 3), ("1TB", 10**12)],
)
def test_a_size_is_read_exactly(written, meant):
    assert parse_bytes(written) == meant


@pytest.mark.parametrize(
    "written", ["5Q", "100MB", "-1", -1, "1.2.3", "", "k", None, [1], "1e400", float("inf"), float("nan")]
)
def test_what_is_no_token_count_is_shown_with_what_is_one(written):
    with pytest.raises(
        ValueError, match=r"cannot read .*; a token count is a whole number or one with k, M, B or T"
    ) as error:
        parse_tokens(written)
    assert str(error.value).startswith(f"cannot read {written!r}")


@pytest.mark.parametrize("written", ["5k", "5T", "5 mb"])
def test_token_units_are_not_byte_units(written):
    with pytest.raises(ValueError, match="one with B, kB, MB, GB or TB"):
        parse_bytes(written)


@pytest.mark.parametrize("written", [1.5, "1.5", "0.0001k"])
def test_half_a_token_is_refused(written):
    with pytest.raises(ValueError, match="is not a whole number"):
        parse_tokens(written)


def test_a_truth_value_is_no_count():
    with pytest.raises(ValueError, match="True is not a number"):
        parse_tokens(True)


@given(st.integers(0, 10**18))
def test_what_is_shown_is_read_back(count):
    assert parse_tokens(show_tokens(count)) == count


@pytest.mark.parametrize(
    ("count", "shown"), [(0, "0"), (999, "999"), (2_300_000_000_000, "2.3T"), (60_000, "60k"), (4_718_592, "4718.592k")]
)
def test_a_count_is_shown_short_and_exact(count, shown):
    assert show_tokens(count) == shown


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("tokens", 0, "greater than 0"),
        ("size", "0MB", "greater than 0"),
        ("share", 30, "30.0 is not a share; give a value between 0 and 1"),
        ("share", -0.1, "-0.1 is not a share"),
        ("share", "30%", "'30%' is a percentage; it is a share, so give a value between 0 and 1"),
        ("share", "many", "'many' is not a number; give a share between 0 and 1"),
        ("share", True, "True is not a number"),
        ("share", float("nan"), "nan is not a share"),
        ("ratio", 0, "0.0 is at the edge; give a value above 0 and below 1"),
        ("ratio", 1, "1.0 is at the edge"),
        ("ratio", [0.3], "[0.3] is not a number"),
    ],
)
def test_a_number_out_of_range_says_what_the_range_is(field, value, text):
    with pytest.raises(ValidationError) as error:
        Numbers(**{field: value})
    assert text in str(error.value)


def test_edges_that_are_allowed_are_allowed():
    assert Numbers(ramp=0, share=0, ratio=1e-9).share == 0.0
    assert Numbers(share=1, ratio="0.3").ratio == 0.3
