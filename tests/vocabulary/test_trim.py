"""Trimming keeps what it says it keeps, to the last bit, for every family of tokenizers and every head."""

import json
from pathlib import Path

import families
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some

from tessera.adapt.sample import read_sample
from tessera.model.task_config import TaskConfig
from tessera.tokenizer.tokenizer import Tokenizer
from tessera.vocabulary.entries import Entries, probabilities, renumbered, write
from tessera.vocabulary.merges import Merges, pairs
from tessera.vocabulary.proof import Checked
from tessera.vocabulary.texts import Texts, read_texts
from tessera.vocabulary.trim import keep, trim
from tessera.vocabulary.usage import Rule, count

pytest.importorskip("django")
pytest.importorskip("polib")
CHECK = Checked(documents=60, states=6, speed=False)
each_family = pytest.mark.parametrize("family", families.FAMILIES)


def split(languages=families.KEPT) -> Texts:
    found = {language: families.texts()[language] for language in languages}
    return Texts({k: v[20:] for k, v in found.items()}, {k: v[:20] for k, v in found.items()})


@pytest.fixture(scope="module")
def trimmed(tmp_path_factory):
    """The tokenizer of a family and the same with the tokens of three languages: (old, new, old id -> new)."""
    made: dict[str, tuple[Tokenizer, Tokenizer, dict[int, int]]] = {}

    def of(family: str):
        if family not in made:
            old = Tokenizer.load(families.write_tokenizer(family, tmp_path_factory.mktemp(family)))
            found = Entries.of(old)
            kept = keep(found, count(old, split().used), Rule(coverage=0.98))
            ids = {int(was): new for new, was in enumerate(kept)}
            folder = families.write_tokenizer(family, tmp_path_factory.mktemp(family))
            write(found, renumbered(old.definition, ids), ids, folder)
            made[family] = old, Tokenizer.load(folder), ids
        return made[family]

    return of


@each_family
def test_a_trimmed_tokenizer_is_smaller_and_keeps_every_role(trimmed, family):
    old, new, ids = trimmed(family)
    assert new.vocab_size == len(ids) < 0.8 * old.vocab_size
    for role in ("mask_id", "bos_id", "eos_id", "pad_id"):
        assert old.token(getattr(old, role)) == new.token(getattr(new, role))
    assert [old.token(i) for i in old.special_ids] == [new.token(i) for i in new.special_ids]
    assert [[ids[i] for i in side] for side in old.template] == [[*side] for side in new.template]
    assert all(old.token(i) == new.token(ids[i]) for i in ids)


@each_family
def test_ids_map_one_to_one_wherever_all_pieces_are_kept(trimmed, family):
    old, new, ids = trimmed(family)
    kept = 0
    for before, after in zip(
        old.encode_batch(families.every_text()), new.encode_batch(families.every_text()), strict=True
    ):
        if all(i in ids for i in before) and old.unknown_id not in before:
            kept += 1
            assert [ids[i] for i in before] == after.tolist()
    assert kept > 150


@each_family
def test_texts_of_all_ten_scripts_come_back_as_they_did(trimmed, family):
    old, new, _ = trimmed(family)
    for language, texts in families.texts().items():
        for text in texts:
            was, now = (tokenizer.encode_plain([text])[0] for tokenizer in (old, new))
            if new.unknown_id is None or new.unknown_id not in now:
                assert new.decode(now) == old.decode(was), language
    if new.unknown_id is None or family == "gemma":
        assert not any(new.unknown_id in ids for ids in new.encode_plain(families.every_text()))


@each_family
def test_no_text_that_was_counted_gets_an_unknown_piece_it_did_not_have(trimmed, family):
    old, new, _ = trimmed(family)
    if old.unknown_id is None:
        pytest.skip("writes everything")
    for some_texts in split().used.values():
        before, after = (tokenizer.encode_plain(some_texts) for tokenizer in (old, new))
        assert sum((ids == new.unknown_id).sum() for ids in after) <= sum(
            (ids == old.unknown_id).sum() for ids in before
        )


@each_family
@settings(max_examples=60)
@given(text=some.text(max_size=40))
def test_any_text_comes_back_as_it_did(trimmed, family, text):
    old, new, ids = trimmed(family)
    was, now = (tokenizer.encode_plain([text])[0] for tokenizer in (old, new))
    if old.unknown_id not in was and new.unknown_id not in now:
        assert new.decode(now) == old.decode(was)
        if all(i in ids for i in was):
            assert [ids[i] for i in was] == now.tolist()


