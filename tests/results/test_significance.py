"""Intervals and tests of significance: against scipy, against answers by hand, and on data where nothing differs."""

import itertools
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import scipy.stats

from tessera.ablation.axes import BASELINE
from tessera.ablation.deltas import _row
from tessera.ablation.tables import UNSURE
from tessera.ablation.tables import verdict as ablation_verdict
from tessera.report.compare import differ
from tessera.statistics import (
    critical_t,
    interval,
    jackknife,
    paired,
    permutation,
    pooled_spread,
    ratio_interval,
    welch,
)

Rng = np.random.Generator


@dataclass
class Made:
    """A result as far as it is judged."""

    values: dict[str, float] = field(default_factory=dict)
    average: float | None = None
    half: float | None = None
    over: str = "seeds"
    repeats: int = 0
    outcomes: dict[str, Any] = field(default_factory=dict)
    data: Any = "d"


# ------------------------------------------------------------------------------------------------------------ intervals


@pytest.mark.parametrize("n", [2, 3, 4, 5, 8, 20])
def test_the_interval_over_seeds_is_students(n):
    values = np.random.default_rng(n).normal(0.7, 0.02, n)
    mean, half = interval(list(values))
    low, high = scipy.stats.t.interval(0.95, n - 1, loc=values.mean(), scale=scipy.stats.sem(values))
    assert (mean - half, mean + half) == pytest.approx((low, high), abs=1e-12)


def test_one_seed_has_no_interval():
    mean, half = interval([0.7])
    assert mean == 0.7
    assert math.isnan(half)


def test_the_values_of_t_are_those_of_the_printed_tables():
    assert [round(critical_t(0.95, n), 3) for n in (1, 2, 3, 4, 10, 30)] == [12.706, 4.303, 3.182, 2.776, 2.228, 2.042]


# --------------------------------------------------------------------------------------------------------- permutations


def all_signs(gaps):
    """p as its definition has it."""
    sums = [abs(sum(s * g for s, g in zip(signs, gaps, strict=True)))
            for signs in itertools.product((1, -1), repeat=len(gaps))]  # fmt: skip
    return sum(x >= abs(sum(gaps)) - 1e-9 for x in sums) / len(sums)


@pytest.mark.parametrize("seed", range(5))
def test_few_differences_are_tried_with_all_assignments_of_signs(seed):
    gaps = np.random.default_rng(seed).normal(0.5, 1, 4 + 2 * seed)
    assert permutation(gaps) == pytest.approx(all_signs(gaps))


def test_differences_that_are_equal_but_for_rounding_are_equal():
    thirds = np.array([2, -1, 1, -2, -4, -1, 1, -3, 3, 2, -2, 4, -3])
    assert permutation(thirds / 3) == permutation(thirds) == pytest.approx(all_signs(thirds))
    assert permutation([100 * (n / 7 - (n - 1) / 7) for n in range(1, 8)]) == 2 / 2**7


def test_six_languages_that_all_gain_can_prove_one_in_thirty_two_and_no_more():
    assert permutation([1, 2, 3, 4, 5, 6]) == pytest.approx(2 / 2**6)
    assert permutation([1e9] * 6) == pytest.approx(2 / 2**6)


def test_examples_on_which_nothing_changes_say_nothing():
    assert permutation([0.0] * 1000) == 1
    assert permutation([1.0] * 5 + [0.0] * 5000) == permutation([1.0] * 5) == 2 / 2**5


def test_many_differences_are_judged_as_their_draws_would_judge_them(monkeypatch):
    gaps = np.random.default_rng(0).normal(0.05, 1, 1200)
    at_once = permutation(gaps)
    monkeypatch.setattr("tessera.statistics._MANY", 2000)
    assert at_once == pytest.approx(permutation(gaps), abs=0.01)


def test_a_difference_is_the_same_from_both_sides():
    rng = np.random.default_rng(0)
    a, b = ({"x": rng.normal(size=40)} for _ in range(2))
    there, back = paired(a, b), paired(b, a)
    assert there is not None
    assert back is not None
    assert (there[0], there[1]) == pytest.approx((-back[0], back[1]))


def test_a_small_steady_gain_is_seen_that_the_averages_hide():
    rng = np.random.default_rng(1)
    hard = rng.random(400)
    difference, p = paired({"eng_Latn": np.clip(hard + 0.02, 0, 1)}, {"eng_Latn": hard})
    assert difference == pytest.approx(0.02, abs=0.002)
    assert p < 0.001
    _, p = paired({"eng_Latn": rng.permutation(hard)}, {"eng_Latn": hard})
    assert p > 0.05


