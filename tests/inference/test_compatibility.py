"""Every keyword of SentenceTransformer.encode gives here what it gives there: kinds, shapes, dtypes, order, values."""

import inspect
import itertools
import json

import numpy as np
import pytest
import torch
from small_encoder import TEXTS, write_model

from tessera import Encoder
from tessera.inference.keywords import Keywords
from tessera.inference.similarity import scores

sentence_transformers = pytest.importorskip("sentence_transformers")


@pytest.fixture(scope="module", params=["prompt pooled", "prompt not pooled"])
def pair(request, tmp_path_factory):
    """(ours, theirs) of one folder."""
    from sentence_transformers import SentenceTransformer

    work = tmp_path_factory.mktemp("saved")
    prompts = {"query": "one: ", "document": "two: "}
    Encoder.from_pretrained(write_model(work), dtype="float32").save(work / "st", normalize=False, prompts=prompts)
    pooling = work / "st" / "1_Pooling" / "config.json"
    pooling.write_text(
        json.dumps(json.loads(pooling.read_text()) | {"include_prompt": request.param == "prompt pooled"})
    )
    ours = Encoder.from_pretrained(work / "st", dtype="float32")
    return ours, SentenceTransformer(str(work / "st"), device="cpu", local_files_only=True)


def same(found, expected, mask=None):
    """The same in all but the last digits; of padding (where the mask is 0) the shape alone."""
    assert type(found) is type(expected)
    if isinstance(found, dict):
        assert list(found) == list(expected)
        for key in found:
            same(found[key], expected[key], expected["attention_mask"] if key == "token_embeddings" else None)
    elif isinstance(found, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            same(one, other)
    elif isinstance(found, str | int):
        assert found == expected
    else:
        assert found.shape == expected.shape
        assert found.dtype == expected.dtype
        a, b = (np.asarray(x).astype(np.float64) for x in (found, expected))
        if mask is not None:
            a, b = a[mask.bool().numpy()], b[mask.bool().numpy()]
        tight = 1 if found.dtype in (torch.int8, torch.uint8, np.int8, np.uint8) else 2e-5 * max(1.0, np.abs(b).max())
        assert np.abs(a - b).max() <= tight


CHOICES = {
    "prompt": [
        {}, {"prompt_name": "query"}, {"prompt": "three "}, {"prompt": ""}, {"prompt": "x", "prompt_name": "query"},
    ],
    "kind": [
        {}, {"convert_to_tensor": True}, {"convert_to_numpy": False},
        {"convert_to_tensor": True, "convert_to_numpy": True},
    ],
    "size": [
        {}, {"truncate_dim": 8}, {"normalize_embeddings": True}, {"truncate_dim": 8, "normalize_embeddings": True},
    ],
    "other": [{}, {"batch_size": 2, "show_progress_bar": False, "chunk_size": 3, "device": "cpu", "precision": None}],
}  # fmt: skip


def _together(*choices):
    return {key: value for choice in choices for key, value in choice.items()}


@pytest.mark.parametrize("value", ["sentence_embedding", "token_embeddings", None])
def test_every_keyword_with_every_other_gives_what_it_gives_there(pair, value):
    texts = [text for text in TEXTS if text]
    for choices in itertools.product(*CHOICES.values()):
        options = _together(*choices, {"output_value": value})
        for given in (texts[:4], texts[0]):
            same(*(model.encode(given, **options) for model in pair))


@pytest.mark.parametrize("batch_size", [2, 32])
def test_what_is_padded_together_is_that_of_their_batches(pair, batch_size):
    texts = [TEXTS[n % len(TEXTS)] + "one " * (n % 7) for n in range(13)]
    same(*(model.encode(texts, output_value=None, batch_size=batch_size) for model in pair))


@pytest.mark.parametrize("precision", ["int8", "uint8", "binary", "ubinary"])
@pytest.mark.parametrize("kind", CHOICES["kind"], ids=str)
@pytest.mark.parametrize("size", CHOICES["size"], ids=str)
def test_quantized_embeddings_are_theirs(pair, precision, kind, size):
    texts = [f"one {n} two" for n in range(5)]
    same(*(model.encode(texts, precision=precision, **kind, **size) for model in pair))
    if "binary" in precision:
        same(*(model.encode(texts[0], precision=precision, **kind, **size) for model in pair))
    else:
        for model in pair:
            with pytest.raises(ValueError, match="int8"):
                model.encode(texts[0], precision=precision, **kind, **size)


def test_all_their_keywords_are_known_here(pair):
    theirs = set(inspect.signature(type(pair[1]).encode).parameters)
    assert theirs - {"self", "inputs", "kwargs"} <= Keywords.__optional_keys__


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output_value": "token_embeddings", "precision": "binary"}, "precision is 'binary', which is of sentence"),
        ({"output_value": None, "precision": "int8"}, "precision is 'int8', which is of sentence embeddings"),
        ({"output_value": None, "long": "chunk"}, 'long is "chunk", but output_value=None is of one piece'),
        ({"output_value": "token_embeddings", "pooling": "cls"}, "pooling is of sentence embeddings; leave it out"),
        ({"output_value": "token_embeddings", "dimensions": 8}, "dimensions is of sentence embeddings"),
    ],
)
def test_what_does_not_go_together_is_refused(pair, options, message):
    with pytest.raises(ValueError, match=message):
        pair[0].encode(TEXTS, **options)


