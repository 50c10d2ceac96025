"""`tessera serve` beside the servers that one would write today, and beside Encoder.encode without a server.

    python benchmarks/serving.py --model FOLDER --texts TEXTS [--threads 2] [--seconds 8] [--only PART ...]
    python benchmarks/serving.py --model FOLDER --texts TEXTS --only soak --seconds 600

Parts: peers, offline, alone, heads, long, soak. Clients and server share this machine, and so may others: therefore
each rate is given twice, by the clock and by seconds of the server's own processor, which neighbours and clients do
not stretch. Everything of a comparison is measured in one run. The last line is one JSON object.
"""

import argparse
import asyncio
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from serving_parts import Numbers, Server, closed_loop, infinity, measured, ours, theirs

PARTS = ("peers", "offline", "alone", "heads", "long", "soak")
CLIENTS = 16
LONG = {"hidden_size": 256, "intermediate_size": 384, "num_hidden_layers": 8, "num_attention_heads": 4}


def main(given: argparse.Namespace) -> None:
    """Measures what is asked for; prints a table and the JSON line."""
    texts = [line for line in given.texts.read_text(encoding="utf-8").splitlines() if line.strip()][:2048]
    load = os.getloadavg()[0]
    print(f"{len(texts)} texts, {sum(map(len, texts)) / len(texts):.0f} characters each, {given.threads} threads")
    print(f"load of the machine before: {load:.1f} on {os.cpu_count()} cores\n")
    found: dict[str, Any] = {"benchmark": "serving", "load": load, "threads": given.threads}
    for part in given.only:
        found[part] = globals()[part](given, texts)
    print(json.dumps(found))


def _show(name: str, row: Numbers) -> None:
    print(
        f"{name:<44} {row['per_second']:>8.1f}/s {row['per_cpu_second']:>8.1f}/cpu s   p50 {row['p50']:>7.1f} ms"
        f"   p99 {row['p99']:>7.1f} ms   {row['statuses']}"
    )


def peers(given: argparse.Namespace, texts: list[str]) -> Numbers:
    """16 clients of single short texts, and of texts of mixed lengths."""
    loads = {
        "short": [{"inputs": text[:60]} for text in texts],
        "mixed": [
            {"inputs": (text * 30)[: (40, 40, 40, 200, 800)[n % 5]], "truncate": True} for n, text in enumerate(texts)
        ],
    }
    found: Numbers = {}
    folder = str(given.model)
    servers = {
        "tessera serve": lambda: ours([folder], given.threads),
        "tessera serve, float32": lambda: ours([folder], given.threads, "--dtype", "float32"),
        "sentence-transformers, a lock": lambda: theirs("locked", folder, given.threads),
        "sentence-transformers, no lock": lambda: theirs("unlocked", folder, given.threads),
    }
    if given.infinity is not None:
        servers["infinity-emb"] = lambda: infinity(given.infinity, folder, given.threads)
    for name, start in servers.items():
        with start() as server:
            for kind, bodies in loads.items():
                path = "/embed"
                if name == "infinity-emb":
                    path, bodies = "/embeddings", [{"input": [body["inputs"]]} for body in bodies]
                asyncio.run(closed_loop(server.port, bodies, clients=CLIENTS, seconds=1, path=path))
                row = measured(server, bodies, clients=CLIENTS, seconds=given.seconds, path=path)
                found[f"{name}: {kind}"] = row
                _show(f"{name}: {kind}", row)
    for kind in loads:
        best = max((row for name, row in found.items() if kind in name and "tessera" not in name), key=_by_clock)
        mine = found[f"tessera serve: {kind}"]
        for how in ("per_second", "per_cpu_second"):
            found[f"times the better peer, {kind}, {how}"] = mine[how] / best[how]
            print(f"times the better peer, {kind}, {how}: {mine[how] / best[how]:.2f} (aim: 4)")
    return found


def _by_clock(row: Numbers) -> float:
    return float(row["per_second"])


