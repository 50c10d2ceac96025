"""What a model gives, and so by what its students are held against it: vectors, guesses for masks, answers of a head.

    Vectors   cosine of the vectors of texts; sentence-transformers has to give the same ones
    Guesses   of a masked language model: of hidden tokens, the share where it guesses what the whole model guesses
    Answers   of the head of a task: the share of answers that are the whole model's (its kind's agreement)

Only layers are left out and taught. A head stays as it was, bit for bit, and reads the hidden states that were learnt.
"""

# Shapes: T tokens of N documents end to end, M of them hidden, C hidden size, h width of a vector, K labels.

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from tessera.data.hashing import named_keys
from tessera.data.masking import mask
from tessera.export.head_scores import score
from tessera.export.heads import asked
from tessera.finetune import saved
from tessera.huggingface import hub
from tessera.huggingface.hub import AnyEncoder, AnyMaskedLM
from tessera.huggingface.task_heads import DocumentHead
from tessera.huggingface.transformers_model import quietly
from tessera.inference import sentence_folder as folders
from tessera.inference.encoder import Encoder
from tessera.inference.tokenize import Ids
from tessera.model.encoder import pack
from tessera.model.pooling import pool
from tessera.model.precision import find_device
from tessera.model.task_config import names_task
from tessera.plan.recipe import Machine
from tessera.prediction.features import Item
from tessera.prediction.item_scores import item_scores
from tessera.prediction.predictor import Prediction, Predictor
from tessera.prediction.requests import request
from tessera.retrieval import teacher
from tessera.retrieval.agreement import nearness
from tessera.retrieval.pairs import Sentence
from tessera.retrieval.retriever import Contrast, Retriever
from tessera.retrieval.teacher import Lesson
from tessera.shrink.layers import Stack
from tessera.tokenizer.tokenizer import Tokenizer

_RATIO = 0.15  # of tokens that are hidden from a masked language model
_AT_ONCE = 16  # documents that are looked at together


class Gives(Protocol):
    """What is asked of each of the three."""

    @property
    def called(self) -> str:
        """What `near` is: cosine, agreement."""

    @property
    def pooled(self) -> bool:
        """Whether students learn a vector of each text beside its hidden states."""

    def read(self, texts: Sequence[str]) -> list[Ids]:
        """The documents that the encoder reads, of texts."""

    def student(self, folder: Path) -> Retriever:
        """The encoder of the folder, or of one with some of its layers, to be trained."""

    def outcome(self, encoder: AnyEncoder, texts: Sequence[str]) -> Tensor:
        """What the encoder makes of texts, [n, anything]: vectors, logits of the head, or what the head reads."""

    def near(self, student: Retriever) -> float:
        """How near a student is to the whole model on held-out texts, up to 1."""

    def compare(self, student: Retriever, folder: Path, texts: Sequence[str]) -> float:
        """By how much other libraries differ at most on the folder of a student. Raises ValueError for too much."""


def refuse(stack: Stack) -> None:
    """Raises ValueError for a folder whose students could not be taught: before anything is computed."""
    if folders.ends_in_vectors(stack.whole):
        said, _ = folders.read(stack.whole)
        if said.pooling not in (("mean",), ("cls",)) or said.lower_case:
            what = "lower-cases texts" if said.lower_case else f"pools by {'+'.join(said.pooling)}"
            raise ValueError(
                f"{stack.whole}: {what}; what is taught here pools by mean or cls, and leaves case to tokens"
            )
    elif not names_task(stack.config) and not _masked(stack):
        raise ValueError(
            f"{stack.inside}: has no head, and no modules.json that says how it makes vectors; make a folder that says "
            f'so, in Python:\n  tessera.Encoder.from_pretrained("{stack.inside}").save("encoder")'
        )


def of(stack: Stack, machine: Machine, held: Sequence[str]) -> Gives:
    """What the model of a folder gives; `held` are texts to compare on."""
    if folders.ends_in_vectors(stack.whole):
        return Vectors.of(stack, machine, held)
    return (Guesses if _masked(stack) else Answers).of(stack, machine, held)


def _masked(stack: Stack) -> bool:
    return next(iter(stack.config.get("architectures") or []), "").endswith("ForMaskedLM")


def _retriever(folder: Path, machine: Machine, pooling: Any, longest: int) -> Retriever:
    """The encoder of a folder with a head, as what is trained."""
    encoder = hub.load_encoder(folder, machine.attention).to(find_device(machine.device)).eval()
    return Retriever(
        encoder=encoder, tokenizer=Tokenizer.load(folder), machine=machine, contrast=Contrast(pooling=pooling),
        max_length=min(longest, encoder.config.max_position_embeddings), normalize=False,
    )  # fmt: skip


def _longest(folder: Path, most: int = 512) -> int:
    """Tokens of a text, where a folder says no less."""
    return min(folders.tokenizer_length(folder) or most, most)


# ------------------------------------------------------------------------------------------------------------- vectors


