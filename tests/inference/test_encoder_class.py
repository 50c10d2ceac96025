"""One class from texts to vectors: equal to transformers, the same in any company, clear about what it cannot do."""

import random
import sys
import threading

import numpy as np
import pytest
import tokenizers
import torch
from small_encoder import FAMILIES, LONGEST, TEXTS, small_model, write_model

from tessera import Encoder
from tessera.inference.sentence_folder import Pipeline
from tessera.inference.tokenize import TextTokenizer
from tessera.model.pooling import POOLINGS, Dense
from tessera.tokenizer.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {family: write_model(tmp_path_factory.mktemp(family), family) for family in FAMILIES}


@pytest.fixture(scope="module")
def encoders(folders):
    return {family: Encoder.from_pretrained(path, dtype="float32") for family, path in folders.items()}


@pytest.fixture(scope="module")
def encoder(encoders):
    return encoders["mmbert"]


@pytest.fixture(scope="module")
def theirs(folders):
    """(model, tokenizer) of transformers for each family."""
    transformers = pytest.importorskip("transformers")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    found = {}
    for family, path in folders.items():
        model = transformers.AutoModel.from_pretrained(path, dtype=torch.float32).eval()
        found[family] = model, transformers.AutoTokenizer.from_pretrained(path)
    return found


# Poolings as the words say, on a padded batch: hidden [n, t, h], mask [n, t].
BY_HAND = {
    "cls": lambda hidden, mask: hidden[:, 0],
    "mean": lambda hidden, mask: (hidden * mask).sum(1) / mask.sum(1),
    "max": lambda hidden, mask: hidden.masked_fill(mask == 0, -torch.inf).amax(1),
    "mean_sqrt_len_tokens": lambda hidden, mask: (hidden * mask).sum(1) / mask.sum(1).sqrt(),
    "weightedmean": lambda hidden, mask: (hidden * mask * mask.cumsum(1)).sum(1) / (mask * mask.cumsum(1)).sum(1),
    "lasttoken": lambda hidden, mask: hidden[range(len(hidden)), mask[..., 0].sum(1).long() - 1],
}


def _near(expected):
    return 2e-5 * float(np.abs(expected).max())


def of_transformers(theirs, texts, pooling, max_length=LONGEST):
    model, tokenizer = theirs
    batch = tokenizer(texts, padding=True, truncation=True, max_length=max_length, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**batch).last_hidden_state
    return BY_HAND[pooling](hidden, batch["attention_mask"][..., None].float()).numpy()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pooling", POOLINGS)
