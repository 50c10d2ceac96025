"""The clients that people have, unchanged, against a real server: OpenAI's, LangChain's, Hugging Face's."""

import asyncio
import base64

import httpx
import huggingface_hub
import numpy as np
import openai
import pytest
from langchain_openai import OpenAIEmbeddings
from patience import HANGS
from small_encoder import TEXTS

from tessera import Encoder, Predictor

SENTENCES = ["the river of bread", "clouds", "rivers, nights of the clouds."]


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as found:
        yield found


@pytest.fixture(scope="module")
def encoder(folders):
    return Encoder.from_pretrained(folders["small"], device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def due(encoder):
    return encoder.encode(TEXTS[:3])


def hub(server, name):
    return huggingface_hub.InferenceClient(f"{server.url}/models/{name}", token="none")


def test_openais_client_gets_the_vectors_of_the_encoder(client, due):
    found = client.embeddings.create(model="small", input=TEXTS[:3])
    assert [one.index for one in found.data] == [0, 1, 2]
    np.testing.assert_allclose([one.embedding for one in found.data], due, atol=1e-5)
    assert found.usage.prompt_tokens == found.usage.total_tokens > 3


def test_numbers_and_base64_say_the_same(server, due):
    for name in ("float", "base64"):
        body = {"model": "small", "input": TEXTS[0], "encoding_format": name}
        (one,) = server.post("/v1/embeddings", body).json()["data"]
        row = one["embedding"] if name == "float" else np.frombuffer(base64.b64decode(one["embedding"]), "<f4")
        np.testing.assert_allclose(row, due[0], atol=1e-5)


def test_dimensions_cut_a_vector_and_keep_its_length_one(client, encoder):
    found = client.embeddings.create(model="small", input="one two three", dimensions=8).data[0].embedding
    np.testing.assert_allclose(found, encoder.encode("one two three", dimensions=8), atol=1e-5)


def test_token_ids_are_read_as_the_text_that_they_are_of(client, encoder, due):
    bare = [encoder.tokenizer.encode_plain([text])[0].tolist() for text in (TEXTS[0], TEXTS[2])]
    framed = [encoder.tokenizer.encode_batch([text])[0].tolist() for text in (TEXTS[0], TEXTS[2])]
    for ids in (bare, framed):
        found = client.embeddings.create(model="small", input=ids)
        np.testing.assert_allclose([one.embedding for one in found.data], due[[0, 2]], atol=1e-5)
    np.testing.assert_allclose(
        client.embeddings.create(model="small", input=bare[0]).data[0].embedding, due[0], atol=1e-5
    )


def test_models_are_listed_with_what_they_answer(client, folders):
    listed = {model.id: model for model in client.models.list()}
    assert list(listed) == list(folders)
    assert listed["small"].answers == ["embeddings", "fill"]
    assert listed["moods"].shares_trunk_with == "topics"
    assert client.models.retrieve("tagger").kind == "tag"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nobody")


def test_errors_of_openais_client_are_its_own(client):
    with pytest.raises(openai.NotFoundError, match="no such model") as caught:
        client.embeddings.create(model="nobody", input="x")
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError, match="not embeddings") as caught:
        client.embeddings.create(model="tagger", input="x")
    assert caught.value.param == "model"
    with pytest.raises(openai.BadRequestError, match=r"input\[1\] has more than the 64 tokens") as caught:
        client.embeddings.create(model="small", input=["x", "long " * 500])
    assert caught.value.code == "context_length_exceeded"


def test_what_is_too_long_is_cut_where_that_is_asked_and_counted(client, encoder):
    long = "long " * 500
    found = client.embeddings.create(model="small", input=["x", long], extra_body={"truncate": True})
    np.testing.assert_allclose(found.data[1].embedding, encoder.encode(long, max_length=64), atol=1e-5)
    assert found.usage.truncated_texts == 1


def test_langchains_embeddings_run_unchanged(server, encoder):
    chain = OpenAIEmbeddings(
        base_url=server.url + "/v1", api_key="none", model="small", check_embedding_ctx_length=False
    )
    np.testing.assert_allclose(chain.embed_documents(TEXTS[:2]), encoder.encode(TEXTS[:2]), atol=1e-5)
    np.testing.assert_allclose(chain.embed_query("x"), encoder.encode("x"), atol=1e-5)


def test_inference_client_embeds_and_compares(server, encoder):
    asked = hub(server, "small")
    np.testing.assert_allclose(asked.feature_extraction(TEXTS[0]), encoder.encode(TEXTS[:1]), atol=1e-5)
    found = asked.sentence_similarity("one two", other_sentences=["one two", "tveir"])
    assert found == pytest.approx(
        encoder.similarity(encoder.encode(["one two"]), encoder.encode(["one two", "tveir"]))[0], abs=1e-5
    )


