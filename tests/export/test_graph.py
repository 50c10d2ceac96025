"""What is exported is what we compute: every row, every length, both families, both engines."""

import json
import re
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_encoder import FAMILIES, TEXTS, small_model

from tessera.export import graph as exporting
from tessera.export import tracing
from tessera.export.graph import export
from tessera.export.model_card import by_text, lines
from tessera.export.padded import PaddedEmbedder, PaddedEncoder
from tessera.huggingface import hub
from tessera.inference import sentence_folder as folders
from tessera.inference.encoder import Encoder
from tessera.inference.runtime import ABOUT, Runtime, together
from tessera.json_files import read_json
from tessera.model.mlm import MaskedLM
from tessera.model.pooling import POOLINGS, Unit, pool
from tessera.plan.architecture import EncoderConfig
from tessera.plan.corpus import TokenizerTraining
from tessera.tokenizer import tokenizer as tokenizers

for package in ("onnx", "onnxscript", "onnxruntime", "openvino"):
    pytest.importorskip(package, reason=f"{package} is not installed")

ENGINES = ("onnx", "openvino")
LONGEST = 300  # tokens: far beyond the window of 8 on either side
DOCS = Path(__file__).parents[2] / "docs" / "export.md"


def model_folder(place: Path, family: str) -> Path:
    tokenizer = tokenizers.train(
        {"aaa_Latn": TEXTS * 20}, TokenizerTraining(vocab_size=300), place / "tokenizer", model_max_length=LONGEST
    )
    fields = {"max_position_embeddings": LONGEST, "num_hidden_layers": 2}
    model = MaskedLM(EncoderConfig.model_validate({**small_model(tokenizer, family).config.model_dump(), **fields}))
    known = small_model(tokenizer, family).state_dict()
    model.load_state_dict({name: known[name] for name in model.state_dict()})
    hub.save(model, place / family, place / "tokenizer")
    return place / family


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """The folder of each family, written once."""
    return cache(lambda family: model_folder(tmp_path_factory.mktemp(family), family))


@pytest.fixture(scope="session")
def exported(folder, tmp_path_factory):
    """The exported folder of each family and engine, with what was compared, made once; each family is traced once."""
    traced: dict[str, bytes] = {}

    def make(family: str, engine: str, output: str = "embeddings"):
        out = tmp_path_factory.mktemp("exported") / f"{family}-{engine}"

        def trace(padded, path):
            if family + output not in traced:
                trace_really(padded, path)
                traced[family + output] = path.read_bytes()
            path.write_bytes(traced[family + output])

        trace_really = tracing.trace
        how = {"pooling": POOLINGS, "normalize": False} if family == "eurobert" else {}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tracing, "trace", trace)
            return out, export(folder(family), out, engine, output=output, texts=["mine"], **how)

    return cache(make)


def documents(*lengths: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = torch.randint(5, 290, (sum(lengths),), generator=torch.Generator().manual_seed(seed))
    return tokens, torch.tensor([0, *lengths]).cumsum(0)


def padded(tokens: torch.Tensor, starts: torch.Tensor, left: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    rows = tokens.split(starts.diff().tolist())
    side = "left" if left else "right"
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_side=side)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True, padding_side=side)
    return ids, mask


# ---------------------------------------------------------------------------------------------------- padded, in torch


