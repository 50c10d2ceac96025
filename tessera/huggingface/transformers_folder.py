"""Loading of other families' model folders through transformers: its result is tried before it is trusted.

No list of families is kept. The weights must be all there, and what a class has to be is tried out as it is loaded:
that it reads both ways, that padding changes nothing, that its head scores each token by itself.
"""

import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from tessera.huggingface.hf_files import (
    Roles,
    StoredWeight,
    TokenizerJson,
    config_json,
    is_finite,
    open_weights,
)
from tessera.huggingface.transformers_model import (
    TransformersConfig,
    TransformersEncoder,
    TransformersMaskedLM,
    quietly,
)
from tessera.json_files import read_as, shown
from tessera.plan.shipped import pip_line

# Shapes: T tokens of N documents end to end.

_MLM_CLASSES = ("ForMaskedLM", "ForPreTraining", "LMHeadModel", "Model")  # ends of classes without the head of a task
_TASK_HEADS = ("classifier", "pre_classifier", "score", "qa_outputs", "span_classifier", "logits_proj")
_MLM_HEADS = ("cls", "lm_head", "predictions", "generator_predictions", "lm_predictions", "mask_predictions")
Wrapped = TypeVar("Wrapped", TransformersEncoder, TransformersMaskedLM)
_SLACK = 1 << 24  # numbers of a model that its file need not hold: buffers of positions, heads that are tied


def load(folder: Path, attention: str, kind: type[Wrapped], *, drop_head: bool = True) -> Wrapped:
    """A model in float32, ready for use, from a folder of a family that transformers has.

    attention  auto: what transformers chooses; reference: its plain, eager one
    kind       TransformersEncoder or TransformersMaskedLM
    drop_head  of an encoder, as `hub.load_encoder`
    Raises ValueError naming the file and the weight that is missing, unknown or broken, and where the model is no
    encoder that can be padded; ImportError where transformers is not installed.
    """
    place = folder / "config.json"
    given = config_json(folder)
    auto = _class(given, place, kind)
    if attention not in ("auto", "reference"):
        raise ValueError(
            f"attention: {attention!r} is of tessera's own encoders, and {folder} is run by transformers; "
            "give auto or reference"
        )
    how = {} if attention == "auto" else {"attn_implementation": "eager"}
    with ExitStack() as files:
        found = open_weights(folder, files)
        check_sizes(found, given, auto, folder)
        with retold(place), quietly():
            model, told = auto.from_pretrained(
                folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=False, local_files_only=True,
                output_loading_info=True, ignore_mismatched_sizes=True, **how,
            )  # fmt: skip
        if not all(is_finite(values) for values in model.state_dict().values() if values.is_floating_point()):
            for weight in found.values():
                weight.read()  # says which file and weight
            raise ValueError(f"{folder}: {type(model).__name__} of transformers has weights that are not finite")
    head = _task_head(sorted(told["unexpected_keys"]), given)
    if kind is TransformersMaskedLM and told["missing_keys"]:
        refuse_task(folder, head)
    _check_weights(model, told, folder)
    if kind is TransformersMaskedLM or not drop_head:
        refuse_head(folder, head)
    mask = _mask_token(given, folder)
    with retold(place):
        config = describe(model, mask)
    loaded = kind(model, config)
    prove(loaded, folder)
    return loaded


def _task_head(unread: Sequence[str], given: Mapping[str, Any]) -> list[str]:
    """Those of the weights that were not read which are the head of a task: by their names, or by the class."""
    plain = next(iter(given.get("architectures") or []), "").endswith(_MLM_CLASSES)
    known = _MLM_HEADS if not plain else tuple({name.partition(".")[0] for name in unread} - {*_TASK_HEADS})
    ignored = ("pooler", "position_ids")
    return [n for n in unread if n.partition(".")[0] not in known and not any(word in n for word in ignored)]


def refuse_head(folder: Path, weights: Sequence[str]) -> None:
    """Raises ValueError where `weights`, the head of a task, would be left out of an encoder unasked.

    They may be where the folder is one of sentence-transformers: its pipeline ends in vectors and says so.
    """
    if not weights or any((place / "modules.json").is_file() for place in (folder, folder.parent)):
        return
    kind = next(iter(config_json(folder).get("architectures") or []), "a model with the head of a task")
    raise ValueError(
        f"{folder} is {kind}: the encoder alone would lose its head ({weights[0]}, {len(weights)} weights). If the "
        "encoder alone is meant, say so: drop_head=True (--drop-head), or make a folder that says so, in Python:\n"
        f'  tessera.Encoder.from_pretrained("{folder}", drop_head=True).save("encoder")'
    )


def refuse_task(folder: Path, weights: Sequence[str]) -> None:
    """Raises ValueError where a masked language model is wanted and a folder has `weights`, another head, instead."""
    if weights:
        kind = next(iter(config_json(folder).get("architectures") or []), "a model with the head of a task")
        raise ValueError(
            f"{folder} is {kind}: the head of a masked language model, with which models are trained on, merged and "
            f"fill masks, is missing, and its own ({weights[0]}, {len(weights)} weights) would be lost; give the model "
            "that it was fine-tuned from"
        )