@dataclass(frozen=True, slots=True, eq=False)
class Vectors:
    """Vectors of a sentence-transformers folder, its prompts in the texts."""

    stack: Stack
    machine: Machine
    whole: Retriever
    due: Lesson
    called: str = "cosine"
    pooled: bool = True

    @classmethod
    def of(cls, stack: Stack, machine: Machine, held: Sequence[str]) -> "Vectors":
        guide = teacher.opened(stack.whole, device=machine.device, dtype=machine.dtype)
        rows = [Sentence(text=text, translation=None, language="", row="") for text in held]
        due = teacher.lesson(guide, rows)
        return cls(stack, machine, _opened(stack.whole, machine), due)

    def read(self, texts: Sequence[str]) -> list[Ids]:
        """As of `Gives`, like the rest."""
        return self.whole.read(texts)

    def student(self, folder: Path) -> Retriever:
        return _opened(folder, self.machine)

    def outcome(self, encoder: AnyEncoder, texts: Sequence[str]) -> Tensor:
        """Vectors less their mean, which tells no text from another and is most of the vectors of some models (E5)."""
        tokens, starts = pack(self.read(texts), self.whole.device)
        made = pool(encoder(tokens, starts), starts, self.whole.contrast.pooling)
        for step in self.whole.steps:
            made = step(made)
        made = functional.normalize(made, dim=-1) if self.whole.normalize else made
        return made - made.mean(0)

    def near(self, student: Retriever) -> float:
        return nearness(self.due, student)

    def compare(self, student: Retriever, folder: Path, texts: Sequence[str]) -> float:
        saved.need_sentence_transformers()
        exact = dataclasses.replace(student, machine=student.machine.model_copy(update={"dtype": "float32"}))
        mine = Encoder.from_pretrained(folder, device="cpu", dtype="float32")
        due = exact.documents(list(texts))[:, : mine.dimensions]  # which the folder may cut
        with quietly():
            from sentence_transformers import SentenceTransformer

            theirs: Any = SentenceTransformer(str(folder), device="cpu", local_files_only=True).float()
            found = theirs.encode(list(texts), prompt="", show_progress_bar=False)
        worst = max(saved.gap(rows, due) for rows in (np.asarray(found), mine.encode(list(texts), prompt="")))
        if not worst <= saved.TOLERANCE:
            raise ValueError(f"nothing was written: sentence-transformers gives other vectors, by up to {worst:.1e}")
        return worst


def _opened(folder: Path, machine: Machine) -> Retriever:
    pooling = folders.read(folder)[0].pooling
    plain = Contrast(pooling="cls" if pooling == ("cls",) else "mean")  # prompts stand in the texts
    return Retriever.from_pretrained(folder, machine, contrast=plain)[0]


# ------------------------------------------------------------------------------------------------------------- guesses


@dataclass(frozen=True, slots=True, eq=False)
class Guesses:
    """Guesses of a masked language model, for tokens that are hidden: the same ones whenever a text is read."""

    stack: Stack
    machine: Machine
    whole: AnyMaskedLM
    tokenizer: Tokenizer
    held: Sequence[str]
    due: Tensor  # [M], the token that the whole model guesses
    called: str = "agreement"
    pooled: bool = False

    @classmethod
    def of(cls, stack: Stack, machine: Machine, held: Sequence[str]) -> "Guesses":
        tokenizer = Tokenizer.load(stack.inside)
        if tokenizer.mask_id is None:
            raise ValueError(f"{stack.inside}: its tokenizer has no mask, so there is nothing to hide a token with")
        whole = hub.load_any(stack.inside, machine.attention).to(find_device(machine.device)).eval()
        made = cls(stack, machine, whole, tokenizer, held, torch.empty(0))
        return dataclasses.replace(made, due=made._guessed(whole.encoder))

    def _hidden(self, texts: Sequence[str]) -> tuple[list[Ids], list[Any]]:
        """Of each text its tokens, some of them hidden, and which."""
        longest = min(_longest(self.stack.inside), self.whole.config.max_position_embeddings)
        rows = [ids[:longest] for ids in self.tokenizer.encode_batch(texts)]
        assert self.tokenizer.mask_id is not None
        starts = np.cumsum([0, *map(len, rows)])
        tokens, places, _ = mask(
            np.concatenate(rows), named_keys([[text] for text in texts]), starts, _RATIO, "mask",
            self.tokenizer.mask_id, self.tokenizer.special_ids, self.whole.config.vocab_size,
        )  # fmt: skip
        edges = np.searchsorted(places, starts[1:-1])
        inside = [part - start for part, start in zip(np.split(places, edges), starts, strict=False)]
        return list(np.split(tokens, starts[1:-1])), inside

    def read(self, texts: Sequence[str]) -> list[Ids]:
        """As of `Gives`, like the rest."""
        return self._hidden(texts)[0]

    def student(self, folder: Path) -> Retriever:
        return _retriever(folder, self.machine, "mean", _longest(folder))

    def outcome(self, encoder: AnyEncoder, texts: Sequence[str]) -> Tensor:
        """Hidden states of hidden tokens, [M, C]: what its head reads."""
        rows, places = self._hidden(texts)
        tokens, starts = pack(rows, self._device)
        chosen = np.concatenate([at + start for at, start in zip(places, starts.tolist(), strict=False)])
        return encoder(tokens, starts).index_select(0, torch.from_numpy(chosen).to(self._device))

    @property
    def _device(self) -> torch.device:
        return next(self.whole.parameters()).device

    @torch.inference_mode()
    def _guessed(self, encoder: AnyEncoder) -> Tensor:
        texts = list(self.held)
        parts = [texts[n : n + _AT_ONCE] for n in range(0, len(texts), _AT_ONCE)]
        return torch.cat([self.whole.logits(self.outcome(encoder, part).float()).argmax(-1) for part in parts])

    def near(self, student: Retriever) -> float:
        return float((self._guessed(student.encoder.eval()) == self.due).float().mean())

    @torch.inference_mode()
    def compare(self, student: Retriever, folder: Path, texts: Sequence[str]) -> float:
        with quietly():
            from transformers import AutoModelForMaskedLM

            theirs = AutoModelForMaskedLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()
        mine, worst = hub.load_any(folder).eval(), 0.0
        encoder = student.encoder.cpu().eval()
        for ids in self.read(texts):
            tokens, starts = pack([ids])
            due = theirs(input_ids=tokens[None], attention_mask=torch.ones_like(tokens)[None]).logits[0]
            for hidden in (encoder(tokens, starts), mine.encoder(tokens, starts)):
                found = mine.logits(hidden)
                worst = max(worst, float(((found - due).abs() / due.abs().clamp(min=1.0)).max()))
        return _checked(worst, "AutoModelForMaskedLM")


