"""What the processes of training_gpu.py do: one measurement each, its last line one JSON object."""

import importlib.util
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from training_gpu_heads import BOUNDS, head, wait

from tessera.data.hashing import keys
from tessera.data.masking import mask
from tessera.data.packing import Batch, select
from tessera.huggingface import hub
from tessera.model.attention import Layout
from tessera.model.mlm import MaskedLM, initialize
from tessera.model.precision import autocast
from tessera.plan.architecture import PRESETS, EncoderConfig
from tessera.plan.cost import data_sheet, step_flops
from tessera.plan.phase import Optimizer
from tessera.train.optimizer import build
from tessera.train.throughput import product_rate, used_memory

PASSES, MASK_RATIO, SHORTEST = 4, 0.3, 16
RATE, BETAS, EPS, CLIP = 1e-4, (0.9, 0.98), 1e-6, 1.0
TINY = {"vocab_size": 512, "hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 3,
        "num_attention_heads": 2, "head_dim": 64, "max_position_embeddings": 512, "pad_token_id": 0, "bos_token_id": 1,
        "eos_token_id": 2, "mask_token_id": 3, "attention_output_dropout": 0.0}  # fmt: skip

# Shapes: T tokens of a pass, N documents, M masked positions, C hidden size, V vocabulary.


def main(case: dict[str, Any]) -> dict[str, Any]:
    """One measurement; `case` is what training_gpu.py writes."""
    if not case["rehearse"] and not torch.cuda.is_available():
        sys.exit("error: PyTorch sees no GPU, and nothing else is measured here; --rehearse shows that all of it runs")
    device = torch.device("cpu" if case["rehearse"] else "cuda")
    absent = missing(case.get("name", ""), device)
    if absent is not None:
        return {"error": absent}
    folder = Path(case["folder"]) / case.get("preset", "")
    match case["what"]:
        case "machine":
            return machine(device)
        case "parity":
            return parity(case["name"], device, Path(case["folder"]))
        case "weights":
            hub.save(drawn(shape(case["preset"], case["rehearse"])), folder)
            return {}
        case "head":
            config = shape(case["preset"], case["rehearse"])
            return head(case["name"], config, round(MASK_RATIO * case["budget"]), device, case["peak_flops"])
    try:
        return train(case, folder, device)
    except torch.OutOfMemoryError:
        return {"full": True}


def missing(name: str, device: torch.device) -> str | None:
    """Why a contestant cannot run here, or None."""
    needs = {"transformers, flash_attention_2": "flash_attn", "liger": "liger_kernel",
             "cut-cross-entropy": "cut_cross_entropy"}  # fmt: skip
    if name in needs and (importlib.util.find_spec(needs[name]) is None or device.type != "cuda"):
        return f"{needs[name]} is not installed" if device.type == "cuda" else "runs on GPUs only"
    if name == "linear_cross_entropy" and not hasattr(functional, "linear_cross_entropy"):
        return "not in this torch"
    return None


def machine(device: torch.device) -> dict[str, Any]:
    """What MFU is a share of."""
    rate = product_rate(device, torch.bfloat16, 0.5, best=True)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "a CPU"
    row = data_sheet(name)
    flops, source = (row[1], f"data sheet of {row[0]}") if row else (rate, "the largest measured, no data sheet")
    return {"device": name, "torch": torch.__version__, "peak_flops": flops, "peak_source": source,
            "product_flops": rate}  # fmt: skip


def shape(preset: str, rehearse: bool) -> EncoderConfig:
    """The preset without dropout; in a rehearsal with few of everything."""
    few = {**TINY, "hidden_size": 64, "num_key_value_heads": 1, "num_attention_heads": 1} if rehearse else {}
    local = {"local_attention": 16} if few and PRESETS[preset].local_attention else {}
    return EncoderConfig.model_validate(
        {**PRESETS[preset].model_dump(), "attention_output_dropout": 0.0, **few, **local}
    )


