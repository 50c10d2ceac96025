"""No text makes a special token, whatever the model of the tokenizer, and ordinary text keeps its ids."""

import json
import pickle
import unicodedata

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from tessera.tokenizer.templates import encode_words, frame
from tessera.tokenizer.tokenizer import Tokenizer

BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
XLMR = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
LINES = ["the cat sat on a mat < > [ ] | / mask cls sep pad unk s", "Η γάτα κάθισε", "<mas mask> [CL LS]"] * 20
LETTERS = sorted({*"".join(LINES), *"".join(BERT + XLMR), *"0123456789:"} - {" "})


def merges_to(*names: str) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """A vocabulary of letters and merges that build each name up from the left."""
    steps = [(name[:n], name[n]) for name in names for n in range(1, len(name))]
    tokens = [*names, "▁", *LETTERS, *(a + b for a, b in steps)]
    return {token: i for i, token in enumerate(dict.fromkeys(tokens))}, list(dict.fromkeys(steps))


def word_level() -> tokenizers.Tokenizer:
    words = {word: i for i, word in enumerate([*BERT, "the", "cat", "sat"])}
    inner = tokenizers.Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return inner


def word_piece() -> tokenizers.Tokenizer:
    pieces = [*BERT, *LETTERS, *("##" + letter for letter in LETTERS), "##at"]
    inner = tokenizers.Tokenizer(models.WordPiece({p: i for i, p in enumerate(pieces)}, unk_token="[UNK]"))
    inner.normalizer = normalizers.NFKC()
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return inner


def byte_bpe(*, ignore_merges: bool) -> tokenizers.Tokenizer:
    inner = tokenizers.Tokenizer(models.BPE(ignore_merges=ignore_merges))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=XLMR, initial_alphabet=alphabet, show_progress=False, limit_alphabet=300
    )
    inner.train_from_iterator(LINES, trainer)
    return inner


