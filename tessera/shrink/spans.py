"""Layer importance by reconstruction: which layers best stand for those after them, over all ways at once.

The cost of keeping layer i and leaving out those up to j is what the product back from i's neurons, solved for it,
still lacks of the residual stream after j: read off the whole model once for all i and j. The layers that are kept are
then the shortest way from the first to the last (dynamic programming), and not the greedy one.
"""

# Shapes: T tokens, I neurons, C hidden size.

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from tessera.huggingface.hub import AnyEncoder
from tessera.inference.tokenize import Ids
from tessera.progress import Progress, silent
from tessera.shrink.feedforward import Call, FeedForward, survey
from tessera.shrink.layers import Kept, Stack
from tessera.shrink.reconstruct import RIDGE, alike

Costs = dict[tuple[int, int], float]
"""(first, last) -> the share of the stream after the last that the first cannot make up for; 0 for itself alone."""
_TOKENS = 16_000


@torch.no_grad()
def costs(stack: Stack, whole: AnyEncoder, texts: Sequence[Ids], on_progress: Progress | None = None) -> Costs:
    """Of each run that can be left out after a layer, with that layer; of each token the squared error in parts of its
    squared distance from the mean, and of these the mean."""
    layers, batches = stack.layers_of(whole.eval()), alike(_some(texts))
    given, streams = survey(whole, layers, batches, range(stack.count))
    hidden, found = [call.hidden for call in given[0]], Costs()
    for first, layer in enumerate(layers):
        (on_progress or silent)(first, stack.count, "which layer stands for which")
        now = [Call(states, call.others, call.named) for states, call in zip(hidden, given[first], strict=True)]
        part = FeedForward.of(layer, now[0])
        seen = [part.run(call) for call in now]
        hidden, neurons = [one.out for one in seen], torch.cat([one.neurons for one in seen])
        ends = range(first + stack.period, stack.count, stack.period)
        rest = streams[first] - part.down(neurons)
        found |= {(first, first): 0.0} | _lacking(first, neurons, rest, {end: streams[end] for end in ends})
    (on_progress or silent)(stack.count, stack.count, "which layer stands for which")
    return found


def _lacking(first: int, neurons: Tensor, rest: Tensor, streams: dict[int, Tensor]) -> Costs:
    if not streams:
        return {}
    neurons = neurons - neurons.mean(0)
    square = (neurons.T @ neurons).double()
    square.diagonal().add_(RIDGE * float(square.diagonal().mean()))
    factor, found = torch.linalg.cholesky(square), {}
    for end, stream in streams.items():
        due = stream - rest
        due = due - due.mean(0)
        lacks = due - neurons @ torch.cholesky_solve((neurons.T @ due).double(), factor).to(due.dtype)
        spread = (stream - stream.mean(0)).square().sum(1).clamp(min=1e-12)
        found[first, end] = float((lacks.square().sum(1) / spread).mean())
    return found


def _some(texts: Sequence[Ids]) -> list[Ids]:
    found, tokens = list[Ids](), 0
    for ids in texts:
        tokens += len(ids)
        if found and tokens > _TOKENS:
            break
        found.append(ids)
    return found


def cheapest(stack: Stack, costs: Costs, sizes: Sequence[int]) -> dict[int, tuple[Kept, float]]:
    """Of each number of layers those that are kept, the first always, and the costs of their runs added up.

    sizes  numbers of layers, of `stack.sizes`
    """
    ways: dict[tuple[int, int], tuple[float, Kept]] = {}  # (layer, how many from it on) -> the best of them
    for first in reversed(range(stack.count)):
        for count in range(1, stack.count - first + 1):
            best: tuple[float, Kept] = (math.inf, ())
            for end in range(first, stack.count, stack.period):
                if end + 1 == stack.count:
                    rest: tuple[float, Kept] = (0.0, ()) if count == 1 else (math.inf, ())
                else:
                    rest = ways.get((end + 1, count - 1), (math.inf, ()))
                best = min(best, (costs[first, end] + rest[0], (first, *rest[1])))
            ways[first, count] = best
    return {size: (ways[0, size][1], ways[0, size][0]) for size in sizes}
