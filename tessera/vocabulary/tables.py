"""Vocabulary tables of a model folder: the weights with a row for each token (embedding, decoder, bias), rewritten.

Everything else of the folder stays as it is, weights bit for bit in the format they are stored in, whatever head there
is. A new row is a weighted sum of old ones, the same sum in every table.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from tessera.checksums import BESIDE, MANIFEST
from tessera.huggingface.hf_files import StoredWeight, config_json, find_model, open_weights, refuse_infinite
from tessera.huggingface.hf_names import NAMES, theirs
from tessera.huggingface.transformers_folder import check_layers, retold
from tessera.huggingface.transformers_model import quietly
from tessera.inference.sentence_folder import ends_in_vectors, read
from tessera.json_files import shown
from tessera.plan.errors import some
from tessera.vocabulary.entries import TOKEN_IDS, Ids, Json, config_with_ids

# Shapes: V rows of the old vocabulary, W of the new one, C the width of a row.

_OURS = ("encoder.embedding.weight", "decoder_weight", "decoder_bias")
_STALE = (".onnx", ".onnx_data", ".bin", ".xml", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack", ".ot", ".tflite")
_WEIGHTS = (".safetensors", ".safetensors.index.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Where each row of a new vocabulary comes from.

    source  int64 [W], the old row; -1 where the row is new
    mixed   of each new row the old rows it is a sum of, and their weights
    """

    source: NDArray[np.int64]
    mixed: Mapping[int, tuple[NDArray[np.int64], NDArray[np.float64]]]

    def of(self, table: Tensor) -> Tensor:
        """The new table [W, ...] of an old one [V, ...], in its format."""
        made = table[torch.from_numpy(np.maximum(self.source, 0))]
        for row, (old, weights) in self.mixed.items():
            parts = table[torch.from_numpy(old)].double()
            made[row] = (parts * torch.from_numpy(weights).view(-1, *[1] * (parts.ndim - 1))).sum(0).to(table.dtype)
        return made


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A model folder, or the one inside a pipeline of sentence-transformers: `ModelFolder.of(path)`.

    whole   the folder that is given
    inside  where in it the weights and the tokenizer are
    tables  names of the weights with a row for each token
    vocab_size  how many rows they have: V
    fixed   ids below this one may not change: XLM-R counts positions from that of padding
    """

    whole: Path
    inside: Path
    config: Json
    tables: tuple[str, ...]
    vocab_size: int
    fixed: int = 0

    @classmethod
    def of(cls, folder: Path) -> "ModelFolder":
        """Raises ValueError naming what is missing, damaged or not understood: before anything is worked out."""
        folder = find_model(folder)
        inside = read(folder)[1] if ends_in_vectors(folder) else folder
        config = config_json(inside)
        with ExitStack() as files:
            stored = open_weights(inside, files)
            shapes = {name: weight.shape for name, weight in stored.items()}
        own = config.get("model_type") in NAMES
        found, fixed = (_own(shapes, config), 0) if own else _others(shapes, config, inside)
        rows = {shapes[name][0] for name in found}
        if not found or rows != {config.get("vocab_size")}:
            raise ValueError(
                f"{inside}: config.json says vocab_size {shown(config.get('vocab_size'))}, but the weights with a row "
                f"for each token are {some([f'{name} {shapes[name]}' for name in found]) if found else 'missing'}"
            )
        unknown = sorted(name for name, shape in shapes.items() if shape[:1] == [*rows] and name not in found)
        if unknown and config["vocab_size"] not in _other_sizes(config):
            raise ValueError(
                f"{inside}: weight {shown(unknown[0])} has as many rows as there are tokens, {rows.pop()}, but is no "
                "part of this architecture; remove it if nothing reads it"
            )
        return cls(folder, inside, config, tuple(sorted(found)), rows.pop(), fixed)

    def parameters(self) -> int:
        """Numbers in its weights."""
        with ExitStack() as files:
            return sum(int(np.prod(weight.shape)) for weight in open_weights(self.inside, files).values())


def _own(shapes: Mapping[str, list[int]], config: Json) -> list[str]:
    names = [theirs(name, NAMES[config["model_type"]])[0] for name in _OURS if name in NAMES[config["model_type"]]]
    return [n for name in names for n in dict.fromkeys((name, name.removeprefix("model."))) if n in shapes]


def _other_sizes(config: Json) -> set[int]:
    """Numbers in a configuration that say the size of something else."""
    return {value for key, value in config.items() if isinstance(value, int) and key != "vocab_size"}


def _others(shapes: Mapping[str, list[int]], config: Json, folder: Path) -> tuple[list[str], int]:
    """Tables of a model that transformers runs: what changes its shape when only vocab_size changes; and `fixed`."""
    changing, prefixes, fixed = set(), {""}, 0
    for one, other in _empty(folder, config, len(shapes)):
        sizes = {name: values.shape for name, values in other.state_dict().items()}
        for name, part in one.named_modules():
            if "position" in name.rpartition(".")[2] and (padding := getattr(part, "padding_idx", None)) is not None:
                fixed = padding + 1
        changing |= {name for name, values in one.state_dict().items() if sizes[name] != values.shape}
        prefixes.add(f"{one.base_model_prefix}.")
    for prefix in sorted(prefixes):
        changing |= {name.removeprefix(prefix) for name in changing} | {prefix + name for name in changing}
    return [name for name in shapes if name in changing], fixed


def _empty(folder: Path, config: Json, weights: int) -> Iterator[tuple[Any, Any]]:
    """The architecture without weights, and once more with a row more, for every class that may read the folder."""
    import transformers

    place = folder / "config.json"
    with retold(place), quietly():
        known = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        more = transformers.AutoConfig.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True, vocab_size=known.vocab_size + 1
        )
    check_layers(known, weights, place)
    classes = [getattr(transformers, name, None) for name in config.get("architectures") or ()]
    autos = (transformers.AutoModel, transformers.AutoModelForMaskedLM, transformers.AutoModelForPreTraining)
    classes += [auto._model_mapping.get(type(known), None) for auto in autos]
    for one in dict.fromkeys(found for found in classes if found is not None):
        with retold(place), quietly(), torch.device("meta"):
            yield one(known), one(more)


# -------------------------------------------------------------------------------------------------------- the files


def write(model: ModelFolder, rows: Rows, config: Json, draft: Path) -> list[str]:
    """A copy of the folder whose vocabulary has other rows; tokenizer files as they are, for `entries.write`.

    Returns the files that were left out, since they hold the old vocabulary: graphs, pickles, the state of training.
    Raises ValueError where a row would not be finite.
    """
    left_out = list(copy_rest(model.whole, model.inside, draft))
    inside = draft / model.inside.relative_to(model.whole)
    (inside / "config.json").write_text(
        json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8", newline="\n"
    )
    with ExitStack() as files:
        weights = {name: _values(weight, model, rows) for name, weight in open_weights(model.inside, files).items()}
        save_file(weights, inside / "model.safetensors", metadata={"format": "pt"})
    return left_out


def _values(weight: StoredWeight, model: ModelFolder, rows: Rows) -> Tensor:
    values: Tensor = weight.file.get_tensor(weight.name)
    if weight.name in model.tables:
        values = rows.of(values)
        refuse_infinite(weight.name, values)
    return values.contiguous()


def copy_rest(whole: Path, inside: Path, draft: Path) -> Iterator[str]:
    """All files of a folder but its weights, config.json, and what would still hold the old ones: that is given back.

    inside  where in the folder weights and config.json are
    """
    for path in sorted(whole.rglob("*")):
        name = path.relative_to(whole)
        hidden = any(part.startswith(".") for part in name.parts) and name.name != ".gitattributes"
        checked = path.name == MANIFEST or path.suffix == BESIDE  # checksums of other files than those that will be
        rewritten = path.parent == inside and (path.name == "config.json" or path.name.endswith(_WEIGHTS))
        if path.is_dir() or hidden or checked or rewritten:
            continue
        if {"training", "tuned"} & {*name.parts} or path.suffix in _STALE:
            yield str(name)
            continue
        target = draft / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)


def config_of(model: ModelFolder, ids: Ids, rows: int) -> Json:
    """The new config.json. Ids that a class of transformers has where the file says nothing are said, if they count."""
    given = dict(model.config)
    if given.get("model_type") not in NAMES:
        from transformers import AutoConfig

        with retold(model.inside / "config.json"), quietly():
            found = AutoConfig.from_pretrained(model.inside, trust_remote_code=False, local_files_only=True).to_dict()
        given |= {k: v for k, v in found.items() if k.endswith("_token_id") and k not in given and isinstance(v, int)}
    return config_with_ids(given, ids, rows)


def named_ids(model: ModelFolder) -> set[int]:
    """Ids of tokens that config.json names and that have a row."""
    values = (value for key, value in model.config.items() if TOKEN_IDS.search(key))
    ids = {i for value in values for i in (value if isinstance(value, list) else [value]) if isinstance(i, int)}
    return {i for i in ids if 0 <= i < model.vocab_size}
