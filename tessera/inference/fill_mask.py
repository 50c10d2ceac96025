"""Fill-mask: the most probable tokens where a text has a mask."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import tokenizers
import torch

from tessera.huggingface import hub
from tessera.inference.keywords import whole
from tessera.inference.runtime import LOGITS, STATES, Runtime, kind
from tessera.tokenizer.special_tokens import retold
from tessera.tokenizer.tokenizer import Tokenizer


class Guess(NamedTuple):
    """One token for one mask."""

    text: str  # with the space before it where the token holds one
    probability: float
    id: int


@dataclass(frozen=True, slots=True)
class MaskFiller:
    """A model with its head, or a graph that gives logits; and a tokenizer that reads the names of special tokens."""

    model: Any
    tokenizer: Tokenizer
    reader: tokenizers.Tokenizer
    max_length: int

    @classmethod
    def of(cls, encoder: torch.nn.Module, tokenizer: Tokenizer, source: Path | None, max_length: int) -> Self:
        """Reads the head that belongs to `encoder` from its folder. Raises ValueError where there is none."""
        if source is None:
            raise ValueError("this Encoder was not read from a folder, so it has no head to fill a mask with")
        model: Any
        if isinstance(encoder, Runtime):
            if kind(source) is None and STATES in encoder.outputs:  # tuned: the model itself lies in the folder too
                model = hub.load_any(source)
                return cls(model.eval(), tokenizer, _reader(tokenizer), max_length)
            if LOGITS not in encoder.outputs:
                raise ValueError(
                    f"{source}: this graph was exported for embeddings, without the head that fills a mask; export the "
                    "model again with --output logits, or give the folder it came from"
                )
            return cls(encoder, tokenizer, _reader(tokenizer), max_length)
        model = hub.load_any(source)
        if hub.is_ours(source):
            model.encoder = encoder  # one copy of the weights, as the encoder has them
        return cls(model.to(next(encoder.parameters()).device).eval(), tokenizer, _reader(tokenizer), max_length)

    def guess(self, text: str, number: int, top_k: int) -> list[list[Guess]]:
        """For each mask of a text the top_k tokens, most probable first. `number` names the text in errors."""
        top_k = whole("top_k", top_k, 1)
        ids, masks = self.read(text, number)
        return self.best(self._logits(ids, masks), top_k)

    def read(self, text: str, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids [T] of a text, and the places of its masks [M]; errors as those of `guess`."""
        with retold(self.tokenizer.path, "cannot encode a text"):
            ids = torch.tensor(self.reader.encode(text).ids)
        masks = (ids == self.tokenizer.mask_id).nonzero()[:, 0]
        if not len(masks):
            mask = self.tokenizer.token(self.tokenizer.mask_id)
            raise ValueError(f"texts[{number}] has no {mask}, which is how this tokenizer writes a mask: {text[:80]!r}")
        if len(ids) > self.max_length:
            raise ValueError(
                f"texts[{number}] has {len(ids)} tokens, and this model reads {self.max_length}; shorten it"
            )
        return ids, masks

    def best(self, logits: torch.Tensor, top_k: int) -> list[list[Guess]]:
        """For each row of logits [M, V] the top_k tokens, most probable first."""
        chances = logits.float().softmax(-1)
        best = chances.topk(min(top_k, chances.shape[1]))
        return [
            [Guess(self.tokenizer.decode([i], special=True), p, i) for p, i in zip(values, places, strict=True)]
            for values, places in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]

    def _logits(self, ids: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        """ids [T], masks [M], the places that are wanted -> logits [M, V]."""
        starts = torch.tensor([0, len(ids)])
        if isinstance(self.model, Runtime):
            return self.model(ids, starts)[masks]
        device = next(self.model.parameters()).device
        return self.of_states(self.model.encoder(ids.to(device), starts.to(device)), masks.to(device))

    def of_states(self, hidden: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        """Hidden states [T, C], or what a graph gives [T, V], and the places of masks [M] -> logits [M, V]."""
        if isinstance(self.model, Runtime):
            return hidden[masks]
        logits: torch.Tensor = self.model.logits(hidden[masks].float())
        return logits


def _reader(tokenizer: Tokenizer) -> tokenizers.Tokenizer:
    """As transformers reads a text, but for one space before a mask: a word's space belongs to the word."""
    mask = tokenizer.mask_id
    added = [
        {**token, "lstrip": True} if token["id"] == mask else token
        for token in tokenizer.definition.get("added_tokens") or []
    ]
    with retold(tokenizer.path, "its mask cannot be read with the space before it"):
        reader = tokenizers.Tokenizer.from_str(json.dumps({**tokenizer.definition, "added_tokens": added}))
    reader.no_truncation()
    reader.no_padding()
    return reader
