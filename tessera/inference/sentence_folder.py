"""The sentence-transformers format of a model folder, read and written: pooling, prompts, length, similarity.

    modules.json                        the steps, and where each is written
    1_Pooling/config.json               how tokens become one vector
    2_Dense/  3_Normalize/              what comes after
    sentence_bert_config.json           the longest text, in tokens
    config_sentence_transformers.json   prompts, the similarity

A folder without modules.json is a bare model: mean pooling, length 1.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import Any

from safetensors.torch import save_file

from tessera.files import atomic_folder, digest
from tessera.huggingface.hf_files import fetched, find_model, open_weights
from tessera.inference.sentence_schemas import (
    ENDLESS,
    DenseConfig,
    General,
    Module,
    Modules,
    PoolingConfig,
    StepConfig,
    TextConfig,
    TokenizerLimit,
)
from tessera.json_files import Schema, fit, read_any, read_as, shown
from tessera.model.pooling import POOLINGS, Dense, Unit

SIMILARITIES = ("cosine", "dot", "euclidean", "manhattan")

_MODEL_FILES = ("*.safetensors", "*.json", "*.txt", "README.md")
_OURS = ("modules.json", "config_sentence_transformers.json", "sentence_*_config.json", "manifest.json")
_LEGACY = {  # what sentence-transformers called each pooling before its version 6, and still reads
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean": "pooling_mode_mean_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """From hidden states to vectors. Checks itself."""

    pooling: tuple[str, ...] = ("mean",)
    include_prompt: bool = True  # whether the tokens of a prompt are pooled too
    steps: tuple[Dense | Unit, ...] = ()  # after pooling, before the last normalization
    normalize: bool = True  # to length 1, at the end
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    similarity: str = "cosine"
    dimensions: int | None = None  # the first so many of a finished vector, which is not normalized again; None: all
    max_length: int | None = None  # tokens of a text, special ones included; None: as the model says
    lower_case: bool = False

    def __post_init__(self) -> None:
        unknown = [name for name in self.pooling if name not in POOLINGS]
        if unknown or not self.pooling:
            raise ValueError(f"pooling is {shown(unknown[0]) if unknown else ()}; give {', '.join(POOLINGS)}")
        if self.default_prompt_name is not None and self.default_prompt_name not in self.prompts:
            raise ValueError(
                f"default_prompt_name is {shown(self.default_prompt_name)}; prompts are {shown(sorted(self.prompts))}"
            )
        if self.similarity not in SIMILARITIES:
            raise ValueError(f"similarity is {shown(self.similarity)}; give {', '.join(SIMILARITIES)}")

    def width(self, hidden_size: int) -> int:
        """Dimensions of a vector."""
        width = hidden_size * len(self.pooling)
        for step in self.steps:
            if isinstance(step, Dense):
                if step.linear.in_features != width:
                    raise ValueError(
                        f"pooling {'+'.join(self.pooling)} gives {width} dimensions, but the dense layer after it "
                        f"takes {step.linear.in_features}"
                    )
                width = step.linear.out_features
        return width

    @property
    def modules(self) -> list[Dense | Unit]:
        """All that comes after pooling, the last normalization included."""
        return [*self.steps, *([Unit()] if self.normalize else [])]

    def fingerprint(self) -> str:
        """What becomes of texts and hidden states: another one where vectors of the same weights may be others."""
        layers: list[Any] = []
        for step in self.steps:
            weights = {k: hashlib.sha256(v.cpu().numpy().tobytes()).hexdigest() for k, v in step.state_dict().items()}
            layers.append([str(step), getattr(step, "adds", False), weights])
        fields = ("pooling", "include_prompt", "normalize", "default_prompt_name", "similarity", "max_length")
        plain = {name: getattr(self, name) for name in (*fields, "lower_case")}
        plain |= {} if self.dimensions is None else {"dimensions": self.dimensions}
        return digest({**plain, "prompts": dict(self.prompts), "layers": layers})

    def prompt(self, prompt: str | None, name: str | None) -> str:
        """What stands before a text: `prompt`, or the one called `name`, or the default."""
        if prompt is not None:
            return prompt
        name = self.default_prompt_name if name is None else name
        if name is None:
            return ""
        if name not in self.prompts:
            known = ", ".join(sorted(self.prompts)) or "none"
            raise ValueError(f"prompt_name is {name!r}; prompts of the folder are {known}. Or give a text as prompt")
        return self.prompts[name]


def ends_in_vectors(folder: Path) -> bool:
    """Whether a folder has a pipeline of sentence-transformers that pools tokens; that of a cross-encoder does not."""
    place = folder / "modules.json"
    if not place.is_file():
        return False
    return "Pooling" in [_kind(module, place) for module in fit(Modules, read_any(place), place).root]


def read(folder: Path) -> tuple[Pipeline, Path]:
    """What the folder says, and where in it the model lies.

    Raises ValueError naming the file and what in it is not known here.
    """
    place = folder / "modules.json"
    if not place.is_file():
        return Pipeline(max_length=tokenizer_length(folder)), folder
    modules = fit(Modules, read_any(place), place).root
    kinds = [_kind(module, place) for module in modules]
    if kinds[:2] != ["Transformer", "Pooling"]:
        raise ValueError(f"{place}: begins with {' and '.join(kinds[:2])}; read here are a Transformer and its Pooling")
    model, pooling = (_within(folder, module.path, place) for module in modules[:2])
    steps: list[Dense | Unit] = []
    for kind, module in zip(kinds[2:], modules[2:], strict=True):
        path = _within(folder, module.path, place)
        match kind:
            case "Normalize":
                _check_input(_optional(StepConfig, path / "config.json"), path)
                steps.append(Unit())
            case "Dense":
                steps.append(_read_dense(path))
            case "Dropout":  # does nothing where nothing is trained
                pass
            case _:
                raise ValueError(f"{place}: {kind} is not known here; known are Dense, Normalize and Dropout")
    last = bool(steps) and isinstance(steps[-1], Unit)
    general = _optional(General, folder / "config_sentence_transformers.json")
    text = next((read_as(TextConfig, path) for path in sorted(model.glob("sentence_*_config.json"))), TextConfig())
    if (text.transformer_task or "feature-extraction") != "feature-extraction" or text.query_expansion:
        raise ValueError(f"{model}: sentence_bert_config.json asks for more than token embeddings")
    names, include = _read_pooling(pooling / "config.json")
    try:
        pipeline = Pipeline(
            pooling=names,
            include_prompt=include,
            steps=tuple(steps[:-1] if last else steps),
            normalize=last,
            prompts={name: prompt or "" for name, prompt in (general.prompts or {}).items()},
            default_prompt_name=general.default_prompt_name,
            similarity=general.similarity_fn_name or "cosine",
            dimensions=general.truncate_dim,
            max_length=text.max_seq_length or tokenizer_length(model),
            lower_case=bool(text.do_lower_case),
        )
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from None
    return pipeline, model


def write(model: Path, folder: Path, pipeline: Pipeline, width: int, max_length: int) -> None:
    """A folder that tessera, transformers and sentence-transformers (2 to 6) load: whole or not at all.

    model       the folder whose weights, configuration, tokenizer and card are copied
    width       of the hidden states
    max_length  of a text, in tokens

    Raises FileExistsError where `folder` holds something.
    """
    names = ["Transformer", "Pooling", *("Normalize" if isinstance(s, Unit) else "Dense" for s in pipeline.modules)]
    paths = ["", *(f"{n}_{name}" for n, name in enumerate(names[1:], 1))]
    modules = [
        {"idx": n, "name": str(n), "path": path, "type": f"sentence_transformers.models.{name}"}
        for n, (name, path) in enumerate(zip(names, paths, strict=True))
    ]
    with atomic_folder(folder) as draft:
        for file in (file for pattern in _MODEL_FILES for file in sorted(model.glob(pattern))):
            if not any(map(file.match, _OURS)):
                shutil.copyfile(file, draft / file.name)
        _write_json(draft / "modules.json", modules)
        text = {"max_seq_length": max_length, "do_lower_case": pipeline.lower_case}
        _write_json(draft / "sentence_bert_config.json", text)
        general = {
            "prompts": dict(pipeline.prompts),
            "default_prompt_name": pipeline.default_prompt_name,
            "similarity_fn_name": pipeline.similarity,
            **({} if pipeline.dimensions is None else {"truncate_dim": pipeline.dimensions}),
        }
        _write_json(draft / "config_sentence_transformers.json", general)
        ordered = sorted(pipeline.pooling, key=POOLINGS.index)
        if list(pipeline.pooling) == ordered:
            chosen: dict[str, Any] = {_LEGACY[name]: name in ordered for name in POOLINGS}
            chosen["word_embedding_dimension"] = width
        else:  # joined in an order that older versions cannot say
            chosen = {"embedding_dimension": width, "pooling_mode": list(pipeline.pooling)}
        _write_json(draft / "1_Pooling" / "config.json", {**chosen, "include_prompt": pipeline.include_prompt})
        for path, step in zip(paths[2:], pipeline.modules, strict=True):
            _write_step(draft / path, step)


def content_hash(folder: Path) -> str:
    """A hash of all JSON, text and weights in a folder: whether anything at all has changed.

    Which model it is, whatever else lies there, says files.fingerprint.
    """
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.suffix in (".json", ".safetensors", ".txt")):
        if {"training", "tuned"} & {*path.relative_to(folder).parts} or path.name == "manifest.json":
            continue  # how a checkpoint goes on, how a model is run: not what it is
        with path.open("rb") as file:
            digest.update(str(path.relative_to(folder)).encode() + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


# --------------------------------------------------------------------------------------------------------- the pieces


def _within(folder: Path, name: str, place: Path) -> Path:
    """The folder that `place` calls `name`. Raises ValueError where it does not lie inside `folder`, links followed."""
    way = PureWindowsPath(name)  # which knows both slashes and drives
    outside = "\0" in name or way.anchor or ".." in way.parts
    if outside or not (folder / name).resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{place}: path {shown(name)} leads out of the folder; only what is inside it is read")
    try:
        (folder / name / "config.json").exists()
    except OSError as error:  # longer than names may be
        raise ValueError(f"{place}: path {shown(name)} is none: {error.strerror}") from None
    return folder / name


def _kind(module: Module, place: Path) -> str:
    if not module.type.startswith("sentence_transformers."):
        raise ValueError(f"{place}: {shown(module.type)} is code that came with the model; tessera runs none")
    return module.type.rpartition(".")[2]


def _read_pooling(place: Path) -> tuple[tuple[str, ...], bool]:
    given = read_as(PoolingConfig, place)
    found = given.pooling_mode
    if found is None:
        flags = given.model_extra or {}
        found = [name for name, key in _LEGACY.items() if flags.get(key)] or ["mean"]
    names = (found,) if isinstance(found, str) else tuple(found)
    if unknown := [name for name in names if name not in POOLINGS]:
        raise ValueError(f"{place}: pooling {shown(unknown[0])} is not known here; known are {', '.join(POOLINGS)}")
    return names, given.include_prompt


def _read_dense(path: Path) -> Dense:
    place, weights = path / "config.json", path / "model.safetensors"
    given = read_as(DenseConfig, place)
    _check_input(given, path)
    activation = given.activation_function.rpartition(".")[2]
    try:
        Dense(1, 1, given.bias, activation)
    except ValueError as error:
        raise ValueError(f"{place}: {str(error)[:400]}") from None
    if not weights.is_file():
        raise ValueError(f"{weights} is missing; other formats can run code when they are read: convert it elsewhere")
    sizes = [given.out_features, given.in_features]
    with ExitStack() as files:
        found = open_weights(path, files)
        held = found["linear.weight"].shape if "linear.weight" in found else []
        if held != sizes:  # seen in the header, before anything of its size is made
            raise ValueError(f"{weights} does not fit its config.json: linear.weight is {held}, not {sizes}")
        state = {name: weight.read() for name, weight in found.items()}
    dense = Dense(given.in_features, given.out_features, given.bias, activation, bool(given.use_residual))
    try:
        dense.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{weights} does not fit its config.json: {shown(str(error))}") from None
    return dense.eval()


def _check_input(given: StepConfig, path: Path) -> None:
    for value in (given.module_input_name, given.module_output_name):
        if (value or "sentence_embedding") != "sentence_embedding":
            raise ValueError(f"{path}: works on {shown(value)}; read here is what works on the vector of a text")


def _write_step(path: Path, step: Dense | Unit) -> None:
    if isinstance(step, Unit):
        _write_json(path / "config.json", {})  # so that the folder outlives places that keep no empty ones
        return
    activation = type(step.activation)
    given = {
        "in_features": step.linear.in_features,
        "out_features": step.linear.out_features,
        "bias": step.linear.bias is not None,
        "activation_function": f"{activation.__module__}.{activation.__name__}",
    }
    _write_json(path / "config.json", given | ({"use_residual": True} if step.adds else {}))
    save_file({k: v.detach().cpu().contiguous() for k, v in step.state_dict().items()}, path / "model.safetensors")


def tokenizer_length(folder: Path) -> int | None:
    """Tokens of a text that the tokenizer's configuration allows; None where it names no limit."""
    length = _optional(TokenizerLimit, folder / "tokenizer_config.json").model_max_length
    return int(length) if length is not None and 1 <= length < ENDLESS else None


def _optional(schema: type[Schema], path: Path) -> Schema:
    return read_as(schema, path) if path.is_file() else schema()


def _write_json(path: Path, data: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8", newline="\n")


# ------------------------------------------------------------------------------------------------------------ the hub


def model_inside(name: str | Path) -> Path:
    """Where the model itself lies: in a folder of sentence-transformers perhaps below. Raises as `local` and `read`."""
    whole = local(name)
    return read(whole)[1] if ends_in_vectors(whole) else whole


def local(name: str | Path) -> Path:
    """The folder itself, the one model of a run, or where the Hub's client has put it; no pickle is fetched.

    Raises ValueError where there is no such folder and the Hub gives none.
    """
    if isinstance(name, str) and re.fullmatch(r"[\w-]+", name) and not Path(name).exists():
        return fetched(name)  # older names on the Hub have no owner
    found = find_model(name)
    if not found.is_dir():
        raise ValueError(f"{name}: no such folder; give a model's folder, or its name on the Hugging Face Hub")
    return found
