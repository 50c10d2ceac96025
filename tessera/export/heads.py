"""Export of a model with the head of a task: the logits of a classifier, a tagger, a reader or a reranker as a graph.

The folder keeps config.json with its labels and its task, so that `Predictor` opens it and answers as it does from the
model's own folder. What the graph gives is held against our logits in float32 before the folder takes its name.
"""

# Shapes: N documents, T tokens of them end to end, K labels.

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tessera.export import tracing
from tessera.export.model_card import Check, card, largest, refuse_different
from tessera.export.padded import PaddedTask, PaddedTransformers
from tessera.export.tracing import LENGTHS, TEXTS, To, write_graph
from tessera.files import atomic_folder, write_json
from tessera.huggingface.hf_files import config_json, copy_tokenizer
from tessera.huggingface.task_heads import GraphHead, TaskModel
from tessera.huggingface.transformers_model import TransformersConfig
from tessera.inference import sentence_folder as folders
from tessera.inference.runtime import ABOUT, LOGITS, SEGMENTS, Runtime
from tessera.inference.tokenize import Ids
from tessera.model.encoder import pack
from tessera.model.precision import compute_dtype
from tessera.model.task_config import TaskConfig, names_task
from tessera.prediction.predictor import Predictor, Row
from tessera.prediction.requests import request
from tessera.progress import Say

Documents = Sequence[tuple[Ids, Ids]]  # tokens, and of each its segment


def has_head(folder: Path) -> bool:
    """Whether a folder is a model with the head of a task, and no pipeline that ends in vectors."""
    return not folders.ends_in_vectors(folder) and names_task(config_json(folder))


def export_head(folder: Path, target: Path, to: To, *, texts: Sequence[str], say: Say) -> list[Check]:
    """Writes `target`, and gives every comparison. Arguments and errors as of `graph.export`."""
    predictor = Predictor.from_pretrained(folder, device="cpu", dtype="float32")
    with drafted(target, folder) as draft:
        say(f"{to}: tracing {predictor.model.config.num_hidden_layers} layers and a head for {predictor.kind}")
        write_graph(padded(predictor), draft, to)
        write_json(draft / ABOUT, about(predictor, to))
        say("comparing with our own model in float32")
        checks = compare(predictor, draft, texts)
        refuse_different(checks)
        write_json(draft / ABOUT, {**about(predictor, to), "checks": [asdict(check) for check in checks]})
        write_card(predictor, draft, to, target.name, largest(checks))
    return checks


def padded(predictor: Predictor) -> PaddedTask | PaddedTransformers:
    """What is traced."""
    if isinstance(predictor.model.config, TransformersConfig):
        return PaddedTransformers(predictor.model, segments=predictor.reader.segments)
    return PaddedTask(predictor.model)


def about(predictor: Predictor, to: To) -> dict[str, Any]:
    """What is written down of a graph."""
    return {**tracing.about(predictor.model.config, to, LOGITS), "kind": predictor.kind}


@contextlib.contextmanager
def drafted(target: Path, model: Path) -> Iterator[Path]:
    """A folder with all but the graph, which becomes `target` when the block ends well."""
    with atomic_folder(target, sealed=True) as draft:
        shutil.copyfile(model / "config.json", draft / "config.json")
        copy_tokenizer(model, draft)
        yield draft


def write_card(predictor: Predictor, folder: Path, to: To, name: str, notes: str) -> None:
    """README.md: what the logits are, and the lines that run it."""
    task = predictor.model.task
    row = "token" if task.by_token else "option" if task.kind == "choose" else "text"
    labels = ", ".join(task.labels[:20]) + (" ..." if len(task.labels) > 20 else "")
    what = f"A model for {task.kind}: one row of {task.outputs} logits for each {row}"
    what += f"; the labels are {labels}" if labels else ""
    inputs = (SEGMENTS,) if predictor.reader.segments else ()
    text = card(to, LOGITS, name, predictor.reader.max_length, notes, what=what, more=inputs)
    (folder / "README.md").write_text(text, encoding="utf-8")


# ---------------------------------------------------------------------------------------------------------- comparing


