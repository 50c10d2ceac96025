"""Parsing a `tokenizer.json` and the files beside it: special tokens, template, what each entry stands for."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import pre_tokenizers

from tessera import checksums

PAD, BEGIN, END = "<|pad|>", "<|begin_of_text|>", "<|end_of_text|>"
MASK, SEPARATOR = "<|mask|>", "<|parallel_sep|>"
SPECIAL_TOKENS = (PAD, BEGIN, END, MASK, SEPARATOR)  # ids 0 to 4 of a tokenizer we train

# What a tokenizer calls a role in its config, and what tokenizers without a config usually call it.
_ROLES = {
    "mask": (("mask_token",), (MASK, "<mask>", "[MASK]", "<|MASK|>")),
    "bos": (("bos_token", "cls_token"), (BEGIN, "<bos>", "<s>", "[CLS]", "<|startoftext|>")),
    "eos": (("eos_token", "sep_token"), (END, "<eos>", "</s>", "[SEP]", "<|endoftext|>")),
    "pad": (("pad_token",), (PAD, "<pad>", "[PAD]")),
    "separator": ((), (SEPARATOR,)),
}

SPACES = ("Ġ", "▁")  # how byte-level and SentencePiece vocabularies write a space
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


def read(file: Path) -> bytes:
    """The bytes of a tokenizer.json. Raises ValueError where it has a checksum and is not what was written."""
    checksums.check(file)
    return file.read_bytes()


def roles(file: Path, vocabulary: Mapping[str, int]) -> dict[str, int | None]:
    """The id of each role: as the config files beside the tokenizer say, else by the usual names."""
    named: dict[str, str] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):  # the second has the last word
        beside = file.with_name(name)
        if beside.is_file():
            try:
                found = json.loads(beside.read_text(encoding="utf-8"))
            except ValueError as error:
                raise ValueError(f"{beside}: not JSON: {error}") from None
            for key, value in found.items():
                content = value.get("content") if isinstance(value, dict) else value
                if key.endswith("_token") and isinstance(content, str):
                    named[key] = content
    found_roles: dict[str, int | None] = {}
    for role, (keys, usual) in _ROLES.items():
        names = [named[key] for key in keys if key in named] or usual
        found_roles[role] = next((vocabulary[n] for n in names if n in vocabulary), None)
    return found_roles


def required(role: int | None, file: Path, key: str, why: str) -> int:
    """The id of a role. Raises ValueError where the tokenizer has none."""
    if role is None:
        raise ValueError(
            f"{file}: has no {key}; {why}. Add the token to the tokenizer and name it as {key!r} in "
            f"{file.with_name('tokenizer_config.json').name} beside it"
        )
    return role


def unknown(definition: dict[str, Any], vocabulary: Mapping[str, int]) -> int | None:
    """The id that stands for what the vocabulary cannot write; None where it can write everything."""
    own = model(definition)
    if isinstance(own.get("unk_id"), int):  # Unigram
        return int(own["unk_id"])
    return vocabulary.get(own.get("unk_token") or "")


def template(inner: tokenizers.Tokenizer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Ids that stand before and after every text."""
    whole, plain = inner.encode("a").ids, inner.encode("a", add_special_tokens=False).ids
    for start in range(len(whole) - len(plain) + 1):
        if plain and whole[start : start + len(plain)] == plain:
            return tuple(whole[:start]), tuple(whole[start + len(plain) :])
    return tuple(whole), ()


def measure(definition: dict[str, Any]) -> Callable[[str], int]:
    """How many bytes of text a vocabulary entry stands for, by the kind of tokenizer."""
    kinds = _kinds(definition)
    if "ByteLevel" in kinds:
        return len  # one character of the byte alphabet is one byte
    prefix = model(definition).get("continuing_subword_prefix") or ""
    if "WordPiece" in kinds and prefix:
        return lambda token: len(token.removeprefix(prefix).encode())
    return lambda token: 1 if _BYTE.fullmatch(token) else len(token.replace("▁", " ").encode())


