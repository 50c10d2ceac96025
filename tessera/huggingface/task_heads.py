"""Task heads for fine-tuning: classification and regression of documents, token classification, question answering.

They take hidden states and not tokens, so they stand on our encoders and on those that transformers runs alike.
With the same weights they compute what transformers' ...ForSequenceClassification, ...ForTokenClassification,
...ForQuestionAnswering and ...ForMultipleChoice compute.
"""

# Shapes: T tokens of N documents end to end, M tokens that are asked for, C hidden size, K labels.

from collections.abc import Mapping
from typing import Any, Self, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional

from tessera.huggingface.hf_names import Pooling
from tessera.huggingface.transformers_model import TransformersConfig, TransformersEncoder, after_encoder
from tessera.model.encoder import Encoder, Transform
from tessera.model.pooling import pool
from tessera.model.task_config import TaskConfig
from tessera.plan.architecture import EncoderConfig

_DEVIATION = 0.02  # of new weights where the encoder's configuration does not say


class ClassificationDense(nn.Module):
    """The hidden layer of EuroBERT's classification head: dense with a bias, GELU."""

    def __init__(self, config: EncoderConfig | TransformersConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden: Tensor) -> Tensor:
        """[M, C] -> [M, C]"""
        return functional.gelu(self.dense(hidden))


class DocumentHead(nn.Module):
    """Classification head over whole documents: logits of classes, one number (regression), or how good an option is.

    pooling  mean or cls: of the hidden states. late: the mean of what the dense layer makes of each token

    With `mlm_transform`, pooled, dense, activation, norm, linear, as transformers' ModernBertForSequenceClassification;
    without, pooled, dense with a bias, GELU, linear, as its EuroBertForSequenceClassification.
    """

    def __init__(self, config: EncoderConfig | TransformersConfig, labels: int, pooling: Pooling) -> None:
        super().__init__()
        self.pooling = pooling
        self.transform = Transform(config) if _transforms(config) else ClassificationDense(config)
        self.classifier = nn.Linear(config.hidden_size, labels)

    def forward(self, hidden: Tensor, starts: Tensor) -> Tensor:
        """hidden [T, C], starts [N+1] -> [N, K] float32"""
        features = self.features(hidden, starts)
        with torch.autocast(features.device.type, enabled=False):  # bfloat16 would round 3.49 to 3.5
            return self.classifier(features)

    def features(self, hidden: Tensor, starts: Tensor) -> Tensor:
        """What the last, linear layer sees of each document: [N, C] float32."""
        if self.pooling == "late":
            return pool(self.transform(hidden), starts, "mean")
        pooled = pool(hidden, starts, self.pooling)
        with torch.autocast(pooled.device.type, enabled=False):
            return self.transform(pooled)


class TokenHead(nn.Module):
    """Token classification head: logits of tags, or of an answer's start and end (extractive question answering)."""

    def __init__(self, config: EncoderConfig | TransformersConfig, labels: int) -> None:
        super().__init__()
        self.transform = Transform(config) if _transforms(config) else nn.Identity()
        self.classifier = nn.Linear(config.hidden_size, labels)

    def forward(self, hidden: Tensor) -> Tensor:
        """hidden [M, C] -> [M, K] float32"""
        features = self.transform(hidden)
        with torch.autocast(hidden.device.type, enabled=False):
            return self.classifier(features.float())


class TransformersHead(nn.Module):
    """What a class of transformers does after its encoder (pooler, dropout, dense ...), on hidden states of any length.

    model    the ...ForSequenceClassification or its like. Its encoder is put away: `encoder` takes the place
    encoder  of which only the pooler is used, where the class has one
    """

    def __init__(self, model: Any, encoder: TransformersEncoder) -> None:
        super().__init__()
        base, self.prefix = model.base_model, model.base_model_prefix
        if getattr(base, "pooler", None) is None or getattr(encoder.model, "pooler", None) is None:
            encoder.model.pooler = getattr(base, "pooler", None)
        setattr(model, self.prefix, encoder.model)
        self.by_token = type(model).__name__.endswith(("ForTokenClassification", "ForQuestionAnswering"))
        self.choices = type(model).__name__.endswith("ForMultipleChoice")
        self.parts = nn.ModuleDict({name: part for name, part in model.named_children() if name != self.prefix})
        self._whole = (model,)  # in a tuple: the weights of its encoder are elsewhere

    @property
    def whole(self) -> Any:
        """transformers' own model, encoder and head."""
        return self._whole[0]

    def forward(self, hidden: Tensor, starts: Tensor | None = None) -> Tensor:
        """hidden [T, C], starts [N+1] -> [N, K] float32 of documents; without starts [M, C] -> [M, K] of tokens."""
        given: dict[str, Tensor] = {"inputs_embeds": hidden.float()[None]}
        if not self.by_token:
            assert starts is not None
            rows = torch.nn.utils.rnn.pad_sequence(list(hidden.float().split(starts.diff().tolist())), batch_first=True)
            column = torch.arange(rows.shape[1], device=rows.device)
            given = {"inputs_embeds": rows, "attention_mask": (column < starts.diff()[:, None]).long()}
            given = {name: value[None] for name, value in given.items()} if self.choices else given
        with torch.autocast(hidden.device.type, enabled=False):
            found = after_encoder(self.whole, **given)
        logits = found.get("logits")
        if logits is None:
            return torch.stack((found.start_logits[0], found.end_logits[0]), dim=-1)
        return logits.view(-1, 1) if self.choices else logits[0] if self.by_token else logits


