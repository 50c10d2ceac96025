"""Loading and saving of models as Hugging Face folders: weights, configuration, tokenizer and model card.

A folder is config.json, model.safetensors (or shards with an index), tokenizer files and a model card. What is called
how is in hf_names.py, how its files are read in hf_files.py. config.json is held against the header of the weights
before anything of its size is made, and no head is left out unasked.
"""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tessera.files import atomic_folder
from tessera.huggingface import transformers_folder, transformers_model, transformers_tasks
from tessera.huggingface.hf_files import StoredWeight, config_json, copy_tokenizer, open_weights, refuse_infinite
from tessera.huggingface.hf_names import (
    CLASSES,
    NAMES,
    Names,
    family,
    our_config,
    our_pooling,
    their_config,
    their_pooling,
    theirs,
)
from tessera.huggingface.task_heads import DocumentHead, TaskModel, TransformersHead
from tessera.huggingface.transformers_model import TransformersEncoder, TransformersMaskedLM
from tessera.json_files import shown
from tessera.model.encoder import Encoder
from tessera.model.mlm import MaskedLM
from tessera.model.task_config import class_suffix, read_task, their_fields
from tessera.plan.architecture import EncoderConfig

AnyMaskedLM = MaskedLM | TransformersMaskedLM
AnyEncoder = Encoder | TransformersEncoder
Module = TypeVar("Module", bound=nn.Module)
_MLM_HEADS = ("head.", "decoder.", "lm_head.")  # beside `model.`: what else there is belongs to the head of a task