def asked(task: TaskConfig, texts: Sequence[Any]) -> list[Row]:
    """Rows of the kind of a task, made of plain texts: where it takes two, of their halves. Rows stay as they are."""
    if not all(isinstance(text, str) for text in texts):
        return list(texts)
    both = [halves(text) for text in texts]
    match task.kind:
        case "choose":
            others = [second for _, second in both[1:] + both[:1]]
            return [{"text": a, "options": [b, other]} for (a, b), other in zip(both, others, strict=True)]
        case "span":
            return [{"question": a, "context": text} for (a, _), text in zip(both, texts, strict=True)]
        case "tag":
            return list(texts)
        case kind:
            return list(both) if task.pair or kind == "rerank" else list(texts)


def halves(text: str) -> tuple[str, str]:
    """A text cut at the space nearest its middle; where it has none, in the middle."""
    middle = len(text) // 2
    spaces = (text.rfind(" ", 0, middle), text.find(" ", middle))
    cut = min((place for place in spaces if place > 0), key=lambda place: abs(place - middle), default=middle)
    return text[:cut], text[cut:]


def compare(predictor: Predictor, folder: Path, texts: Sequence[str] = ()) -> list[Check]:
    """Every document through the graph in `folder` and through our model, in float32 and in what auto chooses.

    Batches of one, of all, and of a few, so that batch and length are seen to be free.
    """
    longest = predictor.model.config.max_position_embeddings
    documents = list(_documents(predictor, [*TEXTS, *texts]))
    drawn = np.random.default_rng(0)
    for length in (length for length in LENGTHS if length <= longest):
        ids = drawn.integers(predictor.model.config.vocab_size, size=length).astype(np.int32)
        documents.append(("random tokens", (ids, np.zeros_like(ids))))
    model = TaskModel(predictor.encoder, predictor.model.head, predictor.model.task)
    checks = []
    for dtype in dict.fromkeys((torch.float32, compute_dtype("auto", torch.device("cpu")))):
        runtime = Runtime.open(folder, dtype="float32" if dtype is torch.float32 else "auto")
        if runtime.dtype is not dtype:
            continue
        graph = TaskModel(runtime, GraphHead(), predictor.model.task)  # type: ignore[arg-type]
        name = str(dtype).removeprefix("torch.")
        for group in ([len(documents) - 1], list(range(len(documents))), list(range(3))):
            rows = [documents[n] for n in group]
            found, due = (_logits(one, [row for _, row in rows], predictor) for one in (graph, model))
            for (text, (ids, _)), a, b in zip(rows, found, due, strict=True):
                cosine = float(nn.functional.cosine_similarity(a.double(), b.double(), dim=-1).min())
                apart = float(((a - b).abs() / b.abs().clamp(min=1.0)).max())
                checks.append(Check(text, len(ids), len(group), name, LOGITS, cosine, apart, head=True))
    return checks


def _documents(predictor: Predictor, texts: Sequence[str]) -> Iterator[tuple[str, tuple[Ids, Ids]]]:
    """(beginning of the text, a document with its segments) of rows made of texts."""
    reader = predictor.reader
    rows = asked(predictor.model.task, texts)
    examples = [request(row, n, predictor.kind, reader.tokenizer).example for n, row in enumerate(rows)]
    for item in reader.items(examples):
        for document, told in zip(item.documents, item.segments or map(np.zeros_like, item.documents), strict=True):
            yield texts[item.example][:40], (document, told)


@torch.inference_mode()
def _logits(model: TaskModel, documents: Documents, predictor: Predictor) -> list[Tensor]:
    """Of each document [1, K], or [its tokens, K]."""
    tokens, starts = pack([ids for ids, _ in documents])
    more: tuple[Tensor, ...] = ()
    if predictor.reader.segments:
        more = (torch.from_numpy(np.concatenate([told for _, told in documents]).astype(np.int64)),)
    hidden = model.encoder(tokens, starts, *more)
    if model.task.by_token:
        return list(model.head(hidden).float().split(starts.diff().tolist()))
    return list(model.head(hidden, starts).float().split(1))
