"""Plain text becomes runs of whole sentences, each once, with the prompts of the model in turns."""

from tessera.shrink.passages import passages

TEXT = "One. Two! Three?\nFour\n\nFive. Six. Seven. Eight.  Nine."


def texts_of(found):
    return [one.text for one in found]


def test_passages_are_runs_of_one_two_one_and_four_sentences():
    assert texts_of(passages({"a": [TEXT]})) == ["One.", "Two! Three?", "Four", "Five. Six. Seven. Eight.", "Nine."]


def test_a_passage_comes_but_once_and_says_where_it_is_from():
    found = passages({"b": ["Same."], "a": ["Same.", "Other."]})
    assert [(one.text, one.language, one.row) for one in found] == [("Same.", "a", "a:0"), ("Other.", "a", "a:1")]


def test_prompts_stand_before_passages_in_turns():
    assert texts_of(passages({"a": ["x", "y", "z"]}, ["query: ", "passage: "])) == [
        "query: x",
        "passage: y",
        "query: z",
    ]


def test_sentences_end_in_other_scripts_too_and_what_never_ends_is_cut():
    assert texts_of(passages({"a": ["你好。再见。世界！"]})) == ["你好。", "再见。 世界！"]
    assert [len(text) for text in texts_of(passages({"a": ["x" * 2100 + "y" * 2400]}))] == [2000, 2000, 500]


def test_nothing_comes_of_white_space():
    assert passages({"a": ["", " \n "]}) == []
