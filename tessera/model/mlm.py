"""Masked language modeling (MLM): the prediction head, its cross-entropy loss, pooling, weight initialization.

Only the positions that are asked for go through the vocabulary projection, which is most of the work of a small model.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from tessera.model.attention import Layout
from tessera.model.cross_entropy import cross_entropies, summed_cross_entropy
from tessera.model.encoder import Encoder, Transform
from tessera.plan.architecture import EncoderConfig

# Shapes: T tokens of N documents end to end, M scored positions, C hidden size, V vocabulary.


class MaskedLM(nn.Module):
    """An encoder and what predicts its masked tokens.

    attention  auto, reference, cpu or varlen; see model/attention.py
    Weights are drawn by torch's defaults until `initialize` or `hub.load` sets them.
    """

    def __init__(self, config: EncoderConfig, attention: str = "auto") -> None:
        super().__init__()
        self.encoder = Encoder(config, attention)
        self.transform = Transform(config) if config.mlm_transform else nn.Identity()
        tied, shape = config.tie_word_embeddings, (config.vocab_size, config.hidden_size)
        self.decoder_weight = None if tied else nn.Parameter(torch.empty(shape).normal_(std=config.initializer_range))
        self.decoder_bias = nn.Parameter(torch.zeros(config.vocab_size)) if config.decoder_bias else None

    @property
    def config(self) -> EncoderConfig:
        """As it is now: `encoder.set_rope_theta` replaces it."""
        return self.encoder.config

    def forward(self, tokens: Tensor, starts: Tensor | Layout, positions: Tensor | None = None) -> Tensor:
        """tokens [T], starts [N+1] -> logits [T, V], or [M, V] of `positions` [M] only."""
        hidden = self.encoder(tokens, starts)
        return self.logits(hidden if positions is None else hidden.index_select(0, positions))

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden [M, C] -> [M, V]"""
        return functional.linear(self.transform(hidden), self._decoder(), self.decoder_bias)

    def losses(self, tokens: Tensor, starts: Tensor | Layout, positions: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy, in nats, of each masked position, without a gradient.

        positions  [M], places in `tokens`
        targets    [M], the tokens that stood there
        returns    [M] float32
        """
        with torch.no_grad():
            return cross_entropies(*self._scored(tokens, starts, positions, targets))

    def loss(self, tokens: Tensor, starts: Tensor | Layout, positions: Tensor, targets: Tensor) -> Tensor:
        """The sum of `losses`, with a gradient; with M = 0 it is 0 and still leads back to the weights."""
        return summed_cross_entropy(*self._scored(tokens, starts, positions, targets))

    def _scored(
        self, tokens: Tensor, starts: Tensor | Layout, positions: Tensor, targets: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
        if positions.shape != targets.shape:
            raise ValueError(f"{len(positions)} positions but {len(targets)} targets; give one target per position")
        hidden = self.transform(self.encoder(tokens, starts).index_select(0, positions))
        return hidden, self._decoder(), self.decoder_bias, targets.long()

    def _decoder(self) -> Tensor:
        return self.encoder.embedding.weight if self.decoder_weight is None else self.decoder_weight


@torch.no_grad()
def initialize(model: MaskedLM, generator: torch.Generator | None = None) -> None:
    """Draw the weights anew as `config.initialization` says; norms become 1, the decoder's bias 0.

    normal    every matrix from N(0, initializer_range)
    megatron  truncated at two deviations; output projections of attention and MLP have a deviation smaller by
              sqrt(2 * num_hidden_layers), so that the sum over layers does not grow with depth
              (Shoeybi et al. 2019, arXiv:1909.08053, section 4; ModernBERT, arXiv:2412.13663, appendix)
    """
    config = model.config
    for name, weight in model.named_parameters():
        deviation = config.initializer_range
        if weight.ndim < 2:
            weight.fill_(0.0 if name == "decoder_bias" else 1.0)
        elif config.initialization == "normal":
            weight.normal_(0.0, deviation, generator=generator)
        else:
            if name.endswith(("attention.output.weight", "mlp.down.weight")):
                deviation /= math.sqrt(2 * config.num_hidden_layers)
            _truncated_normal(weight, deviation, generator)


def _truncated_normal(weight: Tensor, deviation: float, generator: torch.Generator | None) -> None:
    """Fills `weight` from N(0, deviation), truncated at two deviations: what lies beyond is drawn again.

    Written out, because `torch.nn.init.trunc_normal_` draws other numbers in other versions of torch, and a recipe's
    first weights are its own. The numbers are those of torch 2.13.
    """
    if weight.is_meta:
        return
    limit = weight.new_tensor(2 * deviation, device="cpu").item()  # as a number of the weight's own format
    weight.normal_(0.0, deviation, generator=generator)
    while bool((beyond := weight.abs() > limit).any()):
        again = torch.empty_like(weight).normal_(0.0, deviation, generator=generator)
        weight.copy_(torch.where(beyond, again, weight))