def drawn(config: EncoderConfig) -> MaskedLM:
    model = MaskedLM(config)
    initialize(model, torch.Generator().manual_seed(0))
    return model


# ----------------------------------------------------------------------------------------------------------- the text


def batch(config: EncoderConfig, lengths: list[int], seed: int) -> Batch:
    """Documents of these lengths, token ids as rare as words are (Zipf), masked."""
    random = np.random.default_rng(seed)
    frequencies = 1 / np.arange(1, config.vocab_size - 4)
    words = random.choice(len(frequencies), sum(lengths), p=frequencies / frequencies.sum()).astype(np.int32) + 5
    starts = np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
    hidden = config.mask_token_id
    assert hidden is not None
    inputs, positions, targets = mask(
        words, keys(seed, np.arange(len(lengths))), starts, MASK_RATIO, "mask", hidden, (), config.vocab_size
    )
    sources = np.zeros(len(lengths), np.int32)
    return Batch(tokens=inputs, starts=starts, positions=positions, targets=targets, sources=sources)


def passes(config: EncoderConfig, budget: int, context: int, kind: str, count: int) -> Iterator[Batch]:
    """Batches of exactly `budget` tokens; the last document of each is cut to fit."""
    random = np.random.default_rng(context)
    for number in range(count):
        lengths: list[int] = []
        while (left := budget - sum(lengths)) > 0:
            around = random.lognormal(np.log(context / 4), 1)
            length = context if kind == "full" else int(np.clip(around, SHORTEST, context))
            lengths.append(min(length, left))
        yield batch(config, lengths, number)


def tensors(piece: Batch, device: torch.device) -> list[Tensor]:
    """tokens [T], starts [N+1], positions [M], targets [M]"""
    arrays = (piece.tokens, piece.starts, piece.positions, piece.targets)
    return [torch.from_numpy(a.astype(np.int64)).to(device) for a in arrays]


def laid_out(piece: Batch, device: torch.device, longest: int) -> tuple[Tensor, Layout, Tensor, Tensor]:
    """The same with the layout that training makes on the host."""
    tokens, _, positions, targets = tensors(piece, device)
    return tokens, Layout.from_host(piece.starts, len(tokens), device, longest=longest), positions, targets


def padded(piece: Batch, device: torch.device) -> dict[str, Tensor]:
    """The same as [N, longest], with labels where something is hidden."""
    tokens, starts, positions, targets = tensors(piece, torch.device("cpu"))
    lengths = starts.diff()
    real = torch.arange(int(lengths.max()))[None, :] < lengths[:, None]
    ids, labels = torch.zeros(real.shape, dtype=torch.long), torch.full(real.shape, -100)
    flat = torch.full_like(tokens, -100)
    flat[positions] = targets
    ids[real], labels[real] = tokens, flat
    return {"input_ids": ids.to(device), "attention_mask": real.long().to(device), "labels": labels.to(device)}


# ----------------------------------------------------------------------------------------------------- the contestants


def contestant(
    name: str, folder: Path, device: torch.device, tokens: int, longest: int
) -> tuple[nn.Module, Callable[[Batch], Tensor]]:
    """(model, pass of so many tokens -> sum of the losses at its masked positions); longest: of all documents"""
    if name.startswith("tessera"):
        model = hub.load(folder, attention="auto").to(device).train()
        if "compiled" in name:
            with autocast(device, torch.bfloat16):
                model.encoder.compile_layers(
                    tokens, longest, backend="inductor" if device.type == "cuda" else "aot_eager"
                )
        return model, lambda piece: model.loss(*laid_out(piece, device, longest))
    from transformers import AutoModelForMaskedLM, logging

    logging.disable_progress_bar()
    kind = {"attn_implementation": name.partition(", ")[2], "dtype": torch.float32}
    theirs = AutoModelForMaskedLM.from_pretrained(folder, **kind).to(device).train()
    return theirs, lambda piece: theirs(**padded(piece, device)).loss * len(piece.positions)


# --------------------------------------------------------------------------------------------------- the measurements