def test_inference_client_classifies_tags_answers_and_fills(server, folders):
    texts = hub(server, "topics").text_classification("the river of bread", top_k=None)
    due = Predictor.from_pretrained(folders["topics"], dtype="float32").predict(["the river of bread"])[0]
    assert {one.label: one.score for one in texts} == pytest.approx(due["scores"], abs=1e-5)
    tags = hub(server, "tagger").token_classification("the river of bread")
    spans = Predictor.from_pretrained(folders["tagger"], dtype="float32").predict(["the river of bread"])[0]
    assert [(one.entity_group, one.word, one.start) for one in tags] == [
        (one["label"], one["text"], one["start"]) for one in spans["entities"]
    ]
    answer = hub(server, "reader").question_answering(question="the river", context="bread of the night")
    best = Predictor.from_pretrained(folders["reader"], dtype="float32").predict([("the river", "bread of the night")])[
        0
    ]
    assert (answer.answer, answer.start, answer.end) == (best["answer"], best["start"], best["end"])
    guesses = hub(server, "masked").fill_mask("the [MASK] of bread")
    filled = Encoder.from_pretrained(folders["masked"], dtype="float32").fill_mask("the [MASK] of bread")[0]
    assert [one.token_str for one in guesses] == [one.text for one in filled]
    assert [one.score for one in guesses] == pytest.approx([one.probability for one in filled], abs=1e-5)


def test_clients_at_the_same_time_get_their_own_answers(server, encoder):
    """Forty requests at once, of texts of any length."""
    texts = [" ".join(SENTENCES[n % 3] for _ in range(1 + n % 2)) + f" {n}" for n in range(40)]

    async def ask():
        async with openai.AsyncOpenAI(base_url=server.url + "/v1", api_key="none") as many:
            return await asyncio.gather(*(many.embeddings.create(model="small", input=text) for text in texts))

    found = [one.data[0].embedding for one in asyncio.run(ask())]
    np.testing.assert_allclose(found, encoder.encode(texts), atol=1e-5)


def test_a_text_has_the_same_bytes_whatever_it_is_asked_with(server, encoder):
    due = encoder.encode("one two three", batch_invariant=True).tobytes()

    async def ask():
        async with httpx.AsyncClient(base_url=server.url, timeout=HANGS) as many:
            bodies = [
                {"model": "small", "input": ["one two three", *TEXTS[:n]], "truncate": True, "batch_invariant": True,
                 "encoding_format": "base64"}
                for n in range(1, 9)
            ]  # fmt: skip
            return await asyncio.gather(*(many.post("/v1/embeddings", json=body) for body in bodies))

    for answer in asyncio.run(ask()):
        assert base64.b64decode(answer.json()["data"][0]["embedding"]) == due


def test_where_the_server_cuts_clients_that_cannot_say_so_are_served(guarded):
    long, key = "x " * 90, {"Authorization": "Bearer first-key"}
    found = guarded.post("/v1/embeddings", {"model": "small", "input": long}, headers=key)
    assert found.status_code == 200, found.text
    assert found.json()["usage"]["truncated_texts"] == 1
    refused = guarded.post("/v1/embeddings", {"model": "small", "input": long, "truncate": False}, headers=key)
    assert refused.json()["error"]["code"] == "context_length_exceeded"


def test_labels_come_as_a_pipeline_gives_them(server, folders):
    logits = Predictor.from_pretrained(folders["topics"], device="cpu", dtype="float32").logits([TEXTS[0]])[0]
    found = hub(server, "topics").text_classification(TEXTS[0], top_k=1)
    assert [one.label for one in found] == [["water", "food", "sky"][int(np.argmax(logits))]]
    for function, due in (("sigmoid", 1 / (1 + np.exp(-logits))), ("none", logits), ("softmax", None)):
        body = {"inputs": [TEXTS[0], TEXTS[1]], "parameters": {"function_to_apply": function}}
        both = server.post("/models/topics", body).json()
        assert len(both) == 2
        scores = [one["score"] for one in both[0]]
        assert scores == sorted(scores, reverse=True)
        if due is None:
            assert sum(scores) == pytest.approx(1, abs=1e-5)
        else:
            assert scores == pytest.approx(sorted(due.tolist(), reverse=True), abs=1e-4)
    wrong = server.post("/models/topics", {"inputs": "x", "parameters": {"function_to_apply": "relu"}})
    assert wrong.status_code == 422
    assert "give none, sigmoid or softmax" in wrong.text


@pytest.mark.parametrize("path", ["/health", "/ping", "/info", "/metrics", "/v1/models", "/v1/models/small", "/"])
def test_a_check_that_asks_for_no_body_is_answered(server, path):
    found = httpx.head(server.url + path)
    assert (found.status_code, found.content) == (200, b"")
