"""Shares, temperature and masks that move within a phase."""

from math import isclose

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tessera.plan.corpus import Bucket
from tessera.plan.fields import Curve, at
from tessera.plan.loading import RecipeError, dump, load, science
from tessera.plan.mixture import STRETCHES, cap, mixture_of, shares
from tessera.plan.phase import Phase
from tessera.plan.schedule import mask_ratio_at

SIZES = {"eng": 1_000_000, "deu": 100_000, "fao": 1_000}


def buckets(**sizes: int) -> list[Bucket]:
    rows = sizes or SIZES
    return [Bucket(source="web", language=k, tokens=n, documents=n // 10, bytes=4 * n) for k, n in rows.items()]


def phase(tokens: int = 51_200, mask: object = 0.3, **mixture: object) -> Phase:
    return Phase.model_validate(
        {
            "name": "p", "from": "scratch", "tokens": tokens, "context": 8, "batch_tokens": 100, "mask_ratio": mask,
            "learning_rate": {"peak": 1.0}, "mixture": mixture,
        }
    )  # fmt: skip


def test_a_curve_is_drawn_from_its_first_value_to_its_last():
    line = Curve.model_validate({"from": 0.7, "to": 0.3})
    wave = Curve.model_validate({"from": 0.7, "to": 0.3, "shape": "cosine"})
    assert [round(line.at(p), 6) for p in (0, 0.25, 0.5, 0.75, 1)] == [0.7, 0.6, 0.5, 0.4, 0.3]
    assert [round(wave.at(p), 6) for p in (0, 0.25, 0.5, 0.75, 1)] == [0.7, 0.641421, 0.5, 0.358579, 0.3]
    assert f"{line:g}" == "0.7 -> 0.3"


def test_what_does_not_move_stays_a_plain_number():
    still = phase(temperature=0.3, shares={"eng": 0.2}, max_epochs=100)
    assert (still.mask_ratio, still.mixture.temperature, still.mixture.shares) == (0.3, 0.3, {"eng": 0.2})
    assert mask_ratio_at(still, 7) == 0.3
    read = mixture_of(still, buckets())
    assert read.knots == (0, still.tokens)
    assert read.mean() == list(read.shares[0])


def test_the_mask_of_a_step_is_that_of_the_middle_of_its_window():
    moving = phase(tokens=1_000, mask={"from": 0.3, "to": 0.1})  # ten steps
    assert [round(mask_ratio_at(moving, step), 6) for step in (0, 4, 9)] == [0.29, 0.21, 0.11]


def test_a_temperature_that_moves_is_at_every_stretch_the_temperature_of_its_middle():
    course = mixture_of(phase(temperature={"from": 1.0, "to": 0.0}), buckets())
    assert len(course.shares) == STRETCHES
    for k in (0, 100, 511):
        now = phase(temperature=1 - (k + 0.5) / STRETCHES).mixture
        assert course.shares[k] == pytest.approx(shares(now, buckets()), rel=1e-12)


def test_a_fixed_share_that_moves_has_the_mean_of_its_curve():
    for shape in ("linear", "cosine"):
        course = mixture_of(phase(shares={"eng": {"from": 0.5, "to": 0.1, "shape": shape}}), buckets())
        assert course.mean()[0] == pytest.approx(0.3)
        assert sum(course.mean()) == pytest.approx(1)
        assert (course.shares[0][0], course.shares[-1][0]) == pytest.approx((0.5, 0.1), abs=1e-3)


def test_a_language_enters_at_its_token_and_not_before():
    course = mixture_of(phase(temperature=0.0, entries={"fao": 12_345}), buckets())
    assert 12_345 in course.knots
    for begin, row in zip(course.knots, course.shares, strict=False):
        assert row == pytest.approx([0.5, 0.5, 0] if begin < 12_345 else [1 / 3] * 3)
    assert course.mean()[2] == pytest.approx((51_200 - 12_345) / 51_200 / 3)


def test_before_it_enters_a_languages_fixed_share_is_left_to_the_others():
    course = mixture_of(phase(shares={"eng": 0.4, "fao": 0.2}, entries={"fao": 10_000}), buckets())
    assert course.shares[0] == pytest.approx([0.4, 0.6, 0])
    assert course.shares[-1] == pytest.approx([0.4, 0.4, 0.2])


def test_the_largest_languages_are_chosen_before_anybody_enters():
    course = mixture_of(phase(languages={"largest": 2}, temperature=0.0, entries={"deu": 10_000}), buckets())
    assert course.shares[0] == pytest.approx([1, 0, 0])
    assert course.shares[-1] == pytest.approx([0.5, 0.5, 0])


def test_a_cap_holds_over_the_whole_phase_of_a_moving_mixture():
    moving = phase(temperature={"from": 1.0, "to": 0.0}, max_epochs=2)
    mean = mixture_of(moving, buckets()).mean()
    epochs = [share * moving.tokens / bucket.tokens for share, bucket in zip(mean, buckets(), strict=True)]
    assert epochs[2] == pytest.approx(2)
    assert max(epochs) <= 2 * (1 + 1e-6)
    free = mixture_of(phase(temperature={"from": 1.0, "to": 0.0}), buckets()).mean()
    assert free[2] * moving.tokens / 1_000 > 3
    assert mean[0] > free[0]
    assert mean[1] > free[1]


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.floats(0.001, 1), st.integers(1, 10_000)), min_size=1, max_size=12),
    st.floats(0.1, 10),
    st.integers(20, 100_000),
)
def test_a_cap_on_a_mixture_that_stands_still_does_not_depend_on_how_the_phase_is_cut(pairs, max_epochs, total):
    whole = sum(share for share, _ in pairs)
    before = [share / whole for share, _ in pairs]
    available = [tokens for _, tokens in pairs]
    possible = max_epochs * sum(available) / total
    if abs(possible - 1) < 1e-6:
        return
    knots = [0, total // 3, total]
    if possible < 1:
        with pytest.raises(ValueError, match="epochs of all that is read are"):
            cap([before, before], knots, available, max_epochs)
        return
    one, other = cap([before, before], knots, available, max_epochs)
    (plain,) = cap([before], [0, total], available, max_epochs)
    assert one == pytest.approx(plain, rel=1e-6)
    assert other == pytest.approx(plain, rel=1e-6)


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.floats(0, 1), st.floats(0, 1), st.integers(100, 10_000)), min_size=2, max_size=8
    ).filter(lambda rows: all(max(a, b) > 1e-3 for a, b, _ in rows)),
    st.floats(0.5, 20),
)  # fmt: skip
@example([(0.0, 1.0, 100), (0.0, 0.5, 100), (1.0, 0.0, 100), (1.0, 5e-324, 200)], 20.0)  # once gave shares that are NaN
def test_moving_caps_keep_every_limit_and_every_moment_whole(rows, max_epochs):
    totals = [sum(row[i] for row in rows) for i in (0, 1)]
    if min(totals) < 1e-3:
        return
    course = [[row[i] / totals[i] for row in rows] for i in (0, 1)]
    available = [row[2] for row in rows]
    try:
        capped = cap(course, [0, 4_000, 10_000], available, max_epochs)
    except ValueError:
        return
    for row in capped:
        assert isclose(sum(row), 1, rel_tol=1e-6)
    for b, tokens in enumerate(available):
        assert 4_000 * capped[0][b] + 6_000 * capped[1][b] <= max_epochs * tokens * (1 + 1e-6)
        assert (capped[0][b] > 0) == (course[0][b] > 0) or course[0][b] < 1e-300  # scaled down, it may vanish


