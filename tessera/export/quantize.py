"""Post-training quantization (PTQ) to int8, measured against the model it comes from before its folder takes its name.

    openvino  static: weights and activations by NNCF, calibrated on real text; or weights alone
    onnx      dynamic: weights by channel and activations as they come, by ONNX Runtime

What int8 loses depends on the model and the text, so it is measured on both: the cosine of every text with our own
vector in float32, and whether retrieval still finds what it found. docs/export.md says what was compared.
"""

import random
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tessera.bulk.nearest import nearest, unit
from tessera.export import graph
from tessera.export.graph import drafted, length_of, pooled
from tessera.export.head_scores import divided
from tessera.export.heads import halves, has_head
from tessera.export.int8 import batches, size, write_int8
from tessera.export.model_card import card
from tessera.export.quantize_head import HeadMeasured, quantize_head
from tessera.export.tracing import To, about, need, write_graph
from tessera.files import refuse_taken, write_json
from tessera.inference import sentence_folder as folders
from tessera.inference.engine import Vectors, rows
from tessera.inference.runtime import ABOUT, VECTORS, Runtime
from tessera.inference.tokenize import Ids, TextTokenizer
from tessera.progress import Say, silent
from tessera.tokenizer.tokenizer import Tokenizer

# Shapes: n texts, T tokens of a batch end to end, P width of a vector.

Embed = Callable[[Sequence[Ids]], Vectors]  # token ids of texts -> [n, P]

_CALIBRATED = 128  # texts; more made no difference
_MEASURED = 512  # texts, none of which was calibrated on
_FEWEST = 32  # texts, or the figures mean nothing
_TIMED = 64  # texts
_BATCH = 8  # texts of a calibration step
_TOKENS = 4096  # of a batch


@dataclass(frozen=True, slots=True)
class Measured:
    """What int8 costs and brings on the texts at hand."""

    texts: int
    lowest_cosine: float  # of any text with our vector of it in float32
    median_cosine: float
    retrieval: str  # what was retrieved
    queries: int
    before: float  # of a hundred queries, those whose nearest neighbour is right, by our float32
    after: float
    faster: float  # than the graph before, both in what auto chooses, in turns; least of three
    smaller: float  # files
    threads: int

    @property
    def drop(self) -> float:
        """Points of retrieval that are lost."""
        return self.before - self.after

    def __str__(self) -> str:
        return (
            f"lowest cosine {self.lowest_cosine:.5f} (median {self.median_cosine:.5f}) over {self.texts} texts; "
            f"{self.retrieval} {self.before:.2f} before, {self.after:.2f} after, of {self.queries} queries; "
            f"{self.faster:.2f} times as fast with {self.threads} threads, {self.smaller:.1f} times smaller"
        )


def quantize(
    folder: str | Path,
    target: str | Path,
    to: To = "openvino",
    *,
    texts: Sequence[str] = (),
    pairs: Sequence[tuple[str, str]] = (),
    min_cosine: float = 0.99,
    max_drop: float = 0.5,
    weights_only: bool = False,
    max_length: int = 512,
    seed: int = 0,
    drop_head: bool = False,
    rows: Sequence[Mapping[str, Any]] = (),
    min_agreement: float = 98.0,
    say: Say = silent,
) -> Measured | HeadMeasured:
    """Writes `target` with the model in int8, unless it falls under a bound: then nothing is written.

    texts         real ones, of the kind that will be encoded; a part calibrates, the rest is measured on. Where there
                  are rows they may be missing: then a part of the rows calibrates
    pairs         (text, its translation or answer): retrieval is both ways among them. Without any, the first half of
                  each measured text is to find its second half
    min_cosine    of every measured text with our own vector of it in float32
    max_drop      points of retrieval, out of a hundred, that may be lost
    weights_only  openvino only: activations stay as they are; nearer to the model, smaller by as much, hardly faster
    max_length    tokens that are read of a text
    drop_head     whether the head of a task may be left out, for embeddings of what is beneath it
    rows, min_agreement  of a model with the head of a task, whose answers are measured and no vectors: see
                  `quantize_head`; max_drop is of its score

    Raises ValueError saying what was measured where a bound is not held, and for too few texts; else as `export`.
    """
    _check(to, weights_only, min_cosine, max_drop)
    refuse_taken(Path(target))
    place = folders.local(folder)
    if drop_head or not has_head(place):
        if rows:
            raise ValueError(f"{place}: rows are for the head of a task, and there is none (or it is left out)")
        calibrating, measuring = _halved(texts, seed)
        return _quantize_embedder(
            place, Path(target), to, calibrating=calibrating, measuring=measuring, pairs=pairs, min_cosine=min_cosine,
            max_drop=max_drop, weights_only=weights_only, max_length=max_length, drop_head=drop_head, say=say,
        )  # fmt: skip
    given: Sequence[Any]
    if texts or not rows:
        given, measuring = _halved(texts, seed)
    else:
        (given, rows), measuring = divided(rows, seed), []
    return quantize_head(
        place, Path(target), to, calibrating=given, measuring=measuring, rows=rows, min_agreement=min_agreement,
        max_drop=max_drop, weights_only=weights_only, max_length=max_length, say=say,
    )  # fmt: skip


