"""Adapter folders as peft writes and loads them (adapter_config.json, adapter_model.safetensors): written, and merged.

An adapter says what is added to the matrices of a base model, and holds the head that was trained with it whole. Ours
also hold the config.json of the merged model, which says its task and its labels.
"""

import shutil
import tempfile
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tessera import checksums
from tessera.files import atomic_folder, refuse_taken, write_json
from tessera.finetune import saved
from tessera.finetune.learner import Learner
from tessera.finetune.lora import Adapter
from tessera.huggingface.hf_files import config_json, copy_tokenizer, is_finite, open_weights, tokenizers_differ
from tessera.huggingface.hf_names import NAMES, family, theirs
from tessera.huggingface.task_heads import TransformersHead
from tessera.huggingface.transformers_folder import check_layers, retold
from tessera.huggingface.transformers_model import quietly, write
from tessera.json_files import Strictly, read_as, read_json, shown
from tessera.model.encoder import Encoder
from tessera.prediction.features import Example

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."  # before the names of all weights in an adapter
_TYPES = {
    "ForSequenceClassification": "SEQ_CLS",
    "ForTokenClassification": "TOKEN_CLS",
    "ForQuestionAnswering": "QUESTION_ANS",
}
_AUTO = {**{kind: name for name, kind in _TYPES.items()}, "FEATURE_EXTRACTION": ""}


class _Config(Strictly):
    peft_type: Literal["LORA"]
    r: int = Field(ge=1)
    lora_alpha: float
    task_type: str | None = None
    use_rslora: bool = False
    use_dora: Literal[False] = False
    fan_in_fan_out: Literal[False] = False
    rank_pattern: dict[str, int] = Field(default_factory=dict, max_length=0)
    alpha_pattern: dict[str, float] = Field(default_factory=dict, max_length=0)


def save(
    learner: Learner,
    adapter: Adapter,
    source: Path,
    folder: Path,
    examples: Sequence[Example],
    *,
    labels: Sequence[str] = (),
    pair: bool = False,
    thresholds: Sequence[float] = (),
    card: str | None = None,
) -> float:
    """Writes what `train_lora` added to a model as a folder that peft loads on it, whole or not at all.

    learner  as train_lora leaves it
    The rest is as of saved.save. The folder is merged into its base once and compared before it counts.
    """
    how: dict[str, Any] = {"labels": labels, "pair": pair, "thresholds": thresholds, "card": card}
    with atomic_folder(Path(folder), sealed=True) as draft, tempfile.TemporaryDirectory(dir=draft, prefix=".") as work:
        whole, again = Path(work, "whole"), Path(work, "again")
        difference = saved.save(learner, source, whole, examples, **how)
        weights, prefix = _added(learner, adapter), _prefix(learner)
        targets = sorted({name.removeprefix(_PREFIX).partition(".lora_")[0] for name in weights})
        with ExitStack() as files:
            found = open_weights(whole, files)
            kept = {name: found[name].read() for name in found if not name.startswith(prefix) or ".pooler." in name}
        weights |= {_PREFIX + name: value for name, value in kept.items()}
        names = sorted({name.partition(".")[0] if not name.startswith(prefix) else f"{prefix}pooler" for name in kept})
        save_file(weights, draft / WEIGHTS, metadata={"format": "pt"})
        given = config_json(whole)
        kind = next((_TYPES[end] for end in _TYPES if given["architectures"][0].endswith(end)), None)
        said: dict[str, Any] = {
            "peft_type": "LORA",
            "task_type": kind,
            "base_model_name_or_path": str(source),
            "r": adapter.rank,
        }
        said |= {"lora_alpha": adapter.alpha, "lora_dropout": 0.0, "bias": "none", "inference_mode": True}
        write_json(draft / CONFIG, {**said, "target_modules": targets, "modules_to_save": names})
        copy_tokenizer(whole, draft)
        for name in ("config.json", "README.md"):
            if (whole / name).is_file():
                shutil.copyfile(whole / name, draft / name)
        merge_adapter(source, draft, again)
        _refuse_other(whole, again)
    return difference


def _prefix(learner: Learner) -> str:
    """What names of the encoder's weights begin with in its class of transformers."""
    if isinstance(learner.encoder, Encoder):
        return "model."
    assert isinstance(learner.head, TransformersHead)
    return learner.head.prefix + "."


