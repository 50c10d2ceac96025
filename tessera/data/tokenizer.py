"""Tokenizers: training one, loading any `tokenizer.json`, encoding and decoding, the bytes of each token.

A tokenizer we train is a lossless byte-level BPE: every text of every script comes back byte for byte.
"""

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from tessera.data import tokenizer_json
from tessera.data.gigatoken import Gigatoken, difference, framed, hard_texts, rows
from tessera.data.tokenizer_json import BEGIN, END, MASK, PAD, SEPARATOR, SPECIAL_TOKENS, UnigramWithoutSpecials
from tessera.files import write_text
from tessera.plan.corpus import TokenizerTraining
from tessera.progress import Progress, silent

FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")

# tokenizers counts pairs in signed 32 bits: one pair more often than this, and it silently learns something else.
_MOST_PAIRS = 2**31 - 1
_ENTRY = 200  # bytes that Python needs for a sampled text beside the text itself

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

    vocab_size   highest id + 1: the rows an embedding needs
    unknown_id   stands for what the vocabulary cannot write; None where it can write everything
    special_ids  sorted; never masked, never drawn as a random token
    template     ids before and after the text of every document
    fingerprint  sha256 of tokenizer.json
    """

    folder: Path
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
    definition: dict[str, Any]  # tokenizer.json as it was read
    _inner: tokenizers.Tokenizer
    _fast: Gigatoken | None
    _without_specials: UnigramWithoutSpecials | None

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
        try:
            definition = json.loads(data)
            inner = tokenizers.Tokenizer.from_str(data.decode("utf-8"))
        except Exception as error:  # the library raises bare Exception
            raise ValueError(f"{file}: not a tokenizer.json of the tokenizers library: {error}") from None
        inner.no_truncation()
        inner.no_padding()
        inner.encode_special_tokens = True
        vocabulary = inner.get_vocab(with_added_tokens=True)
        required, role = tokenizer_json.required, tokenizer_json.roles(file, vocabulary)
        special = {i for i, token in inner.get_added_tokens_decoder().items() if token.special}
        unigram = tokenizer_json.model(definition).get("type") == "Unigram"  # its pieces may be special tokens' names
        special_ids = tuple(sorted(special | {i for i in role.values() if i is not None}))
        loaded = cls(
            folder=file.parent,
            fingerprint=hashlib.sha256(data).hexdigest(),
            vocab_size=max(vocabulary.values()) + 1,
            mask_id=required(role["mask"], file, "mask_token", "a masked language model needs one"),
            bos_id=required(role["bos"], file, "bos_token", "every document begins with it"),
            eos_id=(eos := required(role["eos"], file, "eos_token", "every document ends with it")),
            pad_id=eos if role["pad"] is None else role["pad"],
            separator_id=role["separator"],
            unknown_id=tokenizer_json.unknown(definition, vocabulary),
            special_ids=special_ids,
            template=tokenizer_json.template(inner),
            definition=definition,
            _inner=inner,
            _fast=None if engine == "tokenizers" else Gigatoken(definition),
            _without_specials=UnigramWithoutSpecials(definition, special_ids) if unigram else None,
        )
        if engine != "tokenizers":
            loaded.prove(list(hard_texts(definition)))
        return loaded

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        """Token ids of each text, with the special tokens of the template. On all cores; releases the GIL."""
        if self._fast:
            return rows(*framed(*self._fast.encode(texts), *self.template))
        return self._reference(texts, special=True)

    def encode_plain(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        """Token ids of each text and nothing else."""
        return rows(*self._fast.encode(texts)) if self._fast else self._reference(texts)

    def encode_offsets(self, texts: Sequence[str]) -> list[tuple[NDArray[np.int32], NDArray[np.int64]]]:
        """Token ids of each text and nothing else, and the characters they come from: int64 [tokens, 2], from and to.

        Always by `tokenizers`. Whether the space before a word is among the characters is up to the tokenizer.
        """
        encoded = self._inner.encode_batch(list(texts), add_special_tokens=False)
        return [(np.array(e.ids, dtype=np.int32), np.array(e.offsets, dtype=np.int64).reshape(-1, 2)) for e in encoded]

    def prove(self, texts: Sequence[str]) -> None:
        """Raises ValueError at the first text whose ids depend on the engine."""
        if self._fast is None:
            return
        for text, found, due in zip(texts, self.encode_plain(texts), self._reference(texts), strict=True):
            if parting := difference(text, found, due, self.decode):
                raise ValueError(parting)

    def _reference(self, texts: Sequence[str], *, special: bool = False) -> list[NDArray[np.int32]]:
        ids: list[NDArray[np.int32]] = []
        for start in range(0, len(texts), _AT_ONCE):
            some = list(texts[start : start + _AT_ONCE])
            encoded = self._inner.encode_batch_fast(some, add_special_tokens=special)
            ids += [np.array(e.ids, dtype=np.int32) for e in encoded]
        if self._without_specials is not None:
            before, after = self.template if special else ((), ())
            names = [i for i in self.special_ids if i != self.unknown_id]
            for place, row in enumerate(ids):
                if np.isin(row[len(before) : len(row) - len(after)], names).any():
                    own = self._without_specials.encode(texts[place])
                    ids[place] = np.array([*before, *own, *after], dtype=np.int32)
        return ids

    def decode(self, ids: Sequence[int] | NDArray[Any], *, special: bool = False) -> str:
        """The text of some ids; `special` shows special tokens too."""
        return self._inner.decode([int(i) for i in ids], skip_special_tokens=not special)

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
        """What a model's folder needs a copy of."""
        return tuple(self.folder / name for name in FILES if (self.folder / name).is_file())


