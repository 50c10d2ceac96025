"""Entries of a tokenizer.json and the files beside it, renumbered: other ids for the tokens that stay, the rest gone.

All else stays what it was: normalizer, pre-tokenizer, added tokens, template, decoder.
"""

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers import decoders, pre_tokenizers

from tessera.data.languages import other_script, script_of
from tessera.json_files import read_json, shown
from tessera.tokenizer.special_tokens import reader
from tessera.tokenizer.tokenizer import Tokenizer
from tessera.tokenizer.tokenizer_json import SPACES
from tessera.vocabulary.merges import kept_merges

Json = dict[str, Any]
Ids = Mapping[int, int]  # old -> new; a token without a new id is gone

KINDS = ("BPE", "Unigram", "WordPiece")
SENTENCEPIECE = ("tokenizer.model", "sentencepiece.bpe.model", "spiece.model", "spm.model", "sentencepiece.model")
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
TOKEN_IDS = re.compile(r"_token_ids?$")  # fields of a configuration: pad_token_id, eos_token_id ...


@dataclass(frozen=True, slots=True)
class Entries:
    """What a tokenizer holds, apart from its rules: `Entries.of(tokenizer)`.

    kind   BPE, Unigram or WordPiece
    model  the id of each entry of its model
    added  the id of each added token, special or not; some are entries of the model too
    """

    tokenizer: Tokenizer
    inner: tokenizers.Tokenizer  # the library's, special tokens read as text
    kind: str
    model: dict[str, int]
    added: dict[str, int]

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Self:
        """Raises ValueError for a vocabulary of another kind, and for one that draws its merges by chance."""
        model = tokenizer.definition["model"]
        listed = isinstance(model["vocab"], list)
        kind = model.get("type") or ("Unigram" if listed else "BPE" if "merges" in model else "unknown")
        if kind not in KINDS:
            raise ValueError(
                f"{tokenizer.path}: a vocabulary of kind {shown(kind)}; tessera changes {', '.join(KINDS)}"
            )
        if model.get("dropout"):
            raise ValueError(
                f"{tokenizer.path}: merges are left out by chance (dropout {model['dropout']}), so a text has no ids "
                "of its own; set dropout to null in a copy"
            )
        inner = reader(tokenizer.path, tokenizer.definition)
        added = {token.content: i for i, token in inner.get_added_tokens_decoder().items()}
        return cls(tokenizer, inner, str(kind), inner.get_vocab(with_added_tokens=False), added)

    @property
    def ids(self) -> dict[str, int]:
        """The id of each token, added ones too."""
        return {**self.model, **self.added}

    @property
    def definition(self) -> Json:
        return self.tokenizer.definition

    @property
    def continuing(self) -> str:
        """What stands before an entry inside a word, as ## in WordPiece; empty where nothing does."""
        return self.definition["model"].get("continuing_subword_prefix") or ""


def byte_level(definition: Json) -> bool:
    """Whether texts are bytes to the model (GPT-2's way)."""
    parts = [definition.get("pre_tokenizer"), definition.get("normalizer")]
    return '"ByteLevel"' in json.dumps(parts)


def writes_all(definition: Json) -> bool:
    """Whether every text can be written, if need be byte by byte."""
    return byte_level(definition) or bool(definition["model"].get("byte_fallback"))


def indispensable(entries: Entries) -> set[int]:
    """Ids without which a tokenizer is another one: added tokens, roles, template, unknown, bytes; see `_anchor`."""
    tokenizer = entries.tokenizer
    kept = {*entries.added.values(), *tokenizer.special_ids, *tokenizer.template[0], *tokenizer.template[1]}
    kept |= {i for i in (tokenizer.unknown_id, *_template_ids(entries.definition)) if i is not None}
    if byte_level(entries.definition):
        kept |= {entries.model[letter] for letter in pre_tokenizers.ByteLevel.alphabet() if letter in entries.model}
    kept |= {i for token, i in entries.model.items() if _BYTE.fullmatch(token)}
    return {i for i in kept if i < tokenizer.vocab_size} | _anchor(entries)


def _anchor(entries: Entries) -> set[int]:
    """Unigram's entry with the lowest score: what an unknown character costs is reckoned from it."""
    vocab = entries.definition["model"]["vocab"]
    return {min(range(len(vocab)), key=lambda i: (vocab[i][1], i))} if isinstance(vocab, list) and vocab else set()