def offline(given: argparse.Namespace, texts: list[str]) -> Numbers:
    """Texts a second at saturation, requests of 32 texts, beside Encoder.encode of the same texts, in turns."""
    import torch

    from tessera import Encoder

    torch.set_num_threads(given.threads)
    encoder, texts = Encoder.from_pretrained(given.model), texts[:512]
    encoder.encode(texts[:64])
    bodies = [{"inputs": texts[n : n + 32], "truncate": True} for n in range(0, len(texts), 32)]
    here, there = [0, 0.0, 0.0], [0, 0.0, 0.0]  # texts, seconds, seconds of the processor
    with ours([str(given.model)], given.threads) as server:
        asyncio.run(closed_loop(server.port, bodies, clients=CLIENTS, seconds=0.1))
        for _ in range(given.rounds):
            began, cpu = time.perf_counter(), time.process_time()
            encoder.encode(texts)
            here = _add(here, len(texts), time.perf_counter() - began, time.process_time() - cpu)
            cpu = server.cpu()
            row = asyncio.run(closed_loop(server.port, bodies, clients=CLIENTS, seconds=given.seconds))
            there = _add(there, 32 * len(row["took"]), row["seconds"], server.cpu() - cpu)
    found: Numbers = {}
    for name, (count, seconds, cpu) in (("encode", here), ("served", there)):
        found[name] = {"per_second": count / seconds, "per_cpu_second": count / cpu}
        print(f"{name}: {count / seconds:.0f} texts/s, {count / cpu:.0f} texts a cpu second")
    for how in ("per_second", "per_cpu_second"):
        found[f"share_{how}"] = found["served"][how] / found["encode"][how]
        print(f"share, {how}: {found[f'share_{how}']:.2f} (aim: 0.9)")
    return found


def _add(sums: list[float], *more: float) -> list[float]:
    return [a + b for a, b in zip(sums, more, strict=True)]