def parity(name: str, device: torch.device, folder: Path) -> dict[str, Any]:
    """How far the loss and the gradient of tiny models of both families lie from float32 on the CPU, at worst."""
    worst = [0.0, 0.0]
    for preset, keys_and_values in (("mmbert-small", 2), ("eurobert-210m", 1)):
        local = {"local_attention": 16} if PRESETS[preset].local_attention else {}
        few = {**TINY, **local, "num_key_value_heads": keys_and_values, "initializer_range": 0.1}  # attention matters
        exact = drawn(EncoderConfig.model_validate({**PRESETS[preset].model_dump(), **few}))
        place = folder / f"tiny-{preset}-{name.replace(', ', '-')}"
        hub.save(exact, place)
        piece = batch(exact.config, [5, 130, 64, 2, 300, 11], 0)
        exact.encoder.backend = "reference"
        wanted = exact.loss(*tensors(piece, torch.device("cpu")))
        wanted.backward()
        model, loss_of = contestant(name, place, device, len(piece.tokens), int(np.diff(piece.starts).max()))
        with autocast(device, torch.bfloat16):
            found = loss_of(piece)
        found.backward()
        table = model.encoder.embedding if isinstance(model, MaskedLM) else model.get_input_embeddings()  # type: ignore
        gradients = [weight.grad.float().cpu() for weight in (exact.encoder.embedding.weight, table.weight)]
        worst[0] = max(worst[0], abs(float(found.detach()) / float(wanted.detach()) - 1))
        worst[1] = max(worst[1], float((gradients[1] - gradients[0]).norm() / gradients[0].norm()))
    right = all(off < bound for off, bound in zip(worst, BOUNDS, strict=True))
    return {"loss_off": worst[0], "gradient_off": worst[1], "right": right}


def train(case: dict[str, Any], folder: Path, device: torch.device) -> dict[str, Any]:
    """Steps of four passes, forward, back, clipped, AdamW."""
    model, loss_of = contestant(case["name"], folder, device, case["budget"], case["context"])
    ours, config = case["name"].startswith("tessera"), hub.read_config(folder)
    shrunk = 2 ** case["halved"]
    whole = list(passes(config, case["budget"] // (shrunk if ours else 1), case["context"], case["lengths"],
                        PASSES * (shrunk if ours else 1)))  # fmt: skip
    pieces = whole if ours else [part for piece in whole for part in _split(piece, shrunk)]
    masked = sum(len(piece.positions) for piece in pieces)
    optimizer = build(model, Optimizer(name="adamw", betas=BETAS, eps=EPS, weight_decay=0.01), RATE)
    losses, times = [], []
    for _ in range(case["warmup"] + case["steps"]):
        wait(device)
        began, total = time.perf_counter(), torch.zeros((), device=device)
        for piece in pieces:
            with autocast(device, torch.bfloat16):
                loss = loss_of(piece)
            (loss / masked).backward()
            total += loss.detach()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        wait(device)
        times.append(time.perf_counter() - began)
        losses.append(float(total) / masked)
    seconds = sum(times[case["warmup"] :]) / case["steps"]
    lengths = Counter(int(n) for piece in pieces for n in np.diff(piece.starts))
    real = sum(len(piece.tokens) for piece in pieces)
    computed = real if ours else sum(int(np.diff(p.starts).max()) * len(p.sources) for p in pieces)
    return {
        "tokens_per_second": real / seconds,
        "mfu": step_flops(config, lengths, masked) / seconds / case["peak_flops"],
        "peak_bytes": torch.cuda.max_memory_allocated(device) if device.type == "cuda" else used_memory(device),
        "seconds_per_step": seconds,
        "tokens_a_pass": computed / len(pieces),
        "padding": 1 - real / computed,
        "losses": losses,
    }


def _split(piece: Batch, parts: int) -> list[Batch]:
    """The documents in that many parts, or each alone."""
    return [select(piece, part) for part in np.array_split(np.arange(len(piece.sources)), parts) if len(part)]


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    print(json.dumps(main(given)))
