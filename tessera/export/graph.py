"""ONNX and OpenVINO export: a model as one graph, in numerical parity with ours before its folder takes its name.

The folder holds the graph (dynamic batch and length), the tokenizer, config.json, the pooling as sentence-transformers
writes it, what it was checked against, and a card with the lines that run it. A model with the head of a task goes
through heads.py, and keeps its labels instead of a pooling.
"""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from tessera.export import heads
from tessera.export.model_card import Check, card, lowest, refuse_different
from tessera.export.padded import PaddedEmbedder, PaddedMaskedLM
from tessera.export.tracing import LENGTHS, TEXTS, To, about, need, write_graph
from tessera.files import atomic_folder, refuse_taken, write_json
from tessera.huggingface import hub
from tessera.huggingface.hf_files import copy_tokenizer
from tessera.huggingface.hub import AnyEncoder
from tessera.inference import sentence_folder as folders
from tessera.inference.parity import relative_difference
from tessera.inference.runtime import ABOUT, LOGITS, STATES, VECTORS, Runtime
from tessera.inference.sentence_folder import Pipeline
from tessera.inference.tokenize import TextTokenizer
from tessera.model.encoder import pack
from tessera.model.mlm import MaskedLM
from tessera.model.pooling import pool
from tessera.model.precision import compute_dtype
from tessera.progress import Say, silent
from tessera.tokenizer.tokenizer import Tokenizer

# Shapes: T tokens of N texts end to end, C hidden size, V vocabulary, P width of a vector.

Output = Literal["embeddings", "logits"]
Encodes = AnyEncoder | MaskedLM


def export(
    folder: str | Path,
    target: str | Path,
    to: To = "onnx",
    *,
    output: Output | None = None,
    pooling: str | Sequence[str] | None = None,
    normalize: bool | None = None,
    texts: Sequence[str] = (),
    drop_head: bool = False,
    say: Say = silent,
) -> list[Check]:
    """Writes `target`, and gives every comparison with our own model. Written whole or not at all.

    folder     a model in the Hugging Face format, with or without what sentence-transformers adds, with the head of a
               task or without: of our families, or of another that transformers has (BERT, XLM-R ...)
    output     embeddings: `last_hidden_state` [B, L, C] and `sentence_embedding` [B, P]; logits: `logits`, of a task
               [B, K] or [B, L, K], of a masked language model [B, L, V]; None: of a task where there is the head of
               one, else embeddings
    pooling    of the sentence embedding, or several joined; None: as the folder says, mean where it does not
    normalize  to length 1; None: as the folder says, yes where it does not
    texts      yours, compared beside those that are built in
    drop_head  whether the head of a task may be left out, for embeddings of what is beneath it
    say        is told what is done

    Raises FileExistsError where `target` holds something, ValueError where the graph differs from ours by more than it
    may, for a family that cannot be traced and for the logits of a masked language model of another family than ours;
    ImportError where a package is missing.
    """
    need(to)
    refuse_taken(Path(target))
    place = folders.local(folder)
    if output != "embeddings" and not drop_head and heads.has_head(place):
        if pooling is not None or normalize is not None:
            raise ValueError(
                f"{place} has the head of a task, but pooling and normalize are of embeddings; leave them out, or say "
                "that the head may be left out: drop_head=True (--drop-head)"
            )
        return heads.export_head(place, Path(target), to, texts=texts, say=say)
    pipeline, inside = folders.read(place)
    how = pipeline.pooling if pooling is None else (pooling,) if isinstance(pooling, str) else tuple(pooling)
    pipeline = replace(pipeline, pooling=how, normalize=pipeline.normalize if normalize is None else normalize)
    model = _masked_model(inside) if output == "logits" else load_encoder(inside, drop_head=drop_head)
    tokenizer = Tokenizer.load(inside)
    with drafted(Path(target), inside, pipeline, model) as draft:
        say(f"{to}: tracing {model.config.num_hidden_layers} layers")
        write_graph(padded(model.eval(), pipeline), draft, to)
        said = about(model.config, to, "logits" if output == "logits" else "embeddings")
        write_json(draft / ABOUT, said)
        say("comparing with our own model in float32")
        checks = compare(model, pipeline, tokenizer, draft, texts)
        refuse_different(checks)
        write_json(draft / ABOUT, {**said, "checks": [asdict(check) for check in checks]})
        asked = LOGITS if output == "logits" else VECTORS
        text = card(to, asked, Path(target).name, length_of(pipeline, model), lowest(checks))
        (draft / "README.md").write_text(text, encoding="utf-8")
    return checks


