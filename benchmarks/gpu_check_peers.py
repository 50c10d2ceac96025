"""Parts of gpu_check.py: encoding beside transformers and XLM-R, and training steps of transformers."""

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import efficiency
import efficiency_parts
import numpy as np
import torch
import training_gpu_parts as training
from gpu_check_bench import PRESET, Bench, emptied
from gpu_check_steps import device_name, shape
from torch import Tensor, nn
from torch.nn import functional
from training_gpu_heads import wait

from tessera.data.packing import Batch
from tessera.huggingface.hf_names import family, their_config
from tessera.inference.engine import Compile, EncodeOptions, Engine
from tessera.model.encoder import Encoder
from tessera.model.precision import autocast
from tessera.plan import cost
from tessera.plan.architecture import EncoderConfig
from tessera.progress import silent

KERNELS = "varlen_of_torch"  # what our attention function is called there
ATTENTIONS = {"eager": "eager", "sdpa": "sdpa", KERNELS: "FA2 kernels of torch"}
OURS = ("tessera", "tessera, layers compiled")
KINDS = {"512": 1024, "512 variable": 1024, "8192 variable": 64}  # documents of each
AIMS = {"512": ("transformers", 2.0), "512 variable": ("xlm-r-base", 2.4)}  # of mmBERT-small
PUBLISHED = (
    "packed-encoders (PyPI), ModernBERT and mmBERT on an RTX 5090: 1.9 to 2.1 times transformers eager, 1.3 to 1.5 "
    "times torch.compile in max-autotune",
    "ModernBERT (arXiv:2412.13663) and mmBERT (arXiv:2509.06888), training: 11% (base) and 19% (small) of an H100's "
    "peak, worked out from their published days",
)

# Shapes: B documents, H heads, L tokens of the longest, D head width, T tokens end to end, C hidden size.


def unpadded_attention(
    module: nn.Module, q: Tensor, k: Tensor, v: Tensor, attention_mask: Tensor | None, scaling: float | None = None,
    sliding_window: int | None = None, **_: Any
) -> tuple[Tensor, None]:  # fmt: skip
    """An attention function of transformers on the kernels that flash_attention_2 would call, as torch carries them.

    q, k, v         [B, H, L, D]
    attention_mask  [B, L], True at tokens; None where nothing is padded
    returns         [B, L, H, D]
    """
    from torch.nn.attention.varlen import varlen_attn

    count, _, longest, _ = q.shape
    seen = torch.ones(count, longest, dtype=torch.bool, device=q.device) if attention_mask is None else attention_mask
    starts = functional.pad(seen.sum(1).cumsum(0), (1, 0)).to(torch.int32)
    place = seen.flatten().nonzero()[:, 0]
    kind = torch.get_autocast_dtype(q.device.type) if torch.is_autocast_enabled(q.device.type) else q.dtype
    packed = [x.transpose(1, 2).flatten(0, 1)[place].to(kind) for x in (q, k, v)]
    sides = (-1, -1) if sliding_window is None else (sliding_window - 1, sliding_window - 1)
    answer = varlen_attn(*packed, starts, starts, longest, longest, scale=scaling, window_size=sides)
    assert isinstance(answer, Tensor)
    whole = answer.new_zeros(count * longest, *answer.shape[1:]).index_copy(0, place, answer)
    return whole.unflatten(0, (count, longest)), None


