"""What a verb is to write is looked at before what it is to read: the work is not lost at its end."""

import pytest
from typer.testing import CliRunner

from tessera import files
from tessera.adapt.asked import AdaptError
from tessera.cli import app

FOLDERS = [
    "finetune NONE NONE --out TAKEN",
    "finetune NONE NONE --out TAKEN --kind rerank",
    "finetune NONE NONE --out TAKEN --kind retrieve",
    "finetune NONE NONE --out TAKEN --kind distil --teacher NONE",
    "merge NONE NONE --out TAKEN",
    "export NONE TAKEN",
    "quantize NONE TAKEN --texts NONE",
    "index NONE NONE TAKEN",
    "vocabulary trim NONE --text NONE --out TAKEN",
    "vocabulary extend NONE --text NONE --out TAKEN --tokens 9",
    "vocabulary replace NONE --tokenizer NONE --text NONE --out TAKEN",
    "adapt NONE --text NONE --out TAKEN",
]
FILES = [
    "compare NONE --csv TAKEN",
    "compare NONE --plot TAKEN",
    "plan NONE --csv TAKEN",
    "plan NONE --plot TAKEN",
    "tokenizer report NONE --recipe NONE --csv TAKEN",
    "tokenizer report NONE --recipe NONE --plot TAKEN",
    "predict NONE NONE TAKEN",
    "embed NONE NONE TAKEN",
]


def error_of(words, **places):
    return CliRunner().invoke(app, [str(places.get(word, word)) for word in words.split()]).exception


@pytest.mark.parametrize("words", FOLDERS)
def test_a_folder_that_holds_something_is_refused_first(tmp_path, words):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    error = error_of(words, NONE=tmp_path / "none", TAKEN=tmp_path / "out")
    assert isinstance(error, FileExistsError | AdaptError), error
    assert f"{tmp_path / 'out'}" in str(error)
    assert "none" not in str(error)


@pytest.mark.parametrize("words", FOLDERS + FILES)
def test_a_place_below_a_file_is_refused_first(tmp_path, words):
    (tmp_path / "file").write_text("mine")
    name = "out.parquet" if words.startswith(("predict", "embed")) else "out.svg"
    error = error_of(words, NONE=tmp_path / "none", TAKEN=tmp_path / "file" / name)
    assert isinstance(error, OSError), error
    assert f"{tmp_path / 'file'}" in str(error)
    assert "none" not in str(error)


@pytest.mark.parametrize("words", [*FOLDERS, *FILES, "run mmbert-base --out TAKEN", "evaluate NONE --out TAKEN"])
def test_a_url_is_no_place_to_write_to_and_shows_no_credential(tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    ending = "out.parquet" if words.startswith(("predict", "embed")) else "out.svg"
    error = error_of(words, NONE="none", TAKEN=f"s3://KEY:SECRET@bucket/{ending}")
    assert isinstance(error, ValueError), error
    assert "is a URL, and outputs are written to this machine" in str(error)
    assert "SECRET" not in str(error)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", FILES)
def test_a_file_called_as_a_folder_is_refused_first(tmp_path, words):
    taken = tmp_path / ("out.parquet" if words.startswith(("predict", "embed")) else "out.svg")
    taken.mkdir()
    error = error_of(words, NONE=tmp_path / "none", TAKEN=taken)
    assert isinstance(error, IsADirectoryError | FileExistsError), error
    assert str(taken) in str(error)


def test_a_file_in_folders_to_come_and_one_that_is_replaced_are_well(tmp_path):
    (tmp_path / "old.csv").write_text("old")
    files.refuse_unwritable(tmp_path / "old.csv")
    files.refuse_unwritable(tmp_path / "new" / "er" / "a.csv")
    assert (tmp_path / "old.csv").read_text() == "old", "looking changes nothing"
    assert not (tmp_path / "new").exists()