def _added(learner: Learner, adapter: Adapter) -> dict[str, Tensor]:
    """A and B of each matrix, by its name in transformers; those of stacked matrices share their A."""
    found = {}
    for name, (a, b) in adapter.parts.items():
        if isinstance(learner.encoder, Encoder):
            config = learner.encoder.config
            parts = list(theirs(f"encoder.{name}.weight", NAMES[family(config)]))
            heads = [config.num_attention_heads, config.num_key_value_heads, config.num_key_value_heads]
            sizes = [n * config.head_dim for n in heads] if len(parts) == 3 else [len(b) // len(parts)] * len(parts)
        else:
            parts, sizes = [f"{_prefix(learner)}{name}.weight"], [len(b)]
        for part, rows in zip(parts, b.split(sizes), strict=True):
            stem = _PREFIX + part.removesuffix(".weight")
            found[f"{stem}.lora_A.weight"] = a.cpu().clone()
            found[f"{stem}.lora_B.weight"] = rows.cpu().contiguous().clone()
    return found


def _refuse_other(whole: Path, again: Path) -> None:
    """Raises ValueError where a merged adapter is not the model that was trained."""
    with ExitStack() as files:
        due, found = open_weights(whole, files), open_weights(again, files)
        for name in due:
            if name not in found or not torch.allclose(due[name].read(), found[name].read(), atol=1e-6):
                raise ValueError(f"nothing was written: merged into its base the adapter gives another {name}")


# -------------------------------------------------------------------------------------------------------------- merging


@torch.no_grad()
def merge_adapter(base: str | Path, adapter: str | Path, out: str | Path) -> Path:
    """Merges a LoRA adapter into its base model: an ordinary folder, written whole or not at all.

    base     the folder of the model that it was trained on
    adapter  a folder that peft or `save` wrote

    Raises FileExistsError where `out` holds something, ValueError for an adapter of another kind than LoRA, and where a
    weight of it has no place in the base model.
    """
    import transformers

    base, adapter, out = Path(base), Path(adapter), Path(out)
    refuse_taken(out)
    config = read_as(_Config, adapter / CONFIG)
    given = read_json(adapter / "config.json") if (adapter / "config.json").is_file() else None
    weights = _read(adapter / WEIGHTS)
    with ExitStack() as files:
        there = len(open_weights(base, files))  # which says what is missing or damaged
    _refuse_other_tokens(base, adapter, weights)
    place = (adapter if given else base) / "config.json"
    with retold(place), quietly():
        described = transformers.AutoConfig.from_pretrained(
            place.parent, trust_remote_code=False, local_files_only=True
        )
    check_layers(described, there, place)
    with retold(place), quietly():
        classifier = next((v for k, v in weights.items() if k.endswith(("classifier.weight", "out_proj.weight"))), None)
        if given is None and classifier is not None:  # peft does not say how the labels are called
            described.num_labels = len(classifier)
        auto = _class(given or config_json(base), config, place)
        with torch.random.fork_rng():
            model, told = auto.from_pretrained(
                base, config=described, dtype=torch.float32, use_safetensors=True, output_loading_info=True,
                trust_remote_code=False, local_files_only=True,
            )  # fmt: skip
    if missing := sorted({*told["missing_keys"]} - weights.keys()):
        raise ValueError(
            f"{adapter}: {missing[0]} is neither in the base model nor in the adapter ({len(missing)} in all), so the "
            f"model that it was trained in is not whole; train with modules_to_save=[{missing[0].split('.')[0]!r}, ...]"
        )
    state = model.state_dict()
    scale = config.lora_alpha / (config.r**0.5 if config.use_rslora else config.r)
    for name, value in weights.items():
        stem, _, part = name.partition(".lora_")
        mine = f"{stem}.weight" if part else name
        if mine not in state or part not in ("", "A.weight", "B.weight"):
            raise ValueError(f"{adapter / WEIGHTS}: {shown(name)} has no place in {type(model).__name__} of {base}")
        if part == "B.weight":
            state[mine] += scale * (value @ weights[f"{stem}.lora_A.weight"])
        elif not part:
            state[mine].copy_(value)
    with atomic_folder(out, sealed=True) as draft:
        write(model, draft, torch.float32)
        copy_tokenizer(base, draft)
        copy_tokenizer(adapter, draft)
        if (adapter / "README.md").is_file():
            shutil.copyfile(adapter / "README.md", draft / "README.md")
    return out


def _refuse_other_tokens(base: Path, adapter: Path, weights: Collection[str]) -> None:
    """Raises ValueError where an adapter comes with another vocabulary than its base, and without an embedding."""
    both = [folder / "tokenizer.json" for folder in (base, adapter)]
    if not all(file.is_file() for file in both) or any("embed" in name for name in weights):
        return
    if (moved := tokenizers_differ(*both)[0]) is not None:
        raise ValueError(f"{adapter}: its tokenizer and that of {base} differ: {moved}; give the base of its training")


def _class(given: dict[str, Any], config: _Config, place: Path) -> Any:
    """The class of transformers that the merged model is of."""
    import transformers

    if config.task_type in _AUTO and config.task_type is not None and "task" not in given:
        return getattr(transformers, f"AutoModel{_AUTO[config.task_type]}")
    name = next(iter(given.get("architectures") or []), "")
    if not hasattr(transformers, name):
        raise ValueError(f"{place}: architectures is {shown(name)}, which transformers does not have")
    return getattr(transformers, name)


def _read(path: Path) -> dict[str, Tensor]:
    """The weights of an adapter by the names of its base model. Raises ValueError for what is none."""
    if not path.is_file():
        raise ValueError(f"{path} is missing; tessera reads adapters from safetensors files only")
    checksums.check(path)
    try:
        with safe_open(path, framework="pt") as file:
            found = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118  # it is no dict
    except SafetensorError as error:
        raise ValueError(f"{path} is broken ({error}); copy it again") from error
    wrong = next((name for name, value in found.items() if not name.startswith(_PREFIX) or not is_finite(value)), None)
    if wrong is not None:
        raise ValueError(f"{path}: weight {shown(wrong)} is not finite, or none of an adapter of peft")
    return {name.removeprefix(_PREFIX): value for name, value in found.items()}
