"""The files of a Hugging Face folder, opened with care: only JSON and safetensors are read, nothing is unpickled."""

import json
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

_TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja"),
    *("tokenizer.model", "vocab.txt", "vocab.json", "merges.txt"),
)
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def open_weights(folder: Path, files: ExitStack) -> dict[str, Any]:
    """The open file that holds each weight; `files` closes them.

    Raises ValueError naming the file that is missing, cut off, or a pickle instead of safetensors.
    """
    index = folder / "model.safetensors.index.json"
    shards = ["model.safetensors"]
    if index.is_file():
        shards = sorted(set(read_json(index).get("weight_map", {}).values()))
    found: dict[str, Any] = {}
    for shard in shards:
        path = folder / Path(shard).name
        if not path.is_file():
            pickles = sorted(p.name for p in folder.iterdir() if p.suffix in _PICKLES)
            if pickles:
                raise ValueError(
                    f"{folder} holds its weights in {pickles[0]}, a format that can run code when it is read, so "
                    f"tessera does not. {_conversion(folder, pickles[0])}"
                )
            raise ValueError(f"{path} is missing")
        try:
            file = files.enter_context(safe_open(path, framework="pt"))
        except SafetensorError as error:
            raise ValueError(
                f"{path} is broken ({error}); it may have been cut off: copy or download it again"
            ) from error
        found |= dict.fromkeys(file.keys(), file)
    return found


def _conversion(folder: Path, pickle: str) -> str:
    """How weights in a pickle become safetensors."""
    if pickle != "pytorch_model.bin":  # the only one that transformers finds by itself
        return "If you trust where it comes from, convert it to model.safetensors with what wrote it"
    kind = next(iter(read_json(folder / "config.json").get("architectures") or ["AutoModel"]))
    return (
        "If you trust where it comes from, convert it once; in Python:\n"
        f"  from transformers import {kind}\n"
        f'  {kind}.from_pretrained("{folder}", use_safetensors=False).save_pretrained("{folder}")\n'
        "Only tensors are read there (torch.load with weights_only)"
    )


def copy_tokenizer(source: Path, target: Path) -> None:
    """The tokenizer files that there are in `source`."""
    for file in (source / name for name in _TOKENIZER_FILES):
        if file.is_file():
            shutil.copyfile(file, target / file.name)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises ValueError where there is no such file, or something else in it."""
    if not path.is_file():
        raise ValueError(f"{path} is missing; give a folder in the Hugging Face format")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise ValueError(f"{path} holds no JSON object")
    return data
