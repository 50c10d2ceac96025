"""Layer pruning (depth pruning): a model folder without some of its transformer layers, all else bit for bit as it was.

Nothing is known of families but what the folder itself says: which weights are of which layer, how many layers its
configuration counts, after how many the kinds of attention repeat (ModernBERT: a global layer, then two local ones).
"""

import copy
import dataclasses
import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tessera.huggingface import hub
from tessera.huggingface.hf_files import config_json, find_model, open_weights, refuse_adapter, refuse_infinite
from tessera.huggingface.hf_names import NAMES, family
from tessera.huggingface.hub import AnyEncoder
from tessera.inference.sentence_folder import ends_in_vectors, read
from tessera.json_files import shown
from tessera.model.encoder import Encoder
from tessera.vocabulary.tables import copy_rest

Json = dict[str, Any]
Kept = tuple[int, ...]
"""Numbers of the layers that are kept, in their order."""
Module = TypeVar("Module", bound=nn.Module)

_LAYER = re.compile(r"^(.*?)\b(\d{1,4})\.(.+)$")
_COUNTS = ("num_hidden_layers", "n_layers", "num_layers")  # what configurations call their number
_WIDTHS = ("intermediate_size", "hidden_dim", "ffn_dim")  # and that of the neurons of a feed-forward network


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """The transformer layers of a model folder: `Stack.of(folder)`."""

    whole: Path  # the folder that is given
    inside: Path  # where in it the weights are
    config: Json
    prefix: str  # what the names of their weights begin with: encoder.layer.
    count: int
    counted: str  # the key of config.json that says how many they are
    kinds: tuple[str, ...]  # of attention, one of each layer; empty where all are alike
    first_stays: bool  # the first layer has other weights than those after it

    @classmethod
    def of(cls, folder: str | Path) -> Self:
        """Raises ValueError for a folder whose layers are not one stack of equal ones, and for one layer alone."""
        whole = find_model(folder)
        inside = read(whole)[1] if ends_in_vectors(whole) else whole
        refuse_adapter(inside)
        config = config_json(inside)
        with ExitStack() as files:
            shapes = {name: weight.shape for name, weight in open_weights(inside, files).items()}
        counted = next((name for name in _COUNTS if isinstance(config.get(name), int)), "")
        count = int(config.get(counted, 0))
        found = {prefix: layers for prefix, layers in _stacks(shapes).items() if sorted(layers) == [*range(count)]}
        if len(found) != 1 or count < 2:
            raise ValueError(
                f"{inside}: there are no layers to leave out: config.json says {counted or _COUNTS[0]} "
                f"{shown(config.get(counted))}, and weights are numbered as {', '.join(_stacks(shapes)) or 'no layers'}"
            )
        ((prefix, layers),) = found.items()
        if others := [n for n in range(2, count) if layers[n] != layers[1]]:
            raise ValueError(f"{inside}: layer {others[0]} has other weights than layer 1, so layers cannot move up")
        kinds = _kinds(config, count)
        stack = cls(
            whole=whole, inside=inside, config=config, prefix=prefix, count=count, counted=counted, kinds=kinds,
            first_stays=layers[0] != layers[1],
        )  # fmt: skip
        if stack.period >= count:
            raise ValueError(
                f"{inside}: kinds of attention repeat after {stack.period} of its {count} layers; a run of so many "
                "would have to be left out, and nothing would be left"
            )
        return stack

    @property
    def neurons(self) -> int:
        """Of each feed-forward network (intermediate size), as its configuration says; 0: it does not."""
        return next((size for key in _WIDTHS if isinstance(size := self.config.get(key), int)), 0)

    @property
    def period(self) -> int:
        """After how many layers kinds of attention repeat. A run of so many can be left out, and the order stays."""
        ways = range(1, self.count + 1)
        return next(n for n in ways if all(kind == self.kinds[i % n] for i, kind in enumerate(self.kinds)))

    @property
    def sizes(self) -> list[int]:
        """How many layers a smaller model can have, the most first."""
        return list(range(self.count - self.period, 0, -self.period))

    def runs(self, kept: Kept) -> Iterator[Kept]:
        """What may be left out next of those that are kept."""
        for first in range(int(self.first_stays), len(kept) - self.period + 1):
            run = kept[first : first + self.period]
            if len(run) < len(kept):
                yield run

    def without(self, encoder: AnyEncoder, kept: Kept) -> AnyEncoder:
        """The encoder of this folder with some of its layers; the weights are the same ones."""
        if isinstance(encoder, Encoder):
            ours = _with_layers(encoder, ["layers"], kept)
            ours.config = encoder.config.model_copy(update={"num_hidden_layers": len(kept)})
            return ours
        theirs = copy.copy(encoder)
        path = self._place(encoder.model).split(".")
        theirs.__dict__["_modules"] = {**encoder._modules, "model": _with_layers(encoder.model, path, kept)}
        theirs.config = dataclasses.replace(encoder.config, num_hidden_layers=len(kept))
        return theirs

    def layers_of(self, encoder: AnyEncoder) -> list[nn.Module]:
        """Its layers as modules."""
        if isinstance(encoder, Encoder):
            return list(encoder.layers)
        return list(encoder.model.get_submodule(self._place(encoder.model)))

    def _place(self, model: nn.Module) -> str:
        """What a model of transformers calls its list of layers."""
        places = [name for name, part in model.named_modules() if isinstance(part, nn.ModuleList)]
        return next(name for name in places if f".{self.prefix}".endswith(f".{name}."))

    def parameters(self, other: Path | None = None) -> tuple[int, int]:
        """Numbers in all weights, and in those of the layers.

        other  a folder that was written with some of the layers; None: this one
        """
        place = self.inside if other is None else other / self.inside.relative_to(self.whole)
        with ExitStack() as files:
            sizes = {n: torch.Size(w.shape).numel() for n, w in open_weights(place, files).items()}
        return sum(sizes.values()), sum(size for name, size in sizes.items() if name.startswith(self.prefix))

    def write(self, kept: Kept, draft: Path) -> list[str]:
        """Copies the folder with these layers alone; returns the files left out, which hold the weights of all."""
        left_out = list(copy_rest(self.whole, self.inside, draft))
        inside = draft / self.inside.relative_to(self.whole)
        config = {**self.config, self.counted: len(kept)}
        if isinstance(config.get("layer_types"), list):
            config["layer_types"] = [config["layer_types"][n] for n in kept]
        write_config(config, inside)
        with ExitStack() as files:
            weights = {
                new: weight.file.get_tensor(name).contiguous()
                for name, weight in open_weights(self.inside, files).items()
                if (new := self._renamed(name, kept)) is not None
            }
            save_file(weights, inside / "model.safetensors", metadata={"format": "pt"})
        return left_out

    def _renamed(self, name: str, kept: Kept) -> str | None:
        """What a weight is called where only these layers are; None for one of another."""
        if not name.startswith(self.prefix):
            return name
        number, _, rest = name.removeprefix(self.prefix).partition(".")
        return f"{self.prefix}{kept.index(int(number))}.{rest}" if int(number) in kept else None


