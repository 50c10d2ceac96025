"""Tokenizers: training one, loading any `tokenizer.json`, encoding and decoding, the bytes of each token.

A tokenizer we train is a lossless byte-level BPE: every text of every script comes back byte for byte.
"""

import hashlib
import itertools
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from tessera.files import write_text
from tessera.plan.corpus import TokenizerTraining
from tessera.progress import Progress, silent
from tessera.tokenizer import tokenizer_json
from tessera.tokenizer.gigatoken import Gigatoken, difference, hard_texts, rows
from tessera.tokenizer.sample import check_counts
from tessera.tokenizer.special_tokens import PlainText, reader
from tessera.tokenizer.tokenizer_json import BEGIN, END, MASK, PAD, SEPARATOR, SPECIAL_TOKENS

FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


# What merges stay within. In both one space belongs to the word it precedes, and marks belong to their letters, or
# Indic and Thai vowels would stand alone. tessera: a word is letters alone, digits in threes. qwen3.5, the pattern of
# that family to the letter, which gigatoken knows: a character before a word may belong to it, each digit stands alone.
_SPLIT: dict[str, str] = {
    "tessera": r" ?[\p{L}\p{M}]+| ?\p{N}{1,3}| ?[^\s\p{L}\p{M}\p{N}]+|\s+(?!\S)|\s+",
    "qwen3.5": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
}
_AT_ONCE = 256  # texts; what the library returns is a hundred bytes a token, and freeing much of it costs a tenth
_LONGEST_TOKEN = 48  # bytes; scripts without spaces would otherwise turn whole boilerplate sentences into tokens

Engine = Literal["tokenizers", "gigatoken"]


