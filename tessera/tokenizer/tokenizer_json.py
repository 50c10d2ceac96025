"""Parsing a `tokenizer.json` and the files beside it: special tokens, template, what each entry stands for."""

import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import tokenizers
from pydantic import Field
from tokenizers import pre_tokenizers

from tessera import checksums
from tessera.json_files import Strictly, fit, read_json, shown
from tessera.tokenizer.special_tokens import Json, reader, retold

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

_BERTS = ("BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer", "MPNetTokenizer")
_OF_BERT = {
    "do_lower_case": "lowercase",
    "strip_accents": "strip_accents",
    "tokenize_chinese_chars": "handle_chinese_chars",
}

SPACES = ("Ġ", "▁")  # how byte-level and SentencePiece vocabularies write a space
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
MOST_IDS = 1 << 24  # ids are below; an array of so many is 64 MB. The largest vocabularies have a million

_MOST_GROWTH = 256  # of a text by a normalizer; real ones write a character or two for one

_Id = Annotated[int, Field(ge=0, lt=MOST_IDS)]


class _AddedToken(Strictly):
    content: str
    id: _Id


class _Model(Strictly):
    type: str | None = None
    vocab: dict[str, _Id] | list[list[str | float]]  # a list is Unigram's: [token, log probability], by id
    merges: list[Any] | None = None
    unk_token: str | None = None
    unk_id: _Id | None = None
    continuing_subword_prefix: str | None = None


class _TokenizerJson(Strictly):
    """tokenizer.json, as far as it is read here."""

    model: _Model
    added_tokens: list[_AddedToken] | None = None


def parsed(path: Path, data: bytes) -> Json:
    """A tokenizer.json whose vocabulary and added tokens are what they have to be. Raises ValueError naming the place.

    The library reads the rest; on what is refused here it would end the process, or numbers would take all memory.
    """
    try:
        definition = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not a tokenizer.json of the tokenizers library: {error}") from None
    if not isinstance(definition, dict):
        raise ValueError(f"{path}: not a tokenizer.json of the tokenizers library: it holds no JSON object")
    own = fit(_TokenizerJson, definition, path).model
    if (times := _growth(definition.get("normalizer"))) > _MOST_GROWTH:
        raise ValueError(
            f"{path}: normalizer: what it replaces or puts before a text may become {times:,} times as long, so it is "
            "made to fill a memory"
        )
    prefix = own.continuing_subword_prefix
    for number, merge in enumerate(own.merges or () if prefix else ()):  # BPE cuts it off in bytes, unseen
        parts = merge.split(" ") if isinstance(merge, str) else merge
        second = parts[-1] if isinstance(parts, list) and parts else None
        if not isinstance(second, str) or not second.startswith(prefix or ""):
            raise ValueError(
                f"{path}: model.merges.{number}: the second part, {shown(second)}, does not begin with the "
                f"continuing_subword_prefix, {shown(prefix)}"
            )
    return definition


def _growth(normalizer: Any) -> int:
    """How many times as long a normalizer may make a text, or how many characters it puts before one: a bound."""
    match normalizer:
        case {"type": "Sequence", "normalizers": list(parts)}:
            return math.prod(map(_growth, parts))
        case {"type": "Replace", "content": str(text)} | {"type": "Prepend", "prepend": str(text)}:
            return max(1, len(text))
    return 1


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
            for key, value in read_json(beside).items():
                content = value.get("content") if isinstance(value, dict) else value
                if key.endswith("_token") and isinstance(content, str):
                    named[key] = content
    found_roles: dict[str, int | None] = {}
    for role, (keys, usual) in _ROLES.items():
        names = [named[key] for key in keys if key in named] or usual
        found_roles[role] = next((vocabulary[n] for n in names if n in vocabulary), None)
    return found_roles


