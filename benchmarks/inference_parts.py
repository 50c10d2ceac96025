"""What the processes of inference.py do: one contestant each, or the limit; each prints one JSON object."""

import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Numbers = dict[str, Any]

INT8 = "tessera quantize, int8 in OpenVINO"
OURS = ("tessera, bfloat16", "tessera, int8", "tessera, float32", INT8)
PEERS = (
    "transformers, float32, batch 32",
    "transformers, bfloat16, sorted, batch 8",
    "OpenVINO, float32, sorted, batch 8",
    "OpenVINO, bfloat16, sorted, batch 8",
)
SHAPES = ("mmbert-small", "mmbert-base", "eurobert-210m", "minilm")
BASELINES = {  # other families: shape, as transformers calls it
    "xlm-r-base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
                   "vocab_size": 250_002, "max_position_embeddings": 514, "type_vocab_size": 1, "pad_token_id": 1},
    "minilm": {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 1536,
               "vocab_size": 250_037, "max_position_embeddings": 512, "type_vocab_size": 2, "pad_token_id": 0},
}  # fmt: skip
FIRST = 10  # smallest token id that is drawn: below are special ones of every shape
CHECKED = 512  # tokens, at most, of texts whose vectors are compared


def measure(
    what: str, folder: Path, shape: str, lengths: str, threads: int, seconds: float, *, processor: bool = False
) -> Numbers:
    """One measurement, in this process. processor: in its processor seconds, where others use the machine."""
    import torch

    clock = time.process_time if processor else time.perf_counter

    torch.set_num_threads(threads)
    if what == "weights":
        return _write_weights(folder, shape, lengths)
    if what == "limit":
        return _limit(shape, lengths, clock)
    if what == "quantize":
        return _quantize(folder, shape)
    texts = _texts(lengths, what if what in BASELINES else shape)
    if what == INT8:
        run = _int8(folder)
    elif what in OURS:
        if lacking := _lacking(what):
            return {"missing": f"not measured: {lacking}"}
        run = _tessera(what, folder)
    elif what in BASELINES:
        run = _baseline(what)
    elif what.startswith("transformers"):
        run = _transformers(what, folder)
    else:
        try:
            run = _openvino(what, folder, shape)
        except ImportError as error:
            return {"missing": f"not measured: {error}"}
    vectors, spent, times, until = run(texts), float("inf"), 0, time.perf_counter() + seconds
    while times < 2 or time.perf_counter() < until:
        began = clock()
        run(texts)
        spent, times = min(spent, clock() - began), times + 1
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {
        "tokens_per_second": sum(map(len, texts)) / spent,
        "seconds": spent,
        "times": times,
        "peak_bytes": peak,
        "worst_cosine": _worst_cosine(vectors, texts, folder) if what not in BASELINES else None,
    }


def _texts(lengths: str, shape: str) -> list[Any]:
    """Token ids of each text."""
    import numpy as np

    random = np.random.default_rng(0)
    match lengths:
        case "mixed":
            counts = np.clip(random.lognormal(4.15, 0.9, 64), 4, 512)
        case "512":
            counts = np.full(16, 512)
        case "8192":
            counts = np.full(1, 8192)
        case "8192-mixed":
            counts = np.clip(random.normal(4096, 1024, 8), 16, 8192)
        case _:
            counts = np.full(1, 16)
    if shape in BASELINES:
        counts = np.minimum(counts, 512)
    most = _vocabulary(shape)
    return [random.integers(FIRST, most - FIRST, int(count)) for count in counts]


def _config(shape: str) -> Any:
    from tessera.plan.architecture import PRESETS, EncoderConfig

    fields = PRESETS[shape].model_dump()
    return EncoderConfig.model_validate({**fields, "max_position_embeddings": 8192})


def _vocabulary(shape: str) -> int:
    return BASELINES[shape]["vocab_size"] if shape in BASELINES else _config(shape).vocab_size


def _padding(shape: str) -> int:
    return BASELINES[shape]["pad_token_id"] if shape in BASELINES else _config(shape).pad_token_id or 0


def _write_weights(folder: Path, shape: str, lengths: str) -> Numbers:
    """The model, and the vectors of the shorter texts by transformers in float32, one at a time."""
    import numpy as np
    import torch

    from tessera.huggingface import hub
    from tessera.model.mlm import MaskedLM, initialize

    if not (folder / "model").is_dir():
        if shape in BASELINES:
            _their_random(shape).save_pretrained(folder / "model")
        else:
            model = MaskedLM(_config(shape))
            initialize(model, torch.Generator().manual_seed(0))
            hub.save(model, folder / "model")
            del model
    texts = _texts(lengths, shape)
    run = _transformers("transformers, float32, batch 1", folder)
    np.save(folder / "exact.npy", run([text[:CHECKED] for text in texts]))
    counts = [len(text) for text in texts]
    return {"texts": len(texts), "tokens": sum(counts), "longest": max(counts)}


def _worst_cosine(vectors: Any, texts: list[Any], folder: Path) -> float | None:
    """Against float32, of the texts that were not cut for the check."""
    import numpy as np

    exact = np.load(folder / "exact.npy")
    whole = [i for i, text in enumerate(texts) if len(text) <= CHECKED]
    return float((vectors * exact).sum(1)[whole].min()) if whole else float("nan")