@pytest.mark.parametrize("family", ["gpt2", "llama3", "qwen", "gemma"])
def test_every_kept_token_can_still_be_put_together(trimmed, family):
    old, new, _ = trimmed(family)
    merges, vocabulary = Merges(old.definition["model"]), new.definition["model"]["vocab"]
    for token in vocabulary:
        assert {part for part in merges.parts(token) if part in old.definition["model"]["vocab"]} <= set(vocabulary)
    assert set(pairs(new.definition["model"])) <= set(pairs(old.definition["model"]))


@each_family
def test_a_whole_script_keeps_every_text_in_it(tmp_path, family):
    old = Tokenizer.load(families.write_tokenizer(family, tmp_path))
    found = Entries.of(old)
    kept = set(keep(found, count(old, {"deu_Latn": families.texts()["deu_Latn"]}), Rule(scripts=("Taml",))).tolist())
    used = {int(i) for ids in old.encode_plain(families.texts()["tam_Taml"]) for i in ids}
    tamil = {i for i in used if any("\u0b80" <= letter <= "\u0bff" for letter in old.decode([i]))}
    assert len(tamil) > 15
    assert tamil <= kept
    assert len(kept) < 0.8 * old.vocab_size


def test_the_parts_of_a_token_are_what_merges_make_on_the_way_to_it():
    model = {"vocab": {}, "merges": ["a b", "c d", "ab cd", "b c"]}
    assert Merges(model).parts("abcd") == {"a", "b", "c", "d", "ab", "cd", "abcd"}
    assert Merges(model).parts("bcd") == {"bcd"}  # c and d come first, and then b has nothing to go with
    assert Merges({"merges": [["a", "##b"]], "continuing_subword_prefix": "##"}).parts("ab") == {"a", "##b", "ab"}


# ----------------------------------------------------------------------------------------------------------- the models

TAGS = TaskConfig(kind="tag", labels=("O", "B", "I"))
CLASSES = TaskConfig(kind="classify", labels=("a", "b"))
FOLDERS = {
    "mmbert": lambda place: families.write_ours(place, "gemma", "mmbert"),
    "mmbert, untied": lambda place: families.write_ours(place, "gpt2", "mmbert", tie_word_embeddings=False),
    "eurobert": lambda place: families.write_ours(place, "llama3", "eurobert"),
    "eurobert, tied": lambda place: families.write_ours(place, "qwen", "eurobert", tie_word_embeddings=True),
    "mmbert, classes": lambda place: families.write_ours(place, "xlmr", "mmbert", CLASSES),
    "eurobert, tags": lambda place: families.write_ours(place, "bert", "eurobert", TAGS),
    "bert": lambda place: families.write_theirs(place, "bert", "BertForMaskedLM"),
    "bert, untied": lambda place: families.write_theirs(place, "bert", "BertForMaskedLM", tie_word_embeddings=False),
    "bert, classes": lambda place: families.write_theirs(place, "bert", "BertForSequenceClassification", num_labels=3),
    "bert alone": lambda place: families.write_theirs(place, "bert", "BertModel"),
    "xlmr": lambda place: families.write_theirs(place, "xlmr", "XLMRobertaForMaskedLM"),
    "xlmr, tags": lambda place: families.write_theirs(
        place, "xlmr", "XLMRobertaForTokenClassification", num_labels=4
    ),
}  # fmt: skip


def theirs(folder: Path):
    """The class of transformers that the folder names, and its tokenizer."""
    import transformers

    name = json.loads((folder / "config.json").read_text())["architectures"][0]
    model, told = getattr(transformers, name).from_pretrained(folder, output_loading_info=True)
    assert not told["missing_keys"]
    assert not told["mismatched_keys"]
    return model.eval(), transformers.AutoTokenizer.from_pretrained(folder)


@torch.no_grad()
def hidden(model, tokenizer, text: str) -> torch.Tensor:
    return model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True).hidden_states[-1]