def as_bert_says(file: Path, definition: Json) -> bool:
    """Puts what tokenizer_config.json says of BERT's normalizer into a definition: whether that changed anything.

    transformers lets that file win for its BERT tokenizers, whatever tokenizer.json says.
    """
    normalizer, beside = definition.get("normalizer"), file.with_name("tokenizer_config.json")
    if not isinstance(normalizer, dict) or normalizer.get("type") != "BertNormalizer" or not beside.is_file():
        return False
    said = read_json(beside)
    if str(said.get("tokenizer_class")).removesuffix("Fast") not in _BERTS:
        return False
    given = {ours: said[theirs] for theirs, ours in _OF_BERT.items() if isinstance(said.get(theirs), bool)}
    changed = any(normalizer.get(key) != value for key, value in given.items())
    normalizer.update(given)
    return changed


def required(role: int | None, file: Path, key: str, why: str) -> int:
    """The id of a role. Raises ValueError where the tokenizer has none."""
    if role is None:
        raise ValueError(
            f"{file}: has no {key}; {why}. Add the token to the tokenizer and name it as {key!r} in "
            f"{file.with_name('tokenizer_config.json').name} beside it"
        )
    return role


def unknown(definition: Json, vocabulary: Mapping[str, int]) -> int | None:
    """The id that stands for what the vocabulary cannot write; None where it can write everything."""
    own = model(definition)
    if isinstance(own.get("unk_id"), int):  # Unigram
        return int(own["unk_id"])
    return vocabulary.get(own.get("unk_token") or "")


def template(path: Path, definition: Json) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Ids that stand before and after every text. Raises ValueError where the template has no place for a text."""
    probe, first, _ = probing(path, definition)
    with retold(path, "its post_processor cannot be used"):
        whole = probe.encode("a").ids
    if whole.count(first) != 1:
        raise ValueError(f"{path}: post_processor: the template holds the text {whole.count(first)} times, not once")
    at = whole.index(first)
    return tuple(whole[:at]), tuple(whole[at + 1 :])


def probing(path: Path, definition: Json) -> tuple[tokenizers.Tokenizer, int, int]:
    """A tokenizer of two words, "a" and "b", with the template of another; and their ids, which no template holds.

    So that it does not matter what the other tokenizer can write, nor what its normalizer does.
    """
    first, second = MOST_IDS, MOST_IDS + 1
    words = {"type": "WordLevel", "vocab": {"a": first, "b": second}, "unk_token": "a"}
    own = {"version": "1.0", "model": words, "post_processor": definition.get("post_processor")}
    return reader(path, {**own, "added_tokens": [], "normalizer": None, "pre_tokenizer": None}), first, second


def measure(definition: Json) -> Callable[[str], int]:
    """How many bytes of text a vocabulary entry stands for, by the kind of tokenizer."""
    kinds = _kinds(definition)
    if "ByteLevel" in kinds:
        return len  # one character of the byte alphabet is one byte
    prefix = model(definition).get("continuing_subword_prefix") or ""
    if "WordPiece" in kinds and prefix:
        return lambda token: len(token.removeprefix(prefix).encode())
    return lambda token: 1 if _BYTE.fullmatch(token) else len(token.replace("▁", " ").encode())


def partial(definition: Json) -> Callable[[str], bool]:
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


def without_prefix(definition: Json) -> Json:
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


def model(definition: Json) -> Json:
    """The vocabulary and its kind; {} where there is none."""
    return definition.get("model") or {}


def _kinds(definition: Json) -> list[str]:
    return re.findall(r'"type": ?"(\w+)"', json.dumps([definition.get("pre_tokenizer"), definition.get("decoder")]))


def _byte_alphabet() -> dict[str, int]:
    """Character -> byte: printable bytes are written as themselves, the others by the characters from U+0100 on."""
    alphabet = set(pre_tokenizers.ByteLevel.alphabet())
    own = [b for b in range(256) if chr(b) in alphabet]
    others = [b for b in range(256) if b not in own]
    return {chr(b): b for b in own} | {chr(256 + n): b for n, b in enumerate(others)}
