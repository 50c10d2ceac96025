"""Extension saves tokens where it was learnt, gives every text back, and leaves other texts the ids they had."""

import json

import families
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some

from tessera.huggingface import hub
from tessera.tokenizer.tokenizer import Tokenizer
from tessera.vocabulary.entries import Entries, write
from tessera.vocabulary.extend import extend
from tessera.vocabulary.initialize import company, sparsemax
from tessera.vocabulary.pieces import learn
from tessera.vocabulary.texts import Texts

pytest.importorskip("django")
pytest.importorskip("polib")
each_family = pytest.mark.parametrize("family", families.FAMILIES)


def new_text() -> Texts:
    found = families.texts(new=True)
    held_out = {k: v[::5] for k, v in found.items()}
    return Texts({k: [text for text in v if text not in held_out[k]] for k, v in found.items()}, held_out)


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    """The tokenizer of a family and the same with tokens of two more languages: (old, new, what was learnt)."""
    made = {}

    def of(family: str):
        if family not in made:
            old = Tokenizer.load(families.write_tokenizer(family, tmp_path_factory.mktemp(family)))
            found = Entries.of(old)
            learnt = learn(found, [text for texts in new_text().used.values() for text in texts], 200)
            folder = families.write_tokenizer(family, tmp_path_factory.mktemp(family))
            write(found, learnt.definition, learnt.ids(old.vocab_size), folder)
            made[family] = old, Tokenizer.load(folder), learnt
        return made[family]

    return of


@each_family
def test_new_languages_need_fewer_tokens(extended, family):
    old, new, learnt = extended(family)
    assert 100 < len(learnt.pieces) <= 200
    assert new.vocab_size == old.vocab_size + len(learnt.pieces)
    for language, texts in new_text().held_out.items():
        before, after = (sum(map(len, tokenizer.encode_plain(texts))) for tokenizer in (old, new))
        written = old.unknown_id is None or not any(old.unknown_id in ids for ids in old.encode_plain(texts))
        assert after < 0.9 * before or not written, language
        if new.unknown_id is not None:
            lost = [sum(int((ids == t.unknown_id).sum()) for ids in t.encode_plain(texts)) for t in (old, new)]
            assert lost[1] <= lost[0]


@each_family
def test_old_tokens_keep_their_names_and_roles(extended, family):
    old, new, learnt = extended(family)
    ids = learnt.ids(old.vocab_size)
    assert all(new.token(ids[i]) == old.token(i) for i in range(old.vocab_size))
    assert [ids[i] for i in old.special_ids] == [*new.special_ids]
    assert [[ids[i] for i in side] for side in old.template] == [[*side] for side in new.template]
    for role in ("mask_id", "bos_id", "eos_id", "pad_id"):
        assert ids[getattr(old, role)] == getattr(new, role)


@each_family
def test_texts_of_twelve_languages_come_back_as_they_did(extended, family):
    old, new, _ = extended(family)
    for language, texts in {**families.texts(), **families.texts(new=True)}.items():
        for text in texts:
            was, now = (tokenizer.encode_plain([text])[0] for tokenizer in (old, new))
            if old.unknown_id is None or old.unknown_id not in was:
                assert new.decode(now) == old.decode(was), language


@each_family
def test_a_text_without_a_new_piece_has_the_ids_that_it_had(extended, family):
    old, new, learnt = extended(family)
    fresh = range(learnt.first, learnt.first + len(learnt.pieces))
    same = 0
    for text in families.every_text():
        was, now = (tokenizer.encode_plain([text])[0] for tokenizer in (old, new))
        if not any(i in fresh for i in now):
            assert [learnt.ids(old.vocab_size)[i] for i in was.tolist()] == now.tolist()
            same += 1
    assert same > 700


@pytest.mark.parametrize("family", ["gpt2", "llama3", "qwen"])
def test_continued_merges_only_join_what_lay_side_by_side(extended, family):
    old, new, learnt = extended(family)
    back = {now: was for was, now in learnt.ids(old.vocab_size).items()}
    parts = {learnt.first + n: list(old_ids) for n, old_ids in enumerate(learnt.parts)}
    joined = 0
    for text in families.texts(new=True)["cym_Latn"]:
        was, now = (tokenizer.encode_plain([text])[0].tolist() for tokenizer in (old, new))
        spread = [i for token in now for i in ([back[token]] if token in back else parts[token])]
        joined += len(now) < len(was)
        assert spread == was or family == "llama3"  # whole words of its vocabulary are not merged
    assert joined > 100