def test_every_pooling_is_that_of_transformers(encoders, theirs, family, pooling):
    expected = of_transformers(theirs[family], TEXTS, pooling)
    found = encoders[family].encode(TEXTS, pooling=pooling, normalize=False)
    assert found.dtype == np.float32
    assert found == pytest.approx(expected, abs=_near(expected))
    unit = encoders[family].encode(TEXTS, pooling=pooling, normalize=True)
    assert unit == pytest.approx(expected / np.linalg.norm(expected, axis=1, keepdims=True), abs=2e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_length_is_that_of_transformers(encoders, theirs, family):
    texts = [TEXTS[3][: 2 * n] for n in range(70)]
    for max_length in (3, 17, LONGEST):
        expected = of_transformers(theirs[family], texts, "mean", max_length)
        found = encoders[family].encode(texts, normalize=False, max_length=max_length)
        assert found == pytest.approx(expected, abs=_near(expected))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_without_a_head_gives_the_same_vectors(encoders, theirs, family, tmp_path):
    theirs[family][0].save_pretrained(tmp_path / "bare")
    theirs[family][1].save_pretrained(tmp_path / "bare")
    bare = Encoder.from_pretrained(tmp_path / "bare", dtype="float32")
    assert bare.encode(TEXTS) == pytest.approx(encoders[family].encode(TEXTS), abs=1e-6)
    with pytest.raises(ValueError, match="without a masked-language-model head"):
        bare.fill_mask("one <|mask|>")


def test_poolings_side_by_side(encoder):
    both = encoder.encode(TEXTS, pooling=("mean", "cls"), normalize=False)
    assert both.shape == (len(TEXTS), 64)
    assert (both[:, 32:] == encoder.encode(TEXTS, pooling="cls", normalize=False)).all()


def test_texts_may_be_a_generator_a_single_str_or_none_at_all(encoder, monkeypatch):
    expected = encoder.encode(TEXTS)
    assert encoder.encode("one two three") == pytest.approx(expected[0], abs=1e-6)
    assert encoder.encode("one two three").shape == (32,)
    assert encoder.encode([]).shape == (0, 32)
    assert encoder.encode(np.array(TEXTS, dtype=object)) == pytest.approx(expected, abs=1e-6)
    steps = []
    monkeypatch.setattr("tessera.inference.tokenize._TEXTS", 2)
    found = encoder.encode((t for t in TEXTS), on_progress=lambda *step: steps.append(step))
    assert found == pytest.approx(expected, abs=1e-6)
    assert steps[-1] == (len(TEXTS), 0, "embedding")  # how many there are is not known
    encoder.encode(TEXTS, on_progress=lambda *step: steps.append(step))
    assert steps[-1] == (len(TEXTS), len(TEXTS), "embedding")


def test_a_stream_asks_for_no_more_texts_than_it_gives_vectors_for(encoder, monkeypatch):
    monkeypatch.setattr("tessera.inference.tokenize._TEXTS", 10)
    asked = 0

    def endless():
        nonlocal asked
        while True:
            asked += 1
            yield f"text {asked % 7}"

    stream = encoder.stream(endless(), max_length=16)
    given = 0
    for _ in range(4):
        given += len(next(stream))
        assert asked <= given + 1
    assert given == 40


def test_order_company_and_batches_change_nothing_that_can_be_seen(encoder):
    expected = encoder.encode(TEXTS)
    for max_tokens in (1, 20, 100_000):
        assert encoder.encode(TEXTS[::-1], max_tokens=max_tokens)[::-1] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_batch_invariant_means_the_same_bytes_in_any_company(folders, family, dtype):
    encoder = Encoder.from_pretrained(folders[family], dtype=dtype)
    rng = random.Random(0)
    texts = [" ".join(rng.choices(TEXTS, k=rng.randint(1, 4)))[: rng.randint(0, 200)] for _ in range(25)]
    options = {"batch_invariant": True, "long": "chunk", "overlap": 3, "max_length": 24}
    expected = {text: row.tobytes() for text, row in zip(texts, encoder.encode(texts, **options), strict=True)}
    for _ in range(6):
        some = rng.sample(texts, rng.randint(1, len(texts)))
        found = encoder.encode(some, max_tokens=rng.choice([1, 50, 16_384]), **options)
        assert [row.tobytes() for row in found] == [expected[text] for text in some]
    close = encoder.encode(texts, long="chunk", overlap=3, max_length=24)
    assert close == pytest.approx(np.stack([np.frombuffer(expected[t], np.float32) for t in texts]), abs=0.05)


class _Sensitive(torch.nn.Module):
    """A model whose states tell how many tokens and texts a batch has, as kernels that choose by size do."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.weight = torch.nn.Parameter(torch.ones(config.hidden_size))

    def forward(self, tokens, starts):
        return self.weight * (tokens[:, None] + 1e-3 * len(tokens) + len(starts))


def test_batch_invariant_hides_whatever_a_batch_does_to_its_texts(encoder):
    sensitive = Encoder(_Sensitive(encoder.config), encoder.tokenizer, dtype="float32")
    options = {"normalize": False, "long": "chunk", "max_length": 16}
    together, alone = sensitive.encode(TEXTS, **options), [sensitive.encode(text, **options) for text in TEXTS]
    assert not (together == alone).all()
    invariant = sensitive.encode(TEXTS, batch_invariant=True, **options)
    assert (invariant == [sensitive.encode(text, batch_invariant=True, **options) for text in TEXTS]).all()


# --------------------------------------------------------------------------------------------------------- long texts


def test_a_text_in_chunks_is_the_mean_of_its_chunks_by_their_tokens(encoder):
    text, tokenizer = "one two three tveir fimm " * 9, encoder.tokenizer
    plain = tokenizer.encode_plain([text])[0]
    room, overlap = 20 - 2, 5
    starts = [0]
    while starts[-1] + room < len(plain):
        starts.append(starts[-1] + room - overlap)
    assert len(starts) > 3
    chunks = [[tokenizer.bos_id, *plain[start : start + room], tokenizer.eos_id] for start in starts]
    expected = np.zeros(32)
    with torch.no_grad():
        for chunk in chunks:
            hidden = encoder.engine.model(torch.tensor(chunk), torch.tensor([0, len(chunk)]))
            expected += hidden.sum(0).numpy()  # the mean, weighing as many tokens as it has
    expected /= sum(map(len, chunks))
    found = encoder.encode([TEXTS[0], text], max_length=20, long="chunk", overlap=overlap, normalize=False)
    assert found[1] == pytest.approx(expected, abs=1e-4)
    assert found[0] == pytest.approx(encoder.encode(TEXTS[0], normalize=False), abs=1e-5)  # a short one is one chunk


def test_every_chunk_begins_with_the_prompt(encoder):
    reading = encoder.how(prompt="two: ", max_length=16, long="chunk").reading
    pieces = reading.pieces(["one three " * 20])[0]
    prompt = encoder.tokenizer.encode_plain(["two: "])[0]
    assert len(pieces) > 3
    assert all(piece[1 : 1 + len(prompt)].tolist() == prompt.tolist() for piece in pieces)
    assert all(len(piece) <= 16 for piece in pieces)
    joined = np.concatenate([piece[1 + len(prompt) : -1] for piece in pieces])
    assert joined.tolist() == encoder.tokenizer.encode_plain(["two: " + "one three " * 20])[0][len(prompt) :].tolist()


def test_ten_megabytes_cost_what_their_beginning_does_and_give_the_same(encoder):
    words = "one two three, tveir.\n\nfimm "
    text = words * (10_000_000 // len(words))
    reading = encoder.how().reading
    assert len(reading._useful(text)) < 10_000
    assert (encoder.encode(text) == encoder.encode(words * 100)).all()
    ids = encoder.tokenizer.encode_batch([words * 100])[0].tolist()
    assert encoder.encode_tokens(text)[0].ids.tolist() == [*ids[: LONGEST - 1], ids[-1]]


def test_a_text_of_few_and_long_tokens_is_read_as_far_as_is_needed(tmp_path):
    """Words that a WordPiece vocabulary does not know are one token each, whatever their length."""
    words = {name: n for n, name in enumerate(["[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]", "one", "two"])}
    inner = tokenizers.Tokenizer(tokenizers.models.WordPiece(words, unk_token="[UNK]"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    ends = [(name, words[name]) for name in ("[CLS]", "[SEP]")]
    inner.post_processor = tokenizers.processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    inner.save(str(tmp_path / "tokenizer.json"))
    reading = TextTokenizer(tokenizer=Tokenizer.load(tmp_path), prompt="", max_length=16)
    text = " ".join(f"{'z' * 120} {'one' if n % 3 else 'two'}" for n in range(20_000))
    assert 13 * 60 < len(reading._useful(text)) < len(text) // 5
    whole = reading.tokenizer.encode_batch([text])[0].tolist()
    assert reading.pieces([text])[0][0].tolist() == [*whole[:15], words["[SEP]"]]


def test_ten_megabytes_without_a_space_are_read_too(encoder):
    text = "ab" * 1_000_000
    assert encoder.how().reading._useful(text) is text
    assert (encoder.encode(text) == encoder.encode("ab" * 5_000)).all()


def test_a_long_text_is_read_in_stretches_without_losing_a_character(encoder, monkeypatch):
    def read(text):
        pieces = encoder.how(long="chunk").reading.pieces([text])[0]
        return encoder.tokenizer.decode(np.concatenate(pieces))

    monkeypatch.setattr("tessera.inference.tokenize._STRETCH", 700)
    for text in ("one two þrír " * 1000, "ab" * 2_000, "þ" * 700, "one two", ""):
        assert read(text) == text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pooling": "median"}, "pooling is 'median'; give cls, max, mean"),
        ({"dimensions": 33}, "dimensions is 33; a vector of this model has 32"),
        ({"max_length": 2}, "max_length is 2; special tokens alone take 2"),
        ({"max_length": 65}, 'max_length is 65, but this model reads 64 tokens; long="chunk" reads more'),
        ({"long": "wrap"}, "long is 'wrap'; give truncate or chunk"),
        ({"overlap": 4}, 'an overlap is between chunks; give long="chunk" with it'),
        ({"overlap": 62, "long": "chunk"}, "overlap is 62, but a chunk has room for 62 tokens"),
        ({"prompt_name": "query"}, "prompt_name is 'query'; prompts of the folder are none"),
    ],
)
def test_options_that_do_not_fit_are_refused(encoder, options, message):
    with pytest.raises(ValueError, match=message):
        encoder.encode(TEXTS, **options)


def test_a_misspelt_keyword_is_refused_with_a_suggestion(encoder):
    with pytest.raises(TypeError, match="encode has no keyword 'poling'; did you mean 'pooling'"):
        encoder.encode(TEXTS, poling="mean")
    for call in (encoder.how, lambda **options: encoder.stream([], **options)):  # which take ours only
        with pytest.raises(TypeError, match="encode has no keyword 'batch_size'"):
            call(batch_size=3)


# -------------------------------------------------------------------------------------------------------------- robust


def test_what_is_no_text_is_named(encoder):
    with pytest.raises(TypeError, match=r"texts\[2\] is a NoneType, not a str: 'None'"):
        encoder.encode(["a", "b", None])
    with pytest.raises(TypeError, match=r"texts\[0\] is a bytes, not a str"):
        encoder.encode_tokens([b"a"])
    with pytest.raises(ValueError, match=r"texts\[1\] has half a character \(a lone surrogate, U\+D83D\) at place 3"):
        encoder.encode(["a", "ab \ud83d"])


def test_the_mending_that_the_error_names_works(encoder):
    mended = "ab \ud83d".encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert mended == "ab \ufffd"
    assert np.isfinite(encoder.encode(mended)).all()


def test_weights_that_are_no_numbers_are_named(encoder):
    model = small_model(encoder.tokenizer)
    with torch.no_grad():
        model.encoder.layers[1].mlp.down.weight[0, 0] = torch.nan
    with pytest.raises(
        ValueError, match=r"layers\.1\.mlp\.down\.weight holds NaN or infinity; its training went wrong"
    ):
        Encoder(model.encoder, encoder.tokenizer)


def test_a_vector_that_overflows_is_an_error_that_names_its_text(encoder):
    large = Dense(32, 32, activation="Identity")
    with torch.no_grad():
        large.linear.weight.zero_()[0, 0] = 3e38
    pipeline = Pipeline(steps=(large,), normalize=False)
    broken = Encoder(small_model(encoder.tokenizer).encoder, encoder.tokenizer, pipeline, dtype="float32")
    with pytest.raises(ValueError, match=r"texts\[\d\] is not finite: numbers grew too large for torch\.float32"):
        broken.encode(TEXTS, pooling="mean_sqrt_len_tokens")


@pytest.mark.slow
def test_a_hundred_thousand_texts_of_one_token(encoder):
    texts = [random.Random(n).choice("abcdefgh") for n in range(100_000)]
    found = encoder.encode(texts)
    assert found.shape == (100_000, 32)
    rows = {text: found[texts.index(text)] for text in set(texts)}
    assert np.abs(found - np.stack([rows[text] for text in texts])).max() < 1e-5


def test_threads_share_an_encoder(encoder):
    expected, wrong = encoder.encode(TEXTS), []

    def work(seed):
        for n in range(5):
            shift = (seed + n) % len(TEXTS)
            found = encoder.encode(TEXTS[shift:] + TEXTS[:shift])
            if not np.allclose(np.roll(found, shift, axis=0), expected, atol=1e-5):
                wrong.append((seed, n))
            encoder.fill_mask("one <|mask|> three")

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_bfloat16_stays_close(folders, encoder):
    half = Encoder.from_pretrained(folders["mmbert"], dtype="bfloat16").encode(TEXTS)
    assert (half * encoder.encode(TEXTS)).sum(1) == pytest.approx(1.0, abs=2e-2)


def test_parts_that_do_not_belong_together_are_refused(encoder):
    tokenizer = Tokenizer.load(encoder.source)
    model = small_model(tokenizer)
    alone = Encoder(model.encoder, tokenizer, dtype="float32")
    assert alone.encode(TEXTS) == pytest.approx(encoder.encode(TEXTS), abs=1e-6)
    with pytest.raises(ValueError, match="was not read from a folder, so it has no head"):
        alone.fill_mask("one <|mask|>")
    with pytest.raises(ValueError, match=r"not read from a folder; write its model with huggingface\.hub\.save"):
        alone.save("somewhere")
    model.encoder.config = model.config.model_copy(update={"vocab_size": 100})
    with pytest.raises(ValueError, match=r"the tokenizer has 300 tokens, the model only 100"):
        Encoder(model.encoder, tokenizer)


def test_no_folder_and_no_hub_is_said(monkeypatch, tmp_path, folders):
    import huggingface_hub

    with pytest.raises(ValueError, match="no such folder; give a model's folder, or its name on the Hugging Face Hub"):
        Encoder.from_pretrained("./nowhere/at/all")

    def offline(name, revision, allow_patterns):
        raise huggingface_hub.errors.LocalEntryNotFoundError("cannot find it and outgoing traffic has been disabled")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(ValueError, match=r"some/model: no folder here .* outgoing traffic has been disabled"):
        Encoder.from_pretrained("some/model")
    asked = {}

    def online(name, revision, allow_patterns):
        asked[name] = allow_patterns
        return str(folders["mmbert"])

    monkeypatch.setattr(huggingface_hub, "snapshot_download", online)
    assert Encoder.from_pretrained("some/model").dimensions == 32
    assert not any(pattern.endswith((".bin", ".py", "*")) for pattern in asked["some/model"])


def test_it_says_what_it_is(folders):
    said = repr(Encoder.from_pretrained(folders["eurobert"], dtype="float32", attention="reference"))
    said = said.replace("cpu, which has no bfloat16,", "cpu")  # where that is so
    assert "32 dimensions, mean, normalized, at most 64 tokens; reference attention on cpu in float32" in said


def test_importing_tessera_does_not_wait_for_torch():
    import subprocess

    code = "import sys, tessera; assert 'torch' not in sys.modules; tessera.Encoder; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(ImportError, match="cannot import name 'Encodr'"):
        exec("from tessera import Encodr")


# -------------------------------------------------------------------------------------------------- tokens and masks


@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_have_their_characters_and_their_states(encoders, theirs, family):
    encoder, (model, tokenizer) = encoders[family], theirs[family]
    for text, found in zip(TEXTS, encoder.encode_tokens(TEXTS, max_tokens=70), strict=True):
        batch = tokenizer(
            text, truncation=True, max_length=LONGEST, return_tensors="pt", return_offsets_mapping=True,
            return_special_tokens_mask=True,
        )  # fmt: skip
        offsets = batch.pop("offset_mapping")[0].tolist()
        special = batch.pop("special_tokens_mask")[0].tolist()
        with torch.no_grad():
            expected = model(**batch).last_hidden_state[0].numpy()
        assert found.ids.tolist() == batch["input_ids"][0].tolist()
        assert found.offsets.tolist() == offsets
        assert found.special.tolist() == [bool(s) for s in special]
        assert found.vectors == pytest.approx(expected, abs=_near(expected))
    words = encoder.encode_tokens("one two x")[0]
    assert "".join("one two x"[a:b] for a, b in words.offsets) == "one two x"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_mask_is_filled_as_transformers_fills_it(encoders, folders, family):
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForMaskedLM.from_pretrained(folders[family], dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folders[family])
    batch = tokenizer("one<|mask|> three<|mask|> x", return_tensors="pt")
    with torch.no_grad():
        logits = model(**batch).logits[0, batch["input_ids"][0] == 3]
    expected = logits.softmax(-1).topk(4)
    for text in ("one<|mask|> three<|mask|> x", "one <|mask|> three <|mask|> x"):  # a space before a mask is its own
        found = encoders[family].fill_mask(text, top_k=4)
        assert [[guess.id for guess in mask] for mask in found] == expected.indices.tolist()
        assert [[g.probability for g in mask] for mask in found] == [
            pytest.approx(p, rel=1e-4) for p in expected.values.tolist()
        ]
    assert found[0][0].text == tokenizer.decode([found[0][0].id])
    several = encoders[family].fill_mask(["x<|mask|>", text], top_k=4)
    assert [len(masks) for masks in several] == [1, 2]
    assert [g.id for g in several[1][0]] == [g.id for g in found[0]]


def test_a_text_without_a_mask_or_too_long_is_refused(encoder):
    with pytest.raises(
        ValueError, match=r"texts\[1\] has no <\|mask\|>, which is how this tokenizer writes a mask: 'x'"
    ):
        encoder.fill_mask(["<|mask|>", "x"])
    with pytest.raises(ValueError, match=r"texts\[0\] has \d+ tokens, and this model reads 64; shorten it"):
        encoder.fill_mask(TEXTS[3] + "<|mask|>")


@pytest.mark.parametrize("family", FAMILIES)
def test_without_packed_weights_the_answers_are_the_same(folders, encoders, monkeypatch, family):
    monkeypatch.setattr("tessera.packed.encoder.can_pack", lambda dtype: False)  # as on a GPU, or without oneDNN
    texts = [text for text in TEXTS if text.strip()]
    exact, mask = encoders[family].encode(texts), encoders[family].tokenizer.token(encoders[family].tokenizer.mask_id)
    plain = Encoder.from_pretrained(folders[family], dtype="float32")
    assert "packed" not in repr(plain)
    assert np.abs(plain.encode(texts) - exact).max() < _near(exact)
    rough = Encoder.from_pretrained(folders[family], dtype="bfloat16")
    assert next(rough.engine.model.parameters()).dtype is torch.bfloat16
    assert (rough.encode(texts) * exact).sum(1).min() > 0.999
    guesses, wanted = (model.fill_mask(f"one {mask} three", top_k=3)[0] for model in (rough, encoders[family]))
    assert guesses[0].probability == pytest.approx(wanted[0].probability, rel=0.05)