def _quantize_embedder(
    place: Path,
    target: Path,
    to: To,
    *,
    calibrating: Sequence[str],
    measuring: Sequence[str],
    pairs: Sequence[tuple[str, str]],
    min_cosine: float,
    max_drop: float,
    weights_only: bool,
    max_length: int,
    drop_head: bool,
    say: Say,
) -> Measured:
    """The vectors of a model; arguments as of `quantize`."""
    pipeline, inside = folders.read(place)
    model, tokenizer = graph.load_encoder(inside, drop_head=drop_head).eval(), Tokenizer.load(inside)
    longest = length_of(pipeline, model)
    cut = min(max_length, longest)
    ids = TextTokenizer(tokenizer=tokenizer, max_length=cut, lower_case=pipeline.lower_case).ids
    width = pipeline.width(model.config.hidden_size)
    ours = _embed(lambda tokens, starts: pooled(model(tokens, starts), starts, pipeline), width)
    with drafted(target, inside, pipeline, model) as draft, tempfile.TemporaryDirectory(dir=draft.parent) as work:
        plain = Path(work)
        say(f"{to}: tracing {model.config.num_hidden_layers} layers")
        write_graph(graph.padded(model, pipeline), plain, to)
        shutil.copyfile(inside / "config.json", plain / "config.json")
        said = about(model.config, to, "embeddings")
        for one in (plain, draft):
            write_json(one / ABOUT, said)
        calibrated = 0 if weights_only or to == "onnx" else len(calibrating)
        say(f"int8, calibrated on {calibrated} texts" if calibrated else "int8 without calibration")
        write_int8(plain, draft, to, weights_only, batches(ids(calibrating)))
        say(f"measuring on {len(measuring)} texts that were not calibrated on")
        before, after = (_embed(Runtime.open(place).vectors, width) for place in (plain, draft))
        measured = _measure(ours, before, after, ids, measuring, pairs, size(plain) / size(draft))
        del before, after  # or their files cannot be moved everywhere
        _refuse_below(min_cosine, max_drop, measured, "; weights_only loses less" if calibrated else "")
        how: dict[str, Any] = {"weights_only": weights_only, "calibrated_on": calibrated, "max_length": cut}
        how |= {"min_cosine": min_cosine, "max_drop": max_drop, "measured": asdict(measured)}
        write_json(draft / ABOUT, {**said, "int8": how})
        text = card(to, VECTORS, target.name, longest, f"In int8. Measured: {measured}.")
        (draft / "README.md").write_text(text, encoding="utf-8")
    return measured


def _check(to: To, weights_only: bool, min_cosine: float, max_drop: float) -> None:
    need(to, *(["nncf"] if to == "openvino" else []))
    if not 0.0 <= min_cosine <= 1.0 or max_drop < 0:
        raise ValueError(f"min_cosine is {min_cosine}, max_drop {max_drop}; give a cosine up to 1 and points from 0 up")
    if weights_only and to == "onnx":
        raise ValueError("weights_only is for openvino; ONNX Runtime reads activations in int8 as they come")


def _refuse_below(min_cosine: float, max_drop: float, measured: Measured, hint: str) -> None:
    if not (measured.lowest_cosine >= min_cosine and measured.drop <= max_drop):
        raise ValueError(
            f"nothing was written: the bounds are a cosine of {min_cosine} and {max_drop} points of retrieval, "
            f"measured was: {measured}{hint}"
        )


def _halved(texts: Sequence[str], seed: int) -> tuple[list[str], list[str]]:
    """Texts to calibrate on, and others to measure on."""
    chosen = sorted({text for text in texts if text and not text.isspace()})
    if len(chosen) < 2 * _FEWEST:
        raise ValueError(f"{len(chosen)} different texts; give {2 * _FEWEST} or more, to calibrate and to measure on")
    random.Random(seed).shuffle(chosen)
    cut = min(_CALIBRATED, len(chosen) // 2)
    return chosen[:cut], chosen[cut : cut + _MEASURED]


# --------------------------------------------------------------------------------------------------------- measuring


def _measure(
    ours: Embed,
    before: Embed,
    after: Embed,
    ids: Callable[[Sequence[str]], list[Ids]],
    texts: Sequence[str],
    pairs: Sequence[tuple[str, str]],
    smaller: float,
) -> Measured:
    whole = ids(texts)
    cosines = (unit(ours(whole)) * unit(after(whole))).sum(1)
    sides = list(zip(*(pairs or map(halves, texts)), strict=True))
    queries, answers = ids(sides[0]), ids(sides[1])
    scores = [_retrieval(embed(queries), embed(answers)) for embed in (ours, after)]
    return Measured(
        texts=len(texts),
        lowest_cosine=float(cosines.min()),
        median_cosine=float(np.median(cosines)),
        retrieval="retrieval of the other side of a pair" if pairs else "retrieval of the second half of a text",
        queries=2 * len(queries),
        before=scores[0],
        after=scores[1],
        faster=_faster(before, after, whole[:_TIMED]),
        smaller=smaller,
        threads=torch.get_num_threads(),
    )


def _embed(compute: Callable[[Tensor, Tensor], Tensor], width: int) -> Embed:
    """compute: (tokens [T], starts [N+1]) -> [N, P] of a batch."""
    cpu = torch.device("cpu")
    return lambda ids: rows(compute, ids, width, device=cpu, dtype=torch.float32, max_tokens=_TOKENS).numpy()


def _retrieval(queries: Vectors, answers: Vectors) -> float:
    """Of a hundred, both ways: those whose nearest neighbour by cosine is the other side."""
    a, b = unit(queries), unit(answers)
    right = np.arange(len(a))[:, None]
    return 50.0 * float((nearest(a, b, 1)[0] == right).mean() + (nearest(b, a, 1)[0] == right).mean())


def _faster(before: Embed, after: Embed, ids: Sequence[Ids]) -> float:
    """Time of one over time of the other, in turns, the least of three after one to warm up."""
    least = [float("inf")] * 2
    for turn in range(4):
        for n, embed in enumerate((before, after)):
            began = time.perf_counter()
            embed(ids)
            if turn:
                least[n] = min(least[n], time.perf_counter() - began)
    return least[0] / least[1]
