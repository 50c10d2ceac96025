"""Every route's answers and errors, in the shape of its API; what one client may and may not."""

import json
import re
import socket

import httpx
import numpy as np
import pytest
from patience import HANGS
from small_encoder import TEXTS

from tessera import Encoder, Predictor

WORDS = "the river of bread"


def predictor(folders, name):
    return Predictor.from_pretrained(folders[name], device="cpu", dtype="float32")


def post(server, path, **body):
    answer = server.post(path, body)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.fixture(scope="module")
def encoder(folders):
    return Encoder.from_pretrained(folders["small"], device="cpu", dtype="float32")


# --------------------------------------------------------------------------------------- text-embeddings-inference


def test_embed_gives_the_vectors_of_the_encoder_of_length_one_or_not(server, encoder):
    np.testing.assert_allclose(post(server, "/embed", inputs=TEXTS[:3]), encoder.encode(TEXTS[:3]), atol=1e-5)
    raw = post(server, "/embed", inputs=TEXTS[0], normalize=False)
    np.testing.assert_allclose(raw, encoder.encode(TEXTS[:1], normalize=False), atol=1e-4)


def test_embed_cuts_a_long_text_at_the_side_that_is_asked_for(server, encoder):
    long = " ".join(f"word{n}" for n in range(200))
    ids = encoder.tokenizer.encode_plain([long])[0]
    before, after = encoder.tokenizer.template
    room = 64 - len(before) - len(after)
    for side, kept in (("Left", ids[-room:]), ("Right", ids[:room])):
        answer = server.post("/embed", {"inputs": long, "truncate": True, "truncation_direction": side})
        assert answer.headers["x-truncated-texts"] == "1"
        assert answer.headers["x-compute-tokens"] == "64"
        due = post(server, "/embed", inputs=[kept.tolist()])
        np.testing.assert_allclose(answer.json(), due, atol=1e-6)


def test_embed_all_gives_the_states_of_every_token(server, encoder):
    found = post(server, "/embed_all", inputs=TEXTS[:2])
    for rows, tokens in zip(found, encoder.encode_tokens(TEXTS[:2]), strict=True):
        np.testing.assert_allclose(rows, tokens.vectors, atol=1e-4)


def test_predict_gives_every_label_with_the_highest_first(server, folders):
    (due,) = predictor(folders, "topics").predict([WORDS])
    found = post(server, "/predict", inputs=WORDS)
    assert [one["label"] for one in found] == sorted(due["scores"], key=due["scores"].get, reverse=True)
    assert {one["label"]: one["score"] for one in found} == pytest.approx(due["scores"], abs=1e-5)
    assert post(server, "/predict", inputs=[[WORDS]]) == [found]
    (logits,) = predictor(folders, "topics").logits([WORDS])
    raw = post(server, "/predict", inputs=WORDS, raw_scores=True)
    assert sorted(one["score"] for one in raw) == pytest.approx(sorted(logits.tolist()), abs=1e-4)


def test_predict_reads_a_pair_and_a_batch_of_both(server, folders):
    due = predictor(folders, "topics").predict([("the river", "bread"), WORDS])
    pair, both = post(server, "/predict", inputs=["the river", "bread"]), [["the river", "bread"], [WORDS]]
    for found, one in zip([pair, *post(server, "/predict", inputs=both)], [due[0], *due], strict=True):
        assert {each["label"]: each["score"] for each in found} == pytest.approx(one["scores"], abs=1e-5)


def test_several_labels_may_hold_at_once(server, folders):
    (due,) = predictor(folders, "several").predict([WORDS])
    found = post(server, "/predict", inputs=WORDS, model="several")
    assert {one["label"]: one["score"] for one in found} == pytest.approx(due["scores"], abs=1e-5)


