"""Inference engines that may run a model here: each opened as an `Encoder` or a `Predictor`, or why it cannot be.

    packed    our own products, in bfloat16 and float32, and in int8 (packed/int8.py)
    graph     OpenVINO in bfloat16, float32 and int8, ONNX Runtime in float32 and int8

What an engine needs beside the weights lies in a folder of its own, as it will lie in that of the model.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from tessera.export.int8 import Inputs, write_int8
from tessera.export.tracing import To, need
from tessera.inference.runtime import ABOUT
from tessera.inference.tokenize import Ids
from tessera.inference.tuned import FOLDER, GRAPH, STEPS, Choice
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
    model: Any  # as `Source.opened` gives it

    @property
    def name(self) -> str:
        return self.choice.name


class Source(Protocol):
    """The model that is tuned: one that gives vectors (tune_vectors.py), or has the head of a task (tune_head.py)."""

    @property
    def folder(self) -> Path:
        """Of the model."""

    @property
    def choice(self) -> Choice:
        """Of float32, from which the others differ."""

    @property
    def plain(self) -> Any:
        """In float32: what the others are compared with."""

    def opened(self, found: Choice, folder: Path) -> Any:
        """As it will be opened from the folder of the model."""

    def network(self) -> nn.Module:
        """Its encoder, to calibrate int8 of our own on."""

    def documents(self) -> Sequence[Ids]:
        """Token ids to calibrate on."""

    def calls(self) -> list[Inputs]:
        """The same as inputs of calls of a graph."""

    def write_graph(self, place: Path, to: To) -> None:
        """Raises ValueError where there is none of this family."""


def with_threads(source: Source, one: Candidate, threads: int, max_tokens: int) -> Candidate:
    """The same engine with other threads and another token budget."""
    found = replace_choice(one.choice, threads=threads, max_tokens=max_tokens)
    return Candidate(found, one.folder, source.opened(found, one.folder))


def replace_choice(found: Choice, **changes: Any) -> Choice:
    """With other values."""
    return Choice.model_validate({**found.model_dump(), **changes})


def candidates(
    source: Source, work: Path, why_not: Callable[[Any], str], say: Say
) -> Iterator[Candidate | tuple[str, str]]:
    """Each engine, or its name and why it cannot be tried.

    why_not  which bound of quality an engine, as `Source.opened` gives it, falls under; "" where it holds all
    """
    yield Candidate(source.choice, work, source.plain)
    bf16 = compute_dtype("auto", torch.device("cpu")) is torch.bfloat16
    if bf16:
        yield _made(source, work, name="packed weights, bfloat16", dtype="bfloat16")
    else:
        yield "packed weights, bfloat16", "this processor does not multiply in bfloat16"
    network = source.network()
    if not isinstance(network, Network):
        yield "packed weights, int8", "is for EuroBERT and ModernBERT models"
    elif can_int8():
        say("int8: calibrating our own products")
        yield _int8(source, network, work / "int8", "bfloat16" if bf16 else "float32", why_not, say)
    else:
        yield "packed weights, int8", "this processor has no fast int8 products (VNNI)"
    yield from _graphs(source, work, bf16=bf16, say=say)


def _made(source: Source, folder: Path, **changes: Any) -> Candidate:
    found = replace_choice(source.choice, **changes)
    return Candidate(found, folder, source.opened(found, folder))


def _int8(
    source: Source, network: Network, folder: Path, dtype: str, why_not: Callable[[Any], str], say: Say
) -> Candidate:
    """With as many products in int8 as the bound allows: those that lose most are kept, a quarter of them at a time."""
    from safetensors.torch import save_file

    longest = network.config.max_position_embeddings
    texts = [ids[:longest] for ids in source.documents() if len(ids)]
    short = [ids[:count] for ids in texts for count in _SHORT]
    groups = [*([text] for text in texts), short]
    steps, errors = calibrate(network, [pack(group) for group in groups])
    (folder / FOLDER).mkdir(parents=True)
    for turn in range(_KEPT + 1):
        save_file(steps, folder / FOLDER / STEPS)
        name = f"packed weights, int8 ({len(steps)} of {len(errors)} products)"
        found = _made(source, folder, name=name, engine="int8", dtype=dtype)
        lost = why_not(found.model)
        say(f"{name}: {lost or 'holds the bounds'}")
        if not lost or turn == _KEPT:
            return found
        worst = sorted(steps, key=lambda one: -errors[one])[: max(1, len(errors) // 4)]
        steps = {one: step for one, step in steps.items() if one not in worst} or steps
    raise AssertionError


def _graphs(source: Source, work: Path, *, bf16: bool, say: Say) -> Iterator[Candidate | tuple[str, str]]:
    """OpenVINO and ONNX Runtime, in float and in int8."""
    for to, title in (("openvino", "OpenVINO"), ("onnx", "ONNX Runtime")):
        engine: To = to  # type: ignore[assignment]
        plain = _folder(work / to, source.folder)
        try:
            need(engine)
            say(f"{title}: tracing")
            source.write_graph(plain, engine)
        except (ImportError, ValueError) as error:
            yield title, str(error)
            continue
        formats = ["float32", *(["bfloat16"] if bf16 and to == "openvino" else [])]
        for dtype in formats:
            yield _made(source, work / to, name=f"{title}, {dtype}", engine="graph", dtype=dtype)
        try:
            need(engine, *(["nncf"] if to == "openvino" else []))
        except ImportError as error:
            yield f"{title}, int8", str(error)
            continue
        say(f"{title}, int8")
        place = _folder(work / f"{to}-int8", source.folder)
        if (plain / ABOUT).is_file():
            shutil.copyfile(plain / ABOUT, place / ABOUT)
        write_int8(plain, place, engine, False, source.calls())
        yield _made(source, work / f"{to}-int8", name=f"{title}, int8", engine="graph", dtype=formats[-1])


def _folder(place: Path, model: Path) -> Path:
    made = place / FOLDER / GRAPH
    made.mkdir(parents=True)
    (made / "config.json").write_bytes((model / "config.json").read_bytes())
    return made
