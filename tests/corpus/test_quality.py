"""Scores by functions of anybody, and tiers by thresholds."""

import importlib
import math
import pickle
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessera.corpus.quality import checked, scorer, thresholds, tier

MODULE = """
    import numpy as np

    HEAVY = 3

    class Judge:
        @staticmethod
        def lengths(texts):
            return [len(text) for text in texts]

    def words(texts):
        assert isinstance(texts, list)
        return np.array([len(text.split()) for text in texts], np.float32)

    def generator(texts):
        return (1 for text in texts)

    def short(texts):
        return [1.0] * (len(texts) - 1)

    def single(texts):
        return 3.5

    def nothing(texts):
        return None

    def fails(texts):
        raise KeyError("theirs")

    def nan(texts):
        return [float("nan") if "bad" in text else 1.0 for text in texts]

    def strings(texts):
        return ["3.5" for text in texts]

    def nones(texts):
        return [None for text in texts]

    def rows(texts):
        return np.zeros((len(texts), 2))
"""


@pytest.fixture
def here(tmp_path, monkeypatch, request):
    """A working directory with a module of a name that no other test imports."""
    name = f"judges_of_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(textwrap.dedent(MODULE))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield name
    sys.modules.pop(name, None)


def scores(name, texts):
    return checked(scorer(name)(texts), texts, name)


@pytest.mark.parametrize(
    ("score", "expected"), [(-9, 1), (0.99, 1), (1, 2), (1.5, 2), (2, 3), (2.99, 3), (3, 4), (1e9, 4)]
)
def test_a_threshold_belongs_to_the_tier_above(score, expected):
    assert tier(score, (1.0, 2.0, 3.0)) == expected


def test_a_function_in_the_working_directory_scores(here):
    assert scores(f"{here}:words", ["one", "one two", ""]) == [1.0, 2.0, 0.0]
    assert scores(f"{here}:Judge.lengths", ("a", "bc")) == [1.0, 2.0]
    assert scores(f"{here}:generator", ["a", "b"]) == [1.0, 1.0]
    assert all(type(one) is float for one in scores(f"{here}:words", ["one"]))


def test_a_function_is_not_asked_about_nothing(here):
    assert scores(f"{here}:fails", []) == []


def test_a_scorer_finds_its_function_again_in_another_process_and_directory(here, tmp_path):
    (tmp_path / "sent").write_bytes(pickle.dumps(scorer(f"{here}:words")))
    code = f"import pickle; print(*pickle.load(open({str(tmp_path / 'sent')!r}, 'rb'))(['one two', 'one']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd="/")
    assert (done.stdout.strip(), done.stderr) == ("2.0 1.0", "")


@pytest.mark.parametrize(
    ("function", "text"),
    [
        ("word", r"has no 'word'; did you mean 'words'\?"),
        ("Judge.length", r"has no 'Judge\.length'; did you mean 'lengths'\?"),
        ("HEAVY", "HEAVY is of type int; give a function of a list of texts"),
    ],
)
def test_what_is_no_function_is_refused_before_any_text_is_read(here, function, text):
    with pytest.raises(ValueError, match=text):
        scorer(f"{here}:{function}")


def test_a_module_that_cannot_be_imported_says_why_and_where_it_may_lie(here, tmp_path):
    with pytest.raises(ValueError, match=r"cannot import 'no_such_judges' \(ModuleNotFoundError.*directory") as caught:
        scorer("no_such_judges:words")
    assert str(tmp_path) in str(caught.value)
    (tmp_path / f"{here}_broken.py").write_text("1 / 0")
    importlib.invalidate_caches()
    with pytest.raises(ValueError, match=r"_broken' \(ZeroDivisionError: division by zero\)"):
        scorer(f"{here}_broken:words")


@pytest.mark.parametrize("name", ["words", ":words", "judges:", "./model"])
def test_a_function_is_given_as_module_and_name(name):
    with pytest.raises(ValueError, match=r"a function is given as package\.module:function"):
        scorer(name)


@pytest.mark.parametrize(
    ("function", "text"),
    [
        ("short", "gave 1 scores for 2 texts; give one for each"),
        ("single", "gave a float; give a list, one number for each text"),
        ("nothing", "gave a NoneType; give a list"),
        ("nan", "gave nan, which is not a finite number, for the text that begins 'bad bad bad"),
        ("strings", "gave '3.5', which is not a finite number, for the text that begins 'good'"),
        ("nones", "gave None, which is not a finite number"),
        ("rows", "which is not a finite number"),
    ],
)
def test_answers_that_are_no_scores_are_refused(here, function, text):
    with pytest.raises(ValueError, match=text) as caught:
        scores(f"{here}:{function}", ["good", "bad " * 1000])
    assert f"{here}:{function}" in str(caught.value)
    assert len(str(caught.value)) < 400


def test_what_a_function_raises_is_not_hidden(here):
    with pytest.raises(KeyError, match="theirs"):
        scores(f"{here}:fails", ["a"])


def tiers_of(scores, limits):
    return [sum(tier(score, limits) == n for score in scores) for n in (1, 2, 3, 4)]


def test_thresholds_part_a_sample_as_wished():
    scores = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    assert thresholds(scores) == (1.5, 3.5, 5.5)
    assert thresholds(reversed(scores), (0.5, 0.25, 0.125, 0.125)) == (3.5, 5.5, 6.5)
    assert tiers_of(scores, thresholds(scores, (0, 0.5, 0.5, 0))) == [0, 4, 4, 0]


def test_equal_scores_are_not_parted():
    scores = [1] * 70 + [2] * 20 + [3] * 10
    assert tiers_of(scores, thresholds(scores)) == [0, 70, 0, 30]
    assert tiers_of(scores, thresholds(scores, (0.7, 0.2, 0.05, 0.05))) in ([70, 20, 10, 0], [70, 20, 0, 10])


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60, unique=True),
    st.lists(st.integers(0, 10), min_size=4, max_size=4).filter(any),
)
def test_tiers_of_different_scores_miss_their_shares_by_less_than_a_score(scores, weights):
    shares = [weight / sum(weights) for weight in weights]
    limits = thresholds(scores, shares)
    assert list(limits) == sorted(limits)
    reached = np.cumsum(tiers_of(scores, limits))[:3]
    assert np.abs(reached - np.cumsum(shares)[:3] * len(scores)).max() <= 0.5 + 1e-6


def test_thresholds_of_nothing_are_refused():
    for scores, shares, text in (
        ([], [0.25] * 4, "no scores to choose thresholds from"),
        ([1.0, math.nan], [0.25] * 4, "a score is nan"),
        ([1.0], [0.5, 0.5], r"shares of tiers are \[0\.5, 0\.5\]; give four that add up to 1"),
        ([1.0], [0.5, 0.5, 0.5, -0.5], "give four"),
    ):
        with pytest.raises(ValueError, match=text):
            thresholds(scores, shares)


def test_scores_fall_into_four_tiers_and_a_threshold_belongs_to_the_tier_above():
    scores = [-1, 0.99, 1, 1.5, 2, 2.9, 3, 100]
    assert [tier(score, (1, 2, 3)) for score in scores] == [1, 1, 2, 2, 3, 3, 4, 4]
