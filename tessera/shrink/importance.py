"""Layer importance: which transformer layers a model can do without, measured on texts.

reconstruction  how well the layers that are kept can stand for those after them, see spans.py
outcome  by how much what the model gives changes when a layer is left out; the layers are left out one after the
         other, each time the one whose loss changes it least (greedy backward elimination)
block    Block Influence: by how much a layer turns what it is given, 1 - cos(input, output), the mean over tokens;
         of the whole model, once (ShortGPT, Men et al. 2024, arXiv:2403.03853, section 3.1)
"""

# Shapes: n texts, or tokens.

import itertools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from tessera.huggingface.hub import AnyEncoder
from tessera.inference.tokenize import Ids
from tessera.model.encoder import pack
from tessera.progress import Progress, silent
from tessera.shrink.layers import Kept, Stack

By = Literal["reconstruction", "outcome", "block", "choice"]  # choice: of people, nothing is measured
Cost = Callable[[Kept], float]
"""What is lost where only these layers are kept: the less the better."""


def smaller(stack: Stack, sizes: Sequence[int], cost: Cost) -> dict[int, tuple[Kept, float]]:
    """Of each number of layers those that are kept, and what that costs: greedy, from the whole model down.

    sizes  numbers of layers, of `stack.sizes`
    """
    kept: Kept = tuple(range(stack.count))
    found: dict[int, tuple[Kept, float]] = {}
    while len(kept) > min(sizes):
        ways = [tuple(n for n in kept if n not in run) for run in stack.runs(kept)]
        costs = [cost(way) for way in ways]
        least = min(range(len(ways)), key=lambda n: costs[n])
        kept = ways[least]
        if len(kept) in sizes:
            found[len(kept)] = kept, costs[least]
    return found


def influence_cost(influence: Sequence[float]) -> Cost:
    """The influence of the layers that are left out, added up."""
    return lambda kept: sum(value for n, value in enumerate(influence) if n not in kept)


@torch.inference_mode()
def outcome_cost(
    stack: Stack,
    encoder: AnyEncoder,
    outcome: Callable[[AnyEncoder], Tensor],
    on_progress: Progress | None = None,
) -> Cost:
    """Half the mean squared distance of what is made of texts to what the whole model makes of them.

    In parts of the mean squared length of that.

    outcome  [n, anything] of an encoder: vectors of texts, logits, hidden states
    """
    due, done, tell = outcome(encoder.eval()).double(), itertools.count(1), on_progress or silent
    total = _tries(stack)

    @torch.inference_mode()
    def cost(kept: Kept) -> float:
        tell(min(next(done), total), total, "leaving out layers")
        found = outcome(stack.without(encoder, kept)).double()
        return float((found - due).square().sum() / due.square().sum() / 2)

    return cost


def _tries(stack: Stack) -> int:
    return sum(len(list(stack.runs(tuple(range(size + stack.period))))) for size in stack.sizes)


@torch.inference_mode()
def block_influence(stack: Stack, encoder: AnyEncoder, texts: Sequence[Ids]) -> list[float]:
    """Of each layer 1 - cos(what it is given, what it gives), the mean over all tokens. From 0: it does nothing."""
    sums, tokens = [0.0] * stack.count, sum(map(len, texts))

    def watch(number: int) -> Callable[..., None]:
        def see(_: nn.Module, args: tuple[Any, ...], given: dict[str, Any], out: Any) -> None:
            before = args[0] if args else given["hidden_states"]
            after = out[0] if isinstance(out, tuple) else out
            cosines = functional.cosine_similarity(before.double(), after.double(), dim=-1)
            sums[number] += float((1 - cosines).sum())

        return see

    layers = stack.layers_of(encoder.eval())
    hooks = [layer.register_forward_hook(watch(n), with_kwargs=True) for n, layer in enumerate(layers)]
    try:
        for ids in texts:  # each by itself: nothing is padded
            encoder(*pack([ids], next(encoder.parameters()).device))
    finally:
        for hook in hooks:
            hook.remove()
    return [value / tokens for value in sums]
