"""An encoder with a task head to fine-tune, on packed documents: forward pass and loss of every kind of task."""

# Shapes: T tokens of D documents end to end, M tokens that are asked for, N items, K labels.

import copy
import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from tessera.data.tokenizer import Tokenizer
from tessera.inference.features import Item, Kind, Reader
from tessera.inference.tokenize import check_vocabulary
from tessera.model import hub, task_heads
from tessera.model.encoder import Attention, Encoder, pack
from tessera.model.hf_names import Pooling, our_pooling
from tessera.model.hub import AnyEncoder
from tessera.model.precision import autocast, compute_dtype, find_device
from tessera.model.transformers_folder import marks_segments
from tessera.model.transformers_model import TransformersEncoder
from tessera.plan.json_files import read_json
from tessera.plan.recipe import Machine
from tessera.plan.task import Protocol


@dataclasses.dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Pretrained:
    """What every trial starts from; never trained itself."""

    encoder: AnyEncoder
    pooling: Pooling
    tokenizer: Tokenizer
    machine: Machine
    head: Mapping[str, Tensor]  # what a new head begins with where it fits: of the masked-language model, of a task
    head_kind: Kind | None = None  # of that task
    segments: bool = False  # whether the encoder is told the two texts of a pair apart

    def learner(self, kind: Kind, labels: int, protocol: Protocol, *, seed: int, no_answer: bool = False) -> "Learner":
        """A copy with a new head, drawn by `seed`.

        labels     how many there are; without meaning for regress, choose and span
        no_answer  span: whether a question may have none
        """
        encoder, config = copied(self.encoder), self.encoder.config
        for attention in (part for part in encoder.modules() if isinstance(part, Attention)):
            attention.dropout = 0.0  # as transformers fine-tunes these families; theirs are made without
        head: task_heads.Head
        if kind in ("tag", "span"):
            head = task_heads.TokenHead(config, 2 if kind == "span" else labels)
        else:
            head = task_heads.DocumentHead(config, 1 if kind in ("regress", "choose") else labels, self.pooling)
        task_heads.initialize(head, config, torch.Generator().manual_seed(seed))
        task_heads.fill(head, self.head, classifier=kind == self.head_kind)
        device = next(self.encoder.parameters()).device
        reader = Reader(
            kind=kind,
            tokenizer=self.tokenizer,
            max_length=min(protocol.max_length, config.max_position_embeddings),
            labelling=protocol.labelling,
            stride=protocol.stride,
            no_answer=no_answer,
            segments=self.segments,
        )
        return Learner(
            encoder=encoder,
            head=head.to(device),
            reader=reader,
            device=device,
            dtype=compute_dtype(self.machine.dtype, device),
            micro_batch_tokens=self.machine.micro_batch_tokens,
        )


