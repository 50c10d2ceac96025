"""Predictions on CPUs: `Predictor` beside transformers' `pipeline`, the same folder and the same rows.

    python benchmarks/prediction.py --texts TEXTS [--model FOLDER] [--rows 256] [--threads 2] [--repeats 3]

Text classification and token classification, each by a random head on two encoders: that of --model (any family that
transformers knows; it needs its tokenizer) and a small random ModernBERT, which runs on packed weights. The pipeline
runs as people run it, in float32, with batches of 16 and of 32, in the order of the rows. All is timed from texts to
answers, tokenizing included; contestants take turns, and the fastest of the repeats counts. Ratios are given of
processor time too, which neighbours on the machine do not stretch. The last line is one JSON object.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

Numbers = dict[str, Any]

TASKS = {"text-classification": "ForSequenceClassification", "token-classification": "ForTokenClassification"}
SHAPE = {
    "hidden_size": 256, "intermediate_size": 384, "num_hidden_layers": 8, "num_attention_heads": 4,
    "max_position_embeddings": 512,
}  # fmt: skip
AIM = 3.0  # times the speed of the pipeline
LABELS = 7


def main(given: argparse.Namespace) -> None:
    """Measures every encoder and task, prints the table and the JSON line."""
    import torch
    import transformers

    torch.set_num_threads(given.threads)
    transformers.logging.set_verbosity_error()
    texts = [line for line in given.texts.read_text(encoding="utf-8").splitlines() if line.strip()][: given.rows]
    print(f"{len(texts)} texts, {sum(map(len, texts)) / len(texts):.0f} characters each, {given.threads} threads\n")
    print(f"{'':<58} {'rows/s':>8} {'times pipeline':>15} {'of processor time':>18}")
    found: dict[str, Numbers] = {}
    with tempfile.TemporaryDirectory() as place:
        for family in ("bert", "modernbert"):
            for task, suffix in TASKS.items():
                folder = Path(place) / f"{family}{suffix}"
                _write(folder, family, suffix, given.model)
                name = f"{given.model.name if family == 'bert' else 'small modernbert'}, {task}"
                found[name] = _measure(folder, task, texts, given.repeats)
                _show(name, found[name])
    print(json.dumps({"benchmark": "prediction", "aim": AIM, "rows": len(texts), "found": found}))


def _write(folder: Path, family: str, suffix: str, model: Path) -> None:
    """A model with a random head, and its tokenizer."""
    import torch
    import transformers

    torch.manual_seed(0)
    auto = getattr(transformers, f"AutoModel{suffix}")
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    tokenizer.model_max_length = SHAPE["max_position_embeddings"]
    if family == "bert":
        made = auto.from_pretrained(model, num_labels=LABELS)
    else:
        ids = {"pad_token_id": tokenizer.pad_token_id, "bos_token_id": None, "eos_token_id": None}
        ids |= {"cls_token_id": tokenizer.cls_token_id, "sep_token_id": tokenizer.sep_token_id}
        config = transformers.ModernBertConfig(vocab_size=len(tokenizer), num_labels=LABELS, **ids, **SHAPE)
        made = auto.from_config(config)
    made.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _measure(folder: Path, task: str, texts: list[str], repeats: int) -> dict[str, Numbers]:
    """(seconds, processor seconds) of each contestant, the fastest of the repeats."""
    import transformers

    from tessera import Predictor

    ours = {f"Predictor, {dtype}": Predictor.from_pretrained(folder, dtype=dtype) for dtype in ("auto", "float32")}
    pipeline = transformers.pipeline(task, model=str(folder), device="cpu")
    ways: dict[str, Any] = {name: predictor.predict for name, predictor in ours.items()}
    for size in (16, 32):
        ways[f"pipeline, batch {size}"] = lambda rows, size=size: pipeline(rows, batch_size=size, truncation=True) \
            if task == "text-classification" else pipeline(rows, batch_size=size)  # fmt: skip
    found = {name: {"seconds": 1e9, "processor_seconds": 1e9} for name in ways}
    for way in ways.values():
        way(texts[:16])
    for _ in range(repeats):
        for name, way in ways.items():
            begun, worked = time.perf_counter(), time.process_time()
            way(texts)
            numbers = found[name]
            numbers["seconds"] = min(numbers["seconds"], time.perf_counter() - begun)
            numbers["processor_seconds"] = min(numbers["processor_seconds"], time.process_time() - worked)
    return {name: {**numbers, "rows_per_second": len(texts) / numbers["seconds"]} for name, numbers in found.items()}


def _show(name: str, found: dict[str, Numbers]) -> None:
    theirs = [numbers for way, numbers in found.items() if way.startswith("pipeline")]
    for way, numbers in found.items():
        ratios = [min(one[key] for one in theirs) / numbers[key] for key in ("seconds", "processor_seconds")]
        print(f"{name + ', ' + way:<58} {numbers['rows_per_second']:>8,.0f} {ratios[0]:>14.2f}x {ratios[1]:>17.2f}x",
              flush=True)  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=Path, required=True, help="a file, one text a line")
    parser.add_argument("--model", type=Path, required=True, help="a folder that transformers loads")
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    main(parser.parse_args())