@pytest.mark.parametrize("which", FOLDERS)
def test_a_trimmed_folder_computes_the_same_in_transformers_whatever_its_head(tmp_path, which):
    old = FOLDERS[which](tmp_path / "old")
    done = trim(old, split(), tmp_path / "new", Rule(coverage=0.995), check=CHECK)
    assert done.rows[1] < done.rows[0]
    assert done.proof.states >= 15
    assert (done.proof.logits is None) == (which == "bert alone")
    (a, a_tokens), (b, b_tokens) = theirs(old), theirs(tmp_path / "new")
    assert b.config.vocab_size == b.get_input_embeddings().weight.shape[0] == done.rows[1]
    for role in ("pad_token", "mask_token", "cls_token", "sep_token", "bos_token", "eos_token", "unk_token"):
        assert getattr(a_tokens, role) == getattr(b_tokens, role)
        assert (getattr(a.config, f"{role}_id", None) is None) == (getattr(b.config, f"{role}_id", None) is None)
    assert b.config.pad_token_id == b_tokens.pad_token_id or b_tokens.pad_token is None
    rows = json.loads((tmp_path / "new" / "vocabulary.json").read_text())["rows"]
    same = 0
    for text in split().held_out["deu_Latn"]:
        ids = a_tokens(text)["input_ids"]
        if set(ids) <= set(rows) and (a_tokens.unk_token_id not in ids):
            assert [rows[i] for i in b_tokens(text)["input_ids"]] == ids
            assert torch.equal(hidden(a, a_tokens, text), hidden(b, b_tokens, text))
            same += 1
    assert same > 5


def test_a_folder_of_sentence_transformers_keeps_its_pipeline_and_its_vectors(tmp_path):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer

    inside = families.write_theirs(tmp_path / "bert", "bert", "BertModel")
    torch.manual_seed(0)
    model = SentenceTransformer(
        modules=[Transformer(str(inside)), Pooling(24, "mean"), Dense(24, 16), Normalize()],
        prompts={"query": "Frage: "},
    )
    model.save(str(tmp_path / "old"), create_model_card=False)
    done = trim(tmp_path / "old", split(), tmp_path / "new", Rule(coverage=1.0), check=CHECK)
    assert done.proof.vectors >= 15
    old, new = (SentenceTransformer(str(tmp_path / name)) for name in ("old", "new"))
    assert new.prompts["query"] == "Frage: "
    assert len(new) == 4
    kept = split().used["deu_Latn"][:20]
    assert np.array_equal(old.encode(kept, prompt_name="query"), new.encode(kept, prompt_name="query"))


def test_the_card_says_what_was_proved_and_keeps_what_was_there(tmp_path):
    old = families.write_ours(tmp_path / "old", "gemma")
    (old / "README.md").write_text("---\nlicense: mit\n---\n# Mine\n")
    done = trim(old, split(), tmp_path / "new", Rule(size=900), check=CHECK)
    card = (tmp_path / "new" / "README.md").read_text()
    assert card.startswith("---\nlicense: mit\n---\n# Mine\n")
    assert "equal to the last bit" in card
    assert "| deu_Latn | 20 |" in card
    assert done.rows[1] <= 900
    assert len(json.loads((tmp_path / "new" / "vocabulary.json").read_text())["rows"]) == done.rows[1]


# ----------------------------------------------------------------------------------------------------------- the errors


def test_what_cannot_be_done_is_refused_before_anything_is_written(tmp_path):
    old = families.write_ours(tmp_path / "old", "gemma")
    with pytest.raises(
        ValueError,
        match=r"size is 200, but special .* bytes, letters, whole scripts and texts are \d+ tokens already",
    ):
        trim(old, split(), tmp_path / "new", Rule(size=200), check=CHECK)
    with pytest.raises(ValueError, match="rows are kept by one of coverage, min_count and size"):
        Rule(coverage=0.9, size=100)
    with pytest.raises(ValueError, match="script is 'Tamil'; give its ISO 15924 code"):
        trim(old, split(), tmp_path / "new", Rule(scripts=("Tamil",)), check=CHECK)
    with pytest.raises(ValueError, match="prior is given without size"):
        Rule(prior=0.3)
    with pytest.raises(ValueError, match="prior is -1; it is a weight"):
        Rule(size=900, prior=-1)
    with pytest.raises(ValueError, match="prior is of a Unigram vocabulary, this is BPE; leave it out"):
        trim(old, split(), tmp_path / "new", Rule(size=900, prior=0.3), check=CHECK)
    with pytest.raises(ValueError, match="coverage is 99; it is a share of the text"):
        Rule(coverage=99)
    config = json.loads((old / "config.json").read_text())
    (old / "config.json").write_text(json.dumps({**config, "vocab_size": 7}))
    with pytest.raises(ValueError, match=r"config.json says vocab_size 7, but the weights with a row for each token"):
        trim(old, split(), tmp_path / "new", check=CHECK)
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "mine.txt").write_text("x")
    with pytest.raises(FileExistsError, match="there already"):
        trim(old, split(), tmp_path / "new", check=CHECK)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["mine.txt"]