def byte_bpe_that_splits_nothing() -> tokenizers.Tokenizer:
    inner = byte_bpe(ignore_merges=True)
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(" ", "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    return inner


def sentencepiece_bpe() -> tokenizers.Tokenizer:
    vocabulary, merges = merges_to(*XLMR)
    vocabulary |= {f"<0x{byte:02X}>": len(vocabulary) + byte for byte in range(256)}
    model = models.BPE(vocabulary, merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True)
    inner = tokenizers.Tokenizer(model)
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    inner.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return inner


def unigram() -> tokenizers.Tokenizer:
    pieces = [(name, 0.0) for name in XLMR] + [(letter, -5.0) for letter in ("▁", *LETTERS)]
    inner = tokenizers.Tokenizer(models.Unigram(pieces, unk_id=3, byte_fallback=False))
    inner.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    return inner


MADE = {
    "WordLevel": (word_level, BERT),
    "WordPiece": (word_piece, BERT),
    "byte-level BPE": (lambda: byte_bpe(ignore_merges=False), XLMR),
    "byte-level BPE, ignore_merges": (lambda: byte_bpe(ignore_merges=True), XLMR),
    "byte-level BPE, whole words": (byte_bpe_that_splits_nothing, XLMR),
    "BPE with byte fallback": (sentencepiece_bpe, XLMR),
    "Unigram": (unigram, XLMR),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    found = {}
    for name, (make, special) in MADE.items():
        inner = make()
        inner.add_special_tokens(special)
        inner.add_tokens([tokenizers.AddedToken("\n\n", normalized=False)])
        begin, end = (special[2], special[3]) if special is BERT else (special[0], special[2])
        inner.post_processor = processors.TemplateProcessing(
            single=f"{begin} $A {end}", pair=f"{begin} $A {end} $B {end}",
            special_tokens=[(token, inner.token_to_id(token)) for token in (begin, end)],
        )  # fmt: skip
        folder = tmp_path_factory.mktemp("tokenizer")
        inner.save(str(folder / "tokenizer.json"))
        found[name] = Tokenizer.load(folder)
    return found


def forms(name: str) -> list[str]:
    wide = "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in name)
    return [name, name.lower(), name.upper(), wide, unicodedata.normalize("NFD", name), f"▁{name}", f"##{name}"]


NAMES = [form for name in {*BERT, *XLMR} for form in forms(name)]
PARTS = st.one_of(
    st.sampled_from([*NAMES, " ", "\t", "\n\n", "\u3000", "\0", "cat", "the", "▁", "<", ">", "[", "mask", "\u200b"]),
    st.text(max_size=4),
)
TEXT = st.lists(PARTS, max_size=8).map("".join)


def forbidden(tokenizer: Tokenizer) -> set[int]:
    return {*tokenizer.special_ids} - {tokenizer.unknown_id}


@pytest.mark.parametrize("name", MADE)
@given(text=TEXT)
def test_no_special_token_comes_out_of_a_text(made, name, text):
    tokenizer = made[name]
    (plain,), (whole,) = tokenizer.encode_plain([text]), tokenizer.encode_batch([text])
    before, after = tokenizer.template
    assert whole.tolist() == [*before, *plain.tolist(), *after]
    assert forbidden(tokenizer).isdisjoint(plain.tolist())
    ((ids, offsets),) = tokenizer.encode_offsets([text])
    assert ids.tolist() == plain.tolist()
    assert offsets.shape == (len(plain), 2)


@pytest.mark.parametrize("name", MADE)
@given(text=TEXT)
def test_text_without_a_special_token_has_the_ids_of_the_library(made, name, text):
    """Those are transformers' own: its fast tokenizers are the library."""
    tokenizer = made[name]
    theirs = tokenizers.Tokenizer.from_str(json.dumps(tokenizer.definition)).encode(text).ids
    inside = theirs[len(tokenizer.template[0]) : len(theirs) - len(tokenizer.template[1])]
    if {*tokenizer.special_ids, tokenizer.unknown_id}.isdisjoint(inside):
        assert tokenizer.encode_batch([text])[0].tolist() == theirs


@pytest.mark.parametrize("name", MADE)
@given(words=st.lists(PARTS.filter(bool), min_size=1, max_size=5))
def test_no_special_token_comes_out_of_words(made, name, words):
    tokenizer = made[name]
    if tokenizer.unknown_id is None:
        words = [word for word in words if len(tokenizer.encode_plain([word])[0])] or ["a"]
    for spaced in (True, False):
        ids, _ = encode_words(tokenizer, words, spaced)
        assert forbidden(tokenizer).isdisjoint(ids.tolist())


@pytest.mark.parametrize("name", MADE)
def test_a_name_is_written_by_what_else_the_vocabulary_has(made, name):
    tokenizer, special = made[name], MADE[name][1]
    for token in special:
        ids = tokenizer.encode_plain([f"the {token} cat"])[0].tolist()
        assert {*tokenizer.special_ids}.isdisjoint(ids) or (name == "WordLevel" and tokenizer.unknown_id in ids)
        assert tokenizer.encode_plain(["the"])[0].tolist() == ids[: len(tokenizer.encode_plain(["the"])[0])]


def test_added_tokens_that_are_no_special_ones_keep_their_ids_beside_a_name(made):
    for tokenizer in made.values():
        added = tokenizer.vocab_size - 1
        assert tokenizer.token(added) == "\n\n"
        for name in (tokenizer.token(tokenizer.mask_id), tokenizer.token(tokenizer.bos_id)):
            assert added in tokenizer.encode_plain([f"{name} a\n\nb {name}"])[0]


def test_a_role_that_is_no_special_token_of_the_file_is_one_here(tmp_path):
    inner = word_level()
    inner.add_tokens(["[MASK]", "<hole>"])
    inner.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"mask_token": "<hole>"}')
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.token(tokenizer.mask_id) == "<hole>"
    assert tokenizer.mask_id not in tokenizer.encode_plain(["the <hole> cat the<hole>cat"])[0]


def test_a_pickled_tokenizer_gives_the_same_ids(made):
    for tokenizer in made.values():
        texts = ["the [CLS] cat <s> </s>", "sat"]
        again = pickle.loads(pickle.dumps(tokenizer))
        assert all(map(np.array_equal, again.encode_batch(texts), tokenizer.encode_batch(texts)))


# ------------------------------------------------------------------------------------------------------- templates


def cyrillic(folder, post_processor=None):
    inner = tokenizers.Tokenizer(models.BPE({"<s>": 0, "</s>": 1, "<mask>": 2, "к": 3, "о": 4, "т": 5}, []))
    inner.add_special_tokens(["<s>", "</s>", "<mask>"])
    inner.normalizer = normalizers.Replace(tokenizers.Regex("[a-z]"), "")
    inner.post_processor = post_processor or processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B:1 </s>:1", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    inner.save(str(folder / "tokenizer.json"))
    return folder


@pytest.mark.parametrize(
    "kind",
    [None, processors.RobertaProcessing(("</s>", 1), ("<s>", 0)), processors.BertProcessing(("</s>", 1), ("<s>", 0))],
)
def test_a_template_is_found_where_the_tokenizer_cannot_write_latin_letters(tmp_path, kind):
    tokenizer = Tokenizer.load(cyrillic(tmp_path, kind))
    assert tokenizer.template == ((0,), (1,))
    between = (1,) if isinstance(kind, processors.BertProcessing) else (1, 1)
    assert frame(tokenizer) == ((0,), between, (1,))
    assert [ids.tolist() for ids in tokenizer.encode_batch(["кот", "", "abc"])] == [[0, 3, 4, 5, 1], [0, 1], [0, 1]]


def test_a_template_without_place_for_the_text_or_with_ids_that_are_no_tokens_is_refused(tmp_path):
    path = cyrillic(tmp_path) / "tokenizer.json"
    whole = json.loads(path.read_text())
    for change, says in (
        (lambda own: own["single"].append({"Sequence": {"id": "A", "type_id": 0}}), "holds the text 2 times"),
        (lambda own: own["special_tokens"]["<s>"].update(ids=[99]), "there is no token 99"),
    ):
        changed = json.loads(json.dumps(whole))
        change(changed["post_processor"])
        path.write_text(json.dumps(changed))
        with pytest.raises(ValueError, match=f"tokenizer.json: post_processor.*{says}"):
            Tokenizer.load(tmp_path)


# ------------------------------------------------------------------------------------------------------ the file itself


def test_a_tokenizer_is_used_by_the_name_of_its_file(tmp_path, made):
    named, beside = made["WordLevel"], made["Unigram"]
    (tmp_path / "my-bpe.json").write_bytes(named.path.read_bytes())
    (tmp_path / "tokenizer.json").write_bytes(beside.path.read_bytes())
    found = Tokenizer.load(tmp_path / "my-bpe.json")
    assert found.fingerprint == named.fingerprint
    copy = tmp_path / "copy"
    copy.mkdir()
    found.copy_to(copy)
    assert [file.name for file in copy.iterdir()] == ["tokenizer.json"]
    assert Tokenizer.load(copy).fingerprint == named.fingerprint


BAD = {
    "a prefix that cuts letters": {
        "type": "BPE", "vocab": {"é": 0, "a": 1}, "merges": ["é é"], "continuing_subword_prefix": "a",
    },
    "a prefix longer than the piece": {
        "type": "BPE", "vocab": {"a": 0, "##a": 1}, "merges": [["a", "a"]], "continuing_subword_prefix": "####",
    },
    "an id of billions": {"type": "WordPiece", "vocab": {"a": 4294967295}, "unk_token": "a"},
    "no vocabulary": {"type": "Unigram", "unk_id": 0, "vocab": []},
    "a score that is none": {"type": "Unigram", "unk_id": 0, "vocab": [["a", None]]},
}  # fmt: skip


@pytest.mark.parametrize("model", BAD.values(), ids=BAD)
def test_what_would_end_the_process_or_fill_the_memory_is_refused_by_name(tmp_path, model):
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({"version": "1.0", "added_tokens": [], "model": model}))
    with pytest.raises(ValueError, match=r"tokenizer\.json"):
        Tokenizer.load(path)


def test_an_unknown_token_that_is_no_token_is_an_error_that_names_the_file(tmp_path):
    inner = tokenizers.Tokenizer(models.WordPiece({t: i for i, t in enumerate(["<s>", "</s>", "<mask>", "a"])}))
    inner.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.load(tmp_path)
    with pytest.raises(ValueError, match=r"tokenizer.json: cannot encode a text: .*\[UNK\]"):
        tokenizer.encode_plain(["b"])


def test_engines_agree_on_names_of_special_tokens(tmp_path, made):
    pytest.importorskip("gigatoken")
    texts = [f"the {name} cat{name}" for name in NAMES]
    for name in ("byte-level BPE", "byte-level BPE, ignore_merges"):
        try:
            fast = Tokenizer.load(made[name].path, "gigatoken")
        except ValueError:
            continue  # refused: it cannot read the file, or gives other ids
        assert all(map(np.array_equal, fast.encode_plain(texts), made[name].encode_plain(texts)))
