"""Parity of a model with another vocabulary: held-out text through both, ids, hidden states and logits compared.

Where all pieces of a document are kept, its ids must map one to one, its hidden states be equal to the last bit and its
logits to 1e-6: a folder for which they are not is not written. For all other documents it is told what they cost.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tessera.huggingface import hub
from tessera.huggingface.hf_files import config_json
from tessera.huggingface.task_heads import TaskModel
from tessera.inference.encoder import Encoder
from tessera.inference.sentence_folder import ends_in_vectors, read
from tessera.model.task_config import names_task
from tessera.progress import Progress, Watcher
from tessera.tokenizer.tokenizer import Tokenizer
from tessera.vocabulary.entries import Ids

LOGITS = 1e-6  # of the largest logit; products of another number of rows are summed in another order
_SCORED = 32  # positions of a document whose logits are compared: those of a large vocabulary take a megabyte each
_LONGEST = 512  # tokens of a document that go through both models
_ROUNDS = 5
_TIMED = 16  # texts of a round, of all languages


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """How much is compared."""

    documents: int = 500  # of each language, whose ids are compared
    states: int = 10  # of each language, which go through both models
    speed: bool = True  # whether both are timed


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageProof:
    """Held-out documents of one language."""

    language: str
    documents: int
    kept: int  # of which all pieces are kept; the ids of all of them map one to one
    tokens: int  # of all documents, before
    more: int  # tokens that all others have more than before, less where negative
    unknown: tuple[int, int]  # unknown tokens before and after


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a folder takes."""

    parameters: int
    disk_bytes: int  # of its files
    memory_bytes: int  # of its weights in float32


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What was found on held-out text."""

    languages: tuple[LanguageProof, ...]
    states: int  # documents whose hidden states were compared, all of them equal to the last bit
    logits: float | None  # the largest difference, as a share of the largest logit; None: there is no head
    vectors: int  # documents whose vectors were compared, all of them equal to the last bit
    before: Cost
    after: Cost
    speed: float | None  # how many times as fast texts become vectors, in processor seconds of one thread


def prove(
    old: Path, new: Path, ids: Ids, texts: Mapping[str, Sequence[str]], check: Checked, watcher: Watcher
) -> Proof:
    """Holds one folder against the other on held-out texts.

    ids  old -> new, of the tokens that are kept

    Raises ValueError naming the document where they differ and may not.
    """
    inside = [read(folder)[1] if ends_in_vectors(folder) else folder for folder in (old, new)]
    before, after = (Tokenizer.load(place) for place in inside)
    moved = np.full(before.vocab_size + 1, -1, np.int64)
    moved[list(ids)] = list(ids.values())
    languages, whole = [], dict[str, list[int]]()
    for language in sorted(texts):
        some = texts[language][: check.documents]
        row, whole[language] = _ids(language, some, before, after, moved)
        languages.append(row)
    tell = watcher.progress("proof")
    chosen = [texts[language][n] for language in sorted(texts) for n in whole[language][: check.states]]
    states, logits = _compare_states(inside, (before, after), moved, chosen, tell)
    vectors, speed = _compare_vectors((old, new), chosen, check.speed, tell)
    tell(1, 1, "proof")
    return Proof(
        languages=tuple(languages),
        states=states,
        logits=logits,
        vectors=vectors,
        before=cost(old, inside[0]),
        after=cost(new, inside[1]),
        speed=speed,
    )


def _ids(
    language: str, texts: Sequence[str], before: Tokenizer, after: Tokenizer, moved: NDArray[np.int64]
) -> tuple[LanguageProof, list[int]]:
    """The ids of all documents before and after, and which documents have kept all their pieces."""
    old, new = before.encode_batch(texts), after.encode_batch(texts)
    guesses = before.definition["model"].get("type") == "WordPiece"  # which may write what it could not write before
    kept, more = [], 0
    for n, (a, b) in enumerate(zip(old, new, strict=True)):
        mapped = moved[a]
        if (mapped >= 0).all() and not (guesses and before.unknown_id in a and len(a) != len(b)):
            if not np.array_equal(mapped, b):
                raise ValueError(
                    f"nothing was written: all pieces of a document of {language} are kept, but its ids do not map one "
                    f"to one: {texts[n][:200]!r}"
                )
            kept.append(n)
        else:
            more += len(b) - len(a)
    unknown = tuple(
        0 if tokenizer.unknown_id is None else sum(int((ids == tokenizer.unknown_id).sum()) for ids in found)
        for tokenizer, found in ((before, old), (after, new))
    )
    row = LanguageProof(
        language=language,
        documents=len(texts),
        kept=len(kept),
        tokens=sum(map(len, old)),
        more=more,
        unknown=(unknown[0], unknown[1]),
    )
    return row, kept


@torch.no_grad()
def _compare_states(
    folders: Sequence[Path],
    tokenizers: tuple[Tokenizer, Tokenizer],
    moved: NDArray[np.int64],
    texts: Sequence[str],
    tell: Progress,
) -> tuple[int, float | None]:
    """How many documents have equal hidden states, and by how much logits differ."""
    models: list[Any] = [_open(folder).eval() for folder in folders]
    longest = min(_LONGEST, int(models[0].config.max_position_embeddings))
    rows = torch.from_numpy(np.flatnonzero(moved[:-1] >= 0))
    largest: float | None = None
    for n, text in enumerate(texts):
        tell(n, len(texts), "comparing hidden states")
        ids = tokenizers[0].encode_batch([text])[0][:longest].astype(np.int64)
        pair = [torch.from_numpy(ids), torch.from_numpy(moved[ids])]
        starts = torch.tensor([0, len(ids)])
        hidden = [_encoder(model)(tokens, starts) for model, tokens in zip(models, pair, strict=True)]
        if not torch.equal(*hidden):
            raise ValueError(f"nothing was written: the hidden states of a document differ: {text[:200]!r}")
        scores = [_logits(model, states, starts) for model, states in zip(models, hidden, strict=True)]
        if scores[0] is None or scores[1] is None:
            continue
        if not isinstance(models[0], TaskModel):
            scores[0] = scores[0][:, rows]
            scores[1] = scores[1][:, torch.from_numpy(moved[rows])]
        apart = float((scores[0] - scores[1]).abs().max() / scores[0].abs().max().clamp(min=1.0))
        if apart > LOGITS:
            raise ValueError(f"nothing was written: logits of a document differ by {apart:.1e}: {text[:200]!r}")
        largest = max(largest or 0.0, apart)
    return len(texts), largest


def _open(folder: Path) -> Any:
    """A model with the head it has."""
    given = config_json(folder)
    if names_task(given):
        return hub.load_task(folder)
    name = next(iter(given.get("architectures") or []), "")
    return hub.load_any(folder) if name.endswith(("ForMaskedLM", "ForPreTraining")) else hub.load_encoder(folder)


def _encoder(model: Any) -> Any:
    return getattr(model, "encoder", model)


def _logits(model: Any, hidden: Tensor, starts: Tensor) -> Tensor | None:
    """Of the first positions of a document over the vocabulary, or of a task; None of an encoder alone."""
    if isinstance(model, TaskModel):
        found: Tensor = model.head(hidden) if model.task.by_token else model.head(hidden, starts)
        return found
    return model.logits(hidden[:_SCORED]) if hasattr(model, "logits") else None


def _compare_vectors(
    folders: tuple[Path, Path], texts: Sequence[str], timed: bool, tell: Progress
) -> tuple[int, float | None]:
    """How many texts have equal vectors, by the pipeline of the folder; and the ratio of speeds."""
    if not texts:
        return 0, None
    models = [Encoder.from_pretrained(folder, device="cpu", dtype="float32", drop_head=True) for folder in folders]
    some = texts[:: -(-len(texts) // _TIMED)]
    longest = min(_LONGEST, models[0].max_seq_length)
    vectors = [model.encode(texts, max_length=longest) for model in models]
    if not np.array_equal(*vectors):
        raise ValueError("nothing was written: the vectors of texts whose pieces are all kept differ")
    if not timed:
        return len(texts), None
    seconds: list[list[float]] = [[], []]
    for n, which in enumerate(_turns()):
        tell(n, 2 * _ROUNDS, "timing")
        seconds[which].append(_seconds(models[which], some, longest))
    return len(texts), median(seconds[0]) / median(seconds[1])


def _turns() -> Iterator[int]:
    """Which is timed next: both in turns, neither always first."""
    for n in range(_ROUNDS):
        yield from ((0, 1) if n % 2 else (1, 0))


def _seconds(model: Encoder, texts: Sequence[str], longest: int) -> float:
    """Of the processor, so that other work on the machine does not count."""
    start = time.process_time()
    model.encode(texts, max_length=longest)
    return time.process_time() - start


def cost(folder: Path, inside: Path) -> Cost:
    """What a folder takes on disk and its weights in memory."""
    from tessera.vocabulary.tables import ModelFolder

    numbers = ModelFolder.of(folder).parameters()
    disk = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return Cost(parameters=numbers, disk_bytes=disk, memory_bytes=4 * numbers)
