"""A bi-encoder for dense retrieval: queries and documents to vectors; trained by contrast, searched with, saved."""

# Shapes: T tokens of N texts end to end, C hidden size.

import copy
import dataclasses
import itertools
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from tessera.files import atomic_folder
from tessera.finetune import saved
from tessera.finetune.learner import Pretrained, copied, pretrained
from tessera.huggingface import hub
from tessera.huggingface.hub import AnyEncoder
from tessera.huggingface.transformers_model import quietly
from tessera.inference import sentence_folder as folders
from tessera.inference.engine import Vectors, each
from tessera.inference.tokenize import Ids, TextTokenizer
from tessera.model.encoder import Encoder, pack
from tessera.model.pooling import Dense, Unit, pool
from tessera.model.precision import autocast, compute_dtype
from tessera.packed.encoder import packed
from tessera.plan.recipe import Machine
from tessera.progress import Progress
from tessera.tokenizer.tokenizer import Tokenizer

_TEXTS = 8_192  # tokenized at once, where only their distinct tokens are kept
_DOCUMENTS = ("document", "passage", "corpus")  # what folders call the prompt of a document


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrast:
    """What is compared with what, besides temperature and negatives, which the protocol says. Checks itself."""

    pooling: Literal["mean", "cls"] = "mean"
    query_prompt: str = ""  # stands before every query; its tokens are pooled too
    document_prompt: str = ""
    symmetric: bool = False  # documents look for their query as well
    dimensions: tuple[int, ...] = ()  # the first so many of a vector must do alone (Matryoshka, arXiv:2205.13147)
    mine_after: float | None = None  # share of the steps after which hard negatives are mined; None: given ones only

    def __post_init__(self) -> None:
        if self.pooling not in ("mean", "cls"):
            raise ValueError(f"pooling is {self.pooling!r}; give mean or cls")
        if any(size < 1 for size in self.dimensions):
            raise ValueError(f"dimensions are {list(self.dimensions)}; each is a number of dimensions, at least 1")
        if self.mine_after is not None and not 0 <= self.mine_after < 1:
            raise ValueError(f"mine_after is {self.mine_after}; it is a share of the steps, so give 0 to below 1")