def test_rerank_puts_texts_in_the_order_of_their_scores(server, folders):
    texts = ["bread", "the river, the night", "clouds"]
    due = [one["score"] for one in predictor(folders, "ranker").predict([(WORDS, text) for text in texts])]
    found = post(server, "/rerank", query=WORDS, texts=texts, return_text=True, model="ranker")
    assert [one["index"] for one in found] == np.argsort(-np.array(due)).tolist()
    for one in found:
        assert (one["score"], one["text"]) == (pytest.approx(due[one["index"]], abs=1e-5), texts[one["index"]])
    jina = post(
        server, "/v1/rerank", query=WORDS, documents=[{"text": text} for text in texts], model="ranker", top_n=2
    )
    assert [one["index"] for one in jina["results"]] == [one["index"] for one in found[:2]]
    assert jina["results"][0]["relevance_score"] == pytest.approx(found[0]["score"], abs=1e-5)
    assert "document" not in jina["results"][0]


def test_tokens_come_back_as_the_text_that_they_are_of(server, encoder):
    text = TEXTS[0]
    (tokens,) = post(server, "/tokenize", inputs=text)
    assert [one["id"] for one in tokens] == encoder.tokenizer.encode_batch([text])[0].tolist()
    assert [one["special"] for one in tokens] == [True, *[False] * (len(tokens) - 2), True]
    assert all(one["text"] == text[one["start"] : one["stop"]] for one in tokens[1:-1])
    assert post(server, "/decode", ids=[one["id"] for one in tokens]) == [text]
    assert "<" in post(server, "/decode", ids=[one["id"] for one in tokens], skip_special_tokens=False)[0]


def test_info_health_and_metrics_say_what_is_there(server):
    assert httpx.get(server.url + "/health").status_code == 200
    about = httpx.get(server.url + "/info").json()
    assert about["model_id"] == "small"
    assert about["model_type"] == {"embedding": {"pooling": "mean"}}
    assert {"max_input_length", "max_batch_tokens", "max_client_batch_size", "version"} <= set(about)
    post(server, "/embed", inputs="x")
    text = httpx.get(server.url + "/metrics").text
    assert re.search(r'te_request_success_total\{model="small",route="/embed"\} [1-9]', text)
    assert re.search(r"tessera_tokens_total [1-9]", text)
    assert "tessera_ready 1.0" in text


# ---------------------------------------------------------------------------------------------------------------- ours


def test_classify_tag_answer_and_fill_say_what_predictor_and_encoder_say(server, folders):
    numbers = post(server, "/classify", inputs=["the", WORDS], model="number")["predictions"]
    due = predictor(folders, "number").predict(["the", WORDS])
    assert [one["score"] for one in numbers] == pytest.approx([one["score"] for one in due], abs=1e-4)
    tagged = post(server, "/tag", inputs=WORDS)["predictions"][0]
    assert [(one["label"], one["start"], one["end"]) for one in tagged["entities"]] == [
        (one["label"], one["start"], one["end"]) for one in predictor(folders, "tagger").predict([WORDS])[0]["entities"]
    ]
    asked = {"question": "the river", "context": "bread of the night"}
    (found,) = post(server, "/answer", inputs=asked)["predictions"]
    (best,) = predictor(folders, "reader").predict([("the river", "bread of the night")])
    assert (found["answer"], found["start"]) == (best["answer"], best["start"])
    masks = post(server, "/fill", inputs="[MASK] of [MASK]", top_k=2, model="masked")["predictions"][0]
    filled = Encoder.from_pretrained(folders["masked"], dtype="float32").fill_mask("[MASK] of [MASK]", 2)
    assert [[one["text"] for one in guesses] for guesses in masks] == [[one.text for one in some] for some in filled]


@pytest.mark.parametrize("text", ["", " \n"])
def test_a_text_without_words_has_no_entities_and_the_server_goes_on(server, text):
    assert post(server, "/tag", inputs=text)["predictions"] == [{"entities": []}]
    assert post(server, "/classify", inputs=[text, WORDS], model=["topics", "tagger"])["results"][1]["predictions"][
        0
    ] == {"entities": []}
    assert server.post("/models/tagger", {"inputs": text}).json() == []
    assert httpx.get(server.url + "/health").status_code == 200


