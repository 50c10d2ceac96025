from decimal import Decimal

import numpy as np
import pytest

from tessera.labelled import labels


@pytest.mark.parametrize(
    ("alike", "name"),
    [
        ((True, "true", "True", "TRUE", " true ", b"true", np.bool_(True)), "true"),
        ((False, "false", "False"), "false"),
        ((1, 1.0, "1", "1.0", " 1 ", "1.00", Decimal("1"), Decimal("1.0"), b"1", np.int64(1), np.float32(1)), "1"),
        ((0, 0.0, -0.0, "0", "-0", "0.0", "-0.0"), "0"),
        ((-1, -1.0, "-1", "-1.0"), "-1"),
        ((0.5, "0.5", Decimal("0.5")), "0.5"),
        (("good", " good\n", b"good", "good\t"), "good"),
        (("science and art", " science and art"), "science and art"),
        (("góð", "góð".encode(), "go\u0301ð", "go\u0301ð".encode()), "góð"),  # composed or not
        ((["good"], ("good",)), "good"),
    ],
)
def test_spellings_of_one_label_are_one_name(alike, name):
    assert {labels.single(value) for value in alike} == {name}


def test_what_may_be_two_labels_stays_two():
    apart = ["Good", "good", "01", "1", "nan", "none", "1.1", "1", "+1", "a b", "a  b", "١", "B-PER", "b-per"]
    assert len({labels.spelled(value) for value in apart}) == len(set(apart))


@pytest.mark.parametrize(
    "value",
    [
        *(None, "", "  ", float("nan"), float("inf"), np.float64("nan"), Decimal("NaN"), b"\xff", b""),
        *([], ["a", "b"], [["a"]], [None], {}, {"a": 1}, object(), ()),
    ],
)
def test_what_is_no_label_is_an_error_and_never_a_class(value):
    with pytest.raises(ValueError, match="label"):
        labels.single(value)
    with pytest.raises(ValueError, match="label"):
        labels.number_of(value, ("bad", "good"), declared=True)


def test_a_number_is_a_place_only_among_declared_words():
    assert labels.number_of(1, ("bad", "good"), declared=True) == 1
    assert labels.number_of("0.0", ("bad", "good"), declared=True) == 0
    for names, value in (
        (("-1", "0", "1"), 2),
        (("-1", "0", "1"), "2"),
        (("bad", "good", "3"), 0),
        (("bad", "good", "2.5"), 1),
        (("0", "1"), 2),
        (("bad", "good"), 2),
        (("bad", "good"), -1),
        (("bad", "good"), 0.5),
        (("bad", "good"), True),  # true is no number, and good need not be what is true
        (("true", "false"), 2),
    ):
        with pytest.raises(labels.UnknownLabel, match="is no label of the task"):
            labels.number_of(value, names, declared=True)
    with pytest.raises(labels.UnknownLabel):
        labels.number_of(1, ("bad", "good"))  # found in rows, so their order means nothing


def test_true_is_one_wherever_it_stands_among_the_names():
    for names in (("true", "false"), ("false", "true"), ("0", "1"), ("1", "0"), ("True", "False")):
        for value in (True, 1, "1", "true", 1.0):
            assert labels.spelled(names[labels.number_of(value, names, declared=True)]) in ("true", "1")
        for value in (False, 0, "0", "False"):
            assert labels.spelled(names[labels.number_of(value, names, declared=True)]) in ("false", "0")


def test_found_names_are_sorted_numbers_by_size_and_two_sorts_are_refused():
    assert labels.in_order(["10", "9", "-1"]) == ("-1", "9", "10")
    assert labels.in_order(["b", "10", "9"]) == ("10", "9", "b")
    with pytest.raises(ValueError, match="truth values and numbers"):
        labels.in_order(["true", "false", "1", "0"])
    with pytest.raises(ValueError, match="'NaN' stands among numbers"):
        labels.in_order(["0", "1", "NaN"])
    assert labels.in_order(["nan", "deu"]) == ("deu", "nan")  # Southern Min is a language


def test_the_line_that_declares_labels_reads_back_as_those_labels():
    import yaml

    names = [
        "bad",
        "1",
        "true",
        "no",
        "a: b",
        'say "x"',
        "O",
        "B-PER",
        "science/technology",
        "",
        "góð",
        "-",
        "1.5",
        "~",
    ]
    assert yaml.safe_load(labels.yaml_line(names)) == {"labels": names}