@dataclass(slots=True, eq=False, kw_only=True)
class Retriever:
    """An encoder, and how texts are put to it."""

    encoder: AnyEncoder
    tokenizer: Tokenizer
    machine: Machine
    contrast: Contrast
    max_length: int  # tokens of a text, prompt and special tokens included
    steps: nn.ModuleList = field(default_factory=nn.ModuleList)  # dense layers after pooling, trained too
    normalize: bool = True  # whether vectors have length 1

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        machine: Machine | None = None,
        *,
        contrast: Contrast | None = None,
        max_length: int | None = None,
    ) -> tuple[Self, Path]:
        """A copy of the model of a folder to train, and where in the folder the model itself lies.

        contrast    None: pooling and prompts as the folder says
        max_length  None: as the folder says

        Dense layers of a sentence-transformers folder come along. Raises ValueError for a folder whose pooling, or
        lower-casing, cannot be trained here.
        """
        said, inside = folders.read(folders.local(folder))
        if said.pooling not in (("mean",), ("cls",)) or said.lower_case:
            what = "lower-cases texts" if said.lower_case else f"pools by {'+'.join(said.pooling)}"
            raise ValueError(f"{folder}: {what}; what is trained here pools by mean or cls, and leaves case to tokens")
        own = Contrast(
            pooling="cls" if said.pooling == ("cls",) else "mean",
            query_prompt=said.prompts.get("query", ""),
            document_prompt=next((said.prompts[name] for name in _DOCUMENTS if name in said.prompts), ""),
        )
        start = pretrained(inside, machine)
        longest = max_length or said.max_length or start.encoder.config.max_position_embeddings
        found = cls.of(start, contrast or own, max_length=longest)
        found.steps = nn.ModuleList(copy.deepcopy(step) for step in said.steps).to(found.device)
        found.normalize = said.normalize
        return found, inside

    @classmethod
    def of(cls, start: Pretrained, contrast: Contrast | None = None, *, max_length: int) -> Self:
        """A copy to train; `start` stays as it is. Raises ValueError for dimensions that the model does not have."""
        contrast, config = contrast or Contrast(), start.encoder.config
        if contrast.dimensions and max(contrast.dimensions) > config.hidden_size:
            raise ValueError(f"dimensions are {list(contrast.dimensions)}, but the model has {config.hidden_size}")
        return cls(
            encoder=copied(start.encoder, whole=not isinstance(start.encoder, Encoder)),
            tokenizer=start.tokenizer,
            machine=start.machine,
            contrast=contrast,
            max_length=min(max_length, config.max_position_embeddings),
        )

    @property
    def device(self) -> torch.device:
        return next(self.encoder.parameters()).device

    @property
    def width(self) -> int:
        """Dimensions of a vector."""
        return folders.Pipeline(steps=tuple(self._dense)).width(self.encoder.config.hidden_size)

    @property
    def _dense(self) -> list[Dense | Unit]:
        return [step for step in self.steps if isinstance(step, Dense | Unit)]

    def queries(self, texts: Sequence[str], on_progress: Progress | None = None) -> Vectors:
        """[N, C] float32, rows of length 1 where vectors are."""
        return self._embed([self.contrast.query_prompt + text for text in texts], "embedding queries", on_progress)

    def documents(self, texts: Sequence[str], on_progress: Progress | None = None) -> Vectors:
        """[N, C] float32, as those of queries."""
        return self._embed([self.contrast.document_prompt + text for text in texts], "embedding documents", on_progress)

    def read(self, texts: Sequence[str]) -> list[Ids]:
        """Tokens of texts that have their prompts already."""
        return TextTokenizer(tokenizer=self.tokenizer, max_length=self.max_length).ids(texts)

    def seen(self, texts: Iterable[str]) -> NDArray[np.int64]:
        """The distinct tokens of texts, with that of padding; some thousand texts are read at a time."""
        config = self.encoder.config
        there = np.zeros(config.vocab_size, np.bool_)
        if config.pad_token_id is not None:
            there[config.pad_token_id] = True
        rest = iter(texts)
        while part := list(itertools.islice(rest, _TEXTS)):
            there[np.concatenate(self.read(part))] = True
        return np.flatnonzero(there)

    def pooled(self, texts: Sequence[Ids]) -> Tensor:
        """[N, C] float32 of texts as tokens, not of length 1 yet; gradients lead back to the encoder."""
        return self.states_and_pooled(texts)[1]

    def states_and_pooled(self, texts: Sequence[Ids]) -> tuple[Tensor, Tensor]:
        """The same behind the hidden states [T, C] of all tokens, end to end."""
        tokens, starts = pack(texts, self.device)
        with autocast(self.device, compute_dtype(self.machine.dtype, self.device)):
            hidden = self.encoder(tokens, starts)
            pooled = pool(hidden, starts, self.contrast.pooling)
        for step in self.steps:
            pooled = step(pooled)
        return hidden, pooled

    def save(self, source: Path, folder: Path, card: str | None = None) -> None:
        """A folder that sentence-transformers, transformers and tessera load; written whole or not at all.

        source   the folder that the model came from: its tokenizer, and its masked-language-model head, go with it
        Raises FileExistsError where `folder` holds something.
        """
        said = folders.Pipeline(
            pooling=(self.contrast.pooling,),
            steps=tuple(self._dense),
            normalize=self.normalize,
            prompts={"query": self.contrast.query_prompt, "document": self.contrast.document_prompt},
        )
        with tempfile.TemporaryDirectory() as place:
            bare = Path(place) / "model"
            if isinstance(self.encoder, Encoder):
                whole = hub.load(source)
                whole.encoder.load_state_dict(self.encoder.state_dict())
                hub.save(whole, bare, source, card)
            else:
                hub.save(self.encoder, bare, source, card)
            folders.write(bare, folder, said, self.encoder.config.hidden_size, self.max_length)

    def _embed(self, texts: Sequence[str], what: str, on_progress: Progress | None) -> Vectors:
        still = packed(self.encoder, compute_dtype(self.machine.dtype, self.device))

        def compute(tokens: Tensor, starts: Tensor) -> Tensor:
            pooled = pool(still(tokens, starts), starts, self.contrast.pooling)
            with torch.autocast(self.device.type, enabled=False):  # as sentence-transformers has it
                for step in self.steps:
                    pooled = step(pooled)
            return functional.normalize(pooled, dim=-1) if self.normalize else pooled

        return each(
            self.encoder,
            self.tokenizer,
            texts,
            compute,
            self.width,
            max_length=self.max_length,
            max_tokens=self.machine.tokens_at_once,
            dtype=self.machine.dtype,
            on_progress=on_progress,
            what=what,
        )


def save_vectors(
    retriever: Retriever, source: Path, folder: Path, texts: Sequence[str], card: str | None = None
) -> float:
    """Writes a retriever, or a student, as a sentence-transformers folder, whole or not at all.

    source   the folder that the model came from: its tokenizer goes along
    texts    on which vectors are compared, put both as queries and as documents
    returns  by how much the vectors of sentence-transformers differ at most, in parts of their length where that is
             more than 1

    Raises FileExistsError where `folder` holds something, ValueError where vectors differ by more than saved.TOLERANCE.
    """
    saved.need_sentence_transformers()
    plain = dataclasses.replace(retriever, machine=retriever.machine.model_copy(update={"dtype": "float32"}))
    texts = texts[: saved.COMPARED]
    mine = {"query": plain.queries(texts), "document": plain.documents(texts)}
    with atomic_folder(Path(folder), sealed=True) as draft:
        retriever.save(source, draft, card)
        with quietly():
            from sentence_transformers import SentenceTransformer

            theirs = SentenceTransformer(str(draft), device="cpu", local_files_only=True)
            theirs.float()
            due = {name: theirs.encode(list(texts), prompt_name=name, show_progress_bar=False) for name in mine}
        worst = max(saved.gap(mine[name], due[name]) for name in mine)
        if not worst <= saved.TOLERANCE:
            raise ValueError(f"nothing was written: sentence-transformers gives other vectors, by up to {worst:.1e}")
    return worst