def _batches(texts: list[Any], size: int, *, by_length: bool) -> list[list[int]]:
    order = sorted(range(len(texts)), key=lambda i: -len(texts[i])) if by_length else list(range(len(texts)))
    return [order[i : i + size] for i in range(0, len(order), size)]


def _lacking(what: str) -> str | None:
    """Why this processor does not run one of ours, or None where it does."""
    import torch

    from tessera.packed.int8 import can_int8
    from tessera.packed.products import can_pack

    if "int8" in what and not can_int8():
        return "this processor has no AVX512_VNNI"
    if "float32" not in what and not can_pack(torch.bfloat16):
        return "this processor has no bfloat16 products"
    return None


def _tessera(what: str, folder: Path) -> Callable[[list[Any]], Any]:
    """What `Encoder.encode` does once texts are ids: batches of at most 16,384 tokens, longest first."""
    import numpy as np
    import torch

    from tessera.data.packing import by_length
    from tessera.huggingface import hub
    from tessera.model.encoder import pack
    from tessera.model.pooling import pool
    from tessera.packed.encoder import PackedEncoder, packed
    from tessera.packed.int8 import calibrate, int8_layer

    model: Any = hub.load_encoder(folder / "model").eval()
    if "int8" in what:
        random = np.random.default_rng(1)
        most = model.config.vocab_size - FIRST
        steps, _ = calibrate(model, [pack([random.integers(FIRST, most, n)]) for n in (1, 2, 4, 8, 16, 64, 200, 400)])
        fast: Any = PackedEncoder(model, torch.bfloat16, int8_layer(steps))
    else:
        fast = packed(model, torch.bfloat16 if "bfloat16" in what else torch.float32)
    width = fast.config.hidden_size

    @torch.inference_mode()
    def run(texts: list[Any]) -> Any:
        out = np.empty((len(texts), width), np.float32)
        for batch in by_length([len(text) for text in texts], 16_384):
            tokens, starts = pack([texts[i] for i in batch])
            vectors = pool(fast(tokens, starts).float(), starts, "mean")
            out[batch] = torch.nn.functional.normalize(vectors, dim=1).numpy()
        return out

    return run


def _quantize(folder: Path, shape: str) -> Numbers:
    """The int8 graph, calibrated on other tokens than those that are timed; {"missing": why} without its packages."""
    import shutil

    import numpy as np

    from tessera.export import graph, quantize
    from tessera.huggingface import hub
    from tessera.inference.sentence_folder import Pipeline

    try:
        import nncf  # noqa: F401

        graph.need("openvino")
    except ImportError as error:
        return {"missing": f"not measured: {error}"}
    random, most = np.random.default_rng(1), _config(shape).vocab_size
    texts = [random.integers(FIRST, most - FIRST, count).astype(np.int32) for count in range(16, 272, 8)]
    plain, target = folder / "plain", folder / "int8"
    for place in (plain, target):
        place.mkdir()
        shutil.copyfile(folder / "model" / "config.json", place / "config.json")
    graph.write_graph(hub.load(folder / "model").encoder.eval(), Pipeline(), plain, "openvino")
    quantize.write_int8(plain, target, "openvino", False, texts)
    return {}


def _int8(folder: Path) -> Callable[[list[Any]], Any]:
    import numpy as np
    import torch

    from tessera.inference.runtime import Runtime

    runtime = Runtime.open(folder / "int8")

    @torch.inference_mode()
    def run(texts: list[Any]) -> Any:
        starts = torch.tensor([0, *np.cumsum([len(text) for text in texts])])
        return runtime.vectors(torch.from_numpy(np.concatenate(texts)), starts).numpy()

    return run


def _padded(texts: list[Any], batch: list[int], pad: int) -> tuple[Any, Any]:
    import torch

    longest = max(len(texts[i]) for i in batch)
    ids = torch.full((len(batch), longest), pad)
    for row, i in enumerate(batch):
        ids[row, : len(texts[i])] = torch.from_numpy(texts[i])
    lengths = torch.tensor([len(texts[i]) for i in batch])
    return ids, (torch.arange(longest) < lengths[:, None]).long()


def _pooled(hidden: Any, mask: Any) -> Any:
    import torch

    there = mask[..., None] != 0
    total = hidden.masked_fill(~there, 0).sum(1)
    return torch.nn.functional.normalize((total / there.sum(1)).float(), dim=1)


def _over(model: Callable[[Any, Any], Any], size: int, pad: int, *, by_length: bool) -> Callable[[list[Any]], Any]:
    """Texts through a model that takes padded ids and a mask."""
    import numpy as np
    import torch

    @torch.inference_mode()
    def run(texts: list[Any]) -> Any:
        rows: dict[int, Any] = {}
        for batch in _batches(texts, size, by_length=by_length):
            ids, mask = _padded(texts, batch, pad)
            rows.update(zip(batch, _pooled(model(ids, mask), mask).numpy(), strict=True))
        return np.stack([rows[i] for i in range(len(texts))])

    return run