def offer_kernels() -> None:
    """Has transformers know the attention function by name."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, flash_attention_mask

    AttentionInterface.register(KERNELS, unpadded_attention)
    AttentionMaskInterface.register(KERNELS, flash_attention_mask)


# -------------------------------------------------------------------------------------------------------------- encode


def encode(bench: Bench) -> None:
    """Tokens a second of ours, of transformers on the same model, and of XLM-R."""
    offer_kernels()
    contestants = [("mmbert-small", OURS[0]), ("mmbert-small", OURS[1]), ("mmbert-small", KERNELS),
                   ("mmbert-small", "sdpa"), ("xlm-r-base", "sdpa"), ("mmbert-base", OURS[0]), ("mmbert-base", OURS[1]),
                   ("mmbert-base", KERNELS)]  # fmt: skip
    for kind, count in KINDS.items():
        texts = efficiency_parts.documents(kind, bench.shorter(count, 6), bench.rehearse)
        found: dict[tuple[str, str], float] = {}
        for model, way in contestants:
            if model in efficiency_parts.OTHERS and kind.startswith("8192"):
                continue
            row = {"row": f"encode {kind}: {model}, {ATTENTIONS.get(way, way)}"}
            try:
                speed = found[model, way] = tokens_a_second(bench, model, way, texts)
            except (RuntimeError, ValueError) as error:  # memory that is full is one of the first
                bench.say({**row, "error": f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"})
                continue
            bench.say({**row, "tokens_s": speed})
        ratios(bench, kind, found)
    bench.say({"row": "published, not measured here", "by": PUBLISHED[0]})


def tokens_a_second(bench: Bench, model: str, way: str, texts: list[np.ndarray]) -> float:
    """The best of three passes over all documents, after one that is not counted."""
    emptied(bench)
    work = our_work(bench, model, way, texts) if way in OURS else their_work(bench, model, way, texts)
    seconds = []
    for _ in range(bench.shorter(4, 2)):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return sum(map(len, texts)) / min(seconds[1:])


def our_work(bench: Bench, model: str, way: str, texts: list[np.ndarray]) -> Callable[[], object]:
    """All documents through what the class Encoder runs."""
    torch.manual_seed(0)
    config = efficiency_parts._config(model, bench.rehearse)
    compiled: Compile = "on" if way == OURS[1] and not bench.rehearse else "off"
    engine = Engine(Encoder(config), (), bench.device, torch.bfloat16, compiled)
    unread: Any = None  # documents are token ids already
    how = EncodeOptions(reading=unread, pooling=("mean",), skip=0, normalize=False, dimensions=config.hidden_size,
                        max_tokens=bench.shorter(0, 64), alone=False)  # fmt: skip
    pieces = [[text.astype(np.int32)] for text in texts]
    return lambda: engine.vectors(pieces, how, silent)


def their_work(bench: Bench, model: str, way: str, texts: list[np.ndarray]) -> Callable[[], object]:
    """All documents in their order, in padded batches of about as many tokens."""
    one = efficiency_parts.transformers(model, bench.device, torch.bfloat16, bench.rehearse, attention=way)
    batch = max(1, bench.shorter(65_536, 64) // max(map(len, texts)))

    def work() -> None:
        with torch.inference_mode():
            torch.cat([one(texts[n : n + batch]) for n in range(0, len(texts), batch)]).cpu()

    return work


def ratios(bench: Bench, kind: str, found: dict[tuple[str, str], float]) -> None:
    """Ours beside the fastest way of transformers on the same model, and beside XLM-R, with what was published."""
    for model in ("mmbert-small", "mmbert-base"):
        speeds = [(way in OURS, speed) for (name, way), speed in found.items() if name == model]
        ours, same = (max((speed for own, speed in speeds if own is wanted), default=None) for wanted in (True, False))
        others = {"transformers": same, "xlm-r-base": found.get(("xlm-r-base", "sdpa"))}
        for name, theirs in others.items():
            if ours is None or theirs is None:
                continue
            row: dict[str, Any] = {"row": f"encode {kind}: {model} beside {name}", "found": ours / theirs}
            at = list(efficiency.KINDS).index(kind)
            published = efficiency.PUBLISHED[model][at], efficiency.PUBLISHED["xlm-r-base"][at]
            if name == "xlm-r-base" and all(published):
                row["published"] = published[0] / published[1]  # type: ignore[operator]
            if model == "mmbert-small" and AIMS.get(kind, ("", 0.0))[0] == name:
                row["aim"] = AIMS[kind][1]
            bench.say(row)


# --------------------------------------------------------------------------------------------------------------- peers


def peers(bench: Bench) -> None:
    """Training steps of transformers on padded batches of the same documents; only masked positions are scored."""
    offer_kernels()
    config, context = shape(bench), bench.shorter(1024, 64)
    tokens = bench.shorter(131_072, 256)
    for way, name in ATTENTIONS.items():
        row = {"row": f"{PRESET}, {context:,} mixed: transformers, {name}"}
        for tokens_a_pass in (32_768, 16_384, 8_192, 4_096):
            size = bench.shorter(tokens_a_pass, 128)
            pieces = list(training.passes(config, size, context, "mixed", tokens // size))
            try:
                bench.say({**row, **their_steps(bench, config, way, pieces), "tokens_a_pass": size})
                break
            except torch.OutOfMemoryError:
                continue
        else:
            bench.say({**row, "absent": "memory is full with 4,096 tokens a pass"})
    bench.say({"row": "published, not measured here", "by": PUBLISHED[1]})


def their_steps(bench: Bench, config: EncoderConfig, way: str, pieces: list[Batch]) -> dict[str, Any]:
    """Steps of transformers' model with fused AdamW; padding counts for nobody."""
    emptied(bench)
    model = their_model(config, way, bench.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    masked = sum(len(piece.positions) for piece in pieces)
    given = [training.padded(piece, bench.device) for piece in pieces]

    def step() -> float:
        total = torch.zeros((), device=bench.device)
        for piece, inputs in zip(pieces, given, strict=True):
            with autocast(bench.device, torch.bfloat16):
                loss = model(**inputs).loss * (len(piece.positions) / masked)
            loss.backward()
            total += loss.detach()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        wait(bench.device)
        return float(total)

    loss = step()
    seconds = []
    for _ in range(bench.shorter(4, 1)):
        began = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - began)
    lengths = Counter(int(n) for piece in pieces for n in np.diff(piece.starts))
    real = sum(len(piece.tokens) for piece in pieces)
    held = sum(inputs["input_ids"].numel() for inputs in given)
    flops = cost.step_flops(config, lengths, masked)
    used = torch.cuda.max_memory_allocated(bench.device) if device_name(bench) else 0
    return {"MFU": flops / min(seconds) / bench.peak_flops, "tokens_s": real / min(seconds), "ms": min(seconds) * 1e3,
            "padding": 1 - real / held, "GiB": used / 2**30, "first_loss": loss}  # fmt: skip


def their_model(config: EncoderConfig, way: str, device: torch.device) -> nn.Module:
    """transformers' own class with our shape, in training, which scores masked positions only."""
    from transformers import AutoConfig, AutoModelForMaskedLM, logging

    logging.set_verbosity_error()
    fields = their_config(config, family(config), torch.float32)
    theirs = AutoConfig.for_model(fields.pop("model_type"), **fields)
    torch.manual_seed(0)
    with device:
        model = AutoModelForMaskedLM.from_config(theirs, attn_implementation=way, dtype=torch.float32)
    model.sparse_prediction = True
    return model.train()