def save(
    model: MaskedLM | TaskModel | TransformersEncoder | TransformersMaskedLM,
    folder: Path,
    tokenizer_files: Path | None = None,
    card: str | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write a folder that AutoModelForMaskedLM and sentence-transformers load without our code: whole or not at all.

    model            with the head of a task, AutoModelForSequenceClassification or its like loads it; one of another
                     family is written as transformers writes it
    tokenizer_files  a folder whose tokenizer files are copied
    card             text of README.md
    Raises FileExistsError if `folder` exists and is not empty, ValueError if transformers has no such architecture or
    a weight is not finite in `dtype`.
    """
    with atomic_folder(Path(folder)) as draft:
        if isinstance(model, (TransformersEncoder, TransformersMaskedLM)):
            transformers_model.write(model.model, draft, dtype)
        elif isinstance(model, TaskModel) and isinstance(model.encoder, TransformersEncoder):
            transformers_model.write(_with_task(model), draft, dtype)
        else:
            _write(model, draft, dtype)
        if tokenizer_files is not None:
            copy_tokenizer(Path(tokenizer_files), draft)
        if card is not None:
            (draft / "README.md").write_text(card, encoding="utf-8", newline="\n")


def _with_task(model: TaskModel) -> Any:
    """transformers' own model of another family, its configuration telling the task."""
    if not isinstance(model.head, TransformersHead):
        raise ValueError(
            f"transformers has no {class_suffix(model.task.kind, str(model.config.model_type))} for "  # type: ignore[union-attr]
            f"{model.config.model_type}, so a head of kind {model.task.kind} cannot be written for it"  # type: ignore[union-attr]
        )
    whole = model.head.whole
    for key, value in their_fields(model.task, whole.config.model_type).items():
        setattr(whole.config, key, {int(n): name for n, name in value.items()} if key == "id2label" else value)
    return whole


def _write(model: MaskedLM | TaskModel, folder: Path, dtype: torch.dtype) -> None:
    assert isinstance(model.config, EncoderConfig)
    name = family(model.config)
    fields = their_config(model.config, name, dtype)
    if isinstance(model, TaskModel):
        fields["architectures"] = [CLASSES[name] + class_suffix(model.task.kind, name)]
        fields |= their_fields(model.task, name)
        if isinstance(model.head, DocumentHead):
            fields["classifier_pooling"] = their_pooling(name, model.head.pooling)
    (folder / "config.json").write_text(
        json.dumps(fields, indent=2, ensure_ascii=False) + "\n", encoding="utf-8", newline="\n"
    )
    weights = dict(their_weights({k: v.detach() for k, v in model.state_dict().items()}, NAMES[name], dtype))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def their_weights(state: dict[str, Tensor], names: Names, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """Their weights from ours (encoder.layers.0 ...), with copies of the values: names in a file, and tensors."""
    inner = state["encoder.layers.0.attention.output.weight"].shape[1]
    for name, tensor in state.items():
        parts = theirs(name.removeprefix("head."), names)
        keys = (len(tensor) - inner) // 2
        sizes = (inner, keys, keys) if len(parts) == 3 else (len(tensor) // len(parts),) * len(parts)  # 3: q, k, v
        for part, values in zip(parts, tensor.split(sizes), strict=True):
            written = values.to("cpu", dtype, copy=True).contiguous()
            refuse_infinite(part, written)
            yield part, written


def load(folder: Path, attention: str = "auto") -> MaskedLM:
    """A model with its masked-language-model head, in float32, from a folder in either family's format.

    Raises ValueError naming the file and the weight or field that is missing, unknown, broken or not implemented, and
    the head that is there where it is that of a task.
    """
    return _load(Path(folder), lambda config: MaskedLM(config, attention))


def load_any(folder: Path, attention: str = "auto") -> AnyMaskedLM:
    """As `load` for a folder of our two families; any other that transformers knows is run by it, behind our interface.

    Raises ValueError as `load` does, and where the other model is no masked-language model that can be run packed;
    ImportError where it needs transformers and that is not installed.
    """
    if is_ours(folder):
        return load(folder, attention)
    return transformers_folder.load(Path(folder), attention, TransformersMaskedLM)


def is_ours(folder: Path) -> bool:
    """Whether a folder holds a model of our two families."""
    return config_json(Path(folder)).get("model_type") in NAMES


def load_encoder(folder: Path, attention: str = "auto", *, drop_head: bool = True) -> AnyEncoder:
    """The encoder alone, from a folder with or without a head: natively for our families, else through transformers.

    drop_head  whether the head of a task (a classifier, tags, spans) may be left out: False where whoever gave the
               folder did not ask for the encoder alone. That of a masked language model always may, and so may any
               beneath a pipeline of sentence-transformers (modules.json)

    Errors as for `load_any`, and ValueError naming a head that may not be left out.
    """
    if is_ours(folder):
        return load_own_encoder(folder, attention, drop_head=drop_head)
    return transformers_folder.load(Path(folder), attention, TransformersEncoder, drop_head=drop_head)


def load_own_encoder(folder: Path, attention: str = "auto", *, drop_head: bool = True) -> Encoder:
    """The encoder of a folder of our two families, with or without a head. Arguments and errors as `load_encoder`."""
    if not drop_head:
        with ExitStack() as files:
            _, beside = _parts(open_weights(Path(folder), files))
            transformers_folder.refuse_head(Path(folder), beside)
    return _load(Path(folder), lambda config: Encoder(config, attention), "encoder.")


def load_task(folder: Path, attention: str = "auto") -> TaskModel:
    """A model with the head of a task, in float32: what `save` or transformers wrote, of any family.

    Raises ValueError as `load_any` does, and for a folder without such a head.
    """
    folder = Path(folder)
    given = config_json(folder)
    if not is_ours(folder):
        task = read_task(given, folder / "config.json")
        model, encoder = transformers_tasks.load_with_head(folder, attention, class_suffix(task.kind, ""))
        return TaskModel(encoder, TransformersHead(model, encoder), task)
    _recognise(folder)
    task = read_task(given, folder / "config.json")
    pooling = our_pooling(given, given["model_type"], folder / "config.json")
    with ExitStack() as files:
        found = open_weights(folder, files)
        head = NAMES[given["model_type"]]["classifier.weight"][0]
        if head not in found:
            raise ValueError(f"{folder} has no weight {head!r}, so it holds no head of a task")
        if found[head].shape[:1] != [task.outputs]:
            raise ValueError(
                f"{folder}: {head} has {found[head].shape} rows, but config.json names {task.outputs} labels"
            )
    return _load(folder, lambda config: TaskModel.of(config, task, pooling, attention))


def load_regressor(folder: Path, attention: str = "auto") -> TaskModel:
    """A regression model, one number for each document: a sequence classifier with a single label, in float32.

    Raises ValueError as `load` does, and for a folder without such a head.
    """
    folder = Path(folder)
    head = _recognise(folder)[1]["classifier.weight"][0]
    with ExitStack() as files:
        found = open_weights(folder, files)
        if head not in found:
            raise ValueError(
                f"{folder} has no weight {head!r}, so it holds no regression head; give the folder of a sequence "
                "classifier with num_labels = 1"
            )
        labels = found[head].shape[0]
    if labels != 1:
        raise ValueError(
            f"{folder} tells {labels} classes apart; a score is one number, so give a model with num_labels = 1"
        )
    return load_task(folder, attention)


def has_head(folder: Path) -> bool:
    """Whether the folder holds a masked-language-model head beside its encoder: whether `load` will do."""
    with ExitStack() as files:
        bare, beside = _parts(open_weights(Path(folder), files))
    return not bare and not beside


def task_weights(folder: Path) -> list[str]:
    """The weights in a folder that are the head of a task, as a classifier has."""
    with ExitStack() as files:
        return _parts(open_weights(Path(folder), files))[1]


def _parts(found: dict[str, StoredWeight]) -> tuple[bool, list[str]]:
    """(whether this is an encoder alone, weights of the head of a task beside an encoder)."""
    bare = not any(name.startswith("model.") for name in found)
    beside = [] if bare else [name for name in found if not name.startswith(("model.", *_MLM_HEADS))]
    return bare, sorted(beside)


def _recognise(folder: Path) -> tuple[EncoderConfig, Names]:
    given, place = config_json(Path(folder)), Path(folder) / "config.json"
    name = given.get("model_type")
    if name not in NAMES:
        raise ValueError(f"{place}: model_type is {shown(name)}; tessera reads {' and '.join(NAMES)}")
    return our_config(given, name, place), NAMES[name]


def read_config(folder: Path) -> EncoderConfig:
    """What config.json says. Raises ValueError naming a field that is missing, unknown or not implemented."""
    return _recognise(folder)[0]


def _load(folder: Path, make: Callable[[EncoderConfig], Module], prefix: str = "") -> Module:
    """What `make` makes of the configuration, with the weights of the folder; its own names lack `prefix`."""
    config, names = _recognise(folder)
    with ExitStack() as files:
        found = open_weights(folder, files)
        _check_sizes(found, folder, config, names)
        with torch.device("meta"):
            module = make(config)
        _fill(module, prefix, folder, config, names, found)
    return module


def _check_sizes(found: dict[str, StoredWeight], folder: Path, config: EncoderConfig, names: Names) -> None:
    """Raises ValueError where the header of the weights belies config.json: before anything of that size is made."""
    bare = _parts(found)[0]
    numbers = (re.match(r"(?:model\.)?layers\.(\d{1,9})\.", name) for name in found)
    layers = {int(number[1]) for number in numbers if number}
    if layers and len(layers) != config.num_hidden_layers:
        raise ValueError(
            f"{folder / 'config.json'}: num_hidden_layers is {config.num_hidden_layers}, but the weights beside it are "
            f"of {len(layers)} layers; give the config.json that was written with them"
        )
    heads = config.num_attention_heads + 2 * config.num_key_value_heads
    rows = {
        "encoder.embedding.weight": config.vocab_size,
        "encoder.layers.0.attention.qkv.weight": heads * config.head_dim,
        "encoder.layers.0.mlp.gate_up.weight": 2 * config.intermediate_size,
    }
    for name, wanted in rows.items():
        parts = _stored_names(name, names, bare)
        if all(part in found for part in parts):
            _check_shape([found[part] for part in parts], [wanted, config.hidden_size], folder)
        elif not layers:
            raise ValueError(f"{folder}: weight {parts[0]!r} is missing")


def _check_shape(parts: list[StoredWeight], wanted: list[int], folder: Path) -> None:
    """Raises ValueError where weights, one below the other, are not of the wanted shape."""
    shapes = [part.shape for part in parts]
    joined = [sum(shape[0] for shape in shapes), *shapes[0][1:]] if all(shapes) else []
    if joined != wanted or any(shape[1:] != joined[1:] for shape in shapes):
        given = joined if len({tuple(shape[1:]) for shape in shapes}) == 1 else shapes
        raise ValueError(
            f"{folder}: {' and '.join(part.name for part in parts)} give the shape {given}, "
            f"but config.json asks for {wanted}"
        )


def _fill(
    module: nn.Module, prefix: str, folder: Path, config: EncoderConfig, names: Names, found: dict[str, StoredWeight]
) -> None:
    """Give every weight of `module`, whose names lack `prefix`, its values; takes them out of `found`."""
    bare = _parts(found)[0]
    if bare and not prefix:
        raise ValueError(f"{folder} holds an encoder without a masked-language-model head; read it with load_encoder")
    state = {}
    for name, empty in module.state_dict().items():
        parts = _stored_names(prefix + name.removeprefix("head."), names, bare)
        if lacking := [part for part in parts if part not in found]:
            transformers_folder.refuse_task(folder, _parts(found)[1] if isinstance(module, MaskedLM) else ())
            raise ValueError(f"{folder}: weight {shown(lacking[0])} is missing")
        stored = [found.pop(part) for part in parts]
        _check_shape(stored, list(empty.shape), folder)
        state[name] = torch.cat([part.read() for part in stored]) if len(stored) > 1 else stored[0].read()
    twin = names["decoder_weight"][0]
    tied = config.tie_word_embeddings and not prefix and twin in found
    if tied and not torch.equal(found.pop(twin).read(), state["encoder.embedding.weight"]):
        raise ValueError(f"{folder}: {twin} differs from the embedding, but config.json ties them")
    unused = sorted(name for name in found if not prefix or bare or name.startswith("model."))
    if unused:
        first = shown(unused[0])
        raise ValueError(f"{folder}: weight {first} ({len(unused)} in all) has no place in this architecture")
    module.load_state_dict(state, assign=True)


def _stored_names(name: str, names: Names, bare: bool) -> list[str]:
    """What the weights that are stacked into our weight `name` are called in a file."""
    return [part.removeprefix("model.") if bare else part for part in theirs(name, names)]
