"""The files of a Hugging Face model folder: JSON by a strict schema, weights in safetensors, nothing else.

Nothing is unpickled, nothing outside the folder is read because a file in it says so, and weights are finite numbers or
an error: a NaN that came in here would be blamed on padding or a learning rate later.
"""

import logging
import shutil
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

import torch
from pydantic import Field
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tessera import checksums
from tessera.json_files import SHOWN, Strictly, fit, read_as, read_json, shown
from tessera.plan.errors import some
from tessera.plan.fields import hub_name
from tessera.secrets import is_url, redact

_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_VOCABULARIES = ("tokenizer.model", "sentencepiece.bpe.model", "spiece.model", "vocab.txt", "vocab.json", "merges.txt")
_TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja"),
    *_VOCABULARIES,
)
# What of a folder is read, and so fetched.
_FETCHED = ["*.safetensors", "*.json", "*.txt", "README.md"]
_FETCHED += ["*/config.json", "*/model.safetensors", "0_Transformer/*.txt"]
_A_MODEL = ("config.json", "modules.json", "adapter_config.json")  # one of these is in the folder of a model
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_ADAPTERS = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin", "pytorch_adapter.bin")


class ModelConfig(Strictly):
    """What every config.json must be before its family is asked."""

    model_type: str | None = None
    architectures: list[str] | None = None
    is_decoder: bool | None = None
    is_encoder_decoder: bool | None = None
    mask_token_id: int | None = None


class _Index(Strictly):
    weight_map: dict[str, str]


class Token(Strictly):
    content: str


class Roles(Strictly):
    """tokenizer_config.json, special_tokens_map.json: what they call the mask."""

    mask_token: str | Token | None = None


class AddedToken(Token):
    id: int


class Vocabulary(Strictly):
    """`model` of a tokenizer.json."""

    vocab: dict[str, int] | list[list[Any]] | None = None  # a list is Unigram's: [token, log probability], by id
    merges: list[str | list[str]] | None = None  # "a b" in older versions, ["a", "b"] today


class TokenizerJson(Strictly):
    """tokenizer.json, as far as vocabularies are compared."""

    model: Vocabulary | None = None
    added_tokens: list[AddedToken] = Field(default_factory=list)

    def ids(self) -> dict[str, int]:
        """The id of each token."""
        vocab = (self.model and self.model.vocab) or {}
        known = vocab if isinstance(vocab, dict) else {str(entry[0]): i for i, entry in enumerate(vocab) if entry}
        return {**known, **{token.content: token.id for token in self.added_tokens}}

    def rules(self) -> dict[str, Any]:
        """All else on which it depends how a text is cut, without what is off."""
        inside = self.model.model_dump(exclude={"vocab"}) if self.model else {}
        inside["merges"] = [pair if isinstance(pair, str) else " ".join(pair) for pair in inside.get("merges") or []]
        more = {key: (self.model_extra or {}).get(key) for key in ("normalizer", "pre_tokenizer", "post_processor")}
        added = [_on(token.model_dump()) for token in sorted(self.added_tokens, key=lambda token: token.id)]
        return {"model": _on(inside), "added_tokens": added, **more}


def tokenizers_differ(first: Path, other: Path) -> tuple[str | None, str | None]:
    """What of two tokenizer.json is not the same: (a token with another id, a part of the rules); None where all is.

    Both are None too where the same is only written otherwise. Raises ValueError naming a file that cannot be read.
    """
    if first.read_bytes() == other.read_bytes():
        return None, None
    a, b = (read_as(TokenizerJson, file) for file in (first, other))
    mine, theirs = a.ids(), b.ids()
    moved = sorted((i, token) for token, i in {**theirs, **mine}.items() if mine.get(token) != theirs.get(token))
    ids = None
    if moved:
        token = moved[0][1]
        both = " and ".join("no token" if i is None else f"id {i}" for i in (mine.get(token), theirs.get(token)))
        ids = f"{shown(token)} is {both} ({len(moved)} tokens in all)"
    return ids, next((part for part, rules in a.rules().items() if rules != b.rules()[part]), None)


def vocabularies_differ(first: Path, other: Path) -> str | None:
    """The file in which two folders without a tokenizer.json have another vocabulary, or only one of them has it."""
    for name in (*_VOCABULARIES, "added_tokens.json"):
        both = [folder / name for folder in (first, other) if (folder / name).is_file()]
        if len(both) == 1 or (both and both[0].read_bytes() != both[1].read_bytes()):
            return name
    return None


def _on(fields: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if value not in (None, False)}


