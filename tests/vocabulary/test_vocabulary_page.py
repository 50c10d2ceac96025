"""What docs/vocabulary.md shows is run: each command and the Python, on a small folder and real text."""

import json
import re
import runpy
import shlex
from pathlib import Path

import families
import pytest
from typer.testing import CliRunner

from tessera.cli import app
from tessera.huggingface.hf_files import config_json

pytest.importorskip("django")
pytest.importorskip("polib")
PAGE = (Path(__file__).parents[2] / "docs" / "vocabulary.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^tessera (.*)$", PAGE.replace("\\\n", " "), re.MULTILINE)
CODE = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Text of some languages under the names of the page, and what it calls a model and a tokenizer."""
    found = {**families.texts(), **families.texts(new=True)}
    (tmp_path / "text").mkdir()
    for name, texts in {**found, "yor_Latn": found["cym_Latn"]}.items():
        lines = (json.dumps({"text": text}, ensure_ascii=False) for text in texts)
        (tmp_path / "text" / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    families.write_theirs(tmp_path / "e5-small", "xlmr", "BertModel", hidden_size=200)
    families.write_ours(tmp_path / "model", "gemma")
    families.write_tokenizer("gpt2", tmp_path / "my-tokenizer")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_the_page_does_what_it_says(here, command):
    words = shlex.split(command)
    done = CliRunner().invoke(app, words, env={"COLUMNS": "200"})
    assert done.exit_code == 0, (done.output, done.exception)
    out = Path(words[words.index("--out") + 1])
    rows, before = config_json(out)["vocab_size"], config_json(here / "e5-small")["vocab_size"]
    due = {"trim": rows < before, "extend": rows > before, "replace": rows != before, "factor": rows == before}
    assert due[words[1]]
    if words[1] != "factor":
        assert "held-out text" in done.output
        assert f"{rows:,}" in done.output
    assert (out / "README.md").is_file()


def test_the_python_of_the_page_runs(here, capsys):
    (here / "it.py").write_text(CODE[0])
    runpy.run_path(str(here / "it.py"))
    assert "trimmed" in {path.name for path in here.iterdir()}
    assert capsys.readouterr().out.startswith("(")


def test_text_of_no_language_or_of_one_document_is_refused_in_words(here):
    from tessera.vocabulary.texts import read_texts

    (here / "one.txt").write_text("only one line\n")
    with pytest.raises(ValueError, match="no language in a column, in the name of the file"):
        read_texts(["one.txt"])
    with pytest.raises(ValueError, match="fao_Latn: there is only one document"):
        read_texts(["one.txt"], language="fao_Latn")
    with pytest.raises(ValueError, match="held_out is 5; it is a share"):
        read_texts(["text"], held_out=5)
    with pytest.raises(ValueError, match="no text is given"):
        read_texts([])


def test_a_text_to_be_kept_whole_needs_no_language_and_may_be_one_document_of_any_length(here):
    from tessera.vocabulary.texts import read_whole

    (here / "one.txt").write_text("only one line\n")
    (here / "some.csv").write_text("sentence\nfirst\nsecond\n")
    assert read_whole(["one.txt"]).used == {"mul_Latn": ["only one line"]}
    assert read_whole(["some.csv"], column="sentence").used == {"mul_Latn": ["first", "second"]}
    (here / "none.csv").write_text("sentence\n\n")
    with pytest.raises(ValueError, match=r"none\.csv"):
        read_whole(["none.csv"], column="sentence")
    words = ["vocabulary", "trim", "e5-small", "--text", "text/deu_Latn.jsonl", "--whole", "one.txt", "--out", "small"]
    done = CliRunner().invoke(app, [*words, "--no-timing"])
    assert done.exit_code == 0, (done.output, done.exception)


def test_the_split_is_by_the_hash_of_each_text_so_that_copies_stand_on_one_side(here):
    from tessera.vocabulary.texts import read_texts

    (here / "copies.txt").write_text("\n".join(f"line {n % 50}" for n in range(500)))
    found = read_texts(["copies.txt"], language="eng_Latn", held_out=0.3)
    assert not set(found.used["eng_Latn"]) & set(found.held_out["eng_Latn"])
    assert len(found.used["eng_Latn"]) + len(found.held_out["eng_Latn"]) == 500
    assert 5 <= len(set(found.held_out["eng_Latn"])) <= 25
