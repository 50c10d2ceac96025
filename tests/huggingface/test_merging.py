"""Merged weights, worked out by hand."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tessera.huggingface import merging
from tessera.huggingface.merging import exponential, linear, ties


def model(*values, **more):
    return {"w": torch.tensor(values, dtype=torch.float32), **more}


def test_linear_is_the_weighted_average():
    assert linear([model(1.0, 2.0), model(3.0, -2.0)])["w"].tolist() == [2.0, 0.0]
    assert linear([model(1.0, 2.0), model(3.0, -2.0)], [3, 1])["w"].tolist() == [1.5, 1.0]
    assert linear([model(1.0, 2.0), model(3.0, -2.0)], [0.0, 0.2])["w"].tolist() == [3.0, -2.0]


def test_exponential_weighs_each_checkpoint_by_its_age():
    # 1/4, 1/2 and 1, over 7/4: weights 1/7, 2/7, 4/7
    merged = exponential([model(7.0), model(14.0), model(21.0)], decay=0.5)
    assert merged["w"].item() == pytest.approx((7 + 2 * 14 + 4 * 21) / 7)
    assert exponential([model(1.0), model(2.0)], decay=1.0)["w"].item() == 1.5


def test_ties_trims_elects_and_averages_those_that_agree():
    base = model(1.0, 1.0, 1.0, 1.0, 1.0)
    # what each learned, +x kept and (x) trimmed at the top 60%, that is 3 of 5
    first = model(1 + 4.0, 1 - 3.0, 1 + 0.5, 1 + 2.0, 1 + 0.25)  #  4    -3   (0.5)   2   (0.25)
    second = model(1 + 2.0, 1 + 1.0, 1 - 4.0, 1 - 2.0, 1 + 0.5)  #  2    (1)   -4     -2  (0.5)
    # elected sign                                                  +     -     -      0    0
    # mean of those that agree                                      3    -3    -4      0    0
    merged = ties(base, [first, second], density=0.6)
    assert merged["w"].tolist() == [4.0, -2.0, -3.0, 1.0, 1.0]


def test_ties_scales_what_is_added():
    merged = ties(model(1.0, 1.0), [model(3.0, 1.0), model(5.0, 1.0)], density=0.5, scale=0.5)
    assert merged["w"].tolist() == [1 + 0.5 * 3, 1.0]


def test_ties_weights_decide_the_sign_and_the_mean():
    base = model(0.0, 0.0)
    states = [model(1.0, 1.0), model(-2.0, 3.0)]
    # place 0: 3 * 1 - 1 * 2 > 0, so 1 wins alone; place 1: (3 * 1 + 1 * 3) / 4
    assert ties(base, states, weights=[3, 1], density=1.0)["w"].tolist() == [1.0, 1.5]
    # equal weights: 1 - 2 < 0, so -2 wins alone
    assert ties(base, states, density=1.0)["w"].tolist() == [-2.0, 2.0]


def test_ties_trims_over_the_whole_model_and_not_tensor_by_tensor():
    base = model(0.0, 0.0, b=torch.zeros(2))
    learned = model(5.0, 4.0, b=torch.tensor([0.1, 0.2]))
    merged = ties(base, [learned], density=0.5)
    assert merged["w"].tolist() == [5.0, 4.0]
    assert merged["b"].tolist() == [0.0, 0.0]


def test_the_result_has_the_dtype_of_the_first_model_and_is_computed_in_float32():
    half = {"w": torch.tensor([256.0, 1.0], dtype=torch.bfloat16)}
    other = {"w": torch.tensor([258.0, 1.0])}
    merged = linear([half, other, other, other], [1, 1, 1, 1])
    assert merged["w"].dtype == torch.bfloat16
    assert ties(other, [half])["w"].dtype == torch.float32


@settings(max_examples=60)
@given(
    st.lists(st.floats(-8, 8, width=32), min_size=1, max_size=60),
    st.floats(0.01, 1.0),
    st.integers(1, 7),
)
def test_the_threshold_is_the_kth_largest_magnitude(values, density, cut):
    learned = torch.tensor(values)
    place = min(cut, len(values))
    split = {"a": learned[:place], "b": learned[place:].reshape(-1, 1)}
    base = {name: torch.zeros_like(weight) for name, weight in split.items()}
    kept = max(1, round(density * len(values)))
    assert merging._threshold(base, split, density) == sorted(abs(v) for v in learned.tolist())[-kept]


def test_the_threshold_does_not_depend_on_the_size_of_the_pieces(monkeypatch):
    base = {"w": torch.zeros(7, 11)}
    learned = {"w": torch.randn(7, 11, generator=torch.Generator().manual_seed(0))}
    whole = merging._threshold(base, learned, 0.3)
    monkeypatch.setattr(merging, "_PIECE", 4)
    assert merging._threshold(base, learned, 0.3) == whole


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.floats(0.05, 1.0), st.integers(1, 4))
def test_merging_a_model_with_itself_changes_nothing(seed, density, copies):
    drawn = torch.Generator().manual_seed(seed)
    same = {"w": torch.randn(3, 4, generator=drawn), "b": torch.randn(5, generator=drawn)}
    merges = [linear([same] * copies), exponential([same] * copies, 0.3), ties(same, [same] * copies, density=density)]
    for merged in merges:
        assert all(torch.equal(merged[name], same[name]) for name in same)


@settings(max_examples=40)
@given(st.integers(0, 10_000))
def test_linear_stays_between_the_models_and_order_does_not_matter(seed):
    drawn = torch.Generator().manual_seed(seed)
    states = [{"w": torch.randn(6, generator=drawn)} for _ in range(3)]
    merged = linear(states, [1, 2, 3])["w"]
    stack = torch.stack([state["w"] for state in states])
    assert (merged <= stack.max(0).values + 1e-6).all()
    assert (merged >= stack.min(0).values - 1e-6).all()
    torch.testing.assert_close(linear(states[::-1], [3, 2, 1])["w"], merged)


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.floats(0.05, 1.0))
def test_ties_never_goes_further_than_the_model_that_went_furthest(seed, density):
    drawn = torch.Generator().manual_seed(seed)
    base = {"w": torch.randn(9, generator=drawn)}
    states = [{"w": torch.randn(9, generator=drawn)} for _ in range(3)]
    learned = torch.stack([state["w"] - base["w"] for state in states])
    moved = ties(base, states, density=density)["w"] - base["w"]
    assert (moved <= learned.max(0).values.clamp(min=0) + 1e-5).all()
    assert (moved >= learned.min(0).values.clamp(max=0) - 1e-5).all()


def test_merging_does_not_touch_what_it_is_given():
    base, first = model(0.0, 1.0), model(2.0, 3.0)
    linear([base, first])
    ties(base, [first, first])
    assert base["w"].tolist() == [0.0, 1.0]
    assert first["w"].tolist() == [2.0, 3.0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: linear([]), "no models to merge"),
        (lambda: ties(model(1.0), []), "no models were given besides the base"),
        (lambda: linear([model(1.0), {"v": torch.ones(1)}]), "model 1 has 'w', model 2 does not"),
        (lambda: linear([model(1.0), model(1.0, v=torch.ones(1))]), "model 2 has 'v', model 1 does not"),
        (lambda: linear([model(1.0), model(1.0, 2.0)]), r"'w' is \[1\] in model 1 and \[2\] in model 2"),
        (lambda: linear([model(1.0), model(2.0)], [1.0]), "1 weights for 2 models"),
        (lambda: linear([model(1.0), model(2.0)], [1.0, -1.0]), "numbers of at least 0 that are not all 0"),
        (lambda: exponential([model(1.0)], 0.0), "decay is 0.0"),
        (lambda: ties(model(1.0, 1.0), [model(1.0, float("nan"))]), "not finite"),
        (lambda: ties(model(1.0), [model(1.0)], density=1.5), "density is 1.5"),
    ],
)
def test_what_cannot_be_merged_is_said(call, message):
    with pytest.raises(ValueError, match=message):
        call()