def sample(texts: Iterable[tuple[str, str]], training: TokenizerTraining) -> dict[str, list[str]]:
    """A temperature-balanced sample of (language, text), in one reading and twice the memory that the sample takes.

    Language i gives bytes in proportion to n_i ** temperature, or all it has where that is less. Texts are chosen by a
    hash, so neither their order nor that of the languages matters. A language's chance to be kept only falls as more
    text is read, hence one reading is enough.
    """
    sizes: dict[str, int] = {}
    kept: dict[str, list[tuple[float, bytes]]] = {}  # as UTF-8: one emoji makes a str four times as large
    held, room = 0, 2 * training.sample_bytes
    for language, text in texts:
        data = text.encode()
        sizes[language] = sizes.get(language, 0) + len(data)
        key = int.from_bytes(hashlib.blake2b(data, digest_size=8, person=b"tokenizer").digest(), "big") / 2**64
        kept.setdefault(language, []).append((key, data))
        held += len(data) + _ENTRY
        if held > room:
            held = _thin(kept, sizes, training)
            room = 2 * max(training.sample_bytes, held)
    _thin(kept, sizes, training)
    return {language: [data.decode() for _, data in sorted(kept.pop(language))] for language in sorted(kept)}


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
    _check_counts(texts_by_language, training)
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


def _check_counts(texts_by_language: Mapping[str, Iterable[str]], training: TokenizerTraining) -> None:
    """Raises ValueError where some pair stands in the text more often than the trainer can count.

    A pair of tokens is at most as frequent as the pair of bytes where they meet, so the most frequent pair of bytes
    bounds all counts of the training.
    """
    size = sum(len(text.encode()) for texts in texts_by_language.values() for text in texts)
    if size <= _MOST_PAIRS:
        return
    counts = np.zeros((256, 256), np.int64)
    for texts in texts_by_language.values():
        remaining = iter(texts)
        while batch := b"\xff".join(t.encode() for t in itertools.islice(remaining, 100)):
            data = np.frombuffer(batch, np.uint8).astype(np.uint16)
            counts += np.bincount(data[:-1] << 8 | data[1:], minlength=2**16).reshape(256, 256)
    counts[0xFF], counts[:, 0xFF] = 0, 0  # never in UTF-8: where one text ends
    if (most := int(counts.max())) > _MOST_PAIRS:
        pair = bytes(divmod(int(counts.argmax()), 256))
        raise ValueError(
            f"the bytes {pair!r} stand side by side {most:,} times in {size:,} bytes of text, and the trainer counts "
            f"no further than {_MOST_PAIRS:,}; set tokenizer.sample_bytes (now {training.sample_bytes:,}) to "
            f"{int(size * _MOST_PAIRS / most * 0.95):,} or less"
        )


def _thin(kept: dict[str, list[tuple[float, bytes]]], sizes: Mapping[str, int], training: TokenizerTraining) -> int:
    """Drops what no longer belongs to the sample; returns the bytes of memory that remain."""
    scale = _scale(sizes, training)
    held = 0
    for language, texts in kept.items():
        chance = scale * sizes[language] ** (training.temperature - 1) if sizes[language] else 1.0
        texts[:] = [entry for entry in texts if entry[0] < chance]
        held += sum(len(data) + _ENTRY for _, data in texts)
    return held


def _scale(sizes: Mapping[str, int], training: TokenizerTraining) -> float:
    """The s for which sum of min(n_i, s * n_i ** temperature) is `sample_bytes`; infinite where there is less text."""
    if sum(sizes.values()) <= training.sample_bytes:
        return float("inf")
    room = float(training.sample_bytes)
    weights = {n: n**training.temperature for n in sizes.values() if n}
    rising = sorted((n for n in sizes.values() if n), key=lambda n: n / weights[n])
    rest = sum(weights[n] for n in rising)
    for n in rising:  # those that give all they have come first
        if n / weights[n] >= room / rest:
            return room / rest
        room -= n
        rest -= weights[n]
    return float("inf")


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