@dataclass(frozen=True, slots=True)
class StoredWeight:
    """One weight of an open safetensors file, not read yet."""

    name: str
    path: Path
    file: Any

    @property
    def shape(self) -> list[int]:
        """As the header of the file says."""
        return list(self.file.get_slice(self.name).get_shape())

    def read(self) -> Tensor:
        """A copy of its values in float32. Raises ValueError where they are whole numbers, or not finite."""
        values = self.file.get_tensor(self.name)
        if not values.is_floating_point():
            kind = str(values.dtype).removeprefix("torch.")
            raise ValueError(
                f"{self.path}: weight {shown(self.name)} holds {kind}, which is no floating-point number; tessera "
                "reads no quantized weights: give the model they were made from"
            )
        values = values.to(torch.float32, copy=True)
        if not is_finite(values):
            raise ValueError(
                f"{self.path}: weight {shown(self.name)} holds values that are not finite (NaN or infinite "
                "in float32): its training has diverged or the file is damaged; take an earlier one, or copy it again"
            )
        return values


def is_finite(values: Tensor) -> bool:
    """Whether all values are numbers: one pass, nothing of the size of `values` is made."""
    return not values.numel() or all(bool(end.isfinite()) for end in torch.aminmax(values))


def refuse_infinite(name: str, values: Tensor) -> None:
    """Raises ValueError where a weight that is about to be written is not finite in its format."""
    if not is_finite(values):
        raise ValueError(
            f"nothing was written: weight {name!r} is not finite in {values.dtype} (NaN, or too large for it)"
        )


def open_weights(folder: Path, files: ExitStack) -> dict[str, StoredWeight]:
    """The weights of a folder by name; `files` closes what is opened.

    model.safetensors is taken where it is there, else the shards that model.safetensors.index.json names, as in
    transformers: a single file beside an index has the last word.

    Raises ValueError naming the file that is missing, cut off, outside the folder, an adapter, or a pickle.
    """
    refuse_adapter(folder)
    index, shards = folder / _INDEX, [folder / _SINGLE]
    if index.is_file() and not shards[0].is_file():
        names = set(read_as(_Index, index).weight_map.values())
        shards = [_inside(folder, name, index) for name in sorted(names)]
    found: dict[str, StoredWeight] = {}
    for path in shards:
        if not path.is_file() and path.name != _SINGLE:
            lacking = sum(not shard.is_file() for shard in shards)
            raise ValueError(
                f"{path} is missing, though {_INDEX} names it ({lacking} of {len(shards)} files are missing): copy or "
                "download them again"
            )
        if not path.is_file():
            _refuse_variant(folder)
            _refuse_pickle(folder)
            raise ValueError(f"{path} is missing")
        checksums.check(path)
        try:
            file = files.enter_context(safe_open(path, framework="pt"))
        except SafetensorError as error:
            raise ValueError(
                f"{path} is broken ({error}); it may have been cut off: copy or download it again"
            ) from error
        found |= {name: StoredWeight(name, path, file) for name in file.keys()}  # noqa: SIM118  # no mapping
    return found


def _inside(folder: Path, name: str, place: Path) -> Path:
    """The file that `place` calls `name`. Raises ValueError where that is no safetensors file within `folder`."""
    said, way = f"{place}: a file is called {shown(name)}", PureWindowsPath(name)  # which knows both slashes and drives
    if not name.endswith(".safetensors") or "\0" in name:
        raise ValueError(f"{said}, but weights are read from .safetensors files only")
    if way.anchor or ".." in way.parts:
        raise ValueError(f"{said}, which leads out of the folder; only files inside it are read")
    path, home = folder / name, folder.resolve()
    allowed = [home]
    if home.parent.name == "snapshots":  # the cache of huggingface_hub: files are links into the blobs beside
        allowed.append(home.parent.parent / "blobs")
    if not any(path.resolve().is_relative_to(place) for place in allowed):
        raise ValueError(f"{said}, a link to {path.resolve()}, out of the folder; put the file itself there")
    return path


def refuse_adapter(folder: Path) -> None:
    """Raises ValueError where a folder holds an adapter: the base model alone is another model."""
    there = next((name for name in _ADAPTERS if (folder / name).is_file()), None)
    if there is not None:
        raise ValueError(
            f"{folder} holds an adapter ({there}), and the model without it is another one. Merge it into its base "
            "model once:\n"
            f"  tessera merge BASE --adapter {folder} --out merged\n"
            f"If the base model alone is meant, take {there} out of the folder"
        )


def _refuse_variant(folder: Path) -> None:
    """Raises ValueError where the weights of a folder have another name, as those of a variant."""
    others = sorted(path.name for path in folder.glob("*.safetensors*") if path.is_file())
    if others:
        index = next((name for name in others if name.endswith(".json")), None)
        new = _SINGLE if index is None else _INDEX
        raise ValueError(
            f"{folder}: {_SINGLE} is missing, and {some(others)} have names that are not looked for. A variant (fp16 "
            f"...) is read under the usual name: rename {index or others[0]} to {new}"
        )