@pytest.mark.parametrize("call", ["encode_query", "encode_document"])
@pytest.mark.parametrize("options", [{}, {"prompt": "x "}, {"prompt_name": "document"}, {"convert_to_tensor": True}])
def test_queries_and_documents_have_their_prompts(pair, call, options):
    same(*(getattr(model, call)(TEXTS, **options) for model in pair))


# --------------------------------------------------------------------------------------------------------- similarity

FORMS = {
    "half tensor": lambda x: x.half(),
    "bfloat16 tensor": lambda x: x.bfloat16(),
    "tensor": lambda x: x,
    "double tensor": lambda x: x.double(),
    "half array": lambda x: x.half().numpy(),
    "array": lambda x: x.numpy(),
    "double array": lambda x: x.double().numpy(),
    "list of arrays": lambda x: list(x.numpy()),
    "list of tensors": list,
    "list of lists": lambda x: x.tolist(),
    "one vector": lambda x: x[0],
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("how", ["cosine", "dot", "euclidean", "manhattan"])
def test_similarities_have_their_precision_whatever_they_are_given(pair, form, how):
    x = torch.randn(4, 32, generator=torch.Generator().manual_seed(0))
    model, given = pair[1], FORMS[form](x)
    model.similarity_fn_name = how
    for paired, theirs in ((False, model.similarity), (True, model.similarity_pairwise)):
        found, expected = scores(given, given, how, paired=paired), theirs(given, given)
        same(torch.as_tensor(found), torch.atleast_1d(expected))
        assert isinstance(found, torch.Tensor) == ("tensor" in form or form == "one vector")


def test_neighbours_in_half_precision_are_told_apart():
    x = torch.nn.functional.normalize(1 + 0.001 * torch.arange(64.0).reshape(2, 32), dim=-1).half()
    found = scores(x, x, "cosine")
    assert found.dtype is torch.float32
    assert found[0, 1] != 1.0


def test_quantized_vectors_are_compared_as_numbers():
    rows = np.array([[-128, 127, 3], [5, -6, 7]], np.int8)
    for how in ("cosine", "dot", "euclidean", "manhattan"):
        assert (scores(rows, rows, how) == scores(rows.astype(np.float32), rows.astype(np.float32), how)).all()


@pytest.mark.parametrize(
    ("a", "b", "paired", "message"),
    [
        (
            np.ones((2, 3)),
            np.ones((2, 4)),
            False,
            r"similarity of \[2, 3\] with \[2, 4\] vectors; give as many dimensions",
        ),
        (np.ones((2, 3)), np.ones((1, 3)), True, "and as many vectors"),
        (np.ones((2, 3, 1)), np.ones((2, 3)), False, r"the first argument has the shape \[2, 3, 1\]"),
        ("one", np.ones((2, 3)), False, r"the first argument holds none: .*; encode texts first"),
        (np.ones((2, 3)), ["one", "two"], False, "the second argument holds none"),
        (np.ones((2, 3)), None, False, r"with \[1, 1\] vectors"),
        ([torch.ones(3), torch.ones(4)], np.ones((2, 3)), False, "the first argument holds none"),
    ],
)
def test_what_cannot_be_compared_is_refused(a, b, paired, message):
    with pytest.raises(ValueError, match=message):
        scores(a, b, "cosine", paired=paired)