@contextmanager
def retold(place: Path) -> Iterator[None]:
    """What a class of transformers raises over a configuration that is wrong, of whatever kind, as a ValueError."""
    try:
        yield
    except (ImportError, MemoryError):
        raise
    except Exception as error:  # TypeError, KeyError, RuntimeError of torch ...: as the field happens to be used
        text = " ".join(str(error).split())
        raise ValueError(f"{place}: transformers cannot read it ({type(error).__name__}: {text[:500]})") from error


def check_sizes(found: Mapping[str, StoredWeight], given: Mapping[str, Any], auto: Any, folder: Path) -> None:
    """Raises ValueError where config.json asks for a model that the weights are not of, before it is made."""
    from transformers import AutoConfig

    place = folder / "config.json"
    for key in ("transformers_weights", "quantization_config"):
        if given.get(key) is not None:
            raise ValueError(f"{place}: field {key!r} is not implemented; only plain safetensors are read")
    with retold(place), quietly():
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    check_layers(config, len(found), place)
    with retold(place), quietly(), torch.device("meta"):
        empty = auto.from_config(config, trust_remote_code=False)
        asked = sum(values.numel() for values in empty.state_dict().values())
        asked += sum(values.numel() for values in empty.buffers())
    held = sum(math.prod(weight.shape) for weight in found.values())
    if asked > 4 * held + _SLACK:
        raise ValueError(f"{place} asks for a model of {asked:,} numbers, but the weights beside it are {held:,}")


def check_layers(config: Any, weights: int, place: Path) -> None:
    """Raises ValueError where a configuration has more layers than there are weights: an empty one takes time too."""
    counts = {key: value for key, value in config.to_dict().items() if key.endswith(("layers", "groups", "_num"))}
    for key, value in {**counts, "num_hidden_layers": getattr(config, "num_hidden_layers", 0)}.items():
        if isinstance(value, int) and value > weights:  # a layer has a weight at least
            raise ValueError(f"{place}: {key} is {value}, but there are only {weights} weights beside it")


def _class(given: Mapping[str, Any], place: Path, kind: type[nn.Module]) -> Any:
    """The Auto class of transformers that reads a configuration. Raises ValueError where none does."""
    name = str(given.get("model_type"))
    try:
        from transformers import CONFIG_MAPPING, MODEL_FOR_MASKED_LM_MAPPING, AutoModel, AutoModelForMaskedLM
    except ImportError as error:
        raise ImportError(
            f"{place}: a model of type {shown(name)} is run by transformers; {pip_line('evaluate')}"
        ) from error
    if name not in CONFIG_MAPPING:
        own = " It comes with code of its own, which tessera never runs." if given.get("auto_map") else ""
        raise ValueError(f"{place}: model_type is {shown(name)}, which transformers does not have.{own}")
    both = getattr(CONFIG_MAPPING[name], "is_encoder_decoder", False)
    if given.get("is_encoder_decoder", both) or given.get("is_decoder"):
        raise ValueError(f"{place}: a model of type {shown(name)} is no encoder; give one that only reads")
    if kind is TransformersEncoder:
        return AutoModel
    if CONFIG_MAPPING[name] not in MODEL_FOR_MASKED_LM_MAPPING:
        raise ValueError(f"{place}: transformers has no masked-language-model head for {shown(name)}; use load_encoder")
    return AutoModelForMaskedLM


def _check_weights(model: Any, told: Mapping[str, Any], folder: Path) -> None:
    """Raises ValueError where the encoder, or the head that is asked for, would not be what the folder holds."""
    prefix, own = model.base_model_prefix, dict(model.base_model.named_children())

    def inside(name: str) -> bool:
        return name.startswith(prefix + ".") or name.partition(".")[0] in own

    missing = sorted(told["missing_keys"])
    if getattr(model, "pooler", None) is not None and any(name.startswith("pooler.") for name in missing):
        model.pooler = None  # it would be noise, and nothing here asks for it
        missing = [name for name in missing if not name.startswith("pooler.")]
    if missing and model is not model.base_model and not any(map(inside, missing)):
        raise ValueError(
            f"{folder} holds an encoder without a masked-language-model head ({missing[0]:.200} is missing); read "
            "it with load_encoder"
        )
    if missing:
        raise ValueError(f"{folder}: weight {shown(missing[0])} is missing ({len(missing)} in all)")
    for name, found, wanted in sorted(told["mismatched_keys"]):
        raise ValueError(f"{folder}: {name} has the shape {list(found)}, but config.json asks for {list(wanted)}")
    unread = sorted(n for n in told["unexpected_keys"] if inside(n) and "pooler" not in n and "position_ids" not in n)
    if unread:
        first = shown(unread[0])
        raise ValueError(f"{folder}: weight {first} ({len(unread)} in all) has no place in this architecture")