def partial(definition: dict[str, Any]) -> Callable[[str], bool]:
    """Whether an entry is a byte in place of a character: a piece of one in byte-level vocabularies, else `<0x..>`."""
    if "ByteLevel" not in _kinds(definition):
        return lambda token: _BYTE.fullmatch(token) is not None
    to_byte = _byte_alphabet()

    def broken(token: str) -> bool:
        try:
            bytes(to_byte[c] for c in token).decode()
        except UnicodeDecodeError:
            return True
        except KeyError:  # an added token is written as it is
            return False
        return False

    return broken


def without_prefix(definition: dict[str, Any]) -> dict[str, Any]:
    """The same tokenizer that puts no space of its own before a text: what stands inside a word begins this way."""

    def walk(part: Any) -> Any:
        if isinstance(part, list):
            return [walk(p) for p in part if not (isinstance(p, dict) and p.get("type") == "Prepend")]
        if not isinstance(part, dict):
            return part
        changed = {key: walk(value) for key, value in part.items()}
        if part.get("type") == "Metaspace":
            changed |= {"prepend_scheme": "never"}
            changed.pop("add_prefix_space", None)  # as older files say it
        elif part.get("type") == "ByteLevel":
            changed |= {"add_prefix_space": False}
        return changed

    normalizer = definition.get("normalizer")
    if isinstance(normalizer, dict) and normalizer.get("type") == "Prepend":
        normalizer = None
    return {
        **definition,
        "normalizer": walk(normalizer),
        "pre_tokenizer": walk(definition.get("pre_tokenizer")),
    }


class UnigramWithoutSpecials:
    """A Unigram tokenizer (XLM-R, mDeBERTa) for texts in which names of special tokens stand as text.

    Such a vocabulary holds the names as pieces, so that `<s>` in a web page would begin a document in the middle of
    one. This is the same vocabulary without these pieces, made from the definition when the first such text comes.

    special  the ids of special tokens
    """

    def __init__(self, definition: dict[str, Any], special: tuple[int, ...]) -> None:
        self._definition, self._special = definition, frozenset(special)
        self._inner: tokenizers.Tokenizer | None = None

    def encode(self, text: str) -> list[int]:
        """Token ids of a text and nothing else."""
        if self._inner is None:
            self._inner = tokenizers.Tokenizer.from_str(json.dumps(self._without_names()))
            self._inner.no_truncation()
            self._inner.encode_special_tokens = True
        return self._inner.encode(text, add_special_tokens=False).ids

    def _without_names(self) -> dict[str, Any]:
        own = self._definition["model"]
        pieces = [[f"\0{i}" if i in self._special else piece, score] for i, (piece, score) in enumerate(own["vocab"])]
        added = [
            token
            for token in self._definition.get("added_tokens") or []
            if token["id"] not in self._special or token["id"] >= len(pieces)
        ]
        return {**self._definition, "model": {**own, "vocab": pieces}, "added_tokens": added, "post_processor": None}


def model(definition: dict[str, Any]) -> dict[str, Any]:
    """The vocabulary and its kind; {} where there is none."""
    return definition.get("model") or {}


def _kinds(definition: dict[str, Any]) -> list[str]:
    return re.findall(r'"type": ?"(\w+)"', json.dumps([definition.get("pre_tokenizer"), definition.get("decoder")]))


def _byte_alphabet() -> dict[str, int]:
    """Character -> byte: printable bytes are written as themselves, the others by the characters from U+0100 on."""
    alphabet = set(pre_tokenizers.ByteLevel.alphabet())
    own = [b for b in range(256) if chr(b) in alphabet]
    others = [b for b in range(256) if b not in own]
    return {chr(b): b for b in own} | {chr(256 + n): b for n, b in enumerate(others)}
