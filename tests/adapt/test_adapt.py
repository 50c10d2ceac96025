"""A model is adapted in one call, which goes on where it stood, and says what it cost every language."""

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest
import torch
from typer.testing import CliRunner
from whole_run import Dies, write

from tessera import lock
from tessera.adapt import asked as asking
from tessera.adapt.adapt import adapt
from tessera.adapt.asked import AdaptError, Asked
from tessera.adapt.retention import table
from tessera.cli import app
from tessera.huggingface import hub
from tessera.huggingface.hf_files import find_model
from tessera.plan.loading import load
from tessera.tokenizer.tokenizer import Tokenizer

CYM = [
    "mae",
    "yn",
    "y",
    "tŷ",
    "afon",
    "gweld",
    "glas",
    "hen",
    "dan",
    "bychan",
    "gwyrdd",
    "dal",
    "ger",
    "pell",
    "gyflym",
    "a",
    "chath",
]


def welsh(count: int, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(CYM, k=rng.randint(6, 40))) for _ in range(count)]


@pytest.fixture(scope="module")
def new(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("new") / "cym_Latn.jsonl"
    write(path, [{"text": text} for text in welsh(150)])
    return path


@pytest.fixture(scope="module")
def asked(finished: Path, corpus: Path, new: Path) -> Asked:
    return Asked(
        model=str(finished / "merged" / "final"), text=(str(new),), replay=(str(corpus / "web" / "eng_Latn.jsonl"),),
        watch=(str(corpus / "web" / "ell_Grek.jsonl"),), extend=40, tokens=9_000, peak=5e-3,
    )  # fmt: skip


@pytest.fixture(scope="module")
def done(asked: Asked, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("adapted") / "cym"
    adapt(asked, out)
    return out


def bert(name: str, asked: Asked, place: Path) -> None:
    """A random BERT of this class over the tokenizer of the model that is asked for."""
    import transformers

    torch.manual_seed(0)
    tokenizer = Tokenizer.load(find_model(asked.model))
    config = transformers.BertConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=24, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=500, pad_token_id=tokenizer.pad_id,
    )  # fmt: skip
    getattr(transformers, name)(config).save_pretrained(place)
    tokenizer.copy_to(place)


def weights(out: Path) -> bytes:
    return (out / "final" / "model.safetensors").read_bytes()


def test_the_folder_holds_a_model_a_recipe_to_edit_and_what_it_cost(done, asked):
    assert find_model(done) == done / "final"
    recipe = load(done / "adapt.yaml")
    assert [phase.name for phase in recipe.phases] == ["rows", "adapt", "decay"]
    assert [phase.freeze for phase in recipe.phases] == ["all_but_new_rows", "none", "none"]
    assert recipe.phases[1].mixture.shares == {"new/cym_Latn": 0.7, "watch": 0.0}
    assert recipe.merges[0].models == ("rows", "decay")
    assert (done / "run" / "report.html").is_file()
    before, after = (Tokenizer.load(place) for place in (find_model(asked.model), done / "final"))
    assert before.vocab_size < after.vocab_size <= before.vocab_size + 40
    found = json.loads((done / "retention.json").read_text())
    assert [(row["language"], row["role"]) for row in found["languages"]] == [
        ("cym_Latn", "new"), ("eng_Latn", "replay"), ("ell_Grek", "watch"),
    ]  # fmt: skip
    welsh_row = found["languages"][0]
    assert list(welsh_row["bits"]) == ["before", "decay", "averaged"]
    assert welsh_row["bits"]["decay"] < welsh_row["bits"]["before"]
    assert welsh_row["change"]["decay"][2] < 0
    assert welsh_row["tokens"][1] < welsh_row["tokens"][0]
    assert hub.load(done / "final").config.vocab_size == after.vocab_size


def test_the_same_command_again_makes_nothing_twice_and_another_one_is_refused_by_name(done, asked):
    files = {path: path.stat().st_mtime_ns for path in done.rglob("*.safetensors")}
    adapt(asked, done)
    assert {path: path.stat().st_mtime_ns for path in done.rglob("*.safetensors")} == files
    other = Asked(**{**{key: getattr(asked, key) for key in asked.__slots__}, "tokens": 12_000})
    with pytest.raises(AdaptError, match=r"tokens: 9000 -> 12000\n.*edit .*adapt\.yaml"):
        adapt(other, done)


@pytest.mark.parametrize("at", [3, 25, 45])
def test_an_adaptation_that_dies_ends_with_the_same_bytes(done, asked, tmp_path, at):
    with pytest.raises(KeyboardInterrupt):
        adapt(asked, tmp_path / "cym", Dies(at))
    adapt(asked, tmp_path / "cym")
    same = Tokenizer.load(tmp_path / "cym" / "final").fingerprint == Tokenizer.load(done / "final").fingerprint
    assert same
    assert weights(tmp_path / "cym") == weights(done)


def test_a_second_process_is_told_before_it_looks(asked, tmp_path):
    with lock.hold(tmp_path / ".cym.lock", "cym"), pytest.raises(lock.AtWork, match=r"cym: process .* is at work here"):
        adapt(asked, tmp_path / "cym")
    assert not list(tmp_path.iterdir())


def test_without_a_vocabulary_and_without_replay_the_start_itself_is_averaged(asked, tmp_path):
    plain = Asked(model=asked.model, text=asked.text, extend=0, tokens=4_000, peak=5e-3)
    found = adapt(plain, tmp_path / "out")
    recipe = load(tmp_path / "out" / "adapt.yaml")
    assert recipe.merges[0].models == (asked.model, "decay")
    assert recipe.phases[0].from_ == asked.model
    assert recipe.phases[0].mixture.shares == {"new/cym_Latn": 1.0}
    assert [row.role for row in found.rows] == ["new"]
    columns, rows = table(found.rows)
    assert columns[3:] == ["before", "decay (change, 95%)", "averaged (change, 95%)", "tokens / word"]
    assert len(rows) == 1


def test_an_average_of_one_is_the_trained_model_itself_and_trimming_keeps_what_the_languages_use(asked, tmp_path):
    given = {key: getattr(asked, key) for key in asked.__slots__}
    adapt(Asked(**{**given, "average": 1.0, "trim": True, "tokens": 4_000}), tmp_path / "out")
    recipe = load(tmp_path / "out" / "adapt.yaml")
    assert recipe.merges == ()
    assert (tmp_path / "out" / "final").resolve() == (tmp_path / "out" / "run" / "decay" / "final").resolve()
    rows = Tokenizer.load(tmp_path / "out" / "trimmed").vocab_size
    assert rows < Tokenizer.load(find_model(asked.model)).vocab_size


def test_a_model_of_another_family_is_adapted_and_averaged_too(asked, tmp_path):
    bert("BertForMaskedLM", asked, tmp_path / "bert")
    given = {key: getattr(asked, key) for key in asked.__slots__}
    found = adapt(Asked(**{**given, "model": str(tmp_path / "bert"), "tokens": 8_000}), tmp_path / "out")
    assert found.rows[0].bits["averaged"] < found.rows[0].bits["before"]
    recipe = load(tmp_path / "out" / "adapt.yaml")
    assert {phase.context for phase in recipe.phases} == {500}
    rows, after = (hub.load_any(tmp_path / "out" / "run" / name / "final").state_dict() for name in ("rows", "decay"))
    name = "model.bert.encoder.layer.0.attention.self.query.weight"
    mean = hub.load_any(found.model).state_dict()[name]
    torch.testing.assert_close(mean, (rows[name] + after[name]) / 2)


def test_what_cannot_be_used_is_refused_before_anything_is_written(asked, tmp_path, new):
    out, given = tmp_path / "out", {key: getattr(asked, key) for key in asked.__slots__}

    def refuse(match: str, **more: object) -> None:
        with pytest.raises(ValueError, match=match):
            adapt(Asked(**{**given, **more}), out)
        assert not out.exists()

    refuse("no text is given", text=())
    refuse("share is 7", share=7.0)
    refuse("average is 0", average=0.0)
    refuse("nothing|no file|no such", text=(str(tmp_path / "nowhere.jsonl"),))
    refuse("no task is called 'sib2000'", tasks=("sib2000",))
    (tmp_path / "few").mkdir()
    few = tmp_path / "few" / "cym_Latn.jsonl"
    write(few, [{"text": text} for text in welsh(19)])
    refuse("19 documents of cym_Latn; at least 20 are needed.* a paragraph a line", text=(str(few),))
    refuse("--pairs teaches models that make vectors", pairs=(str(new),))
    bert("BertModel", asked, tmp_path / "headless")
    refuse(r"guesses no words.* if it makes vectors, a folder that says how", model=str(tmp_path / "headless"))
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    with pytest.raises(AdaptError, match=r"is not empty and holds no adapt\.json"):
        adapt(asked, out)


def test_the_command_prints_what_was_kept(asked, tmp_path, new, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(new, "cymraeg.txt")
    words = ["adapt", asked.model, "--text", str(new), "--out", "out", "--tokens", "4k", "--no-vocabulary"]
    shown = CliRunner().invoke(app, words, env={"COLUMNS": "250"})
    assert shown.exit_code == 0, (shown.output, shown.exception)
    assert "bits per byte of hidden words" in shown.output
    assert "cym_Latn" in shown.output
    assert "no text is replayed (--replay)" in shown.output
    shown = CliRunner().invoke(app, [*words, "--trim"])
    assert "leave out --trim" in str(shown.exception)


def test_text_at_a_url_is_read_with_its_credential_which_is_kept_nowhere(asked, tmp_path, new):
    url = "memory://user:SECRET@host/cym_Latn.jsonl"
    fsspec.filesystem("memory").pipe("/user:SECRET@host/cym_Latn.jsonl", new.read_bytes())
    mine = replace(asked, text=(url,), replay=(), watch=(), tokens=2_000)
    adapt(mine, tmp_path / "out")
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or b"SECRET@" not in path.read_bytes() or path.suffix == ".parquet"
    asking.refuse_other(mine, tmp_path / "out")