@dataclass(frozen=True, slots=True, eq=False)
class Tokenizer:
    """A tokenizer and the ids of its roles: `Tokenizer.load(path)`.

    path         the file itself, whatever it is called
    vocab_size   highest id + 1: the rows an embedding needs
    unknown_id   stands for what the vocabulary cannot write; None where it can write everything
    special_ids  sorted; never masked, never drawn as a random token
    template     ids before and after the text of every document
    fingerprint  sha256 of tokenizer.json
    """

    path: Path
    fingerprint: str
    vocab_size: int
    mask_id: int
    bos_id: int
    eos_id: int
    pad_id: int
    separator_id: int | None
    unknown_id: int | None
    special_ids: tuple[int, ...]
    template: tuple[tuple[int, ...], tuple[int, ...]]
    definition: dict[str, Any] = field(repr=False)  # tokenizer.json as it was read: a megabyte to print
    _inner: tokenizers.Tokenizer = field(repr=False)
    _fast: Gigatoken | None = field(repr=False)
    _plain: PlainText = field(repr=False)

    @classmethod
    def load(cls, path: str | Path, engine: Engine = "tokenizers") -> Self:
        """Reads a `tokenizer.json`, or the one in a folder, with the roles its config files name.

        Truncation and padding are switched off, and the names of special tokens inside a text are ordinary text.
        `engine` changes the speed of `encode_batch` and `encode_plain`, never the ids; gigatoken is held against
        `tokenizers` on texts made to tell them apart, and `prove` does so on your own.

        Raises ValueError where there is no tokenizer, it has no token to mask with, or the engine cannot read it or
        gives other ids; ImportError where the engine is not installed.
        """
        path = Path(path)
        file = path / "tokenizer.json" if path.is_dir() else path
        if not file.is_file():
            raise ValueError(f"{file}: no such file; give a tokenizer.json or a folder that holds one")
        data = tokenizer_json.read(file)
        definition = tokenizer_json.parsed(file, data)
        if tokenizer_json.as_bert_says(file, definition):
            data = json.dumps(definition).encode()
        inner = reader(file, data.decode())
        vocabulary = inner.get_vocab(with_added_tokens=True)
        required, role = tokenizer_json.required, tokenizer_json.roles(file, vocabulary)
        special = {i for i, token in inner.get_added_tokens_decoder().items() if token.special}
        special_ids = tuple(sorted(special | {i for i in role.values() if i is not None}))
        unknown_id = tokenizer_json.unknown(definition, vocabulary)
        vocab_size = max(vocabulary.values()) + 1
        template = tokenizer_json.template(file, definition)
        if strange := [i for i in (*itertools.chain(*template), unknown_id or 0) if i >= vocab_size]:
            raise ValueError(f"{file}: post_processor or unk_id: there is no token {strange[0]}, only {vocab_size}")
        loaded = cls(
            path=file,
            fingerprint=hashlib.sha256(data).hexdigest(),
            vocab_size=vocab_size,
            mask_id=required(role["mask"], file, "mask_token", "a masked language model needs one"),
            bos_id=required(role["bos"], file, "bos_token", "every document begins with it"),
            eos_id=(eos := required(role["eos"], file, "eos_token", "every document ends with it")),
            pad_id=eos if role["pad"] is None else role["pad"],
            separator_id=role["separator"],
            unknown_id=unknown_id,
            special_ids=special_ids,
            template=template,
            definition=definition,
            _inner=inner,
            _fast=None if engine == "tokenizers" else Gigatoken(definition),
            _plain=PlainText(file, definition, special_ids, unknown_id, inner),
        )
        if engine != "tokenizers":
            loaded.prove(list(hard_texts(definition)))
        return loaded

    @property
    def folder(self) -> Path:
        """Where the file lies, and the files beside it that name roles."""
        return self.path.parent

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        """Token ids of each text, with the special tokens of the template. On all cores; releases the GIL."""
        before, after = (np.array(ids, np.int32) for ids in self.template)
        return [np.concatenate((before, ids, after)) for ids in self.encode_plain(texts)]

    def encode_plain(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        """Token ids of each text and nothing else."""
        if self._fast:
            return self._plain.mended(texts, rows(*self._fast.encode(texts)))
        return self._reference(texts)

    def encode_offsets(self, texts: Sequence[str]) -> list[tuple[NDArray[np.int32], NDArray[np.int64]]]:
        """Token ids of each text and nothing else, and the characters they come from: int64 [tokens, 2], from and to.

        Always by `tokenizers`. Whether the space before a word is among the characters is up to the tokenizer.
        """
        return self._plain.offsets(texts)

    def prove(self, texts: Sequence[str]) -> None:
        """Raises ValueError at the first text whose ids depend on the engine."""
        if self._fast is None:
            return
        for text, found, due in zip(texts, self.encode_plain(texts), self._reference(texts), strict=True):
            if parting := difference(text, found, due, self.decode):
                raise ValueError(parting)

    def _reference(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        parts = (texts[start : start + _AT_ONCE] for start in range(0, len(texts), _AT_ONCE))
        return [ids for part in parts for ids in self._plain.ids(part)]

    def decode(self, ids: Sequence[int] | NDArray[Any], *, special: bool = False) -> str:
        """The text of some ids; `special` shows special tokens too."""
        return self._inner.decode([int(i) for i in ids], skip_special_tokens=not special)

    def decode_batch(self, ids: Sequence[NDArray[Any]]) -> list[str]:
        """The text of each array of ids, without special tokens."""
        return self._inner.decode_batch([row.tolist() for row in ids], skip_special_tokens=True)

    def token(self, token_id: int) -> str:
        """How the vocabulary writes one token."""
        return self._inner.id_to_token(token_id) or ""

    def token_bytes(self) -> NDArray[np.int32]:
        """UTF-8 bytes of text that each token stands for, int32 [vocab_size]; 0 for special tokens and unused ids.

        Exact for byte-level tokenizers. Others may add a space before the first word or drop spaces between words
        (WordPiece), and then the sum over a text differs from its size by these.
        """
        lengths = np.zeros(self.vocab_size, dtype=np.int32)
        stands_for = tokenizer_json.measure(self.definition)
        added = self._inner.get_added_tokens_decoder()
        for token, i in self._inner.get_vocab(with_added_tokens=True).items():
            lengths[i] = len(added[i].content.encode()) if i in added else stands_for(token)
        lengths[list(self.special_ids)] = 0
        return lengths

    def partial_characters(self) -> NDArray[np.bool_]:
        """Tokens that stand for bytes in place of a character, bool [vocab_size].

        In a byte-level vocabulary those that hold a piece of a character, elsewhere the byte fallback `<0x..>`.
        """
        found = np.zeros(self.vocab_size, dtype=bool)
        is_partial = tokenizer_json.partial(self.definition)
        for token, i in self._inner.get_vocab(with_added_tokens=False).items():
            found[i] = is_partial(token)
        found[list(self.special_ids)] = False
        return found

    def files(self) -> tuple[Path, ...]:
        """What a model's folder needs a copy of, see `copy_to`."""
        return (self.path, *(file for file in map(self.path.with_name, FILES[1:]) if file.is_file()))

    def copy_to(self, folder: Path) -> None:
        """Copies its files there, called as a model's folder calls them."""
        for file in self.files():
            shutil.copyfile(file, folder / (FILES[0] if file == self.path else file.name))


def train(
    texts_by_language: Mapping[str, Iterable[str]],
    training: TokenizerTraining,
    folder: str | Path,
    *,
    model_max_length: int = 8_192,
    on_progress: Progress | None = None,
) -> Tokenizer:
    """Trains a byte-level BPE on a sample (see `sample`) and writes its three files into `folder`.

    Equal text gives an equal file. The vocabulary is smaller than `vocab_size` where the text does not hold that many
    pairs; see `Tokenizer.vocab_size`. `training.split` is what merges stay within.

    Raises ValueError where there is no text, or so much that the trainer, which counts in 32 bits, would go wrong.
    Source: byte-level BPE, Radford et al. 2019; the begin/end template, EuroBERT, arXiv:2503.05500, A1.
    """
    total = sum(1 for texts in texts_by_language.values() for _ in texts)
    if not total:
        raise ValueError("no text to train a tokenizer on; see what the sources skipped and why")
    check_counts(texts_by_language, training)
    report = on_progress or silent
    inner = tokenizers.Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(_SPLIT[training.split]), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=training.vocab_size,
        min_frequency=training.min_frequency,
        special_tokens=[tokenizers.AddedToken(t, special=True, normalized=False) for t in SPECIAL_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        max_token_length=_LONGEST_TOKEN,
        show_progress=False,
    )

    def walk() -> Iterator[str]:
        done = 0
        for language in sorted(texts_by_language):
            for text in texts_by_language[language]:
                yield text
                done += 1
            report(done, total, f"tokenizer reads {language}")
        report(total, total, "tokenizer learns its merges")

    inner.train_from_iterator(walk(), trainer)
    ids = [(token, inner.token_to_id(token)) for token in (BEGIN, END)]
    inner.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A {END}", pair=f"{BEGIN} $A {END} $B {END}", special_tokens=ids
    )
    _write(inner, Path(folder), model_max_length)
    return Tokenizer.load(folder)


def _write(inner: tokenizers.Tokenizer, folder: Path, model_max_length: int) -> None:
    roles = {"bos_token": BEGIN, "eos_token": END, "pad_token": PAD, "mask_token": MASK}
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **roles,
        "extra_special_tokens": [SEPARATOR],
        "model_max_length": model_max_length,
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
    }
    contents = (
        inner.to_str(pretty=False),
        json.dumps(config, indent=2),
        json.dumps({**roles, "additional_special_tokens": [SEPARATOR]}, indent=2),
    )
    for name, text in reversed(list(zip(FILES, contents, strict=True))):  # tokenizer.json last: then all is there
        write_text(folder / name, text)