def _masked_model(inside: Path) -> MaskedLM:
    if not hub.is_ours(inside):
        raise ValueError(
            f"{inside / 'config.json'}: export takes the logits of masked language models that are EuroBERT or "
            "ModernBERT, and of any head of a task; leave out --output for embeddings"
        )
    return hub.load(inside, "cpu")


def load_encoder(inside: Path, *, drop_head: bool) -> AnyEncoder:
    """The encoder of a folder on a CPU; errors as `hub.load_encoder`."""
    return hub.load_encoder(inside, "cpu" if hub.is_ours(inside) else "auto", drop_head=drop_head)


@contextlib.contextmanager
def drafted(target: Path, model: Path, pipeline: Pipeline, ours: Encodes) -> Iterator[Path]:
    """A folder with all but the graph, which becomes `target` when the block ends well."""
    with atomic_folder(target, sealed=True) as draft, tempfile.TemporaryDirectory(dir=draft, prefix=".") as work:
        bare, out = Path(work, "bare"), Path(work, "out")
        bare.mkdir()
        shutil.copyfile(model / "config.json", bare / "config.json")
        copy_tokenizer(model, bare)
        folders.write(bare, out, pipeline, ours.config.hidden_size, length_of(pipeline, ours))
        copy_tokenizer(model, out)
        yield out
        for path in sorted(out.iterdir()):
            path.rename(draft / path.name)


def length_of(pipeline: Pipeline, model: Encodes) -> int:
    """Tokens of a text, special ones included, that both the folder and the model allow."""
    most = model.config.max_position_embeddings
    return min(pipeline.max_length or most, most)


def padded(model: Encodes, pipeline: Pipeline) -> PaddedEmbedder | PaddedMaskedLM:
    """What is traced."""
    if isinstance(model, MaskedLM):
        return PaddedMaskedLM(model)
    return PaddedEmbedder(model, pipeline.pooling, pipeline.modules)


# ---------------------------------------------------------------------------------------------------------- comparing


def compare(
    model: Encodes, pipeline: Pipeline, tokenizer: Tokenizer, folder: Path, texts: Sequence[str] = ()
) -> list[Check]:
    """Every document through the graph in `folder` and through our model, in float32 and in what auto chooses.

    Batches of one, of all, and of a few, so that batch and length are seen to be free.
    """
    longest = model.config.max_position_embeddings
    ids = TextTokenizer(tokenizer=tokenizer, max_length=longest).ids([*TEXTS, *texts])
    names = [text[:40] for text in (*TEXTS, *texts)]
    drawn = np.random.default_rng(0)
    for length in (length for length in LENGTHS if length <= longest):
        ids.append(drawn.integers(model.config.vocab_size, size=length).astype(np.int32))
        names.append("random tokens")
    checks = []
    for dtype in dict.fromkeys((torch.float32, compute_dtype("auto", torch.device("cpu")))):
        runtime = Runtime.open(folder, dtype="float32" if dtype is torch.float32 else "auto")
        if runtime.dtype is not dtype:
            continue
        for group in ([len(ids) - 1], list(range(len(ids))), list(range(3))):
            tokens, starts = pack([ids[n] for n in group])
            for output, rows in _pairs(model, pipeline, runtime, tokens, starts):
                for n, (theirs, ours) in zip(group, rows, strict=True):
                    cosine = float(functional.cosine_similarity(theirs.double(), ours.double(), dim=-1).min())
                    name, apart = str(dtype).removeprefix("torch."), relative_difference(theirs, ours)
                    checks.append(Check(names[n], len(ids[n]), len(group), name, output, cosine, apart))
    return checks


def _pairs(
    model: Encodes, pipeline: Pipeline, runtime: Runtime, tokens: Tensor, starts: Tensor
) -> Iterator[tuple[str, list[tuple[Tensor, Tensor]]]]:
    """(output, for each document what the graph gives and what we give)."""
    spans = list(pairwise(starts.tolist()))
    with torch.inference_mode():
        ours, theirs = model(tokens, starts), runtime(tokens, starts)
        output = LOGITS if isinstance(model, MaskedLM) else STATES
        yield output, [(theirs[a:b], ours[a:b]) for a, b in spans]
        if isinstance(model, MaskedLM):
            return
        vectors = pooled(ours, starts, pipeline)
        yield VECTORS, list(zip(runtime.vectors(tokens, starts)[:, None], vectors[:, None], strict=True))


def pooled(hidden: Tensor, starts: Tensor, pipeline: Pipeline) -> Tensor:
    """hidden [T, C], starts [N+1] -> [N, P], with all that comes after pooling."""
    vectors = pool(hidden, starts, pipeline.pooling)
    for step in pipeline.modules:
        vectors = step(vectors)
    return vectors