def _refuse_pickle(folder: Path) -> None:
    pickles = sorted(p.name for p in folder.iterdir() if p.suffix in _PICKLES) if folder.is_dir() else []
    if not pickles:
        return
    how = "to model.safetensors with what wrote it"
    if pickles[0] == "pytorch_model.bin" or (folder / "pytorch_model.bin.index.json").is_file():  # transformers' names
        kind = next(iter(read_as(ModelConfig, folder / "config.json").architectures or ["AutoModel"]))[:SHOWN]
        how = (
            f"once; in Python:\n  from transformers import {kind}\n"
            f'  {kind}.from_pretrained("{folder}", use_safetensors=False).save_pretrained("{folder}")\n'
            "Only tensors are read there (torch.load with weights_only)"
        )
    raise ValueError(
        f"{folder} holds its weights in {pickles[0]}, a format that can run code when it is read, so tessera does not. "
        f"If you trust where it comes from, convert it {how}"
    )


def find_model(place: str | Path) -> Path:
    """The model folder that is meant by a folder of a run, or of one of its phases or merges; a model's is itself.

    Where there is only one model that can be meant it is taken, and the log says so. Raises ValueError naming those to
    choose from where there are several, or where nothing lies at `place` but models lie beside it. Whatever else
    `place` is, it comes back as it is, for whoever reads it to say more. A name on the Hugging Face Hub, where no
    folder is called so, is fetched as by `located`.
    """
    meant = _meant(Path(place))
    if not meant.exists():
        return located(place)
    if meant != Path(place):
        logging.getLogger("tessera").warning("%s holds one model, which is taken: %s", place, meant)
    return meant


def located(place: str | Path) -> Path:
    """The file or folder itself; for a name on the Hugging Face Hub (`jhu-clsp/mmBERT-small`, `name@revision`) that is
    where the Hub's client has put it. No pickle and no code is fetched.

    The Hub is not asked for what would lie in a folder that is here: `runs/mine` is a folder, though it may be missing.
    Raises ValueError where the Hub is out of reach or has no such model, saying how to bring it here.
    """
    if is_url(place):
        raise ValueError(f"{redact(str(place))}: is a URL; give a folder here, or a model's name on the Hub")
    place = Path(place)
    name = hub_name(place.as_posix())
    return place if name is None or place.parent.is_dir() else fetched(*name)


def fetched(model: str, revision: str | None = None) -> Path:
    """Where the Hub's client has put a model of the Hub. Raises ValueError as `located`."""
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(huggingface_hub.snapshot_download(model, revision=revision, allow_patterns=_FETCHED))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        own, pinned = model.rpartition("/")[2], f" --revision {revision}" if revision else ""
        raise ValueError(
            f"{model}: no folder here ({Path.cwd()}), and the Hub gives no such model: {first}\nIf there is no network "
            f"here, fetch it where there is one, copy the folder, and give ./{own}:\n"
            f"  hf download {model}{pinned} --local-dir ./{own}"
        ) from None


def _meant(place: Path) -> Path:
    if any((place / name).is_file() for name in _A_MODEL):
        return place
    near = next(folder for folder in (place, *place.parents) if folder.is_dir())
    found = _models_in(near) if near == place or near.name else []  # nothing of it lies here, not even its first part
    if len(found) == 1 and near == place:
        return found[0]
    if found:
        what = "holds several models" if near == place else "is not there"
        raise ValueError(f"{place} {what}; give one of: {some(list(map(str, found)), 6)}")
    return place


def _models_in(folder: Path) -> list[Path]:
    """The ends of the stages of a run, in the order in which they were made; where there are none, its checkpoints."""
    ends = [path for pattern in ("final", "*/final") for path in folder.glob(f"{pattern}/config.json")]
    if ends:
        return [path.parent for path in sorted(ends, key=lambda path: (path.stat().st_mtime_ns, path))]
    saved = [path.parent for pattern in ("", "*/") for path in folder.glob(f"{pattern}checkpoint-*/config.json")]
    return sorted(saved, key=lambda path: (path.parent, len(path.name), path.name))


def copy_tokenizer(source: Path, target: Path) -> None:
    """The tokenizer files that there are in `source`."""
    for file in (source / name for name in _TOKENIZER_FILES):
        if file.is_file():
            shutil.copyfile(file, target / file.name)


def config_json(folder: Path) -> dict[str, Any]:
    """config.json of a model. Raises ValueError as `read_json`, and for an adapter or a field of the wrong kind."""
    refuse_adapter(folder)
    if (meant := _meant(folder)) != folder:
        raise ValueError(f"{folder} holds no model itself; give the one in it, {meant}")
    given = read_json(folder / "config.json")
    fit(ModelConfig, given, folder / "config.json")
    return given
