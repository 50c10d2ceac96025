"""Folders of sentence-transformers in and out, and an Encoder where their model is expected: equal vectors."""

import json
import shutil
import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from small_encoder import FAMILIES, TEXTS, write_model

from tessera import Encoder
from tessera.model.pooling import POOLINGS

sentence_transformers = pytest.importorskip("sentence_transformers")
import transformers  # noqa: E402  after the check that there is one
from sentence_transformers import SentenceTransformer  # noqa: E402
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer  # noqa: E402

PROMPTS = {"query": "one: ", "document": "two: "}


@pytest.fixture(scope="module", autouse=True)
def _quiet():
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {family: write_model(tmp_path_factory.mktemp(family), family) for family in FAMILIES}


def theirs(path):
    return SentenceTransformer(str(path), device="cpu", local_files_only=True)


def ours(path):
    return Encoder.from_pretrained(path, dtype="float32")


def same(found, expected):
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 2e-5 * np.abs(expected).max()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pooling", [*POOLINGS, ("cls", "mean"), ("mean", "cls")], ids=str)
def test_what_we_save_they_read(folders, tmp_path, family, pooling):
    ours(folders[family]).save(tmp_path / "saved", pooling=pooling, normalize=pooling == "cls", max_length=20)
    same(ours(tmp_path / "saved").encode(TEXTS), theirs(tmp_path / "saved").encode(TEXTS))


@pytest.mark.parametrize("include_prompt", [True, False])
@pytest.mark.parametrize("pooling", [*POOLINGS, ("max", "weightedmean")], ids=str)
def test_what_they_save_we_read(folders, tmp_path, pooling, include_prompt):
    torch.manual_seed(0)
    width = 32 * (1 if isinstance(pooling, str) else len(pooling))
    modules = [
        Transformer(str(folders["mmbert"])),
        Pooling(32, pooling, include_prompt=include_prompt),
        Dense(width, 12, activation_function=torch.nn.GELU()),
        Normalize(),
        Dense(12, 12, bias=False, use_residual=True),
        Dense(12, 10, use_residual=True),
    ]
    SentenceTransformer(modules=modules, device="cpu", prompts=PROMPTS, default_prompt_name="query").save(
        str(tmp_path / "st"), create_model_card=False
    )
    model, encoder = theirs(tmp_path / "st"), ours(tmp_path / "st")
    same(encoder.encode(TEXTS), model.encode(TEXTS))  # with the default prompt
    same(encoder.encode(TEXTS, prompt=""), model.encode(TEXTS, prompt=""))
    same(encoder.encode(TEXTS, prompt="three, x: "), model.encode(TEXTS, prompt="three, x: "))
    same(encoder.encode_query(TEXTS), model.encode_query(TEXTS))
    same(encoder.encode_document(TEXTS), model.encode_document(TEXTS))
    encoder.save(tmp_path / "again")
    same(ours(tmp_path / "again").encode(TEXTS), model.encode(TEXTS))
    same(theirs(tmp_path / "again").encode(TEXTS), model.encode(TEXTS))


def test_what_is_given_to_save_is_what_they_read(folders, tmp_path):
    encoder = ours(folders["mmbert"])
    encoder.save(tmp_path / "saved", prompts=PROMPTS, default_prompt_name="document", max_length=20)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = theirs(tmp_path / "saved")
    assert model.max_seq_length == ours(tmp_path / "saved").max_seq_length == 20
    assert model.prompts == ours(tmp_path / "saved").prompts == PROMPTS
    same(ours(tmp_path / "saved").encode(TEXTS), model.encode(TEXTS))
    same(ours(tmp_path / "saved").encode(TEXTS, prompt_name="query"), model.encode(TEXTS, prompt_name="query"))
    model = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "saved")  # the head is still there
    assert ours(tmp_path / "saved").fill_mask("one<|mask|>")
    with pytest.raises(FileExistsError, match="there already"):
        encoder.save(tmp_path / "saved")
    with pytest.raises(ValueError, match="default_prompt_name is 'query'; prompts are"):
        encoder.save(tmp_path / "other", default_prompt_name="query")