class GraphHead(nn.Module):
    """Stands behind an exported graph that has its head inside: what comes out of it are logits already."""

    def forward(self, logits: Tensor, starts: Tensor | None = None) -> Tensor:
        """[M, K] of tokens, [N, K] of documents: as they are."""
        return logits


Head = DocumentHead | TokenHead | TransformersHead | GraphHead


class TaskModel(nn.Module):
    """An encoder with the head of a task, as a ...ForSequenceClassification, ...ForTokenClassification and the like."""

    def __init__(self, encoder: Encoder | TransformersEncoder, head: Head, task: TaskConfig) -> None:
        super().__init__()
        self.encoder, self.head, self.task = encoder, head, task

    @classmethod
    def of(cls, config: EncoderConfig, task: TaskConfig, pooling: Pooling, attention: str = "auto") -> Self:
        """One of our own families, its weights not drawn yet."""
        head = TokenHead(config, task.outputs) if task.by_token else DocumentHead(config, task.outputs, pooling)
        return cls(Encoder(config, attention), head, task)

    @property
    def config(self) -> EncoderConfig | TransformersConfig:
        return self.encoder.config

    def forward(self, tokens: Tensor, starts: Tensor) -> Tensor:
        """tokens [T], starts [N+1] -> logits float32: [N, K] of documents, [T, K] of tokens"""
        hidden = self.encoder(tokens, starts)
        return self.head(hidden) if isinstance(self.head, TokenHead) else self.head(hidden, starts)


@torch.no_grad()
def initialize(head: nn.Module, config: EncoderConfig | TransformersConfig, generator: torch.Generator) -> None:
    """Draws the weights of a head anew: matrices from N(0, initializer_range), norms 1, biases 0."""
    deviation = config.initializer_range if isinstance(config, EncoderConfig) else _DEVIATION
    for name, weight in head.named_parameters():
        if weight.ndim > 1:
            weight.normal_(0.0, deviation, generator=generator)
        else:
            weight.fill_(0.0 if name.endswith("bias") else 1.0)


def fill(head: Head, trained: Mapping[str, Tensor], *, classifier: bool) -> None:
    """Gives a head the weights that were trained before, as far as they fit it.

    classifier  whether those of the last layer too: they were trained for the same kind of task
    """
    own = head.state_dict()
    fits = {name: value for name, value in trained.items() if name in own and own[name].shape == value.shape}
    head.load_state_dict({**own, **{k: v for k, v in fits.items() if classifier or not k.startswith("classifier.")}})


def losses_within(scores: Tensor, starts: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy within each group of scores: which option is right, at which token an answer starts.

    scores   [T, K], each column a question of its own
    starts   [N+1], groups end to end
    targets  [N, K], places counted from the start of the group
    returns  [N, K] float32
    """
    scores = scores.float()
    lengths = starts.diff()
    group = torch.repeat_interleave(torch.arange(len(lengths), device=scores.device), lengths)
    shape = (len(lengths), scores.shape[1])
    index = group[:, None].expand_as(scores)
    top = torch.full(shape, -torch.inf, device=scores.device).scatter_reduce(0, index, scores.detach(), "amax")
    sums = torch.zeros(shape, device=scores.device).index_add(0, group, (scores - top[group]).exp())
    return top + sums.log() - scores.gather(0, starts[:-1, None] + targets)


def _transforms(config: EncoderConfig | TransformersConfig) -> TypeGuard[EncoderConfig]:
    return isinstance(config, EncoderConfig) and config.mlm_transform