@pytest.mark.parametrize("left", [False, True], ids=["padded on the right", "padded on the left"])
@pytest.mark.parametrize("lengths", [(1,), (8,), (3, 40, 7, 8, 9, 16, 1), (17, 200)], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_padded_rows_give_what_packed_documents_give(folder, family, lengths, left):
    encoder = hub.load_own_encoder(folder(family), "reference").eval()
    tokens, starts = documents(*lengths)
    ids, mask = padded(tokens, starts, left)
    with torch.inference_mode():
        torch.testing.assert_close(PaddedEncoder(encoder)(ids, mask)[mask.bool()], encoder(tokens, starts))


@pytest.mark.parametrize("left", [False, True], ids=["padded on the right", "padded on the left"])
@pytest.mark.parametrize("how", POOLINGS)
def test_every_pooling_of_padded_rows_is_that_of_packed_documents(folder, how, left):
    encoder = hub.load_own_encoder(folder("mmbert"), "reference").eval()
    tokens, starts = documents(3, 40, 1, 16)
    with torch.inference_mode():
        wanted = Unit()(pool(encoder(tokens, starts), starts, (how,)))
        found = PaddedEmbedder(encoder, (how,), [Unit()])(*padded(tokens, starts, left))[1]
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


def test_a_row_of_nothing_but_padding_gives_numbers(folder):
    encoder = hub.load_own_encoder(folder("mmbert"), "reference").eval()
    ids = torch.zeros(2, 20, dtype=torch.long)
    mask = torch.tensor([[0] * 20, [1] * 20])
    with torch.inference_mode():
        assert all(part.isfinite().all() for part in PaddedEmbedder(encoder, POOLINGS, [Unit()])(ids, mask))


# -------------------------------------------------------------------------------------------------------------- graphs


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("family", FAMILIES)
def test_batch_and_length_of_a_graph_are_free_and_its_numbers_are_ours(folder, exported, family, engine):
    out, checks = exported(family, engine)
    assert all(check.ok for check in checks)
    assert {check.batch for check in checks} >= {1, 3}
    assert max(check.tokens for check in checks) == 200  # of the lengths compared, the longest that this model reads
    encoder = hub.load_own_encoder(folder(family)).eval()
    runtime = Runtime.open(out, dtype="float32")
    for lengths in ((1,), (LONGEST,), (5, 1, 77, 8, 8, 130)):
        tokens, starts = documents(*lengths, seed=1)
        with torch.inference_mode():
            hidden = encoder(tokens, starts)
        torch.testing.assert_close(runtime(tokens, starts), hidden, atol=2e-4, rtol=1e-3)
        every = pool(hidden, starts, POOLINGS)
        vectors = every if family == "eurobert" else Unit()(pool(hidden, starts, ("mean",)))
        torch.testing.assert_close(runtime.vectors(tokens, starts), vectors, atol=2e-4, rtol=1e-3)


def test_far_positions_keep_their_angle_in_bfloat16(exported):
    runtime = Runtime.open(exported("mmbert", "openvino")[0])
    if runtime.dtype is not torch.bfloat16:
        pytest.skip("this processor does not multiply in bfloat16")
    _, checks = exported("mmbert", "openvino")
    rounded = [c for c in checks if c.dtype == "bfloat16" and c.output == "sentence_embedding"]
    assert min(check.cosine for check in rounded) > 0.999


def test_logits_are_those_of_the_head(folder, exported):
    out, checks = exported("mmbert", "onnx", "logits")
    runtime = Runtime.open(out, dtype="float32")
    assert {check.output for check in checks} == {"logits"}
    tokens, starts = documents(9, 30)
    with torch.inference_mode():
        wanted = hub.load(folder("mmbert")).eval()(tokens, starts)
    torch.testing.assert_close(runtime(tokens, starts), wanted, atol=2e-4, rtol=1e-3)
    with pytest.raises(ValueError, match=r"this graph gives logits; export it with embeddings as its output"):
        runtime.vectors(tokens, starts)


def test_the_folder_holds_all_that_a_reader_needs_and_no_more(exported):
    names = {path.name for path in exported("mmbert", "onnx")[0].iterdir()}
    assert names == {
        *("README.md", "config.json", "manifest.json", "model.onnx", "tessera_export.json", "tokenizer.json"),
        "tokenizer_config.json",
        *("special_tokens_map.json", "modules.json", "config_sentence_transformers.json"),
        *("sentence_bert_config.json", "1_Pooling", "2_Normalize"),
    }
    out, checks = exported("mmbert", "openvino")
    assert {path.name for path in out.iterdir()} - names == {"openvino_model.xml", "openvino_model.bin"}
    assert read_json(out / ABOUT)["engine"] == "openvino"
    assert len(read_json(out / ABOUT)["checks"]) == len(checks)
    columns, rows = by_text(checks)
    assert columns[:4] == ["text", "tokens", "batches", "float32 cosine"]
    assert {"(empty)", "mine", "random tokens"} < {row[0] for row in rows}
    assert all(float(row[3]) > 0.99999 for row in rows)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_lines_in_the_guide_and_in_the_card_run_without_tessera_and_give_our_vectors(folder, exported, engine):
    shown = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    package = "onnxruntime" if engine == "onnx" else "openvino"
    (code,) = [block for block in shown if f"import {package}" in block]
    out, _ = exported("mmbert", engine)
    assert code.replace("512", str(LONGEST)) == lines(engine, "sentence_embedding", LONGEST)
    assert lines(engine, "sentence_embedding", LONGEST) in (out / "README.md").read_text(encoding="utf-8")
    assert "tessera" not in code
    assert len(code.split("\n")) < 15
    texts = TEXTS[:5]
    names: dict[str, object] = {"folder": str(out), "texts": texts}
    exec(code.replace("512", str(LONGEST)), names)
    found = np.asarray(names["found"])
    wanted = Encoder.from_pretrained(folder("mmbert"), device="cpu", dtype="float32").encode(texts)
    cosines = (found * wanted).sum(1) / np.linalg.norm(found, axis=1)
    assert cosines.min() > (0.99999 if engine == "onnx" else 0.999)  # OpenVINO may choose bfloat16 by itself


def test_pooling_can_be_chosen_and_comes_back(exported):
    out, _ = exported("eurobert", "onnx")
    pipeline, inside = folders.read(out)
    assert (pipeline.pooling, pipeline.normalize, inside) == (POOLINGS, False, out)


# ------------------------------------------------------------------------------------------------------------- refusals


def test_a_graph_that_differs_is_refused_and_leaves_nothing(folder, exported, tmp_path, monkeypatch):
    def write_another(padded, target, to):
        (target / "model.onnx").write_bytes((exported("mmbert", "onnx")[0] / "model.onnx").read_bytes())

    monkeypatch.setattr(exporting, "write_graph", write_another)
    place = folder("mmbert")
    other = hub.load(place)
    with torch.no_grad():
        other.encoder.layers[1].attention.qkv.weight[0, 0] += 0.5  # one weight among thousands
    hub.save(other, tmp_path / "other", place)
    with pytest.raises(ValueError, match=r"nothing was written: in float32 the graph differs from our model in \d+ of"):
        export(tmp_path / "other", tmp_path / "out", "onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_what_stands_there_is_not_written_over(folder, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("dear to me")
    with pytest.raises(FileExistsError, match="there already; remove it"):
        export(folder("mmbert"), tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


def test_unknown_families_and_engines_are_refused(folder, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "made-up"}))
    with pytest.raises(ValueError, match=r"model_type is .made-up., which transformers does not have"):
        export(tmp_path, tmp_path / "out")
    with pytest.raises(ValueError, match=r"to is 'tflite'; give onnx or openvino"):
        export(folder("mmbert"), tmp_path / "out", "tflite")


def test_a_missing_package_is_named_with_the_line_to_type(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ImportError, match=r'export needs onnxscript; pip install "tessera-encoders\[export\]"'):
        export(folder("mmbert"), tmp_path / "out")


def test_a_runtime_says_what_it_cannot_do(folder, exported, tmp_path):
    with pytest.raises(ValueError, match=r"neither openvino_model.xml nor model.onnx is there; write one with tessera"):
        Runtime.open(folder("mmbert"))
    with pytest.raises(ValueError, match=r"ONNX Runtime has no bfloat16 on a CPU"):
        Runtime.open(exported("mmbert", "onnx")[0], dtype="bfloat16")
    runtime = Runtime.open(exported("mmbert", "onnx")[0])
    with pytest.raises(ValueError, match=rf"a document has 301 tokens, more than the model's {LONGEST}"):
        runtime(*documents(4, 301))


# -------------------------------------------------------------------------------------------------------------- at work


@pytest.mark.parametrize("engine", ENGINES)
def test_an_encoder_runs_on_an_exported_folder_as_on_the_model(folder, exported, engine):
    out, _ = exported("mmbert", engine)
    runtime = Runtime.open(out, dtype="float32")
    pipeline, inside = folders.read(out)
    encoder = Encoder(runtime, tokenizers.Tokenizer.load(inside), pipeline, device="cpu", dtype="float32")
    ours = Encoder.from_pretrained(folder("mmbert"), device="cpu", dtype="float32")
    for pooling in ("mean", "cls"):
        found, wanted = (one.encode(TEXTS, pooling=pooling) for one in (encoder, ours))
        np.testing.assert_allclose(found, wanted, atol=1e-5)
    opened = Encoder.from_pretrained(out, dtype="float32")
    np.testing.assert_allclose(opened.encode(TEXTS), encoder.encode(TEXTS), atol=1e-6)


@pytest.mark.parametrize("engine", ENGINES)
def test_threads_share_a_runtime(exported, engine):
    runtime = Runtime.open(exported("eurobert", engine)[0])
    given = [documents(3 + n, 50 - n, seed=n) for n in range(16)]
    alone = [runtime.vectors(*one) for one in given]
    with ThreadPoolExecutor(4) as pool_of_threads:
        together_ = list(pool_of_threads.map(lambda one: runtime.vectors(*one), given))
    for a, b in zip(alone, together_, strict=True):
        torch.testing.assert_close(a, b)


@given(st.lists(st.integers(1, 3000), max_size=200))
def test_calls_lose_and_repeat_nothing_and_are_little_padded(lengths):
    array = np.array(lengths, np.int64)
    calls = list(together(array))
    assert sorted(number for rows in calls for number in rows) == list(range(len(lengths)))
    for rows in calls:
        padded_tokens = len(rows) * max(array[rows])
        assert padded_tokens - array[rows].sum() <= padded_tokens / 4
        assert len(rows) == 1 or padded_tokens <= 4096


def test_no_document_is_no_call(exported):
    runtime = Runtime.open(exported("mmbert", "onnx")[0])
    nothing = torch.empty(0, dtype=torch.long), torch.zeros(1, dtype=torch.long)
    assert len(runtime(*nothing)) == len(runtime.vectors(*nothing)) == 0


@pytest.mark.parametrize("engine", ENGINES)
def test_an_encoder_of_a_graph_is_not_saved_without_it(exported, tmp_path, engine):
    encoder = Encoder.from_pretrained(exported("mmbert", engine)[0])
    with pytest.raises(ValueError, match="holds an exported graph; save the model that it was exported from"):
        encoder.save(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_a_graph_of_another_tool_beside_weights_hides_nothing(folder, tmp_path):
    place = shutil.copytree(folder("mmbert"), tmp_path / "both")
    (place / "model.onnx").write_bytes(b"of another tool")
    due = Encoder.from_pretrained(folder("mmbert"), dtype="float32").encode(TEXTS)
    assert np.array_equal(Encoder.from_pretrained(place, dtype="float32").encode(TEXTS), due)


def test_a_broken_graph_is_named(exported, tmp_path):
    place = shutil.copytree(exported("mmbert", "onnx")[0], tmp_path / "broken")
    (place / "manifest.json").unlink(missing_ok=True)
    (place / "model.onnx").write_bytes((place / "model.onnx").read_bytes()[:2_000])
    with pytest.raises(ValueError, match=r"model\.onnx: is no graph that onnx can read: "):
        Encoder.from_pretrained(place)
