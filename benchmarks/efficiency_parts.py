"""What the processes of efficiency.py do: one contestant on one kind of documents; the last line is one JSON object."""

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tessera.huggingface.hf_names import family, their_config
from tessera.model.encoder import Encoder
from tessera.model.pooling import pool
from tessera.model.precision import compute_dtype
from tessera.packed.encoder import packed
from tessera.plan.architecture import PRESETS, EncoderConfig
from tessera.train.throughput import used_memory

# Shapes: T tokens of N documents end to end, B rows of L tokens.

BASE = {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072}
OTHERS: dict[str, dict[str, Any]] = {  # as transformers builds them
    "xlm-r-base": {"kind": "xlm-roberta", **BASE, "num_hidden_layers": 12, "vocab_size": 250_002,
                   "max_position_embeddings": 514, "type_vocab_size": 1},
    "minilm": {"kind": "bert", "hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536,
               "num_hidden_layers": 12, "vocab_size": 250_037, "max_position_embeddings": 512},
    "mdistilbert": {"kind": "bert", **BASE, "num_hidden_layers": 6, "vocab_size": 119_547,
                    "max_position_embeddings": 512},
}  # fmt: skip
TINY = {"num_hidden_layers": 3, "vocab_size": 1000, "hidden_size": 64, "intermediate_size": 96, "head_dim": 64,
        "num_attention_heads": 1, "num_key_value_heads": 1, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
        "mask_token_id": 3}  # fmt: skip
FIRST = 10  # smallest token id that is drawn: below are special ones of every model
SHRUNK = 16  # in a rehearsal documents are so much shorter
MOST = 4096  # documents of a padded batch, at most


def main(case: dict[str, Any]) -> dict[str, Any]:
    """One measurement; `case` is what efficiency.py writes."""
    device = torch.device("cuda" if torch.cuda.is_available() and not case["rehearse"] else "cpu")
    dtype = compute_dtype("auto", device)
    if case["what"] == "machine":
        name = (
            torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
        )
        return {"device": name, "dtype": str(dtype).removeprefix("torch."), "torch": torch.__version__}
    texts = documents(case["kind"], case["documents"], case["rehearse"])
    start = tessera if case["name"] == "tessera" else transformers
    encode = start(case["model"], device, dtype, case["rehearse"])
    batch = case["batch"] or largest(encode, texts, device)
    with torch.inference_mode():
        seconds = [_pass(encode, texts, batch, device) for _ in range(1 + case["passes"])][1:]
    tokens = sum(map(len, texts))
    speeds = [tokens / spent for spent in seconds]
    return {
        "tokens_per_second": statistics.fmean(speeds),
        "spread": statistics.stdev(speeds) if len(speeds) > 1 else 0.0,
        "batch": batch,
        "tokens": tokens,
        "peak_bytes": torch.cuda.max_memory_allocated(device) if device.type == "cuda" else used_memory(device),
    }


def documents(kind: str, count: int, rehearse: bool = False) -> list[np.ndarray]:
    """Token ids of each document; ids are below every vocabulary."""
    random = np.random.default_rng(42)
    longest = int(kind.split()[0])
    lengths = np.full(count, longest)
    if "variable" in kind:
        lengths = np.clip(random.normal(longest / 2, longest / 8, count).round(), 16, longest).astype(int)
    if rehearse:
        lengths = np.maximum(lengths // SHRUNK, 2)
    return [random.integers(FIRST, 1000 if rehearse else 100_000, length) for length in lengths]


Encode = Callable[[list[np.ndarray]], Tensor]  # documents of one batch -> [N, C]


def tessera(model: str, device: torch.device, dtype: torch.dtype, rehearse: bool) -> Encode:
    """As the class Encoder holds a model."""
    torch.manual_seed(0)
    standing = packed(Encoder(_config(model, rehearse)).eval().to(device), dtype, may_round=True)

    def encode(batch: list[np.ndarray]) -> Tensor:
        tokens = torch.from_numpy(np.concatenate(batch)).to(device, non_blocking=True)
        starts = torch.from_numpy(np.cumsum([0, *map(len, batch)])).to(device, non_blocking=True)
        return pool(standing(tokens, starts), starts, "mean")

    return encode


def transformers(
    model: str, device: torch.device, dtype: torch.dtype, rehearse: bool, attention: str | None = None
) -> Encode:
    """Padded, as the documentation has it; attention as it chooses itself, or by that function of its own."""
    from transformers import AutoConfig, AutoModel, logging

    logging.set_verbosity_error()
    torch.manual_seed(0)
    if model in OTHERS:
        fields = {**OTHERS[model], "pad_token_id": 0}
        if rehearse:
            fields |= {"num_hidden_layers": 1, "vocab_size": 1000, "hidden_size": 96, "intermediate_size": 64}
        config = AutoConfig.for_model(fields.pop("kind"), **fields)
    else:
        ours = _config(model, rehearse)
        fields = their_config(ours, family(ours), dtype)
        config = AutoConfig.for_model(fields.pop("model_type"), **fields)
    with torch.device(device):
        theirs = AutoModel.from_config(config, dtype=dtype, attn_implementation=attention).eval()

    def encode(batch: list[np.ndarray]) -> Tensor:
        ids = torch.zeros(len(batch), max(map(len, batch)), dtype=torch.long)
        for row, document in enumerate(batch):
            ids[row, : len(document)] = torch.from_numpy(document)
        lengths = torch.tensor([len(document) for document in batch])
        mask = (torch.arange(ids.shape[1]) < lengths[:, None]).to(device)
        hidden = theirs(input_ids=ids.to(device), attention_mask=mask.long()).last_hidden_state
        return (hidden * mask[..., None]).sum(1).float() / mask.sum(1, keepdim=True)

    return encode


def _config(model: str, rehearse: bool) -> EncoderConfig:
    few = TINY if rehearse else {}
    return EncoderConfig.model_validate({**PRESETS[model].model_dump(), **few, "max_position_embeddings": 8192})


def largest(encode: Encode, texts: list[np.ndarray], device: torch.device) -> int:
    """The largest power of two of documents that fits into the GPU; on a CPU, which has no such edge, 8,192 tokens."""
    longest = max(texts, key=len)
    if device.type == "cpu":
        return max(1, min(len(texts), 8192 // len(longest)))
    fits = 0
    for size in (2**n for n in range(MOST.bit_length())):
        if size > max(1, len(texts)):
            break
        try:
            with torch.inference_mode():
                encode([longest] * size)
            torch.cuda.synchronize(device)
        except torch.OutOfMemoryError:
            break
        finally:
            torch.cuda.empty_cache()
        fits = size
    torch.cuda.reset_peak_memory_stats(device)
    if not fits:
        raise SystemExit(f"one document of {len(longest)} tokens does not fit")
    return fits


def _pass(encode: Encode, texts: list[np.ndarray], batch: int, device: torch.device) -> float:
    """Seconds for all documents, in the order they come."""
    began = time.perf_counter()
    found = [encode(part) for part in _batches(texts, batch)]
    torch.cat(found).cpu()  # waits for the device
    return time.perf_counter() - began


def _batches(texts: list[np.ndarray], batch: int) -> Iterator[list[np.ndarray]]:
    for first in range(0, len(texts), batch):
        yield texts[first : first + batch]


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
