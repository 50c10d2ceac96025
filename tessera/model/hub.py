"""Hugging Face folders in and out: weights, configuration, tokenizer and card.

A folder is config.json, model.safetensors (or shards with an index), tokenizer files and a model card. What is called
how is in model/hf_names.py. Nothing is ever unpickled.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from tessera.files import atomic_folder
from tessera.model import transformers_folder, transformers_model
from tessera.model.encoder import Encoder
from tessera.model.hf_files import copy_tokenizer, open_weights, read_json
from tessera.model.hf_names import NAMES, Names, family, our_config, our_pooling, their_config, their_regression, theirs
from tessera.model.mlm import MaskedLM
from tessera.model.task_heads import DocumentClassifier, DocumentHead
from tessera.model.transformers_model import TransformersEncoder, TransformersMaskedLM
from tessera.plan.architecture import EncoderConfig

AnyMaskedLM = MaskedLM | TransformersMaskedLM
AnyEncoder = Encoder | TransformersEncoder


def save(
    model: MaskedLM | DocumentClassifier | TransformersEncoder | TransformersMaskedLM,
    folder: Path,
    tokenizer_files: Path | None = None,
    card: str | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write a folder that AutoModelForMaskedLM and sentence-transformers load without our code: whole or not at all.

    model            with a regression head, AutoModelForSequenceClassification loads it; one of another family is
                     written as transformers writes it
    tokenizer_files  a folder whose tokenizer files are copied
    card             text of README.md
    Raises FileExistsError if `folder` exists and is not empty, ValueError if transformers has no such architecture.
    """
    with atomic_folder(Path(folder)) as draft:
        if isinstance(model, (TransformersEncoder, TransformersMaskedLM)):
            transformers_model.write(model, draft, dtype)
        else:
            _write(model, draft, dtype)
        if tokenizer_files is not None:
            copy_tokenizer(Path(tokenizer_files), draft)
        if card is not None:
            (draft / "README.md").write_text(card, encoding="utf-8")


