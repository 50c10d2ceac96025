"""An embedding model is adapted by plain text: new pieces find their place, and all other text stays as it was."""

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from test_adapt import CYM, welsh
from typer.testing import CliRunner
from whole_run import WORDS, Dies, write

from tessera.adapt import passages
from tessera.adapt.adapt import adapt
from tessera.adapt.asked import AdaptError, Asked
from tessera.cli import app
from tessera.huggingface.hf_files import find_model
from tessera.inference.encoder import Encoder
from tessera.tokenizer.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def new(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("new") / "cym_Latn.jsonl"
    write(path, [{"text": text} for text in welsh(60)])
    return path


@pytest.fixture(scope="module")
def translations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Welsh, word for word, of what the model of the run has read."""
    english = [*WORDS["eng_Latn"], "here"]
    rng, rows = random.Random(1), []
    for _ in range(150):
        chosen = [rng.randrange(len(CYM)) for _ in range(rng.randint(4, 9))]
        sides = {"src": " ".join(CYM[n] for n in chosen), "tgt": " ".join(english[n] for n in chosen)}
        rows.append({**sides, "src_lang": "cym_Latn", "tgt_lang": "eng_Latn"})
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    write(path, rows)
    return path


@pytest.fixture(scope="module")
def asked(finished: Path, corpus: Path, new: Path, tmp_path_factory: pytest.TempPathFactory) -> Asked:
    model = tmp_path_factory.mktemp("embedder") / "vectors"
    Encoder.from_pretrained(find_model(finished / "merged" / "final")).save(model, prompts={"passage": "house: "})
    return Asked(
        model=str(model), text=(str(new),), replay=(str(corpus / "web" / "eng_Latn.jsonl"),),
        watch=(str(corpus / "web" / "ell_Grek.jsonl"),), extend=40, tokens=4_000, peak=5e-3,
    )  # fmt: skip


@pytest.fixture(scope="module")
def done(asked: Asked, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("adapted") / "cym"
    adapt(asked, out)
    return out


def changed(asked: Asked, **more: object) -> Asked:
    return Asked(**{**{key: getattr(asked, key) for key in asked.__slots__}, **more})


def test_new_pieces_find_their_place_and_other_text_keeps_its_vectors_bit_for_bit(done, asked):
    before, extended, after = (
        Encoder.from_pretrained(folder, dtype="float32") for folder in (asked.model, done / "extended", done / "final")
    )
    old, new = (Tokenizer.load(folder) for folder in (asked.model, done / "final"))
    assert old.vocab_size < new.vocab_size <= old.vocab_size + 40
    texts = [text[:48] for text in welsh(20, seed=9)]
    assert sum(map(len, new.encode_plain(texts))) < 0.8 * sum(map(len, old.encode_plain(texts)))
    due = before.encode_document(texts)
    far, near = ((due * model.encode_document(texts)).sum(1).mean() for model in (extended, after))
    assert near > far
    greek = ["το σπίτι και το ποτάμι", "ναι"]
    np.testing.assert_array_equal(before.encode(greek, batch_invariant=True), after.encode(greek, batch_invariant=True))
    assert (done / "final").resolve() == done / "placed"
    found = json.loads((done / "retention.json").read_text())["languages"]
    assert [(row["language"], row["role"]) for row in found] == [
        ("cym_Latn", "new"), ("eng_Latn", "replay"), ("ell_Grek", "watch"),
    ]  # fmt: skip
    cosine = found[0]["cosine"]
    assert list(cosine) == ["extended", "placed"]
    assert cosine["placed"][0] > cosine["extended"][0]
    assert found[2]["cosine"]["placed"][0] == pytest.approx(1)
    assert found[0]["tokens"][1] < found[0]["tokens"][0]


def test_the_folder_loads_in_sentence_transformers_with_equal_vectors(done):
    from sentence_transformers import SentenceTransformer

    theirs = SentenceTransformer(str(done / "final"), device="cpu", local_files_only=True).float()
    texts = welsh(3)
    mine = Encoder.from_pretrained(done / "final", dtype="float32").encode(texts)
    np.testing.assert_allclose(theirs.encode(texts), mine, atol=1e-5)


def test_the_same_command_again_makes_nothing_twice_and_another_one_is_refused_by_name(done, asked):
    files = {path: path.stat().st_mtime_ns for path in done.rglob("*.safetensors")}
    adapt(asked, done)
    assert {path: path.stat().st_mtime_ns for path in done.rglob("*.safetensors")} == files
    with pytest.raises(AdaptError, match="extend: 40 -> 41"):
        adapt(changed(asked, extend=41), done)


@pytest.mark.parametrize("at", [9, 14])
def test_an_adaptation_that_dies_ends_with_the_same_bytes(done, asked, tmp_path, at):
    with pytest.raises(KeyboardInterrupt):
        adapt(asked, tmp_path / "cym", Dies(at))
    adapt(asked, tmp_path / "cym")
    same = "model.safetensors"
    assert (tmp_path / "cym" / "final" / same).read_bytes() == (done / "final" / same).read_bytes()


def test_translations_teach_what_plain_text_does_not(asked, translations, tmp_path):
    found = adapt(changed(asked, pairs=(str(translations),), watch=(), tokens=20_000, peak=3e-3), tmp_path / "out")
    row = found.rows[0]
    assert list(row.cosine) == ["extended", "placed", "taught"]
    assert row.found["taught"] > row.found["placed"]
    columns, rows = found.table[1:]
    assert "translations found" in columns
    assert rows[0][columns.index("translations found")].count("->") == 3


def test_translations_that_say_no_language_are_in_the_new_one_if_there_is_one(tmp_path):
    write(tmp_path / "pairs.jsonl", [{"source": f"{n} houses", "target": f"{n} tŷ"} for n in range(200)])
    learn, held = passages.translations([str(tmp_path / "pairs.jsonl")], {"cym_Latn"})
    assert len(learn) + len(held) == 200
    assert {one.language for one in [*learn, *held]} == {"cym_Latn"}
    with pytest.raises(AdaptError, match="say which of bre_Latn, cym_Latn a row is in"):
        passages.translations([str(tmp_path / "pairs.jsonl")], {"cym_Latn", "bre_Latn"})


def test_what_cannot_be_taught_is_refused_before_anything_is_written(asked, new, translations, tmp_path):
    out = tmp_path / "out"

    def refuse(match: str, **more: object) -> None:
        with pytest.raises(ValueError, match=match):
            adapt(changed(asked, **more), out)
        assert not out.exists()

    refuse(r"has nothing to learn from this: no pieces are added.*--extend 1000.*--pairs FILE", extend=0)
    refuse(r"average is 0\.7, but .* makes vectors", average=0.7)
    refuse("rows have a text and no translation", pairs=(str(new),))
    refuse("no task is called 'sib2000'", tasks=("sib2000",))


def test_the_command_prints_what_was_kept(asked, done):
    words = ["adapt", asked.model, "--text", asked.text[0], "--replay", asked.replay[0], "--watch", asked.watch[0],
             "--extend", "40", "--tokens", "4k", "--peak", "5e-3", "--out", str(done)]  # fmt: skip
    shown = CliRunner().invoke(app, words, env={"COLUMNS": "250"})
    assert shown.exit_code == 0, (shown.output, shown.exception)
    assert "cosine to the vectors of the model as it was" in shown.output
    assert "cym_Latn" in shown.output
    assert "recipe" not in shown.output


@pytest.mark.parametrize("name", ["look.json", "retention.json", "extended/vocabulary.json"])
def test_a_file_of_another_shape_is_named(asked, done, tmp_path, name):
    out = tmp_path / "cym"
    shutil.copytree(done, out, symlinks=True)
    (out / name).write_text(json.dumps({"of": 3, "extend": [], "rows": "many", "languages": {}}))
    for seal in (out / f"{name}.sha256", (out / name).with_name("manifest.json")):
        seal.unlink(missing_ok=True)
    if name.startswith("extended"):
        shutil.rmtree(out / "placed")
    with pytest.raises(ValueError, match=rf"{Path(name).name}: "):
        adapt(asked, out)