@dataclasses.dataclass(slots=True, eq=False, kw_only=True)
class Learner:
    """An encoder and its head on a task."""

    encoder: AnyEncoder
    head: task_heads.Head
    reader: Reader
    device: torch.device
    dtype: torch.dtype
    micro_batch_tokens: int
    centre: float = 0.0  # regress: what is learned is (target - centre) / scale
    scale: float = 1.0

    def scores(self, items: Sequence[Item]) -> Tensor:
        """[D, K] for documents and options, [M, K] for tags, [T, 2] for windows."""
        documents = [document for item in items for document in item.documents]
        tokens, starts = pack(documents, self.device)
        with autocast(self.device, self.dtype):
            hidden = self.encoder(tokens, starts, *self._segments(items))
            if isinstance(self.head, task_heads.DocumentHead):
                return self.head(hidden, starts)
            if self.reader.kind == "tag":
                places = np.concatenate([item.places + at for item, at in zip(items, starts.tolist(), strict=False)])
                hidden = hidden.index_select(0, torch.from_numpy(places).to(self.device))
            return self.head(hidden)

    def _segments(self, items: Sequence[Item]) -> tuple[Tensor, ...]:
        """[T], for an encoder that is told."""
        if not self.reader.segments:
            return ()
        rows = [row for item in items for row in item.segments or map(np.zeros_like, item.documents)]
        return (torch.from_numpy(np.concatenate(rows).astype(np.int64)).to(self.device),)

    def loss(self, items: Sequence[Item]) -> Tensor:
        """The sum of the losses of what is asked in some items."""
        scores = self.scores(items)
        given = torch.from_numpy(np.concatenate([item.targets for item in items]))
        given = (given.float() if given.is_floating_point() else given).to(self.device)  # mps has no float64
        match self.reader.kind:
            case "regress":
                return (scores[:, 0] - (given - self.centre) / self.scale).square().sum()
            case "choose":
                return task_heads.losses_within(
                    scores, self._starts([len(i.documents) for i in items]), given[:, None]
                ).sum()
            case "span":
                starts = self._starts([i.tokens for i in items])
                return task_heads.losses_within(scores, starts, given.view(-1, 2)).sum() / 2
            case _:
                return functional.cross_entropy(scores, given, reduction="sum")

    def _starts(self, lengths: list[int]) -> Tensor:
        return torch.tensor([0, *lengths], device=self.device).cumsum(0)


_CLASSIFIERS = tuple(f"For{task}" for task in ("SequenceClassification", "TokenClassification", "QuestionAnswering"))


def pretrained(folder: str | Path, machine: Machine | None = None) -> Pretrained:
    """Reads a model to fine-tune, onto the device of `machine`. Raises ValueError as hub.load_encoder.

    The head of a classifier is left out, and the log says so: a new one is trained for the new task.
    """
    folder, machine = Path(folder), machine or Machine()
    head: dict[str, Tensor] = {}
    pooling: Pooling = "cls"
    encoder: AnyEncoder
    if hub.is_ours(folder) and hub.has_head(folder):
        model = hub.load(folder, machine.attention)
        # In transformers both heads of a ModernBERT bear the same name, so that one begins as the other was trained.
        encoder, head = model.encoder, {f"transform.{k}": v for k, v in model.transform.state_dict().items()}
    else:
        encoder = hub.load_encoder(folder, machine.attention)
        kind = next(iter(read_json(folder / "config.json").get("architectures") or []), "")
        if kind.endswith(_CLASSIFIERS):
            log = logging.getLogger("tessera")
            log.warning("%s is %s: its head is left out, and a new one trained for the new task", folder, kind)
    if hub.is_ours(folder):
        given = read_json(folder / "config.json")
        pooling = our_pooling(given, given["model_type"], folder / "config.json")
    tokenizer = Tokenizer.load(folder)
    check_vocabulary(tokenizer, encoder.config, folder)
    return Pretrained(
        encoder=encoder.to(find_device(machine.device)).eval(),
        head=head,
        pooling=pooling,
        tokenizer=tokenizer,
        machine=machine,
        segments=isinstance(encoder, TransformersEncoder) and encoder.config.segments > 1 and marks_segments(folder),
    )


def copied(encoder: AnyEncoder, *, whole: bool = False) -> AnyEncoder:
    """With weights of its own; the embedding's only where `whole`, else it is shared, and replaced in training."""
    return copy.deepcopy(encoder, {} if whole else {id(embedding(encoder)): embedding(encoder)})


def embedding(encoder: AnyEncoder) -> nn.Module:
    """What makes tokens into vectors."""
    return encoder.embedding if isinstance(encoder, Encoder) else encoder.model.get_input_embeddings()


def set_embedding(encoder: AnyEncoder, table: nn.Module) -> None:
    """Puts another in its place."""
    if isinstance(encoder, Encoder):
        encoder.embedding = table  # type: ignore[assignment]  # it is called, nothing else
    else:
        encoder.model.set_input_embeddings(table)