def _their_model(folder: Path, dtype: Any, attention: str = "sdpa") -> Any:
    from transformers import AutoModel, logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    return AutoModel.from_pretrained(folder / "model", dtype=dtype, attn_implementation=attention).eval()


def _transformers(what: str, folder: Path) -> Callable[[list[Any]], Any]:
    import torch

    model = _their_model(folder, torch.bfloat16 if "bfloat16" in what else torch.float32)
    size = int(what.rsplit(" ", 1)[1])

    def states(ids: Any, mask: Any) -> Any:
        return model(input_ids=ids, attention_mask=mask).last_hidden_state

    return _over(states, size, model.config.pad_token_id or 0, by_length="sorted" in what)


def _their_random(name: str) -> Any:
    """A model of another family with random weights."""
    import torch
    from transformers import BertConfig, BertModel, XLMRobertaConfig, XLMRobertaModel

    torch.manual_seed(0)
    config, made = (XLMRobertaConfig, XLMRobertaModel) if name.startswith("xlm") else (BertConfig, BertModel)
    return made(config(**BASELINES[name]), add_pooling_layer=False).eval()


def _baseline(name: str) -> Callable[[list[Any]], Any]:
    model = _their_random(name)

    def states(ids: Any, mask: Any) -> Any:
        return model(input_ids=ids, attention_mask=mask).last_hidden_state

    return _over(states, 32, BASELINES[name]["pad_token_id"], by_length=False)


def _openvino(what: str, folder: Path, shape: str) -> Callable[[list[Any]], Any]:
    """The model of transformers, converted as OpenVINO's guide does it."""
    import numpy as np
    import openvino as ov
    import torch

    saved = folder / "openvino.xml"
    if not saved.exists():
        # As fast as from sdpa, which in OpenVINO gives NaN where a window sees nothing but padding.
        model = _their_model(folder, torch.float32, "eager")
        example = {"input_ids": torch.full((2, 16), FIRST), "attention_mask": torch.ones(2, 16, dtype=torch.int64)}
        with torch.no_grad():
            converted = ov.convert_model(model, example_input=example)
        ov.save_model(converted, saved, compress_to_fp16=False)
        del model
    precision = "bf16" if "bfloat16" in what else "f32"
    settings = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    compiled = ov.Core().compile_model(saved, "CPU", {"PERFORMANCE_HINT": "LATENCY", **settings})

    def states(ids: Any, mask: Any) -> Any:
        given = {"input_ids": ids.numpy(), "attention_mask": mask.numpy()}
        return torch.from_numpy(np.asarray(compiled(given)[0]))

    return _over(states, 8, _padding(shape), by_length=True)


# ------------------------------------------------------------------------------------------------------- the limit


def _limit(shape: str, lengths: str, clock: Callable[[], float]) -> Numbers:
    import torch

    from tessera.model.precision import compute_dtype

    dtype = compute_dtype("auto", torch.device("cpu"))
    counts = [len(text) for text in _texts(lengths, shape)]
    rows = min(sum(counts), 16_384)
    products, layers, flops = _products(shape)
    seconds = sum(_seconds_of(rows, width, out, dtype, clock) for width, out in products) * layers
    dense = sum(2 * rows * width * out for width, out in products) * layers
    rate = dense / seconds
    return {
        "dtype": str(dtype).removeprefix("torch."),
        "tokens_per_second": sum(counts) / (sum(n * flops(n) for n in counts) / rate),
        "gflops_per_second": rate / 1e9,
    }


def _products(shape: str) -> tuple[list[tuple[int, int]], int, Callable[[int], float]]:
    """Widths of the products of a layer, layers, FLOPs of a token among so many."""
    from tessera.plan.architecture import flops_per_token

    if shape in BASELINES:
        theirs = BASELINES[shape]
        hidden, inner, layers = (theirs[f"{n}"] for n in ("hidden_size", "intermediate_size", "num_hidden_layers"))
        products = [(hidden, 3 * hidden), (hidden, hidden), (hidden, inner), (inner, hidden)]
        weights = layers * sum(width * out for width, out in products)
        return products, layers, lambda length: 2 * weights + 4 * layers * hidden * length
    config = _config(shape)
    hidden, inner = config.hidden_size, config.intermediate_size
    qkv = (config.num_attention_heads + 2 * config.num_key_value_heads) * config.head_dim
    answers = config.num_attention_heads * config.head_dim
    products = [(hidden, qkv), (answers, hidden), (hidden, 2 * inner), (inner, hidden)]
    return products, config.num_hidden_layers, lambda length: flops_per_token(config, length)


def _seconds_of(rows: int, width: int, out: int, dtype: Any, clock: Callable[[], float]) -> float:
    """The least time for x w^T into memory that is there."""
    import torch

    x, w = torch.randn(rows, width).to(dtype), torch.randn(out, width).to(dtype)
    answer, best = torch.empty(rows, out, dtype=dtype), float("inf")
    for _ in range(15):
        began = clock()
        torch.mm(x, w.T, out=answer)
        best = min(best, clock() - began)
    return best
