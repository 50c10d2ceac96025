"""The feed-forward network of a transformer layer: its products, found by watching the layer run.

Nothing is known of families but what all have in common: the last linear product of a layer brings neurons back to the
width of the residual stream, those just before it make the neurons, and a layer may end in a norm (BERT) or not.
"""

# Shapes: T tokens of documents end to end, I neurons (intermediate size), C hidden size.

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from tessera.huggingface.hub import AnyEncoder
from tessera.inference.tokenize import Ids
from tessera.model.encoder import pack

_STATES = "hidden_states"  # what transformers calls what a layer is given, where it is not the first argument


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """What a layer was given: hidden states [..., C], and all else (masks, positions) as it was."""

    hidden: Tensor
    others: tuple[Any, ...]
    named: Mapping[str, Any]

    def of(self, layer: nn.Module) -> Tensor:
        """What the layer gives."""
        found = layer(self.hidden, *self.others, **self.named)
        return found[0] if isinstance(found, tuple) else found


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """A layer's run over some tokens."""

    neurons: Tensor  # [T, I]
    summed: Tensor  # [T, C], the residual stream after the layer, before the norm that it may end in
    out: Tensor  # [..., C], what it gives


@dataclass(frozen=True, slots=True, eq=False)
class FeedForward:
    """The feed-forward network of one layer: `FeedForward.of(layer, call)`."""

    layer: nn.Module
    ups: tuple[nn.Linear, ...]  # [I, C] each, or the gate and what it lets through in one, [2I, C]
    down: nn.Linear  # [C, I]
    norm: nn.Module | None  # what comes after the sum

    @classmethod
    def of(cls, layer: nn.Module, call: Call) -> Self:
        """Raises ValueError for a layer that has none of this shape."""
        order: list[tuple[nn.Module, Any]] = []
        leaves = [part for part in layer.modules() if not any(part.children())]
        hooks = [leaf.register_forward_hook(lambda part, _, out: order.append((part, out))) for leaf in leaves]
        try:
            given = call.of(layer)
        finally:
            for hook in hooks:
                hook.remove()
        linear = [n for n, (part, _) in enumerate(order) if isinstance(part, nn.Linear)]
        down = order[linear[-1]][0] if linear else None
        if not isinstance(down, nn.Linear) or down.out_features != given.shape[-1]:
            raise ValueError(f"a layer ({type(layer).__name__}) does not end in the product of a feed-forward network")
        ups = list[nn.Linear]()
        for part, _ in reversed(order[: linear[-1]]):
            if isinstance(part, nn.Linear):
                ups.append(part)
            elif any(True for _ in part.parameters()):
                break  # the norm between attention and it
        if not ups or any(up.out_features not in (down.in_features, 2 * down.in_features) for up in ups):
            into = ", ".join(str(up.out_features) for up in ups) or "none"
            raise ValueError(
                f"a layer ({type(layer).__name__}) takes {down.in_features} neurons back to {down.out_features}, and "
                f"makes {into} before that; no feed-forward network that is understood"
            )
        ends = [part for part, out in order[linear[-1] + 1 :] if isinstance(out, Tensor) and torch.equal(out, given)]
        return cls(layer, tuple(ups), down, ends[-1] if ends else None)

    @torch.no_grad()
    def run(self, call: Call) -> Seen:
        """What goes on in the layer."""
        seen = dict[str, Tensor]()
        hooks = [self.down.register_forward_pre_hook(lambda _, args: seen.update(neurons=args[0]))]
        if self.norm is not None:
            hooks.append(self.norm.register_forward_pre_hook(lambda _, args: seen.update(summed=args[0])))
        try:
            out = call.of(self.layer)
        finally:
            for hook in hooks:
                hook.remove()
        summed = seen.get("summed", out)
        return Seen(seen["neurons"].flatten(0, -2), summed.flatten(0, -2), out)

    @torch.no_grad()
    def change(self, kept: Tensor, weight: Tensor, bias: Tensor | None) -> None:
        """Leaves these neurons in, with another product back: kept [k] numbers, weight [C, k], bias [C]."""
        if len(kept) < self.down.in_features:
            for up in self.ups:
                parts = up.out_features // self.down.in_features  # 2: the gate and what it lets through
                rows = torch.cat([kept + part * self.down.in_features for part in range(parts)])
                up.weight = nn.Parameter(up.weight[rows].clone())
                up.bias = up.bias if up.bias is None else nn.Parameter(up.bias[rows].clone())
                up.out_features = len(rows)
            self.down.in_features = len(kept)
        self.down.weight = nn.Parameter(weight.to(self.down.weight.dtype).contiguous())
        if bias is not None:
            self.down.bias = nn.Parameter(bias.to(self.down.weight.dtype))


@torch.no_grad()
def survey(
    encoder: AnyEncoder, layers: Sequence[nn.Module], batches: Sequence[Sequence[Ids]], ends: Collection[int]
) -> tuple[list[list[Call]], dict[int, Tensor]]:
    """What each layer is given, batch by batch, when the encoder reads documents; and of the layers `ends` the residual
    stream after them, before a norm: [T, C], batch after batch. The documents of a batch are equally long, so that
    nothing is padded.

    Of hidden states those are kept alone that the first layer is given.
    """
    given: list[list[Call]] = [[] for _ in layers]
    streams: dict[int, list[Tensor]] = {end: [] for end in ends}

    def keep(number: int) -> Callable[..., None]:
        def see(_: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
            named = dict(named)
            first, others = (args[0], args[1:]) if args else (named.pop(_STATES), ())
            given[number].append(Call(first if number == 0 or looking else first[:0], others, named))

        return see

    def stream(number: int, part: FeedForward) -> Any:
        def see(_: nn.Module, args: tuple[Any, ...], out: Any = None) -> None:
            found = args[0] if part.norm is not None else out[0] if isinstance(out, tuple) else out
            streams[number].append(found.flatten(0, -2))

        return part.layer.register_forward_hook(see) if part.norm is None else part.norm.register_forward_pre_hook(see)

    device = next(encoder.parameters()).device
    hooks = [layer.register_forward_pre_hook(keep(n), with_kwargs=True) for n, layer in enumerate(layers)]
    try:
        looking = True
        encoder(*pack(batches[0][:1], device))
        parts = {end: FeedForward.of(layers[end], given[end][0]) for end in ends}
        looking, given[:] = False, [[] for _ in layers]
        hooks += [stream(end, part) for end, part in parts.items()]
        for batch in batches:
            encoder(*pack(batch, device))
    finally:
        for hook in hooks:
            hook.remove()
    return given, {end: torch.cat(some) for end, some in streams.items()}