def probabilities(entries: Entries) -> NDArray[np.float64]:
    """The probability of each piece of a Unigram vocabulary, [vocab_size]; of added tokens 0.

    Raises ValueError for a vocabulary of another kind, which has none.
    """
    if entries.kind != "Unigram":
        raise ValueError(
            f"{entries.tokenizer.path}: prior is of a Unigram vocabulary, this is {entries.kind}; leave it out"
        )
    found = np.zeros(entries.tokenizer.vocab_size)
    for id, (piece, score) in enumerate(entries.definition["model"]["vocab"]):
        if piece not in entries.added:
            found[id] = np.exp(score)
    return found / found.sum()


def letters(entries: Entries, used: Collection[int]) -> set[int]:
    """Entries of a single character that stands in an entry of `used`, at a word's start or inside of it.

    They are what a new word is written with where there are no bytes to fall back on.
    """
    bare = {i: token.removeprefix(entries.continuing) for token, i in entries.model.items()}
    seen = {letter for i in used for letter in bare.get(i, "")}
    return {i for i, token in bare.items() if len(token) == 1 and token in seen}


def said(entries: Entries, token: str) -> str | None:
    """The text that an entry stands for, with a space where it begins a word; None for bytes of a letter."""
    if byte_level(entries.definition):
        text = str(decoders.ByteLevel().decode([token]))
        return None if "\ufffd" in text else text
    if entries.kind == "WordPiece":
        return token.removeprefix(entries.continuing) if token.startswith(entries.continuing) else f" {token}"
    return None if token.startswith("<0x") and len(token) == 6 else token.replace(SPACES[1], " ")


def in_scripts(entries: Entries, scripts: Collection[str]) -> set[int]:
    """Entries whose letters are all of one of these scripts, as Taml. Raises ValueError for one that is not known."""
    if unknown := [script for script in scripts if script_of(f"xxx_{script}") is None]:
        raise ValueError(f"script is {unknown[0]!r}; give its ISO 15924 code as in tam_Taml: Taml, Deva, Ethi ...")
    texts = {i: _letters_of(entries, token) for token, i in entries.model.items()} if scripts else {}
    letters = set[str]().union(*texts.values())
    found: set[int] = set()
    for script in scripts:
        own = {letter for letter in letters if not _is_foreign(letter, script)}
        signs = {letter for letter in own if _is_foreign(letter, "Grek" if script == "Latn" else "Latn")}
        found |= {i for i, text in texts.items() if own.issuperset(text) and not signs.isdisjoint(text)}
    return found


def _is_foreign(letter: str, script: str) -> bool:
    """Whether it is a letter or a mark of another script; what is in none, as a digit, is foreign nowhere."""
    return other_script(letter, script, min_share=1e-9, min_letters=1) is not None


def _letters_of(entries: Entries, token: str) -> str:
    """The text of an entry, without pieces of letters at its ends."""
    if byte_level(entries.definition):
        return str(decoders.ByteLevel().decode([token])).replace("\ufffd", "")
    return said(entries, token) or ""


def renumbered(definition: Json, ids: Ids) -> Json:
    """A tokenizer.json with other ids; entries of the model without one are left out, and merges that need them.

    Raises AssertionError where Unigram's entries, whose ids are their places, would not be in a row.
    """
    own = dict(definition["model"])
    if isinstance(own["vocab"], list):
        kept = sorted((ids[old], entry) for old, entry in enumerate(own["vocab"]) if old in ids)
        assert [new for new, _ in kept] == list(range(len(kept)))
        own["vocab"] = [entry for _, entry in kept]
        if own.get("unk_id") is not None:
            own["unk_id"] = ids[own["unk_id"]]
    else:
        new = ((token, ids[old]) for token, old in own["vocab"].items() if old in ids)
        own["vocab"] = dict(sorted(new, key=lambda entry: entry[1]))
    if own.get("merges"):
        own["merges"] = kept_merges(own, own["vocab"])
    return with_model(definition, own, ids)


def with_model(definition: Json, model: Json, ids: Ids) -> Json:
    """A tokenizer.json with another vocabulary, and the ids of added tokens, template and padding by it."""
    changed = {**definition, "model": model}
    tokens = definition.get("added_tokens") or []
    changed["added_tokens"] = sorted(({**t, "id": ids[t["id"]]} for t in tokens), key=lambda token: token["id"])
    if definition.get("post_processor"):
        changed["post_processor"] = _template(definition["post_processor"], ids)
    if definition.get("padding"):
        changed["padding"] = {**definition["padding"], "pad_id": ids[definition["padding"]["pad_id"]]}
    return changed


