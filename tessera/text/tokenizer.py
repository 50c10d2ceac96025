"""From text to token ids and back: training a tokenizer, loading any `tokenizer.json`, and what a token costs.

A tokenizer we train is a lossless byte-level BPE: every text of every script comes back byte for byte.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from tessera.plan.corpus import TokenizerTraining
from tessera.plan.whole import write_text

PAD, BEGIN, END = "<|pad|>", "<|begin_of_text|>", "<|end_of_text|>"
MASK, SEPARATOR = "<|mask|>", "<|parallel_sep|>"
SPECIAL_TOKENS = (PAD, BEGIN, END, MASK, SEPARATOR)  # ids 0 to 4 of a tokenizer we train

FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")

# What a tokenizer calls a role in its config, and what tokenizers without a config usually call it.
_ROLES = {
    "mask": (("mask_token",), (MASK, "<mask>", "[MASK]", "<|MASK|>")),
    "bos": (("bos_token", "cls_token"), (BEGIN, "<bos>", "<s>", "[CLS]", "<|startoftext|>")),
    "eos": (("eos_token", "sep_token"), (END, "<eos>", "</s>", "[SEP]", "<|endoftext|>")),
    "pad": (("pad_token",), (PAD, "<pad>", "[PAD]")),
    "separator": ((), (SEPARATOR,)),
}

# One space belongs to the word it precedes; marks belong to their letters, or Indic and Thai vowels would stand alone;
# digits in threes.
_WORDS = r" ?[\p{L}\p{M}]+| ?\p{N}{1,3}| ?[^\s\p{L}\p{M}\p{N}]+|\s+(?!\S)|\s+"
_LONGEST_TOKEN = 48  # bytes; scripts without spaces would otherwise turn whole boilerplate sentences into tokens

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True, eq=False)
class Tokenizer:
    """A tokenizer and the ids of its roles: `Tokenizer.load(path)`.

    vocab_size   highest id + 1: the rows an embedding needs
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
    special_ids: tuple[int, ...]
    template: tuple[tuple[int, ...], tuple[int, ...]]
    _inner: tokenizers.Tokenizer
    _definition: dict[str, Any]

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Reads a `tokenizer.json`, or the one in a folder, with the roles its config files name.

        Truncation and padding are switched off, and the names of special tokens inside a text are ordinary text.
        Raises ValueError where there is no tokenizer or it has no token to mask with.
        """
        path = Path(path)
        file = path / "tokenizer.json" if path.is_dir() else path
        if not file.is_file():
            raise ValueError(f"{file}: no such file; give a tokenizer.json or a folder that holds one")
        data = file.read_bytes()
        try:
            definition = json.loads(data)
            inner = tokenizers.Tokenizer.from_str(data.decode("utf-8"))
        except Exception as error:  # the library raises bare Exception
            raise ValueError(f"{file}: not a tokenizer.json of the tokenizers library: {error}") from None
        inner.no_truncation()
        inner.no_padding()
        inner.encode_special_tokens = True
        vocabulary = inner.get_vocab(with_added_tokens=True)
        roles = _roles(file, vocabulary)
        special = {i for i, token in inner.get_added_tokens_decoder().items() if token.special}
        return cls(
            folder=file.parent,
            fingerprint=hashlib.sha256(data).hexdigest(),
            vocab_size=max(vocabulary.values()) + 1,
            mask_id=_required(roles["mask"], file, "mask_token", "a masked language model needs one"),
            bos_id=_required(roles["bos"], file, "bos_token", "every document begins with it"),
            eos_id=_required(roles["eos"], file, "eos_token", "every document ends with it"),
            pad_id=_required(roles["eos"] if roles["pad"] is None else roles["pad"], file, "pad_token", ""),
            separator_id=roles["separator"],
            special_ids=tuple(sorted(special | {i for i in roles.values() if i is not None})),
            template=_template(inner),
            _inner=inner,
            _definition=definition,
        )

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        """Token ids of each text, with the special tokens of the template. On all cores; releases the GIL."""
        return [np.array(e.ids, dtype=np.int32) for e in self._inner.encode_batch_fast(list(texts))]

    def encode_plain(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        """Token ids of each text and nothing else."""
        encoded = self._inner.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(e.ids, dtype=np.int32) for e in encoded]

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
        measure = _measure(self._definition)
        added = self._inner.get_added_tokens_decoder()
        for token, i in self._inner.get_vocab(with_added_tokens=True).items():
            lengths[i] = len(added[i].content.encode()) if i in added else measure(token)
        lengths[list(self.special_ids)] = 0
        return lengths

    def files(self) -> tuple[Path, ...]:
        """What a model's folder needs a copy of."""
        return tuple(self.folder / name for name in FILES if (self.folder / name).is_file())