def test_translations_of_one_sentence_do_not_count_as_many_sentences():
    gain = np.random.default_rng(2).normal(0.05, 0.4, 60)
    once = paired({"l0": gain}, {"l0": np.zeros(60)})
    often = paired({f"l{i}": gain for i in range(50)}, {f"l{i}": np.zeros(60) for i in range(50)})
    assert often == pytest.approx(once, abs=0.02)
    uneven = paired({f"l{i}": gain[i:] for i in range(8)}, {f"l{i}": np.zeros(60 - i) for i in range(8)})
    assert uneven is not None
    assert uneven[1] == pytest.approx(once[1], abs=0.1)


def test_languages_of_one_example_among_others_are_not_judged():
    assert paired({"a": np.ones(1), "b": np.ones(9)}, {"a": np.zeros(1), "b": np.zeros(9)}) is None


def test_welch_is_scipys_but_for_two_values_against_several():
    rng = np.random.default_rng(0)
    for n, m in ((3, 3), (2, 2), (5, 3), (10, 4)):
        a, b = rng.normal(size=n), rng.normal(1, 3, m)
        ours = welch((a.mean(), scipy.stats.sem(a), n), (b.mean(), scipy.stats.sem(b), m))
        assert ours == pytest.approx(scipy.stats.ttest_ind(a, b, equal_var=False).pvalue)
    assert welch((0, 1, 2), (3, 0.1, 10)) > 0.15  # the spread of the first is a guess out of two values
    assert welch((0, 1, 2), (300, 0.1, 10)) < 0.01  # but one that a large enough difference is beyond


def test_a_pair_of_languages_counts_once_whichever_is_sought_in_which():
    codes = [f"{x}_Latn" for x in ("dan", "deu", "fao", "isl", "nld", "swe")]
    both = [f"{x}-eng_Latn" for x in codes] + [f"eng_Latn-{x}" for x in codes]
    one = differ(Made(values=dict.fromkeys(both, 2.0)), Made(values=dict.fromkeys(both, 1.0)))
    assert one is not None
    assert (one.test, one.p) == ("permutation test over 6 languages", 2 / 2**6)
    few = [*both[:5], *both[6:11]]
    assert differ(Made(values=dict.fromkeys(few, 2.0)), Made(values=dict.fromkeys(few, 1.0))) is None


def every_pair(codes, apart=0.0):
    """Of some languages each with each."""
    made = {f"{x}-{y}": 60.0 + 7 * n % 5 for n, (x, y) in enumerate(itertools.permutations(codes, 2))}
    return Made(values={pair: value + apart for pair, value in made.items()})


def test_pairs_that_share_languages_are_as_many_as_their_languages():
    codes = [f"{x}_Latn" for x in ("dan", "deu", "fao", "isl", "nld", "swe")]
    one = differ(every_pair(codes, 3), every_pair(codes))
    assert one is not None
    assert (one.test, one.sign) == ("t-test over 15 pairs of 6 languages", 0)  # no spread at all: nothing to judge by
    assert differ(every_pair(codes[:5], 3), every_pair(codes[:5])) is None
    treebanks = Made(values={f"{x}-GSD": 2.0 for x in ("Danish", "German", "French", "Czech", "Irish", "Dutch")})
    one = differ(treebanks, Made(values=dict.fromkeys(treebanks.values, 1.0)))
    assert one is not None
    assert one.test == "permutation test over 6 languages"


def test_the_jackknife_of_a_mean_is_its_standard_error():
    values = np.random.default_rng(0).normal(size=9)
    assert jackknife([(values.sum() - v) / 8 for v in values]) == pytest.approx(scipy.stats.sem(values))


# ------------------------------------------------------------------------------------------------ where nothing differs


def over_examples(rng: Rng, n: int = 40) -> tuple[Made, Made]:
    return tuple(Made(outcomes={"eng_Latn": rng.normal(size=n)}) for _ in range(2))  # type: ignore[return-value]


def over_few_examples(rng: Rng) -> tuple[Made, Made]:
    return over_examples(rng, 9)