def _template(part: Json, ids: Ids) -> Json:
    """A post-processor with other ids, of any of the kinds there are."""
    match part.get("type"):
        case "Sequence":
            return {**part, "processors": [_template(inner, ids) for inner in part["processors"]]}
        case "TemplateProcessing":
            tokens = {
                name: {**token, "ids": [ids[i] for i in token["ids"]]} for name, token in part["special_tokens"].items()
            }
            return {**part, "special_tokens": tokens}
        case "BertProcessing" | "RobertaProcessing":
            return {**part, **{role: [part[role][0], ids[part[role][1]]] for role in ("sep", "cls")}}
        case _:
            return part


def _template_ids(definition: Json) -> set[int]:
    """All ids that a post-processor names."""
    seen: set[int] = set()

    class Seen(dict[int, int]):
        def __missing__(self, key: int) -> int:
            seen.add(key)
            return key

    if definition.get("post_processor"):
        _template(definition["post_processor"], Seen())
    return seen


# -------------------------------------------------------------------------------------------------------- the files


def write(entries: Entries, definition: Json, ids: Ids, folder: Path) -> list[str]:
    """tokenizer.json and what lies beside it into `folder`, where copies of the old files may be.

    Returns files that were left out: SentencePiece's own would say the old ids. Raises ValueError where the library
    reads other ids out of the new file than were meant.
    """
    inner = reader(folder / "tokenizer.json", definition)
    found = inner.get_vocab(with_added_tokens=True)
    meant = {token: ids[i] for token, i in entries.ids.items() if i in ids}
    if wrong := [token for token, i in meant.items() if found.get(token) != i]:
        raise ValueError(
            f"{entries.tokenizer.path}: {len(wrong)} tokens would not have the ids that are meant for them, first "
            f"{wrong[0]!r} ({found.get(wrong[0])}, not {meant[wrong[0]]}); this kind of tokenizer cannot be renumbered"
        )
    _write_json(folder / "tokenizer.json", definition)
    config = folder / "tokenizer_config.json"
    if config.is_file():
        given = read_json(config)
        if isinstance(given.get("added_tokens_decoder"), dict):
            given["added_tokens_decoder"] = {str(ids[int(i)]): t for i, t in given["added_tokens_decoder"].items()}
            _write_json(config, given)
    if (folder / "added_tokens.json").is_file():
        _write_json(
            folder / "added_tokens.json", {t: ids[i] for t, i in read_json(folder / "added_tokens.json").items()}
        )
    _write_lists(folder, definition["model"])
    left_out = [name for name in SENTENCEPIECE if (folder / name).is_file()]
    for name in left_out:
        (folder / name).unlink()
    return left_out


def _write_lists(folder: Path, model: Json) -> None:
    """vocab.txt, vocab.json and merges.txt, where there are any: older ways to say what tokenizer.json says."""
    vocab = model["vocab"]
    if isinstance(vocab, list):
        return
    if (folder / "vocab.txt").is_file():
        by_id = {i: token for token, i in vocab.items()}
        lines = [by_id.get(i, f"[unused{i}]") for i in range(max(by_id) + 1)]
        (folder / "vocab.txt").write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
    if (folder / "vocab.json").is_file():
        _write_json(folder / "vocab.json", vocab)
    if (folder / "merges.txt").is_file() and model.get("merges"):
        text = "".join(f"{first} {second}\n" for first, second in model["merges"])
        (folder / "merges.txt").write_text("#version: 0.2\n" + text, encoding="utf-8", newline="\n")


def config_with_ids(given: Json, ids: Ids, rows: int) -> Json:
    """A config.json with as many rows, and the new ids of the tokens that it names.

    An id of no token, as some configurations have where the field is not used, becomes that of none.
    """

    def moved(value: Any) -> Any:
        if isinstance(value, list):
            return [moved(one) for one in value]
        return ids.get(value) if isinstance(value, int) and not isinstance(value, bool) else value

    changed = {key: moved(value) if TOKEN_IDS.search(key) else value for key, value in given.items()}
    return {**changed, "vocab_size": rows}


def _write_json(path: Path, data: Any) -> None:
    large = path.name in ("vocab.json", "tokenizer.json")
    text = json.dumps(data, ensure_ascii=False, indent=None if large else 1)
    path.write_text(text + "\n", encoding="utf-8", newline="\n")