def test_text_may_be_lowered_and_the_model_lie_in_a_folder_of_its_own(folders, tmp_path):
    ours(folders["mmbert"]).save(tmp_path / "saved", pooling="max")
    place = tmp_path / "saved"
    inner = place / "0_Transformer"  # as the first versions wrote it
    inner.mkdir()
    for path in [p for p in place.iterdir() if p.is_file() and p.name not in ("modules.json",)]:
        shutil.move(path, inner / path.name)
    (inner / "sentence_bert_config.json").write_text('{"max_seq_length": 30, "do_lower_case": true}')
    modules = json.loads((place / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    (place / "modules.json").write_text(json.dumps(modules))
    texts = ["One TWO", "ÞRÍR x", TEXTS[3].upper()]
    same(ours(place).encode(texts), theirs(place).encode(texts))
    same(ours(place).encode(texts), ours(place).encode([text.lower() for text in texts]))


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("modules.json", lambda m: [m[0], m[1] | {"type": "custom_st.Pooling"}], "'custom_st.Pooling' is code"),
        ("modules.json", lambda m: [m[0]], "begins with Transformer; read here are a Transformer and its Pooling"),
        (
            "modules.json",
            lambda m: [*m, {"idx": 9, "name": "9", "path": "9", "type": "sentence_transformers.models.LSTM"}],
            "LSTM is not known here; known are Dense, Normalize and Dropout",
        ),
        ("1_Pooling/config.json", lambda c: {"pooling_mode": "median"}, "1_Pooling.*pooling 'median' is not known"),
        ("2_Normalize/config.json", lambda c: {"module_input_name": "token_embeddings"}, "works on 'token_embeddings'"),
        ("config_sentence_transformers.json", lambda c: c | {"similarity_fn_name": "hamming"}, "is 'hamming'; give"),
        ("sentence_bert_config.json", lambda c: c | {"transformer_task": "fill-mask"}, "more than token embeddings"),
    ],
)  # fmt: skip
def test_what_is_not_known_in_a_folder_is_named(folders, tmp_path, file, change, message):
    ours(folders["mmbert"]).save(tmp_path / "saved")
    place = tmp_path / "saved" / file
    place.write_text(json.dumps(change(json.loads(place.read_text()))))
    with pytest.raises(ValueError, match=message):
        ours(tmp_path / "saved")


def test_broken_and_missing_files_are_named(folders, tmp_path):
    torch.manual_seed(0)
    modules = [Transformer(str(folders["mmbert"])), Pooling(32), Dense(32, 12)]
    SentenceTransformer(modules=modules, device="cpu").save(str(tmp_path / "st"), create_model_card=False)
    weights = tmp_path / "st" / "2_Dense" / "model.safetensors"
    save_file({"linear.weight": torch.zeros(12, 31)}, weights)
    with pytest.raises(ValueError, match=r"2_Dense.*does not fit its config\.json"):
        ours(tmp_path / "st")
    weights.unlink()
    with pytest.raises(ValueError, match="is missing; other formats can run code when they are read"):
        ours(tmp_path / "st")
    config = tmp_path / "st" / "2_Dense" / "config.json"
    config.write_text(config.read_text().replace("torch.nn.modules.activation.Tanh", "torch.nn.Hardtanh"))
    with pytest.raises(ValueError, match="the activation 'Hardtanh' is not known here; known are Identity, Tanh"):
        ours(tmp_path / "st")
    (tmp_path / "st" / "modules.json").write_text("[{")
    with pytest.raises(ValueError, match=r"modules\.json is not JSON"):
        ours(tmp_path / "st")


def test_a_dense_layer_that_does_not_fit_another_pooling_says_so(folders, tmp_path):
    modules = [Transformer(str(folders["mmbert"])), Pooling(32), Dense(32, 12)]
    SentenceTransformer(modules=modules, device="cpu").save(str(tmp_path / "st"), create_model_card=False)
    with pytest.raises(
        ValueError, match=r"pooling mean\+cls gives 64 dimensions, but the dense layer after it takes 32"
    ):
        ours(tmp_path / "st").encode(TEXTS, pooling=("mean", "cls"))


# --------------------------------------------------------------------------------------------------------- drop in


@pytest.fixture(scope="module")
def pair(folders, tmp_path_factory):
    place = tmp_path_factory.mktemp("pair") / "saved"
    ours(folders["eurobert"]).save(place, prompts=PROMPTS, normalize=False)
    return ours(place), theirs(place)


@pytest.mark.parametrize(
    "keywords",
    [
        {"normalize_embeddings": True},
        {"normalize_embeddings": False, "batch_size": 2, "show_progress_bar": False},
        {"truncate_dim": 7},
        {"truncate_dim": 7, "normalize_embeddings": True, "precision": "float32"},
        {"prompt_name": "query", "convert_to_numpy": True},
        {"device": "cpu", "output_value": "sentence_embedding"},
    ],
    ids=str,
)
def test_their_keywords_mean_what_they_mean(pair, keywords):
    encoder, model = pair
    same(encoder.encode(TEXTS, **keywords), model.encode(TEXTS, **keywords))
    same(encoder.encode(TEXTS[0], **keywords), model.encode(TEXTS[0], **keywords))


def test_tensors_and_token_embeddings_come_back_as_theirs(pair):
    encoder, _ = pair
    found, expected = (m.encode(TEXTS, convert_to_tensor=True) for m in pair)
    assert isinstance(found, torch.Tensor)
    assert torch.allclose(found, expected, atol=1e-4)
    found, expected = (m.encode(TEXTS, convert_to_numpy=False) for m in pair)
    assert isinstance(found, list)
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(found, expected, strict=True))
    found, expected = (m.encode(TEXTS, output_value="token_embeddings") for m in pair)
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(found, expected, strict=True))
    with pytest.raises(ValueError, match="device is 'cuda', but this Encoder is on cpu; load another one there"):
        encoder.encode(TEXTS, device="cuda")