@each_family
@settings(max_examples=60)
@given(text=some.text(max_size=40))
def test_any_text_comes_back_as_it_did(extended, family, text):
    old, new, _ = extended(family)
    was, now = (tokenizer.encode_plain([text])[0] for tokenizer in (old, new))
    if old.unknown_id not in was:
        assert new.decode(now) == old.decode(was)


FOLDERS = {
    "mmbert": lambda place: families.write_ours(place, "gemma", "mmbert"),
    "eurobert, untied": lambda place: families.write_ours(place, "llama3", "eurobert"),
    "bert": lambda place: families.write_theirs(place, "bert", "BertForMaskedLM"),
    "xlmr, classes": lambda place: families.write_theirs(
        place, "xlmr", "XLMRobertaForSequenceClassification", num_labels=3
    ),
}


@pytest.mark.parametrize("init", ["mean", "focus"])
@pytest.mark.parametrize("which", FOLDERS)
def test_an_extended_folder_loads_and_its_old_rows_are_what_they_were(tmp_path, which, init):
    import transformers

    old = FOLDERS[which](tmp_path / "old")
    known = Texts({"deu_Latn": families.texts()["deu_Latn"][30:]}, {"deu_Latn": families.texts()["deu_Latn"][:30]})
    done = extend(old, new_text(), tmp_path / "new", 100, init, watched=known)
    name = json.loads((tmp_path / "new" / "config.json").read_text())["architectures"][0]
    kind = getattr(transformers, name)
    (a, _), (b, told) = (kind.from_pretrained(tmp_path / n, output_loading_info=True) for n in ("old", "new"))
    assert not told["missing_keys"]
    rows = np.array(json.loads((tmp_path / "new" / "vocabulary.json").read_text())["rows"])
    assert (rows == -1).sum() == len(done.pieces) > 50
    kept = torch.from_numpy(np.flatnonzero(rows >= 0))
    weights = b.get_input_embeddings().weight
    assert torch.equal(weights[kept], a.get_input_embeddings().weight[torch.from_numpy(rows)[kept]])
    assert weights.isfinite().all()
    assert weights.shape[0] == done.rows[1] == b.config.vocab_size
    assert {row.language: row.new for row in done.change.languages} == {
        "cym_Latn": True, "deu_Latn": False, "hye_Armn": True,
    }  # fmt: skip
    assert "arXiv:2305.14481" in (tmp_path / "new" / "README.md").read_text() or init == "mean"


def test_a_new_row_is_the_mean_of_its_pieces_in_embedding_decoder_and_bias(tmp_path):
    old = families.write_ours(tmp_path / "old", "gpt2", "mmbert", tie_word_embeddings=False)
    extend(old, new_text(), tmp_path / "new", 50)
    a, b = hub.load(old), hub.load(tmp_path / "new")
    found = Entries.of(Tokenizer.load(old))
    learnt = learn(found, [text for texts in new_text().used.values() for text in texts], 50)
    for n, parts in enumerate(learnt.parts[:20]):
        for was, now in (
            (a.encoder.embedding.weight, b.encoder.embedding.weight),
            (a.decoder_weight, b.decoder_weight),
            (a.decoder_bias, b.decoder_bias),
        ):
            assert torch.allclose(now[learnt.first + n], was[list(parts)].mean(0), atol=1e-6)


def test_sparsemax_is_a_share_and_leaves_most_out():
    weights = sparsemax(np.array([0.9, 0.1, 0.8, -0.5]))
    assert weights.sum() == pytest.approx(1)
    assert weights.tolist() == pytest.approx([0.55, 0, 0.45, 0])


def test_tokens_in_the_same_company_are_alike():
    rng = np.random.default_rng(0)
    lines = [
        np.array([rng.integers(0, 2) + 10 * k, 2 + 10 * k, 3 + 10 * k, 4 + 10 * k]) for k in (0, 1) for _ in range(300)
    ]
    found = company([line.astype(np.int32) for line in lines])
    assert found[0] @ found[1] > 0.9
    assert found[0] @ found[10] < 0.2


def test_what_cannot_be_learnt_is_refused(tmp_path):
    old = families.write_ours(tmp_path / "old", "gpt2")
    with pytest.raises(ValueError, match="tokens is 0; give how many are to be added"):
        extend(old, new_text(), tmp_path / "new", 0)
    with pytest.raises(ValueError, match="the text holds no piece that comes twice"):
        extend(old, Texts({"eng_Latn": ["a"]}, {"eng_Latn": ["b"]}), tmp_path / "new", 10)
    assert not (tmp_path / "new").exists()