def test_a_folder_whose_proof_fails_is_not_written(tmp_path, monkeypatch):
    from tessera.vocabulary import tables

    old = families.write_ours(tmp_path / "old", "gemma")
    whole = tables.Rows.of
    monkeypatch.setattr(tables.Rows, "of", lambda self, table: whole(self, table).roll(1, 0))  # rows of other tokens
    with pytest.raises(ValueError, match="nothing was written: the hidden states of a document differ"):
        trim(old, split(), tmp_path / "new", check=CHECK)
    assert not (tmp_path / "new").exists()


def test_a_text_that_is_kept_whole_is_cut_as_it_was_however_rare_its_tokens(tmp_path):
    folder = families.write_theirs(tmp_path / "model", "xlmr", "XLMRobertaModel")
    rare = families.texts()["ell_Grek"][:40]
    done = trim(folder, split(), tmp_path / "out", Rule(coverage=0.9), whole=Texts({"ell_Grek": rare}), check=CHECK)
    old, new = Tokenizer.load(folder), Tokenizer.load(tmp_path / "out")
    for was, now in zip(old.encode_plain(rare), new.encode_plain(rare), strict=True):
        assert [old.token(i) for i in was] == [new.token(i) for i in now]
    without = trim(folder, split(), tmp_path / "less", Rule(coverage=0.9), check=CHECK)
    assert without.rows[1] < done.rows[1] < done.rows[0]


def test_a_prior_keeps_what_is_likely_by_the_vocabulary_itself_though_the_text_has_it_not():
    counts = {"a": np.array([0, 90, 6, 4, 0, 0])}
    own = np.array([0.0, 0.1, 0.0, 0.1, 0.6, 0.2])
    assert Rule(size=9).wanted(counts).tolist() == [1, 2, 3]
    assert Rule(size=9, prior=0.1).wanted(counts, own).tolist() == [1, 2, 4, 3, 5]  # 0.91, 0.06, 0.06, 0.05, 0.02
    assert Rule(size=9, prior=100).wanted(counts, own).tolist() == [4, 5, 1, 3, 2]


def test_the_probabilities_of_unigram_are_those_of_its_scores(tmp_path):
    old = Tokenizer.load(families.write_tokenizer("xlmr", tmp_path))
    found = Entries.of(old)
    own = probabilities(found)
    assert own.shape == (old.vocab_size,)
    assert own.sum() == pytest.approx(1)
    assert not own[list(found.added.values())].any()
    vocab = old.definition["model"]["vocab"]
    first, second = [i for i, (piece, _) in enumerate(vocab) if piece not in found.added][:2]
    assert np.log(own[first] / own[second]) == pytest.approx(vocab[first][1] - vocab[second][1])


def test_a_prior_brings_pieces_of_text_that_was_not_counted_and_the_proof_holds(tmp_path):
    folder = families.write_theirs(tmp_path / "model", "xlmr", "XLMRobertaModel")
    kept = {}
    for prior in (0.0, 3.0):
        done = trim(folder, split(), tmp_path / f"{prior}", Rule(size=900, prior=prior), check=CHECK)
        assert done.rows[1] <= 900
        kept[prior] = set(Entries.of(Tokenizer.load(tmp_path / f"{prior}")).ids)
    assert kept[0.0] != kept[3.0]
    assert "size 900, prior 3" in (tmp_path / "3.0" / "README.md").read_text(encoding="utf-8")


def test_a_language_that_is_lost_within_a_mixed_file_is_an_error_and_one_that_nobody_says_names_the_flag(tmp_path):
    rows = [{"text": f"tekstur {n}", "lang": "fo"} for n in range(9)]
    lost = [{"text": None, "lang": "is"}] * 3
    (tmp_path / "mixed.jsonl").write_text("\n".join(map(json.dumps, [*rows, *lost])))
    (tmp_path / "words.txt").write_text("eitt\ntvey\n")
    for reads in (read_texts, read_sample):
        with pytest.raises(ValueError, match=r"nothing is left of 1 languages: isl? \(3 x 'text' is null\)"):
            reads([str(tmp_path / "mixed.jsonl")])
    with pytest.raises(ValueError, match=r"no language .*words.txt, .*Here: give --language, as fao_Latn"):
        read_texts([str(tmp_path / "words.txt")])
    (tmp_path / "isl_Latn.txt").write_text("ein\ntveir\n")
    (tmp_path / "mixed.jsonl").write_text("\n".join(map(json.dumps, [*rows, {"text": None, "lang": "isl_Latn"}])))
    found = read_texts([str(tmp_path / "mixed.jsonl"), str(tmp_path / "isl_Latn.txt")])
    assert found.languages == ["fao", "isl_Latn"]