# ------------------------------------------------------------------------------------------------------------- answers


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """Answers of the head of a task, to rows of its kind that are made of plain texts."""

    stack: Stack
    machine: Machine
    whole: Predictor
    held: Sequence[str]
    due: list[Prediction]
    called: str = "agreement"

    @classmethod
    def of(cls, stack: Stack, machine: Machine, held: Sequence[str]) -> "Answers":
        whole = Predictor.from_pretrained(stack.inside, device=machine.device, dtype=machine.dtype)
        if whole.reader.segments and (whole.model.task.pair or whole.kind in ("rerank", "choose", "span")):
            raise ValueError(
                f"{stack.inside}: tells the two texts of a pair apart by token types, which cannot be taught yet. "
                "Shrink the model that it was fine-tuned from, and fine-tune the small one (tessera finetune)"
            )
        return cls(stack, machine, whole, held, whole.predict(asked(whole.model.task, held)))

    @property
    def pooled(self) -> bool:
        """Whether the head reads one vector of a text."""
        return not self.whole.model.task.by_token

    def _items(self, texts: Sequence[str]) -> list[Item]:
        reader = self.whole.reader
        rows = asked(self.whole.model.task, texts)
        return reader.items([request(row, n, self.whole.kind, reader.tokenizer).example for n, row in enumerate(rows)])

    def read(self, texts: Sequence[str]) -> list[Ids]:
        """As of `Gives`, like the rest."""
        return [ids for item in self._items(texts) for ids in item.documents]

    def student(self, folder: Path) -> Retriever:
        head = self.whole.model.head
        pooling = "mean" if isinstance(head, DocumentHead) and head.pooling != "cls" else "cls"
        return _retriever(folder, self.machine, pooling, self.whole.reader.max_length)

    def outcome(self, encoder: AnyEncoder, texts: Sequence[str]) -> Tensor:
        """Logits of the head."""
        whole = self.whole
        return item_scores(encoder, whole.model.head, self._items(texts), whole.reader, whole.device, torch.float32)

    def near(self, student: Retriever) -> float:
        small = dataclasses.replace(self.whole, encoder=student.encoder.eval())
        return score(self.whole.kind, small.predict(asked(self.whole.model.task, self.held)), self.due) / 100

    def compare(self, student: Retriever, folder: Path, texts: Sequence[str]) -> float:
        model = hub.load_task(folder).eval()
        read = [ids for ids in self.read(texts) if len(ids)][: saved.COMPARED]
        if self.whole.kind == "choose":
            read = read[:1]
        worst = saved.compare(model, folder, read)
        encoder = student.encoder.cpu().eval()
        with torch.inference_mode():
            for ids in read:
                found, due = encoder(*pack([ids])), model.encoder(*pack([ids]))
                worst = max(worst, float(((found - due).abs() / due.abs().clamp(min=1.0)).max()))
        return _checked(worst, type(model).__name__)


def _checked(worst: float, name: str) -> float:
    if not worst <= saved.TOLERANCE:
        raise ValueError(f"nothing was written: {name} gives other logits, by up to {worst:.1e}")
    return worst