def _stacks(shapes: Mapping[str, Sequence[int]]) -> dict[str, dict[int, dict[str, Sequence[int]]]]:
    """Prefix -> number -> the shapes of what is numbered so."""
    found: dict[str, dict[int, dict[str, Sequence[int]]]] = defaultdict(lambda: defaultdict(dict))
    for name, shape in shapes.items():
        if match := _LAYER.match(name):
            found[match[1]][int(match[2])][match[3]] = shape
    return found


def _kinds(config: Json, count: int) -> tuple[str, ...]:
    types, every = config.get("layer_types"), config.get("global_attn_every_n_layers")
    if types is None and config.get("model_type") == "modernbert":
        every = 3 if every is None else every
    if types is None and isinstance(every, int) and every > 1:
        return tuple("sliding_attention" if n % every else "full_attention" for n in range(count))
    return tuple(types or ())


def _with_layers(module: Module, path: Sequence[str], kept: Kept) -> Module:
    """A shallow copy whose list of layers, at `path`, has these alone."""
    made, (name, *rest) = copy.copy(module), path
    child: Any = module._modules[name]
    inner = _with_layers(child, rest, kept) if rest else nn.ModuleList(child[n] for n in kept)
    made.__dict__["_modules"] = {**module._modules, name: inner}
    return made


# ---------------------------------------------------------------------------------------------------- trained weights


def renew(
    source: Path, encoder: AnyEncoder, dense: Sequence[nn.Module], draft: Path, neurons: int | None = None
) -> None:
    """Copies a folder of this encoder with the values that it has now; a head stays as it is.

    dense    layers after pooling, in the order of modules.json
    neurons  that feed-forward networks have now; None: as many as in the folder
    """
    inside = read(source)[1] if ends_in_vectors(source) else source
    list(copy_rest(source, inside, draft))
    place = draft / inside.relative_to(source)
    config = config_json(inside)
    if neurons is not None:
        config |= {key: neurons for key in _WIDTHS if isinstance(config.get(key), int)}
    write_config(config, place)
    new = _named(encoder)
    with ExitStack() as files:
        stored = {name: weight.file.get_tensor(name) for name, weight in open_weights(inside, files).items()}
    table = max((name for name in stored if _there(name, new) is not None), key=lambda name: len(stored[name]))
    weights, used = {}, set[str]()
    for name, before in stored.items():
        key = _there(name, new)
        if key is None and before.shape == stored[table].shape and torch.equal(before, stored[table]):
            key = _there(table, new)  # a decoder that is tied to the embedding, and stored beside it
        used |= {key} - {None}  # type: ignore[arg-type]
        weights[name] = before if key is None else new[key].clone()
        refuse_infinite(name, weights[name])
    if lacking := sorted(new.keys() - used - {key for key in new if "pooler" in key}):
        raise ValueError(f"{inside}: weight {lacking[0]} has no place in the file of weights")
    save_file({k: v.contiguous() for k, v in weights.items()}, place / "model.safetensors", metadata={"format": "pt"})
    for path, step in zip(_dense_places(source), dense, strict=True):
        state = {k: v.detach().cpu().contiguous() for k, v in step.state_dict().items()}
        save_file(state, draft / path / "model.safetensors")


def write_config(config: Json, folder: Path) -> None:
    """config.json."""
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8", newline="\n")


def _named(encoder: AnyEncoder) -> dict[str, Tensor]:
    """Its values by their names in a file, without what stands before an encoder there."""
    if not isinstance(encoder, Encoder):
        return {name: values.detach().cpu() for name, values in encoder.model.state_dict().items()}
    state = {f"encoder.{name}": values.detach() for name, values in encoder.state_dict().items()}
    return {
        n.removeprefix("model."): v for n, v in hub.their_weights(state, NAMES[family(encoder.config)], torch.float32)
    }


def _there(name: str, new: Mapping[str, Tensor]) -> str | None:
    """The key of a stored weight among new ones: its name, with or without the name of the encoder before it."""
    return next((key for key in (name, name.partition(".")[2]) if key in new), None)


def _dense_places(folder: Path) -> list[str]:
    place = folder / "modules.json"
    modules = json.loads(place.read_text(encoding="utf-8")) if place.is_file() else []
    return [module["path"] for module in modules if module["type"].endswith(".Dense")]