def test_a_share_that_is_next_to_nothing_cannot_take_over_a_stretch():
    course = [[0.0, 0.0, 0.5, 0.5], [2 / 3, 1 / 3, 0.0, 5e-324]]
    with pytest.raises(ValueError, match="between planned tokens 4000 and 10000 all that is read reaches its limit"):
        cap(course, [0, 4_000, 10_000], [100, 100, 100, 200], 20)


def test_a_stretch_in_which_everything_is_full_is_named():
    rows = [[1.0, 0.0], [0.0, 1.0]]  # the first alone, then the second alone
    with pytest.raises(ValueError, match="between planned tokens 0 and 100 all that is read reaches its limit"):
        cap(rows, [0, 100, 200], [10, 1_000], 2)


RECIPE = """
name: moving
corpus: {sources: [{name: web, path: text}]}
model: {preset: mmbert-small}
phases:
  - name: pretrain
    from: scratch
    tokens: 10M
    context: 64
    batch_tokens: 1k
    mask_ratio: {from: 0.3, to: 0.15, shape: cosine}
    learning_rate: {peak: 1e-3}
    mixture:
      temperature: {from: 0.7, to: 0.3}
      shares: {eng_Latn: {from: 0.4, to: 0.1, shape: cosine}, code: 0.05}
      entries: {fao_Latn: 2M}
"""


def test_a_recipe_that_moves_survives_a_trip_through_a_file(tmp_path):
    (tmp_path / "a.yaml").write_text(RECIPE)
    recipe = load(tmp_path / "a.yaml")
    (tmp_path / "b.yaml").write_text(dump(recipe))
    again = load(tmp_path / "b.yaml")
    assert again == recipe
    assert science(again) == science(recipe)
    assert recipe.phases[0].mixture.entries == {"fao_Latn": 2_000_000}
    assert at(recipe.phases[0].mask_ratio, 1.0) == 0.15
    changed = load(tmp_path / "a.yaml", {"phases.pretrain.mask_ratio.to": "0.05"})
    assert science(changed) != science(recipe)


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("mask_ratio", "{from: 0.3, to: 1.5}", "pretrain.mask_ratio.to: 1.5 is not a share; give a value between"),
        ("mask_ratio", "{from: 0.3, to: 0}", "pretrain.mask_ratio.to: 0.0 is at the edge"),
        ("mask_ratio", "{from: 0.3, until: 0.1}", "pretrain.mask_ratio.until: unknown key 'until'; known are"),
        ("mask_ratio", "{from: 0.3}", "pretrain.mask_ratio.to: is missing"),
        ("mixture.temperature", "{from: 0.7, to: 0.3, shape: sine}", "mixture.temperature.shape: Input should be"),
        ("mixture.temperature", "7", "pretrain.mixture.temperature: 7.0 is not a share"),
        ("mixture.shares", "{a: {from: 0.9, to: 0.1}, b: {from: 0.1, to: 1}}", "shares add up to 1.1000"),
        ("mixture.shares", "{a: {from: 2, to: 0.1}}", "mixture.shares.a.from: 2.0 is not a share"),
        ("mixture.entries", "{fao_Latn: 10M}", "fao_Latn enters at 10000000, but the phase ends at 10000000"),
    ],
)
def test_a_curve_that_cannot_be_says_where_and_why(tmp_path, key, value, complaint):
    (tmp_path / "a.yaml").write_text(RECIPE)
    with pytest.raises(RecipeError) as error:
        load(tmp_path / "a.yaml", {f"phases.pretrain.{key}": value})
    assert complaint in str(error.value)


def test_an_entry_of_a_language_without_text_is_an_error():
    with pytest.raises(ValueError, match="entries: there is no text in 'foa'; did you mean 'fao'"):
        mixture_of(phase(entries={"foa": 100}), buckets())