@pytest.mark.parametrize("how", ["cosine", "dot", "euclidean", "manhattan"])
def test_similarities_are_theirs(folders, tmp_path, how):
    ours(folders["mmbert"]).save(tmp_path / "saved")
    config = tmp_path / "saved" / "config_sentence_transformers.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"similarity_fn_name": how}))
    encoder, model = ours(tmp_path / "saved"), theirs(tmp_path / "saved")
    assert encoder.similarity_fn_name == model.similarity_fn_name == how
    a, b = encoder.encode(TEXTS[:3], normalize=False), encoder.encode(TEXTS[3:6], normalize=False)
    found = encoder.similarity(a, b)
    assert isinstance(found, np.ndarray)
    assert np.allclose(found, model.similarity(a, b).numpy(), rtol=1e-4, atol=1e-4)
    assert np.allclose(encoder.similarity_pairwise(a, b), np.diag(found), rtol=1e-4, atol=1e-4)
    assert isinstance(encoder.similarity(torch.from_numpy(a), b), torch.Tensor)


def test_their_tools_take_an_encoder_for_a_model(pair):
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator
    from sentence_transformers.util import paraphrase_mining

    queries = {"q": TEXTS[0], "r": TEXTS[4]}
    corpus = {str(n): text for n, text in enumerate(TEXTS)}
    relevant = {"q": {"0"}, "r": {"4"}}
    encoder, model = pair
    found, expected = (
        InformationRetrievalEvaluator(
            queries, corpus, relevant, score_functions={"cosine": one.similarity}, ndcg_at_k=[3], write_csv=False
        ).compute_all_metrics(one)["cosine"]
        for one in pair
    )
    assert found["ndcg@k"] == pytest.approx(expected["ndcg@k"])
    found, expected = (paraphrase_mining(one, TEXTS, top_k=2) for one in (encoder, model))
    assert [pair[1:] for pair in found] == [pair[1:] for pair in expected]


def test_langchain_finds_what_it_calls(pair):
    encoder, model = pair
    rows = encoder.embed_documents(TEXTS)
    assert isinstance(rows[0][0], float)
    same(np.array(rows), model.encode(TEXTS, prompt="two: "))
    same(np.array(encoder.embed_query(TEXTS[0])), model.encode(TEXTS[0], prompt="one: "))


# ---------------------------------------------------------------------------------------------------- other families


@pytest.mark.parametrize("kind", ["Bert", "XLMRoberta"])
def test_models_of_other_families_give_their_vectors_and_guesses(folders, tmp_path, kind):
    tokenizer = transformers.AutoTokenizer.from_pretrained(folders["mmbert"])
    offset = 2 if kind == "XLMRoberta" else 0  # which counts positions from the padding token on
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=len(tokenizer), hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=30,
        max_position_embeddings=40 + offset, pad_token_id=offset // 2, initializer_range=0.3,
    )  # fmt: skip
    torch.manual_seed(0)
    tokenizer.model_max_length = 40
    full = getattr(transformers, f"{kind}ForMaskedLM")(config).eval()
    full.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    SentenceTransformer(modules=[Transformer(str(tmp_path / "model")), Pooling(24, "cls")], device="cpu").save(
        str(tmp_path / "st"), create_model_card=False
    )
    encoder = ours(tmp_path / "st")
    assert encoder.max_seq_length == 40
    assert "transformers' attention" in repr(encoder)
    same(encoder.encode(TEXTS), theirs(tmp_path / "st").encode(TEXTS))
    ours(tmp_path / "model").save(tmp_path / "saved", pooling="mean", normalize=True)
    same(ours(tmp_path / "saved").encode(TEXTS), theirs(tmp_path / "saved").encode(TEXTS))
    batch = tokenizer("one<|mask|> three", return_tensors="pt")
    with torch.no_grad():
        logits = full(**batch).logits[0, batch["input_ids"][0] == tokenizer.mask_token_id]
    guesses = ours(tmp_path / "saved").fill_mask("one <|mask|> three", top_k=3)
    assert [guess.id for guess in guesses[0]] == logits.topk(3).indices[0].tolist()


@pytest.mark.parametrize("normalize", [True, False])
def test_a_folder_may_keep_the_first_dimensions_alone_and_says_so_again_when_it_is_saved(folders, tmp_path, normalize):
    model = tmp_path / "whole"
    ours(folders["mmbert"]).save(model, normalize=normalize)
    file = model / "config_sentence_transformers.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "truncate_dim": 12}))
    cut, due = ours(model), theirs(model).encode(TEXTS)
    assert cut.dimensions == due.shape[1] == 12
    same(cut.encode(TEXTS), due)
    same(np.concatenate(list(cut.stream(TEXTS))), due)
    same(cut.encode(TEXTS, dimensions=8), ours(model).encode(TEXTS, dimensions=8, normalize=normalize))
    assert not normalize or np.linalg.norm(cut.encode(TEXTS[0], dimensions=8)) == pytest.approx(1)
    cut.save(tmp_path / "again")
    same(ours(tmp_path / "again").encode(TEXTS), due)
    same(theirs(tmp_path / "again").encode(TEXTS), due)
