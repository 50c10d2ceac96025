"""Layer-wise reconstruction: what pruned layers lose is given back by least squares, without training.

A layer that is kept stands for itself and for those that were left out after it: the product back from its neurons is
solved anew, so that the residual stream after it is what the whole model has after the last of these. Layer after
layer, each on what the solved ones before it give, over the tokens of some texts.

Neurons are left out by Optimal Brain Surgeon: those first whose loss costs least once the others have been solved anew
for it (Hassibi and Stork 1993; for layers of transformers Kurtic et al. 2023, ZipLM, arXiv:2302.04089, section 3). That
one layer can stand for several, where what it gives is fitted to theirs: Shopkhoev et al. 2025, ReplaceMe,
arXiv:2505.02819, who fit one linear map of it.
"""

# Shapes: T tokens, I neurons, k of them kept, C hidden size.

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from tessera.huggingface.hub import AnyEncoder
from tessera.inference.tokenize import Ids
from tessera.progress import Progress, silent
from tessera.shrink.feedforward import Call, FeedForward, survey
from tessera.shrink.layers import Kept, Stack

RIDGE = 1e-2  # of the mean square of a neuron: how dear it is to leave a weight as it was
_AT_ONCE = 4_096  # tokens of a batch
_BLOCK = 8  # neurons that go together


@dataclass(slots=True, eq=False)
class Moments:
    """What least squares need of a layer, over tokens: neurons a [I], and what the residual stream lacks, r [C]."""

    neurons: Tensor  # [I], the sum of a
    lack: Tensor  # [C], the sum of r
    square: Tensor  # [I, I], the sum of a a'
    product: Tensor  # [I, C], the sum of a r'
    count: int = 0

    @classmethod
    def of(cls, back: nn.Linear) -> Self:
        """Of nothing yet; `back` is the product [C, I]."""
        rows, width = back.in_features, back.out_features
        given: Any = {"dtype": torch.float64, "device": back.weight.device}
        square, product = torch.zeros(rows, rows, **given), torch.zeros(rows, width, **given)
        return cls(torch.zeros(rows, **given), torch.zeros(width, **given), square, product)

    def add(self, neurons: Tensor, lack: Tensor) -> None:
        """[T, I] and [T, C]."""
        self.neurons += neurons.sum(0, dtype=torch.float64)
        self.lack += lack.sum(0, dtype=torch.float64)
        self.square += (neurons.T @ neurons).double()
        self.product += (neurons.T @ lack).double()
        self.count += len(neurons)

    def solved(self, weight: Tensor, bias: Tensor | None, neurons: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """The product back that lacks least, near the one that is: weight [C, I], bias [C] or None -> the numbers of
        the neurons that are kept [k], and their weight [C, k] and bias."""
        mean, lack = self.neurons / self.count, self.lack / self.count
        if bias is None:  # nothing can move the mean but neurons
            mean, lack = torch.zeros_like(mean), torch.zeros_like(lack)
        square = self.square / self.count - torch.outer(mean, mean)
        product = self.product / self.count - torch.outer(mean, lack)
        dear = RIDGE * float(square.diagonal().mean())
        square.diagonal().add_(dear)
        whole = weight.T.double()
        best = whole + torch.linalg.solve(square, product)  # [I, C]
        kept = surgeon(square, best, neurons)
        if len(kept) < len(best):
            part = square[kept]
            best_kept = torch.linalg.solve(part[:, kept], part @ best)
        else:
            best_kept = best
        if bias is not None:
            bias = bias.double() + lack + mean @ whole - mean[kept] @ best_kept
        return kept, best_kept.T, bias


def surgeon(square: Tensor, weight: Tensor, count: int) -> Tensor:
    """Optimal Brain Surgeon: the numbers of `count` neurons, rising, without the others of which least is lost.

    square  [I, I], the second moments of neurons, positive definite
    weight  [I, C], what is made of them
    """
    alive, inverse, weight = torch.arange(len(weight), device=weight.device), torch.linalg.inv(square), weight.clone()
    while len(alive) > count:
        cost = weight.square().sum(1) / inverse.diagonal()
        gone = cost.topk(min(_BLOCK, len(alive) - count), largest=False).indices
        stay = torch.ones(len(alive), dtype=torch.bool, device=weight.device)
        stay[gone] = False
        share = torch.linalg.solve(inverse[gone][:, gone], inverse[gone])  # [gone, alive]: who does the work of each
        weight = (weight - share.T @ weight[gone])[stay]
        inverse = (inverse - inverse[:, gone] @ share)[stay][:, stay]
        alive = alive[stay]
    return alive


@torch.no_grad()
def reconstruct(
    stack: Stack, whole: AnyEncoder, student: AnyEncoder, kept: Kept, texts: Sequence[Ids],
    *, neurons: int | None = None, on_progress: Progress | None = None,
) -> None:  # fmt: skip
    """Solves the layers of a student anew, in place; one that stands for itself alone and is given what it was given in
    the whole model stays as it is, bit for bit.

    student  the whole model with the layers `kept`
    neurons  of each feed-forward network that stay; None: all

    Raises ValueError for layers without a feed-forward network that is understood, and more neurons than there are.
    """
    batches, ends = alike(texts), [*(number - 1 for number in kept[1:]), stack.count - 1]
    theirs, mine = stack.layers_of(whole.eval()), stack.layers_of(student.eval())
    given, due = survey(whole, theirs, batches, set(ends))
    hidden, changed = [call.hidden for call in given[0]], kept[0] > 0  # else the first is given what it was
    for n, (layer, end) in enumerate(zip(mine, ends, strict=True)):
        (on_progress or silent)(n, len(mine), "solving layers")
        now = [Call(states, call.others, call.named) for states, call in zip(hidden, given[kept[n]], strict=True)]
        part = FeedForward.of(layer, now[0])
        if (neurons or 0) > part.down.in_features:
            raise ValueError(f"{neurons} neurons: a feed-forward network of this model has {part.down.in_features}")
        few = neurons is not None and neurons < part.down.in_features
        if changed or few or end != kept[n]:
            changed = True
            _solve(part, now, due[end], neurons)
            if end != kept[n] and part.norm is not None:
                last = FeedForward.of(theirs[end], now[0])
                assert last.norm is not None
                part.norm.load_state_dict(last.norm.state_dict())
        hidden = [part.run(call).out for call in now]
    (on_progress or silent)(len(mine), len(mine), "solving layers")


def alike(texts: Sequence[Ids]) -> list[list[Ids]]:
    """Documents by their length, each batch of one, so that nothing is padded."""
    by_length: dict[int, list[Ids]] = {}
    for ids in texts:
        by_length.setdefault(len(ids), []).append(ids)
    found = []
    for length, some in sorted(by_length.items()):
        size = max(1, _AT_ONCE // max(length, 1))
        found += [some[first : first + size] for first in range(0, len(some), size) if length]
    return found


def _solve(part: FeedForward, given: Sequence[Call], due: Tensor, neurons: int | None) -> None:
    moments, at = Moments.of(part.down), 0
    for call in given:
        seen = part.run(call)
        size = len(seen.summed)
        moments.add(seen.neurons, due[at : at + size] - seen.summed)
        at += size
    part.change(*moments.solved(part.down.weight, part.down.bias, neurons or part.down.in_features))