def test_a_long_text_is_read_in_windows_unless_its_beginning_is_asked_for(server, folders):
    long = "the river of bread " * 30
    (due,) = predictor(folders, "topics").predict([long])
    (found,) = post(server, "/classify", inputs=long)["predictions"]
    assert found["windows"] == due["windows"] > 1
    assert found["scores"] == pytest.approx(due["scores"], abs=1e-5)
    cut = post(server, "/classify", inputs=long, truncate=True)
    assert cut["predictions"][0]["truncated"] is True
    assert cut["usage"]["truncated_texts"] == 1


def test_heads_on_one_trunk_share_its_forward_pass(server, folders):
    alone = {name: post(server, "/classify", inputs=[WORDS, "the"], model=name) for name in ("topics", "moods")}
    both = post(server, "/classify", inputs=[WORDS, "the"], model=["topics", "moods"])
    assert both["usage"]["tokens"] == alone["topics"]["usage"]["tokens"]
    for one in both["results"]:
        due = predictor(folders, one["model"]).predict([WORDS, "the"])
        for found, said in zip(one["predictions"], due, strict=True):
            assert found["scores"] == pytest.approx(said["scores"], abs=1e-5)
    apart = post(server, "/classify", inputs=[WORDS, "the"], model=["topics", "tagger"])
    assert apart["usage"]["tokens"] == 2 * both["usage"]["tokens"]


# -------------------------------------------------------------------------------------------------------------- errors


ERRORS = [
    ("/embed", {"inputs": []}, 400, "inputs cannot be empty"),
    ("/embed", {"inputs": ["a", 3]}, 422, "inputs: entry 1 is neither a text nor a list of token ids"),
    ("/embed", {}, 422, "inputs: Field required"),
    ("/embed", {"inputs": "x", "model": "tagger"}, 424, "tagger gives tags, not embeddings"),
    ("/embed", {"inputs": "long " * 500}, 422, "inputs[0] has more than the 64 tokens that this model reads"),
    ("/embed", {"inputs": [[1, 10**6]]}, 422, "no list of token ids of this model"),
    ("/embed", {"inputs": "x", "truncation_direction": "up"}, 422, "truncation_direction: give left or right"),
    ("/embed", {"inputs": "x", "prompt_name": "query"}, 422, "there is no such prompt; this model has none"),
    ("/embed", {"inputs": ["x"] * 2049}, 422, "inputs has 2049 entries; one request may have 2048"),
    ("/predict", {"inputs": [["a", "b", "c"]]}, 422, "entry 0 is neither a text nor a pair"),
    ("/rerank", {"query": "x", "texts": []}, 400, "texts cannot be empty"),
    ("/decode", {"ids": [10**8]}, 422, "give ids from 0 to"),
    ("/v1/embeddings", {"input": "x", "dimensions": 999}, 400, "dimensions is 999; vectors here have 32"),
    ("/v1/embeddings", {"input": "x", "encoding_format": "hex"}, 400, "encoding_format: Input should be"),
    ("/v1/embeddings", {"input": "x", "model": 5}, 400, "model: Input should be a valid string"),
    ("/v1/rerank", {"query": "x", "documents": [{"words": "x"}]}, 400, "documents: each is a text"),
    ("/classify", {"inputs": "x", "truncat": True}, 400, "truncat: Extra inputs are not permitted"),
    ("/classify", {"inputs": "x", "model": ["topics", "topics"]}, 400, "each once"),
    ("/tag", {"inputs": [["a", "b"]], "model": "topics"}, 400, "topics gives classes, not tags"),
    ("/answer", {"inputs": {"question": "x"}}, 400, "context: Field required"),
    ("/fill", {"inputs": "no mask here"}, 400, "inputs[0] has no"),
    ("/fill", {"inputs": "x", "top_k": 0}, 400, "top_k"),
    ("/nowhere", {}, 404, "GET /docs lists them"),
]