def describe(model: Any, mask_token_id: int | None = None) -> TransformersConfig:
    """What there is to know of a model of transformers, with or without a head."""
    base, theirs = model.base_model, model.config
    embedding = base.get_input_embeddings()
    tables = [
        table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)  # XLM-R counts from there
        for name, table in base.named_modules()
        if isinstance(table, nn.Embedding) and "position" in name.rpartition(".")[2]
    ]
    positions = min(tables) if tables else None
    inside = {id(p) for p in base.parameters()}
    linear = [part.weight for part in model.modules() if isinstance(part, nn.Linear)]
    types = getattr(theirs, "type_vocab_size", 0) or 0
    known = [n for n in (positions, getattr(theirs, "max_position_embeddings", None)) if n is not None and n > 0]
    tied = {id(embedding.weight)}
    return TransformersConfig(
        model_type=theirs.model_type,
        vocab_size=embedding.num_embeddings,
        hidden_size=theirs.hidden_size,
        num_hidden_layers=theirs.num_hidden_layers,
        max_position_embeddings=min(known) if known else 512,
        positions=positions,
        pad_token_id=theirs.pad_token_id if theirs.pad_token_id is not None else 0,
        bos_token_id=getattr(theirs, "bos_token_id", None),
        eos_token_id=getattr(theirs, "eos_token_id", None),
        mask_token_id=mask_token_id,
        segments=types if "token_type_ids" in inspect.signature(base.forward).parameters else 0,
        parameters=sum(p.numel() for p in model.parameters()),
        products=sum(w.numel() for w in linear if id(w) in inside - tied),
        head_products=sum(w.numel() for w in linear if id(w) not in inside - tied),
    )


def marks_segments(folder: Path) -> bool:
    """Whether the tokenizer of a folder tells its model the two texts of a pair apart: transformers' class decides."""
    from transformers import AutoTokenizer

    with retold(folder / "tokenizer_config.json"), quietly():
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    return "token_type_ids" in tokenizer.model_input_names


def _mask_token(given: Mapping[str, Any], folder: Path) -> int | None:
    """The id of the mask token, where the configuration or the tokenizer's files say it."""
    said = given.get("mask_token_id")
    files = [folder / name for name in ("tokenizer_config.json", "special_tokens_map.json", "tokenizer.json")]
    if said is None and files[2].is_file():
        names = [read_as(Roles, file).mask_token for file in files[:2] if file.is_file()]
        contents = [name if name is None or isinstance(name, str) else name.content for name in names]
        added = {token.content: token.id for token in read_as(TokenizerJson, files[2]).added_tokens}
        said = next((added[name] for name in contents if name in added), None)
    return said


def _unlike(embedding: Tensor, count: int) -> Tensor:
    """Ids whose rows all differ, far from the special tokens: the last rows may be alike, where they only fill up."""
    found: list[int] = []
    for number in reversed(range(len(embedding))):
        if not any(torch.equal(embedding[number], embedding[other]) for other in found):
            found.append(number)
        if len(found) == count:
            return torch.tensor(found)
    return len(embedding) - 1 - torch.arange(count)


@torch.no_grad()
def prove(model: TransformersEncoder | TransformersMaskedLM, folder: Path) -> None:
    """Raises ValueError where the class is not what we take it for: tried out on two documents of a few tokens."""
    encoder = model if isinstance(model, TransformersEncoder) else model.encoder
    what = f"{folder}: {type(encoder.model).__name__} of transformers"
    long = _unlike(encoder.model.get_input_embeddings().weight, 6)
    short = long[:3]
    ends = [torch.tensor([0, n]) for n in (3, 6)]
    try:
        alone = [encoder(tokens, end) for tokens, end in zip((short, long), ends, strict=True)]
        ids = pad_sequence([short, long], batch_first=True, padding_value=encoder.config.pad_token_id)
        mask = pad_sequence([torch.ones_like(short), torch.ones_like(long)], batch_first=True)
        together = encoder.model(input_ids=ids, attention_mask=mask).last_hidden_state
        others = encoder(torch.cat((long[:1], long[:-1])), ends[1])
        scores = (alone[1], alone[1])
        if isinstance(model, TransformersMaskedLM):
            scores = (model.model(input_ids=long[None]).logits[0], model.logits(alone[1]))
    except Exception as error:  # whatever a class of theirs raises over arguments that it does not expect
        raise ValueError(f"{what} does not run on tokens and a mask alone ({error})") from error

    def differ(a: Tensor, b: Tensor) -> bool:
        return not bool((a - b).abs().max() <= 1e-3 * (1 + a.abs().max()))

    if any(differ(a, b[: len(a)]) for a, b in zip(alone, together, strict=True)):
        raise ValueError(f"{what} gives a document other hidden states beside a longer one, so it cannot be padded")
    if torch.equal(others[0], alone[1][0]):
        raise ValueError(f"{what} reads in one direction only: a token does not see what follows; give an encoder")
    if differ(*scores):
        raise ValueError(f"{what}: its head scores a token by more than its own hidden state")
