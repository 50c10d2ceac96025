import pickle
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessera.corpus.filters import Filter, repeats
from tessera.plan.corpus import Contamination, Filters, LanguageCheck, Repetition

ANY = Repetition(lines=1, line_characters=1, top_2_gram=1, top_3_gram=1, top_4_gram=1)
GERMAN = "Alle Menschen sind frei und gleich an Würde und Rechten geboren. Sie sind mit Vernunft und Gewissen begabt."
PASSAGE = "one two three four five six seven eight nine ten eleven twelve thirteen"


def different_words(n: int, start: int = 0) -> list[str]:
    return [f"word{k:04d}" for k in range(start, start + n)]


def why_not(text: str, language: str = "fao_Latn", **rules: object) -> str | None:
    return Filter(Filters(**rules)).why_not(text, language)


@pytest.mark.parametrize(
    ("text", "language", "rules", "reason"),
    [
        ("four", "fao_Latn", {"min_characters": 4}, None),
        ("  four\n", "fao_Latn", {"min_characters": 5}, "fewer than 5 characters"),  # space around it does not count
        ("five!", "fao_Latn", {"max_characters": 4}, "more than 4 characters"),
        ("x" * 1_000, "fao_Latn", {"min_characters": 2_000}, "fewer than 2,000 characters"),
        ("", "fao_Latn", {}, "fewer than 1 character"),
        ("tvey orð", "fao_Latn", {"min_words": 3}, "fewer than 3 words"),
        ("trý orð her", "fao_Latn", {"min_words": 3}, None),
        ("人人生而自由", "cmn_Hans", {"min_words": 3}, None),  # no spaces, so no words to count
        ("ทุกคน", "tha", {"min_words": 3}, None),
    ],
)
def test_length(text, language, rules, reason):
    assert why_not(text, language, **rules) == reason


def test_lines_that_were_there_before_are_counted_and_weighed():
    lines = [" ".join(different_words(10, 10 * k)) for k in range(7)]
    repeated = "\n".join([*lines, *lines[:3]])  # 3 of 10, and 30% of the characters
    assert why_not(repeated, repetition=ANY) is None
    assert why_not(repeated, repetition=ANY.model_copy(update={"lines": 0.3})) is None
    limits = ANY.model_copy(update={"lines": 0.29})
    assert why_not(repeated, repetition=limits) == "more than 29% of its lines are repeated"
    limits = ANY.model_copy(update={"line_characters": 0.299})
    assert why_not(repeated, repetition=limits) == "more than 29.9% of its characters are in repeated lines"
    spaced = repeated.replace("\n", "  \n\n ")
    assert why_not(spaced, repetition=limits) == "more than 29.9% of its characters are in repeated lines"


@pytest.mark.parametrize("n", [2, 3, 4])
def test_the_commonest_words_in_a_row_are_weighed(n):
    phrase = different_words(n)
    words = []
    for k in range(10):  # the phrase ten times, each time followed by others: n of n + 6 words
        words += [*phrase, *different_words(6, 100 + 6 * k)]
    share = n / (n + 6)
    name = f"top_{n}_gram"
    over = ANY.model_copy(update={name: round(share - 0.01, 2)})
    reason = f"its commonest {n} words in a row are more than {100 * round(share - 0.01, 2):g}% of it"
    assert repeats(" ".join(words), words, over) == reason
    assert repeats(" ".join(words), words, ANY.model_copy(update={name: round(share + 0.01, 2)})) is None


def test_characters_stand_for_words_where_there_are_none():
    rng = random.Random(0)
    han = [chr(0x4E00 + k) for k in rng.sample(range(20_000), 400)]
    natural = "".join(han)
    assert why_not(natural, "cmn_Hans", repetition=Repetition()) is None
    phrase = "".join(han[:8])
    spam = "".join(phrase + "".join(han[8 + 20 * k : 28 + 20 * k]) for k in range(15))  # 8 of 28 characters
    reason = "its commonest 8 characters in a row are more than 20% of it"
    assert why_not(spam, "cmn_Hans", repetition=Repetition()) == reason
    assert why_not(" ".join(spam), "cmn_Hans", repetition=Repetition()) == reason  # white space is no character
    again = "its commonest 12 characters in a row are more than 10% of it"
    assert (
        why_not(
            "".join(han[:12]) * 2 + natural[:180], "cmn_Hans", repetition=ANY.model_copy(update={"top_3_gram": 0.1})
        )
        == again
    )