def alone(given: argparse.Namespace, texts: list[str]) -> Numbers:
    """One short text at a time: Encoder.encode in this process and the server take turns."""
    import torch

    from tessera import Encoder

    torch.set_num_threads(given.threads)
    encoder = Encoder.from_pretrained(given.model)
    text = min(texts, key=lambda one: abs(len(one) - 40))
    rows: dict[str, list[float]] = {"encode": [], "served": []}
    cpu = {"encode": 0.0, "served": 0.0}
    with ours([str(given.model)], given.threads) as server:
        until = time.perf_counter() + given.rounds * given.seconds
        while time.perf_counter() < until:
            mine = time.process_time()
            for _ in range(20):
                began = time.perf_counter()
                encoder.encode(text)
                rows["encode"].append(time.perf_counter() - began)
            cpu["encode"] += time.process_time() - mine
            theirs_before = server.cpu()
            one = asyncio.run(closed_loop(server.port, [{"inputs": text}], clients=1, seconds=0, least=20))
            rows["served"] += one["took"]
            cpu["served"] += server.cpu() - theirs_before
    found: Numbers = {}
    for name, took in rows.items():
        took.sort()
        found[name] = {
            "median": 1000 * took[len(took) // 2],
            "least": 1000 * took[0],
            "cpu": 1000 * cpu[name] / len(took),
        }
    for how in ("median", "least", "cpu"):
        found[f"added_{how}"] = found["served"][how] - found["encode"][how]
        print(
            f"one short text, {how}: encode {found['encode'][how]:.2f} ms, served {found['served'][how]:.2f} ms: "
            f"{found[f'added_{how}']:+.2f} ms (aim: at most +2)"
        )
    return found


def heads(given: argparse.Namespace, texts: list[str]) -> Numbers:
    """Six classifiers on one trunk asked together, beside one of them."""
    import torch
    import transformers

    with tempfile.TemporaryDirectory() as place:
        names = [f"head{n}" for n in range(6)]
        model = transformers.AutoModelForSequenceClassification.from_pretrained(given.model, num_labels=5)
        tokenizer = transformers.AutoTokenizer.from_pretrained(given.model)
        for number, name in enumerate(names):
            torch.manual_seed(number)
            torch.nn.init.normal_(model.classifier.weight, 0.0, 0.5)
            model.save_pretrained(f"{place}/{name}")
            tokenizer.save_pretrained(f"{place}/{name}")
        rows: Numbers = {}
        with ours([f"{place}/{name}" for name in names], given.threads) as server:
            for label, asked in (("one head", names[:1]), ("six heads", names)):
                bodies = [{"inputs": [text[:200]], "model": asked} for text in texts]
                rows[label] = measured(server, bodies, clients=CLIENTS, seconds=given.seconds, path="/classify")
                _show(label, rows[label])
            rows["memory"] = server.memory()
    rows["times"] = rows["one head"]["per_cpu_second"] / rows["six heads"]["per_cpu_second"]
    print(f"six heads cost {rows['times']:.2f} times one by the processor (aim: 1.3); {rows['memory']:.0f} MB resident")
    return rows


def long(given: argparse.Namespace, texts: list[str]) -> Numbers:
    """Ten clients of texts of 8,192 tokens: a small random ModernBERT, memory at its highest."""
    import torch
    import transformers

    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as place:
        tokenizer = transformers.AutoTokenizer.from_pretrained(given.model)
        tokenizer.model_max_length = 8192
        ids = {"pad_token_id": tokenizer.pad_token_id, "bos_token_id": None, "eos_token_id": None}
        ids |= {"cls_token_id": tokenizer.cls_token_id, "sep_token_id": tokenizer.sep_token_id}
        config = transformers.ModernBertConfig(vocab_size=len(tokenizer), max_position_embeddings=8192, **ids, **LONG)
        transformers.ModernBertModel(config).save_pretrained(place)
        tokenizer.save_pretrained(place)
        with ours([f"long={place}"], given.threads, "--timeout", "1200") as server:
            before = server.memory()
            bodies = [{"inputs": " ".join(texts)[: 60_000 + n], "truncate": True} for n in range(40)]
            row = measured(server, bodies, clients=10, seconds=given.seconds)
            _show("8,192 tokens, 10 clients", row)
            row |= {"before": before, "most": server.memory("VmHWM")}
    print(f"resident: {before:.0f} MB before, {row['most']:.0f} MB at most")
    return row


def soak(given: argparse.Namespace, texts: list[str]) -> Numbers:
    """All kinds of requests for the given seconds; memory every twentieth part of them."""
    samples: list[float] = []
    statuses: dict[int, int] = {}
    bodies: list[Numbers] = [{"inputs": text} for text in texts[:200]]
    bodies += [{"inputs": texts[n : n + 50], "truncate": True} for n in range(0, 500, 50)]
    bodies += [{"inputs": "x" * 30_000}, {"inputs": []}, {"inputs": 5}]
    with ours([str(given.model)], given.threads) as server:
        _some(server, bodies, 2.0)
        for _ in range(20):
            for status, count in _some(server, bodies, given.seconds / 20).items():
                statuses[status] = statuses.get(status, 0) + count
            samples.append(server.memory())
    print("resident MB: " + " ".join(f"{one:.0f}" for one in samples) + f"; {statuses}")
    print(f"last quarter over the second: {sum(samples[15:]) / sum(samples[5:10]):.3f} (aim: flat)")
    return {"memory": samples, "statuses": statuses}


def _some(server: Server, bodies: list[Numbers], seconds: float) -> dict[int, int]:
    found = asyncio.run(closed_loop(server.port, bodies, clients=CLIENTS, seconds=seconds))
    statuses: dict[int, int] = found["statuses"]
    return statuses


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", type=Path, required=True, help="a folder of sentence-transformers")
    parser.add_argument("--texts", type=Path, required=True, help="a text a line")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3, help="turns of what is compared turn by turn")
    parser.add_argument("--infinity", metavar="PROGRAM", help="infinity_emb of another environment, one more peer")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS[:-1])
    main(parser.parse_args())