def over_right_and_wrong(rng: Rng) -> tuple[Made, Made]:
    hard = rng.random(60)
    return tuple(Made(outcomes={"eng_Latn": (rng.random(60) < hard).astype(float)}) for _ in range(2))  # type: ignore[return-value]


def over_translations(rng: Rng, cut: int = 0) -> tuple[Made, Made]:
    """12 languages; of a sentence a model knows the same in most of them. `cut`: so many fewer in each further one."""
    made = []
    for _ in range(2):
        known = rng.normal(size=60)
        kept = {f"l{i}": np.sort(rng.permutation(60)[: 60 - i * cut]) for i in range(12)}
        made.append(Made(outcomes={c: known[k] + 0.3 * rng.normal(size=len(k)) for c, k in kept.items()}))
    return made[0], made[1]


def over_uneven_translations(rng: Rng) -> tuple[Made, Made]:
    return over_translations(rng, 1)


def over_seeds(rng: Rng, n: int = 3, m: int = 3, spread: float = 1.0) -> tuple[Made, Made]:
    made = []
    for count, wide in ((n, 1.0), (m, spread)):
        mean, half = interval(list(rng.normal(50, wide, count)))
        made.append(Made(average=mean, half=half, repeats=count))
    return made[0], made[1]


def over_uneven_seeds(rng: Rng) -> tuple[Made, Made]:
    return over_seeds(rng, 3, 8, 2.0)


def over_experiments(rng: Rng) -> tuple[Made, Made]:
    return over_seeds(rng, 10, 10, 3.0)


def over_coarse_scores(rng: Rng, n: int = 3) -> tuple[Made, Made]:
    """Accuracy over 20 examples, which several seeds may share."""
    made = []
    for _ in range(2):
        mean, half = interval(list(5.0 * rng.binomial(20, 0.7, n)))
        made.append(Made(average=mean, half=half, repeats=n))
    return made[0], made[1]


def over_languages(rng: Rng, count: int = 12) -> tuple[Made, Made]:
    easy = rng.normal(60, 20, count)
    return tuple(Made(values={f"l{i}": v + rng.normal() for i, v in enumerate(easy)}) for _ in range(2))  # type: ignore[return-value]


def over_few_languages(rng: Rng) -> tuple[Made, Made]:
    return over_languages(rng, 6)


def over_many_languages(rng: Rng) -> tuple[Made, Made]:
    return over_languages(rng, 30)


def over_both_directions(rng: Rng) -> tuple[Made, Made]:
    made = []
    for _ in range(2):
        of = {f"l{i}": rng.normal(60, 5) for i in range(10)}
        there = {f"{code}-eng": value + 0.3 * rng.normal() for code, value in of.items()}
        made.append(Made(values=there | {f"eng-{code}": value + 0.3 * rng.normal() for code, value in of.items()}))
    return made[0], made[1]


def over_all_pairs(rng: Rng, noise: float = 0.5) -> tuple[Made, Made]:
    """Of eight languages each with each: what a model knows of one moves all its pairs."""
    made = []
    for _ in range(2):
        of = {f"l{i}": rng.normal(0, 3) for i in range(8)}
        pairs = itertools.permutations(of, 2)
        made.append(Made(values={f"{x}-{y}": 60 + of[x] + of[y] + noise * rng.normal() for x, y in pairs}))
    return made[0], made[1]


def over_three_hubs(rng: Rng) -> tuple[Made, Made]:
    made = []
    for _ in range(2):
        of = {f"l{i}": rng.normal(0, 3) for i in range(15)}
        pairs = itertools.product(list(of)[:3], list(of)[3:])
        made.append(Made(values={f"{x}-{y}": 60 + of[x] + of[y] + rng.normal() for x, y in pairs}))
    return made[0], made[1]


def over_two_seeds(rng: Rng) -> tuple[Made, Made]:
    return over_seeds(rng, 2, 2)


def over_two_seeds_beside_ten(rng: Rng) -> tuple[Made, Made]:
    return over_seeds(rng, 2, 10)


def over_independent_pairs(rng: Rng) -> tuple[Made, Made]:
    return over_all_pairs(rng, 30.0)


def over_uneven_sets(rng: Rng) -> tuple[Made, Made]:
    """Six languages, of each other sentences and other numbers of them."""
    return tuple(Made(outcomes={f"l{i}": rng.normal(size=30 - 2 * i) for i in range(6)}) for _ in range(2))  # type: ignore[return-value]


