"""Inference engines that may run a model here: each opened as an `Encoder`, or why it cannot be.

    packed    our own products, in bfloat16 and float32, and in int8 (packed/int8.py)
    graph     OpenVINO in bfloat16, float32 and int8, ONNX Runtime in float32 and int8

What an engine needs beside the weights lies in a folder of its own, as it will lie in that of the model.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tessera.export.graph import padded
from tessera.export.int8 import batches, write_int8
from tessera.export.tracing import To, need, write_graph
from tessera.inference import tuned
from tessera.inference.encoder import Encoder
from tessera.inference.tokenize import Ids
from tessera.inference.tuned import FOLDER, GRAPH, STEPS, Choice
from tessera.model import hub
from tessera.model.encoder import Encoder as Network
from tessera.model.encoder import pack
from tessera.model.precision import compute_dtype
from tessera.packed.int8 import calibrate, can_int8
from tessera.progress import Say

_KEPT = 4  # times that the products which lose most are taken back to their old precision
_SHORT = (1, 2, 3, 5, 8)  # tokens: beginnings of texts that int8 is calibrated on too


@dataclass(frozen=True, slots=True)
class Candidate:
    """An engine that can run the model, and the folder that holds what it needs."""

    choice: Choice
    folder: Path
    encoder: Encoder

    @property
    def name(self) -> str:
        return self.choice.name


@dataclass(frozen=True, slots=True)
class Source:
    """The model that is tuned, and the ids of texts to calibrate on."""

    folder: Path
    plain: Encoder  # in float32: what the others are compared with
    calibrating: Sequence[Ids]
    choice: Choice  # of float32, from which the others differ

    def with_threads(self, one: Candidate, threads: int, max_tokens: int) -> Candidate:
        """The same engine with other threads and another token budget."""
        found = replace_choice(one.choice, threads=threads, max_tokens=max_tokens)
        return Candidate(found, one.folder, self.opened(found, one.folder))

    def opened(self, found: Choice, folder: Path) -> Encoder:
        """As `Encoder.from_pretrained` will open it."""
        model, device, dtype, threads = tuned.opened(found, folder, lambda: hub.load_encoder(self.folder), None)
        plain = self.plain
        made = Encoder(
            model, plain.tokenizer, plain.pipeline, device=device, dtype=dtype, source=self.folder, threads=threads
        )
        made.tuned, made.max_seq_length = found, plain.max_seq_length
        return made


def replace_choice(found: Choice, **changes: Any) -> Choice:
    """With other values."""
    return Choice.model_validate({**found.model_dump(), **changes})


def candidates(
    source: Source, work: Path, lowest: Callable[[Encoder], float], min_cosine: float, say: Say
) -> Iterator[Candidate | tuple[str, str]]:
    """Each engine, or its name and why it cannot be tried.

    lowest  the lowest cosine of an Encoder's vectors with those of float32
    """
    yield Candidate(source.choice, work, source.plain)
    bf16 = compute_dtype("auto", torch.device("cpu")) is torch.bfloat16
    if bf16:
        yield _made(source, work, name="packed weights, bfloat16", dtype="bfloat16")
    else:
        yield "packed weights, bfloat16", "this processor does not multiply in bfloat16"
    network = hub.load_encoder(source.folder)
    if not isinstance(network, Network):
        yield "int8, OpenVINO, ONNX Runtime", "are for EuroBERT and ModernBERT models; this one is run by transformers"
        return
    if can_int8():
        say("int8: calibrating our own products")
        yield _int8(source, network, work / "int8", "bfloat16" if bf16 else "float32", lowest, min_cosine, say)
    else:
        yield "packed weights, int8", "this processor has no fast int8 products (VNNI)"
    yield from _graphs(source, network, work, bf16=bf16, say=say)


def _made(source: Source, folder: Path, **changes: Any) -> Candidate:
    found = replace_choice(source.choice, **changes)
    return Candidate(found, folder, source.opened(found, folder))


def _int8(
    source: Source,
    network: Network,
    folder: Path,
    dtype: str,
    lowest: Callable[[Encoder], float],
    min_cosine: float,
    say: Say,
) -> Candidate:
    """With as many products in int8 as the bound allows: those that lose most are kept, a quarter of them at a time."""
    from safetensors.torch import save_file

    longest = network.config.max_position_embeddings
    texts = [ids[:longest] for ids in source.calibrating if len(ids)]
    short = [ids[:count] for ids in texts for count in _SHORT]
    groups = [*([text] for text in texts), short]
    steps, errors = calibrate(network.eval(), [pack(group) for group in groups])
    (folder / FOLDER).mkdir(parents=True)
    for turn in range(_KEPT + 1):
        save_file(steps, folder / FOLDER / STEPS)
        name = f"packed weights, int8 ({len(steps)} of {len(errors)} products)"
        found = _made(source, folder, name=name, engine="int8", dtype=dtype)
        cosine = lowest(found.encoder)
        say(f"{name}: lowest cosine {cosine:.5f}")
        if cosine >= min_cosine or turn == _KEPT:
            return found
        worst = sorted(steps, key=lambda one: -errors[one])[: max(1, len(errors) // 4)]
        steps = {one: step for one, step in steps.items() if one not in worst} or steps
    raise AssertionError


def _graphs(
    source: Source, network: Network, work: Path, *, bf16: bool, say: Say
) -> Iterator[Candidate | tuple[str, str]]:
    """OpenVINO and ONNX Runtime, in float and in int8."""
    for to, title in (("openvino", "OpenVINO"), ("onnx", "ONNX Runtime")):
        engine: To = to  # type: ignore[assignment]
        try:
            need(engine)
        except ImportError as error:
            yield title, str(error)
            continue
        say(f"{title}: tracing {network.config.num_hidden_layers} layers")
        plain = _folder(work / to, source.folder)
        write_graph(padded(network.eval(), source.plain.pipeline), plain, engine)
        formats = ["float32", *(["bfloat16"] if bf16 and to == "openvino" else [])]
        for dtype in formats:
            yield _made(source, work / to, name=f"{title}, {dtype}", engine="graph", dtype=dtype)
        try:
            need(engine, *(["nncf"] if to == "openvino" else []))
        except ImportError as error:
            yield f"{title}, int8", str(error)
            continue
        say(f"{title}, int8")
        write_int8(plain, _folder(work / f"{to}-int8", source.folder), engine, False, batches(source.calibrating))
        yield _made(source, work / f"{to}-int8", name=f"{title}, int8", engine="graph", dtype=formats[-1])


def _folder(place: Path, model: Path) -> Path:
    made = place / FOLDER / GRAPH
    made.mkdir(parents=True)
    (made / "config.json").write_bytes((model / "config.json").read_bytes())
    return made