def _write(model: MaskedLM | DocumentClassifier, folder: Path, dtype: torch.dtype) -> None:
    name = family(model.config)
    fields = their_config(model.config, name, dtype)
    if isinstance(model, DocumentClassifier):
        if (labels := model.head.classifier.out_features) != 1:
            raise ValueError(
                f"the head tells {labels} classes apart; only a regression head, with one label, is written"
            )
        fields |= their_regression(name, model.head.pooling)
    (folder / "config.json").write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")
    weights = dict(_weights({k: v.detach() for k, v in model.state_dict().items()}, NAMES[name], dtype))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _weights(state: dict[str, Tensor], names: Names, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """Their weights from ours, with copies of the values."""
    inner = state["encoder.layers.0.attention.output.weight"].shape[1]
    for name, tensor in state.items():
        parts = theirs(name.removeprefix("head."), names)
        keys = (len(tensor) - inner) // 2
        sizes = (inner, keys, keys) if len(parts) == 3 else (len(tensor) // len(parts),) * len(parts)  # 3: q, k, v
        for part, values in zip(parts, tensor.split(sizes), strict=True):
            yield part, values.to("cpu", dtype, copy=True).contiguous()


def load(folder: Path, attention: str = "auto") -> MaskedLM:
    """A model with its masked-language-model head, in float32, from a folder in either family's format.

    Raises ValueError naming the file and the weight or field that is missing, unknown, broken or not implemented.
    """
    config, names = _recognise(folder)
    with torch.device("meta"):
        model = MaskedLM(config, attention)
    _fill(model, "", Path(folder), config, names)
    return model


def load_any(folder: Path, attention: str = "auto") -> AnyMaskedLM:
    """As `load` for a folder of our two families; any other that transformers knows is run by it, behind our interface.

    Raises ValueError as `load` does, and where the other model is no masked-language model that can be run packed;
    ImportError where it needs transformers and that is not installed.
    """
    if is_ours(folder):
        return load(folder, attention)
    model = transformers_folder.load(Path(folder), attention, "masked_lm")
    assert isinstance(model, TransformersMaskedLM)
    return model


def is_ours(folder: Path) -> bool:
    """Whether a folder holds a model of our two families."""
    return read_json(Path(folder) / "config.json").get("model_type") in NAMES


def load_encoder(folder: Path, attention: str = "auto") -> AnyEncoder:
    """The encoder alone, from a folder with or without a head: natively for our families, else through transformers.

    Errors as for `load_any`.
    """
    if not is_ours(folder):
        encoder = transformers_folder.load(Path(folder), attention, "encoder")
        assert isinstance(encoder, TransformersEncoder)
        return encoder
    return load_own_encoder(folder, attention)


def load_own_encoder(folder: Path, attention: str = "auto") -> Encoder:
    """The encoder of a folder of our two families, with or without a head. Errors as for `load`."""
    config, names = _recognise(folder)
    with torch.device("meta"):
        encoder = Encoder(config, attention)
    _fill(encoder, "encoder.", Path(folder), config, names)
    return encoder


def load_regressor(folder: Path, attention: str = "auto") -> DocumentClassifier:
    """A regression model, one number for each document: a sequence classifier with a single label, in float32.

    Raises ValueError as `load` does, and for a folder without such a head.
    """
    folder = Path(folder)
    config, names = _recognise(folder)
    with ExitStack() as files:
        found = open_weights(folder, files)
        head = names["classifier.weight"][0]
        if head not in found:
            raise ValueError(
                f"{folder} has no weight {head!r}, so it holds no regression head; give the folder of a sequence "
                "classifier with num_labels = 1"
            )
        labels = found[head].get_slice(head).get_shape()[0]
    if labels != 1:
        raise ValueError(
            f"{folder} tells {labels} classes apart; a score is one number, so give a model with num_labels = 1"
        )
    place = folder / "config.json"
    given = read_json(place)
    with torch.device("meta"):
        regression = DocumentHead(config, 1, our_pooling(given, given["model_type"], place))
        model = DocumentClassifier(Encoder(config, attention), regression)
    _fill(model, "", folder, config, names)
    return model


def has_head(folder: Path) -> bool:
    """Whether the folder holds a masked-language-model head beside its encoder: whether `load` will do."""
    with ExitStack() as files:
        return any(name.startswith("model.") for name in open_weights(Path(folder), files))


def _recognise(folder: Path) -> tuple[EncoderConfig, Names]:
    given, place = read_json(Path(folder) / "config.json"), Path(folder) / "config.json"
    name = given.get("model_type")
    if name not in NAMES:
        raise ValueError(f"{place}: model_type is {name!r}; tessera reads {' and '.join(NAMES)}")
    return our_config(given, name, place), NAMES[name]


def read_config(folder: Path) -> EncoderConfig:
    """What config.json says. Raises ValueError naming a field that is missing, unknown or not implemented."""
    return _recognise(folder)[0]


def _fill(module: torch.nn.Module, prefix: str, folder: Path, config: EncoderConfig, names: dict[str, Any]) -> None:
    """Give every weight of `module`, whose names lack `prefix`, its values."""
    with ExitStack() as files:
        found = open_weights(folder, files)
        bare = not any(name.startswith("model.") for name in found)
        if bare and not prefix:
            raise ValueError(
                f"{folder} holds an encoder without a masked-language-model head; read it with load_encoder"
            )
        state = {}
        for name, empty in module.state_dict().items():
            known = theirs(prefix + name.removeprefix("head."), names)
            wanted = [part.removeprefix("model.") if bare else part for part in known]
            parts = [_take(found, part, folder) for part in wanted]
            state[name] = (torch.cat(parts) if len(parts) > 1 else parts[0]).to(torch.float32, copy=True)
            if state[name].shape != empty.shape:
                raise ValueError(
                    f"{folder}: {' and '.join(wanted)} give the shape {list(state[name].shape)}, "
                    f"but config.json asks for {list(empty.shape)}"
                )
        twin = names["decoder_weight"][0]
        if config.tie_word_embeddings and not prefix and twin in found:
            same = torch.equal(_take(found, twin, folder).float(), state["encoder.embedding.weight"])
            if not same:
                raise ValueError(f"{folder}: {twin} differs from the embedding, but config.json ties them")
        unused = sorted(name for name in found if not prefix or bare or name.startswith("model."))
        if unused:
            raise ValueError(f"{folder}: weight {unused[0]!r} ({len(unused)} in all) has no place in this architecture")
    module.load_state_dict(state, assign=True)


def _take(found: dict[str, Any], name: str, folder: Path) -> Tensor:
    if name not in found:
        raise ValueError(f"{folder}: weight {name!r} is missing")
    return found.pop(name).get_tensor(name)