EVIDENCE = [
    over_examples, over_few_examples, over_right_and_wrong, over_translations, over_uneven_translations,
    over_seeds, over_uneven_seeds, over_experiments, over_coarse_scores, over_languages, over_few_languages,
    over_many_languages, over_both_directions, over_all_pairs, over_two_seeds_beside_ten,
]  # fmt: skip
SEEN_LESS = [over_three_hubs, over_two_seeds, over_independent_pairs, over_uneven_sets]  # what little there is to see


@pytest.mark.parametrize("draw", EVIDENCE)
def test_where_nothing_differs_one_in_twenty_is_called_different(draw, monkeypatch):
    monkeypatch.setattr("tessera.statistics._DRAWS", 499)
    monkeypatch.setattr("tessera.statistics._ALL_SIGNS", 10)
    rng = np.random.default_rng(0)
    found = []
    for _ in range(800):
        a, b = draw(rng)
        verdict = differ(a, b)
        assert verdict is not None or draw is over_coarse_scores  # no spread at all says nothing
        found.append(verdict is not None and verdict.sign != 0)
    assert 0.02 <= np.mean(found) <= 0.07, np.mean(found)


@pytest.mark.parametrize("draw", SEEN_LESS)
def test_where_evidence_is_weak_fewer_still_are_called_different(draw):
    rng = np.random.default_rng(0)
    verdicts = [differ(*draw(rng)) for _ in range(500)]
    assert np.mean([one is not None and one.sign != 0 for one in verdicts]) <= 0.05


@pytest.mark.parametrize("documents", [2, 3, 5, 8, 24])
def test_a_change_of_bits_per_byte_that_is_none_is_outside_its_interval_once_in_twenty(documents):
    """Of two models over documents of unequal length, as `adapt` compares them."""
    rng, found = np.random.default_rng(0), []
    for _ in range(800):
        size = rng.integers(50, 800, documents)
        one, other = (size * rng.normal(1.5, 0.3, documents) for _ in range(2))
        value, low, high = ratio_interval(one, size, less=other)
        assert low < value < high
        found.append(not low <= 0 <= high)
    assert 0.02 <= np.mean(found) <= 0.07, np.mean(found)


def ablation(rng: Rng, variants: int, seeds: int, examples: int | None) -> str:
    """What is said of a variant that is as the baseline; of measures that are coarse where there are few examples."""
    shared = rng.normal(size=seeds)  # what a seed does to all variants

    def score(seed: int) -> float:
        return (
            50 + 2 * shared[seed] + rng.normal() if examples is None else 100 / examples * rng.binomial(examples, 0.7)
        )

    names = [BASELINE, *(f"v{n}" for n in range(1, variants))]
    by_variant = {name: {seed: score(seed) for seed in range(seeds)} for name in names}
    row = _row("key", {"variant": "v1", "label": "1"}, "m", by_variant, by_variant[BASELINE], pooled_spread(by_variant))
    assert row is not None
    return ablation_verdict(row, {"lower_is_better": False})


@pytest.mark.parametrize(
    ("variants", "seeds", "examples", "least"),
    [(2, 2, None, 0.02), (2, 3, None, 0.02), (4, 3, None, 0.005), (2, 2, 20, 0.0), (2, 3, 20, 0.02), (4, 3, 10, 0.0)],
)
def test_a_variant_that_is_as_the_baseline_is_called_another_once_in_twenty_at_most(variants, seeds, examples, least):
    rng = np.random.default_rng(1)
    found = np.mean([ablation(rng, variants, seeds, examples) != UNSURE for _ in range(1000)])
    assert least <= found <= 0.07, found


def test_scores_without_any_spread_are_not_told_apart():
    """Of seeds, in Welch's test and in an ablation; a thousand equal differences of examples are certain."""
    assert welch((70.0, 0.0, 3), (75.0, 0.0, 3)) == 1.0
    assert differ(Made(average=70.0, half=0.0, repeats=3), Made(average=75.0, half=0.0, repeats=3)) is None
    one_moves = differ(Made(average=70.0, half=0.0, repeats=3), Made(average=75.0, half=2.0, repeats=3))
    assert one_moves is not None
    assert one_moves.test.startswith("Welch")
    same = {"delta": 5.0, "own": 0.0, "pooled": 0.0}
    assert ablation_verdict(same, {"lower_is_better": False}) == UNSURE
    assert permutation(np.ones(1001)) < 1e-9
