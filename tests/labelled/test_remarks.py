"""What looks wrong with rows is said, and nothing is refused for it."""

import pytest

from tessera.labelled import dataset


def said(tmp_path, text, name="rows.csv"):
    (tmp_path / name).write_text(text, encoding="utf-8")
    return dataset.read(str(tmp_path / name)).said


def rows(*more: str, count: int = 40) -> str:
    return "text,label\n" + "".join(f"text {n},{'ab'[n % 2]}\n" for n in range(count)) + "".join(more)


def test_rows_that_are_as_they_should_be_are_passed_over_in_silence(tmp_path):
    assert not [line for line in said(tmp_path, rows()) if "empty" in line or "another row" in line or "called" in line]


def test_empty_texts_are_counted_and_placed(tmp_path):
    lines = said(tmp_path, rows('"",a\n', '" ",b\n'))
    assert any(line.startswith("2 rows have an empty text") and "rows.csv:42" in line for line in lines), lines


def test_equal_texts_with_other_labels_are_counted(tmp_path):
    lines = said(tmp_path, rows("text 0,b\n", "text 2,a\n"))
    assert any(line.startswith("2 rows have the text of another row and not its label") for line in lines), lines


def test_a_file_without_column_names_is_suspected(tmp_path):
    lines = said(tmp_path, "".join(f"text {n},{'ab'[n % 2]}\n" for n in range(40)))
    assert any("column 'a' is called what one of its labels is" in line for line in lines), lines


def test_rows_that_are_all_one_text_are_called_that(tmp_path):
    with pytest.raises(dataset.DataError, match=r"no rows for .*: all 40 have the same text"):
        said(tmp_path, "text,label\n" + "".join(f"the same,{'ab'[n % 2]}\n" for n in range(40)))


def test_a_language_to_train_on_needs_a_column_of_languages(tmp_path):
    (tmp_path / "rows.csv").write_text(rows())
    with pytest.raises(dataset.DataError, match=r"no column says a language .*, you said fao_Latn"):
        dataset.read(str(tmp_path / "rows.csv"), dataset.Options(train_languages=("fao_Latn",)))