def sample(texts: Iterable[tuple[str, str]], training: TokenizerTraining) -> dict[str, list[str]]:
    """A temperature-balanced sample of (language, text), in one reading and at most 2 x `sample_bytes` of memory.

    Language i gives bytes in proportion to n_i ** temperature, or all it has where that is less. Texts are chosen by a
    hash, so neither their order nor that of the languages matters. A language's chance to be kept only falls as more
    text is read, hence one reading is enough.
    """
    sizes: dict[str, int] = {}
    kept: dict[str, list[tuple[float, int, str]]] = {}
    held = 0
    for language, text in texts:
        data = text.encode()
        sizes[language] = sizes.get(language, 0) + len(data)
        key = int.from_bytes(hashlib.blake2b(data, digest_size=8, person=b"tokenizer").digest(), "big") / 2**64
        kept.setdefault(language, []).append((key, len(data), text))
        held += len(data)
        if held > 2 * training.sample_bytes:
            held = _thin(kept, sizes, training)
    _thin(kept, sizes, training)
    return {language: [text for _, _, text in sorted(kept[language])] for language in sorted(kept)}


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
    pairs; see `Tokenizer.vocab_size`. Raises ValueError where there is no text.
    Source: byte-level BPE, Radford et al. 2019; the begin/end template, EuroBERT, arXiv:2503.05500, A1.
    """
    total = sum(1 for texts in texts_by_language.values() for _ in texts)
    if not total:
        raise ValueError("no text to train a tokenizer on; see what the sources skipped and why")
    report = on_progress or (lambda done, total, what: None)
    inner = tokenizers.Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(_WORDS), behavior="isolated"),
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


def _thin(kept: dict[str, list[tuple[float, int, str]]], sizes: Mapping[str, int], training: TokenizerTraining) -> int:
    """Drops what no longer belongs to the sample; returns the bytes that remain."""
    scale = _scale(sizes, training)
    held = 0
    for language, texts in kept.items():
        chance = scale * sizes[language] ** (training.temperature - 1) if sizes[language] else 1.0
        texts[:] = [entry for entry in texts if entry[0] < chance]
        held += sum(entry[1] for entry in texts)
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


def _roles(file: Path, vocabulary: Mapping[str, int]) -> dict[str, int | None]:
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
    roles: dict[str, int | None] = {}
    for role, (keys, usual) in _ROLES.items():
        names = [named[key] for key in keys if key in named] or usual
        roles[role] = next((vocabulary[n] for n in names if n in vocabulary), None)
    return roles


def _required(role: int | None, file: Path, key: str, why: str) -> int:
    if role is None:
        raise ValueError(
            f"{file}: has no {key}; {why}. Add the token to the tokenizer and name it as {key!r} in "
            f"{file.with_name('tokenizer_config.json').name} beside it"
        )
    return role


def _template(inner: tokenizers.Tokenizer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    whole, plain = inner.encode("a").ids, inner.encode("a", add_special_tokens=False).ids
    for start in range(len(whole) - len(plain) + 1):
        if plain and whole[start : start + len(plain)] == plain:
            return tuple(whole[:start]), tuple(whole[start + len(plain) :])
    return tuple(whole), ()


def _measure(definition: dict[str, Any]) -> Callable[[str], int]:
    """How many bytes of text a vocabulary entry stands for, by the kind of tokenizer."""
    kinds = re.findall(r'"type": ?"(\w+)"', json.dumps([definition.get("pre_tokenizer"), definition.get("decoder")]))
    if "ByteLevel" in kinds:
        return len  # one character of the byte alphabet is one byte
    prefix = (definition.get("model") or {}).get("continuing_subword_prefix") or ""
    if "WordPiece" in kinds and prefix:
        return lambda token: len(token.removeprefix(prefix).encode())

    def pieces(token: str) -> int:
        return 1 if re.fullmatch(r"<0x[0-9A-F]{2}>", token) else len(token.replace("▁", " ").encode())

    return pieces