@pytest.mark.parametrize("text", ["ja ja ja ja", "ja\n" * 49, "no! " * 49, "ha"])
def test_a_short_text_may_repeat_itself(text):
    assert why_not(text, repetition=Repetition()) is None


def test_from_fifty_words_on_it_may_not():
    assert why_not("ja " * 50, repetition=Repetition()) == "its commonest 2 words in a row are more than 20% of it"
    assert why_not("是" * 199, "cmn_Hans", repetition=Repetition()) is None
    assert why_not("是" * 200, "cmn_Hans", repetition=Repetition()) is not None


@given(st.lists(st.sampled_from(["a", "bb", "ccc", "dddd"]), min_size=50, max_size=90), st.sampled_from([2, 3, 4]))
def test_the_share_is_that_of_the_definition(words, n):
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    most = max(map(grams.count, grams))
    longest = max(len("".join(gram)) for gram in grams if grams.count(gram) == most)
    share = most * longest / len("".join(words)) if most > 1 else 0
    for limit in (0.05, 0.1, 0.2, 0.3, 0.5, 0.9):
        dropped = repeats(" ".join(words), words, ANY.model_copy(update={f"top_{n}_gram": limit})) is not None
        others = any(f"{k} words" in str(repeats(" ".join(words), words, ANY)) for k in (2, 3, 4) if k != n)
        assert others or dropped == (share > limit)


@pytest.mark.parametrize(
    ("text", "language", "reason"),
    [
        (GERMAN, "deu_Latn", None),
        (GERMAN, "dan_Latn", "py3langid: surely deu, not dan"),
        (GERMAN, "rus_Cyrl", "Latn script, not Cyrl"),
        (GERMAN, "bar_Latn", None),
        (GERMAN, "code", None),
        (GERMAN[:49], "rus_Cyrl", None),  # shorter than min_characters
        (GERMAN[:49], "dan_Latn", None),
    ],
)
def test_a_text_in_another_language_or_script_is_dropped(text, language, reason):
    assert Filter(Filters(language=LanguageCheck(min_probability=0.8))).why_not(text, language) == reason


def test_a_passage_of_an_evaluation_set_is_dropped(tmp_path):
    (tmp_path / "test.txt").write_text(PASSAGE)
    rules = {"contamination": Contamination(sets={"counting": (str(tmp_path),)})}
    assert why_not(f"So: {PASSAGE}.", **rules) == "shares 13 words in a row with counting"
    assert why_not("So: one, two, three.", **rules) is None


def test_what_is_missing_is_said_when_the_filter_is_made(tmp_path):
    with pytest.raises(ValueError, match="contamination set 'sib': no file at"):
        Filter(Filters(contamination=Contamination(sets={"sib": (str(tmp_path / "no"),)})))
    with pytest.raises(ValueError, match=r"no file at '.*/lid\.bin'; give the file of a fastText model"):
        Filter(Filters(language=LanguageCheck(model=str(tmp_path / "lid.bin"))))


def test_a_filter_is_small_on_its_way_to_a_worker_and_judges_the_same(tmp_path):
    (tmp_path / "test.txt").write_text("\n".join(" ".join(different_words(20, 20 * k)) for k in range(400)))
    rules = Filters(
        min_words=3,
        repetition=Repetition(),
        language=LanguageCheck(min_probability=0.8),
        contamination=Contamination(sets={"s": (str(tmp_path),)}),
    )
    here = Filter(rules)
    texts = ["ja", GERMAN, " ".join(different_words(13)), "ja " * 90]
    reasons = [here.why_not(text, "dan_Latn") for text in texts]
    assert len(set(reasons)) == 4
    sent = pickle.dumps(here)
    assert len(sent) < 4_000
    assert [pickle.loads(sent).why_not(text, "dan_Latn") for text in texts] == reasons


def test_the_fingerprint_changes_with_the_rules_and_with_the_files(tmp_path):
    (tmp_path / "test.txt").write_text(PASSAGE)
    rules = Filters(contamination=Contamination(sets={"s": (str(tmp_path),)}))
    first = Filter(rules).fingerprint
    assert Filter(rules).fingerprint == first
    assert Filter(rules.model_copy(update={"min_characters": 2})).fingerprint != first
    (tmp_path / "test.txt").write_text(PASSAGE + " fourteen")
    assert Filter(rules).fingerprint != first
