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

from tessera.huggingface import hub, task_heads, transformers_tasks
from tessera.huggingface.hf_names import Pooling, our_pooling
from tessera.huggingface.hub import AnyEncoder
from tessera.huggingface.task_heads import DocumentHead
from tessera.huggingface.transformers_folder import marks_segments
from tessera.huggingface.transformers_model import TransformersEncoder
from tessera.inference.tokenize import check_vocabulary
from tessera.json_files import read_json
from tessera.model.encoder import Attention, Encoder
from tessera.model.precision import compute_dtype, find_device
from tessera.model.task_config import TaskConfig
from tessera.plan.recipe import Machine
from tessera.plan.task import Protocol
from tessera.prediction.features import HEADS, Item, Kind, Reader
from tessera.prediction.item_scores import item_scores
from tessera.tokenizer.tokenizer import Tokenizer


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
        task, generator = TaskConfig(kind=HEADS[kind], labels=tuple(map(str, range(labels)))), _seeded(seed)
        head: task_heads.Head | None = None
        if isinstance(encoder, TransformersEncoder):
            head = transformers_tasks.new_head(encoder, task, generator)
        if head is None:
            width = task.outputs
            head = task_heads.TokenHead(config, width) if task.by_token else DocumentHead(config, width, self.pooling)
            task_heads.initialize(head, config, generator)
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
            labels=labels,
        )
        return Learner(
            encoder=encoder,
            head=head.to(device),
            reader=reader,
            device=device,
            dtype=compute_dtype(self.machine.dtype, device),
            micro_batch_tokens=self.machine.tokens_at_once,
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
    class_weights: Tensor | None = None  # [K] of a rare label more than of a common one; None: all alike

    def scores(self, items: Sequence[Item]) -> Tensor:
        """[D, K] for documents and options, [M, K] for tags, [T, 2] for windows."""
        return item_scores(self.encoder, self.head, items, self.reader, self.device, self.dtype)

    def loss(self, items: Sequence[Item]) -> Tensor:
        """The sum of the losses of what is asked in some items."""
        return self.loss_of(self.scores(items), items)

    def loss_of(self, scores: Tensor, items: Sequence[Item]) -> Tensor:
        """The same of their scores."""
        given = torch.from_numpy(np.concatenate([item.targets for item in items]))
        given = (given.float() if given.is_floating_point() else given).to(self.device)  # mps has no float64
        match self.reader.kind:
            case "regress":
                return (scores[:, 0] - (given - self.centre) / self.scale).square().sum()
            case "multilabel":  # the mean over labels, as transformers'
                wanted = given.float().view_as(scores)
                return (
                    functional.binary_cross_entropy_with_logits(
                        scores, wanted, reduction="sum", pos_weight=self.class_weights
                    )
                    / scores.shape[1]
                )
            case "rerank":
                return functional.binary_cross_entropy_with_logits(scores[:, 0], given.float(), reduction="sum")
            case "choose":
                return task_heads.losses_within(
                    scores, self._starts([len(i.documents) for i in items]), given[:, None]
                ).sum()
            case "span":
                starts = self._starts([i.tokens for i in items])
                return task_heads.losses_within(scores, starts, given.view(-1, 2)).sum() / 2
            case _:
                return functional.cross_entropy(scores, given, reduction="sum", weight=self.class_weights)

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


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


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