@pytest.mark.parametrize(("path", "body", "status", "said"), ERRORS, ids=lambda value: str(value)[:40])
def test_what_cannot_be_is_said_in_the_shape_of_the_api(server, path, body, status, said):
    answer = server.post(path, body)
    found = answer.json()
    message = found["error"] if isinstance(found.get("error"), str) else (found.get("error") or found)["message"]
    assert said in message
    assert answer.status_code == status
    if path in ("/embed", "/predict", "/rerank", "/decode"):
        assert set(found) == {"error", "error_type"}
    elif path == "/v1/rerank":
        assert set(found) == {"message", "detail", "code"}
    elif path != "/nowhere":
        assert set(found["error"]) == {"message", "type", "param", "code"}
    assert "Traceback" not in answer.text
    assert "/tmp" not in answer.text


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b'{"inputs": "x"}', "text/plain", 415),
        (b'{"inputs": "\xff"}', "application/json", 422),
        (b'{"inputs": "\\ud800"}', "application/json", 422),
        (b"[" * 100_000, "application/json", 422),
        (b"", "application/json", 422),
        (b'{"inputs": "' + b"x" * (9 << 20) + b'"}', "application/json", 413),
    ],
    ids=["no JSON type", "no UTF-8", "half a character", "deep", "empty", "large"],
)
def test_a_body_that_is_no_request_is_refused(server, content, kind, status):
    answer = httpx.post(server.url + "/embed", content=content, headers={"Content-Type": kind}, timeout=HANGS)
    assert answer.status_code == status
    assert set(answer.json()) == {"error", "error_type"}


def test_a_large_body_without_its_length_is_refused_while_it_comes(guarded):
    def endless():
        for _ in range(1000):
            yield b"x" * 1000

    headers = {"Content-Type": "application/json", "Authorization": "Bearer first-key"}
    answer = httpx.post(guarded.url + "/embed", content=endless(), headers=headers, timeout=HANGS)
    assert answer.status_code == 413


def test_who_has_no_key_is_answered_nothing_but_whether_the_server_lives(guarded):
    for key in ("", "first", "first-key2", "first-key second-key"):
        answer = httpx.post(guarded.url + "/v1/embeddings", json={"input": "x"}, headers={"X-Api-Key": key})
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
    refused = httpx.get(guarded.url + "/info")
    assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
    for header in ({"Authorization": "Bearer second-key"}, {"X-Api-Key": "first-key"}):
        assert guarded.post("/embed", {"inputs": "x"}, headers=header).status_code == 200
    for path in ("/health", "/metrics", "/docs", "/"):
        assert httpx.get(guarded.url + path).status_code == 200


def test_a_full_queue_says_when_to_come_back(guarded):
    body = {"inputs": ["one two three " * 3] * 4}
    answer = guarded.post("/embed", body, headers={"X-Api-Key": "first-key"})
    assert answer.status_code == 413  # it alone is more than may ever wait
    assert "give at most 64 in one request" in answer.json()["error"]


def test_pages_of_other_hosts_may_not_ask_unless_they_are_named(server, guarded):
    def allowed(where, origin):
        asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        return httpx.options(where.url + "/embed", headers=asked).headers.get("access-control-allow-origin")

    assert allowed(server, "https://a.example") is None
    assert allowed(guarded, "https://b.example") is None
    assert allowed(guarded, "https://a.example") == "https://a.example"


def test_the_description_of_the_routes_is_whole(server):
    found = httpx.get(server.url + "/openapi.json").json()
    references = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(found)))
    assert references <= set(found["components"]["schemas"])
    page = httpx.get(server.url + "/docs")
    assert all(path in page.text for path in found["paths"])
    assert "http" not in re.sub(r"<title>.*?</title>", "", page.text).replace("text-embeddings", "")


def test_the_log_has_a_line_for_each_request_and_no_text_of_it(server):
    secret = "unmistakable-text-of-a-user"
    server.post("/embed", {"inputs": secret})
    server.post(f"/{secret[:5]}", {"inputs": secret})
    post(server, "/embed", inputs="x")
    with socket.create_connection(server.url.removeprefix("http://").split(":")) as raw:
        raw.sendall(b"not http at all\r\n\r\n")
        raw.recv(100)
    assert any("POST /embed 200" in line for line in server.said)
    assert not any(secret in line or "Traceback" in line for line in server.said)
