import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tessera.files import atomic_file, atomic_folder, remove_folder, write_json, write_text


def test_a_folder_takes_its_name_when_the_block_ends_well(tmp_path):
    with atomic_folder(tmp_path / "model") as draft:
        (draft / "a").write_text("1")
        assert not (tmp_path / "model").exists()
    assert (tmp_path / "model" / "a").read_text() == "1"
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("replace", [False, True])
def test_a_failure_leaves_what_was_there(tmp_path, replace):
    (tmp_path / "model").mkdir()
    if replace:
        (tmp_path / "model" / "old").write_text("keep me")

    def write_half() -> None:
        with atomic_folder(tmp_path / "model", replace=replace) as draft:
            (draft / "new").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert [p.name for p in (tmp_path / "model").iterdir()] == (["old"] if replace else [])
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_a_folder_with_something_in_it_is_replaced_only_when_asked(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "old").write_text("keep me")
    with pytest.raises(FileExistsError, match="model: there already"), atomic_folder(tmp_path / "model"):
        pass
    with atomic_folder(tmp_path / "model", replace=True) as draft:
        (draft / "new").write_text("1")
    assert [p.name for p in (tmp_path / "model").iterdir()] == ["new"]


@pytest.fixture(params=[0o022, 0o027, 0o002, 0o077])
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_whoever_writes_it_a_file_has_the_mode_that_umask_asks_for(tmp_path, umask):
    def write(path: Path) -> None:  # as safetensors does
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))

    with atomic_folder(tmp_path / "model") as draft:
        (draft / "deep").mkdir()
        write(draft / "deep" / "a")
        (draft / "b").write_text("")
    with atomic_file(tmp_path / "c") as draft:
        write(draft)
    write_text(tmp_path / "d", "")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.name: path.stat().st_mode & 0o777 for path in files} == dict.fromkeys("abcd", 0o666 & ~umask)


def test_what_an_earlier_kill_left_is_cleared(tmp_path):
    (tmp_path / ".model.writing").mkdir()
    (tmp_path / ".model.writing" / "half").write_text("")
    with atomic_folder(tmp_path / "model"):
        pass
    assert list((tmp_path / "model").iterdir()) == []


def test_removing_what_is_not_there_is_no_error(tmp_path):
    remove_folder(tmp_path / "nothing")
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_replaced_at_once_and_no_draft_stays(tmp_path):
    write_text(tmp_path / "deep" / "a.txt", "é")
    write_text(tmp_path / "deep" / "a.txt", "ø")
    assert (tmp_path / "deep" / "a.txt").read_text(encoding="utf-8") == "ø"
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["a.txt"]


def test_numbers_that_json_does_not_know_are_refused(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert list(tmp_path.iterdir()) == []


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(json_values)
@settings(max_examples=200)
def test_json_says_what_it_was_given(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("json") / "a.json"
    write_json(path, value)
    assert json.loads(path.read_text(encoding="utf-8")) == value


def test_a_list_of_numbers_takes_one_line(tmp_path):
    write_json(tmp_path / "a.json", {"a": [1.0, 0.5, -1e-06], "b": "[\n 1\n]", "c": [[1, 2], []], "d": ["x"]})
    assert (tmp_path / "a.json").read_text().splitlines() == [
        "{",
        ' "a": [1.0, 0.5, -1e-06],',
        ' "b": "[\\n 1\\n]",',
        ' "c": [',
        "  [1, 2],",
        "  []",
        " ],",
        ' "d": [',
        '  "x"',
        " ]",
        "}",
    ]


def test_a_cell_that_would_be_a_formula_is_quoted_and_numbers_are_not():
    from tessera.files import csv_cells

    formulas = ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", '=HYPERLINK("http://x")', "-x"]
    assert csv_cells(formulas) == [f"'{cell}" for cell in formulas]
    others = ["-0.5", "+3", "-1e-5", "-inf", -0.5, 3, None, "", "a=b", "mmbert-small", "-", "'quoted", " =1"]
    assert csv_cells(others) == others
