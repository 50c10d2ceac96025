"""What a model makes of text in one language or many: its tokens, its guesses of hidden words, its speed."""

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tessera.adapt.hidden_words import HiddenWords, hidden_words, passages
from tessera.adapt.sample import Identified, Sample
from tessera.huggingface import hub
from tessera.huggingface.hf_files import open_weights
from tessera.inference.encoder import Encoder
from tessera.inference.sentence_folder import ends_in_vectors, local, read
from tessera.inference.tokenize import check_vocabulary
from tessera.model.precision import find_device
from tessera.progress import Silent, Watcher
from tessera.tokenizer.tokenizer import Tokenizer
from tessera.vocabulary.fertility import FertilityRow, fertility
from tessera.vocabulary.tables import ModelFolder
from tessera.vocabulary.usage import Rule, count, covering

COVERED = 0.9999  # of the tokens of a language: what `tessera vocabulary trim` keeps if nothing is said
LOST = 0.01  # of the tokens stand for what cannot be written: such a language is served by no vocabulary
_PASSAGES, _FLOPS, _LEAST_READ = 48, 1e12, 2_000  # of a language; of all, for hidden words; tokens of one
_TIMED, _SECONDS = 64, 3.0  # texts of a batch that is timed, and for how long


@dataclass(frozen=True, slots=True, kw_only=True)
class Language:
    """One language of the text, as the model sees it.

    tokens        fertility of its text; see vocabulary/fertility.py. The cost is beside the best-served language that
                  can be written
    used          different tokens that its text is written with, all but the rarest 0.01% of it
    nearest       the other language that shares most tokens with it, and the share; None where there is no other
    hidden        its hidden words; None where the model guesses none
    surprise      bits for hidden words, beside what a guess by the frequency of letters costs: near 1 the model knows
                  nothing of the language; None as above
    """

    language: str
    identified: Identified
    documents: int
    bytes: int
    tokens: FertilityRow
    used: int
    nearest: tuple[str, float] | None
    hidden: HiddenWords | None
    surprise: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A model and the languages of the text, the best served by its vocabulary first.

    vocabulary, width    rows and columns of the embedding
    parameters, in_rows  numbers in the weights, and those of them that are rows of the vocabulary
    needed               rows that all languages together use
    no_head              why no word is guessed; None where words are
    tokens_a_second      read here, in float32 and without a gradient; weights take `memory` bytes
    """

    model: str
    languages: tuple[Language, ...]
    vocabulary: int
    width: int
    parameters: int
    in_rows: int
    needed: int
    no_head: str | None
    tokens_a_second: float
    threads: int

    @property
    def memory(self) -> int:
        return 4 * self.parameters


def measure(folder: str | Path, sample: Sample, watcher: Watcher | None = None) -> Measured:
    """Looks at a model folder with the text of a sample.

    Raises ValueError naming what in the folder is missing, broken or not known here, and for text without a token.
    """
    watcher = watcher or Silent()
    whole = local(folder)
    inside = read(whole)[1] if ends_in_vectors(whole) else whole
    tokenizer = Tokenizer.load(inside)
    model = ModelFolder.of(whole)
    check_vocabulary(tokenizer, model, inside)
    rows = _by_service(fertility(tokenizer, sample.texts))
    counts = count(tokenizer, {language: sample.texts[language] for language in rows})
    with ExitStack() as files:
        stored = open_weights(inside, files)
        sizes = {name: int(np.prod(weight.shape)) for name, weight in stored.items()}
        width = max(weight.shape[-1] for name, weight in stored.items() if name in model.tables and weight.shape[1:])
    parameters, in_rows = sum(sizes.values()), sum(sizes[name] for name in model.tables)
    a_token = 2 * (parameters - in_rows) + 0.2 * model.vocab_size * width  # FLOPs; a tenth of the tokens are guessed
    budget = max(_LEAST_READ, int(_FLOPS / a_token / len(rows)))
    guesses, no_head = _guesses(inside, tokenizer, {code: sample.texts[code] for code in rows}, budget, watcher)
    languages = tuple(
        _language(code, row, sample, counts, guesses.get(code)) for code, row in rows.items()
    )  # the best served first
    speed, threads = _speed(whole, [text for code in rows for text in sample.texts[code]], tokenizer)
    return Measured(
        model=str(folder),
        languages=languages,
        vocabulary=model.vocab_size,
        width=width,
        parameters=parameters,
        in_rows=in_rows,
        needed=len(Rule(coverage=COVERED).wanted(counts)) + len(tokenizer.special_ids),
        no_head=no_head,
        tokens_a_second=speed,
        threads=threads,
    )


def _by_service(rows: Sequence[FertilityRow]) -> dict[str, FertilityRow]:
    """The rows by language, the best served first: languages that can be written before those that cannot."""
    if not rows:
        raise ValueError("the text holds no words; give files with text of the languages you mean")
    ordered = sorted(rows, key=lambda row: (row["unknown_share"] > LOST, row["cost"], row["language"]))
    return {row["language"]: {**row, "cost": row["cost"] / ordered[0]["cost"]} for row in ordered}


def _language(
    code: str,
    row: FertilityRow,
    sample: Sample,
    counts: Mapping[str, NDArray[np.int64]],
    hidden: HiddenWords | None,
) -> Language:
    own = counts[code] / max(1, counts[code].sum())
    shared = {
        other: float(np.minimum(own, row / max(1, row.sum())).sum()) for other, row in counts.items() if other != code
    }
    nearest = max(shared, key=shared.__getitem__, default=None)
    bits = None if hidden is None or not hidden.words else sum(hidden.bits) / max(1, sum(hidden.bytes))
    return Language(
        language=code,
        identified=sample.identified[code],
        documents=len(sample.texts[code]),
        bytes=sample.bytes(code),
        tokens=row,
        used=len(covering(counts[code], COVERED)),
        nearest=None if nearest is None else (nearest, shared[nearest]),
        hidden=hidden if bits is not None else None,
        surprise=None if bits is None else bits * row["bytes"] / max(1.0, row["information"]),
    )


def _guesses(
    folder: Path, tokenizer: Tokenizer, texts: Mapping[str, Sequence[str]], budget: int, watcher: Watcher
) -> tuple[dict[str, HiddenWords], str | None]:
    """Hidden words of each language; or nothing, and why: the model has no head that guesses words."""
    try:
        model = hub.load_any(folder)
    except ValueError as error:  # what else is wrong with the folder is said again when it is read as an encoder
        return {}, str(error)
    model = model.to(find_device("auto"))
    progress, found = watcher.progress("hidden words"), {}
    for number, (code, some) in enumerate(texts.items()):
        progress(number, len(texts), f"guesses words of {code}")
        found[code] = hidden_words(model, tokenizer, passages(some, _PASSAGES), most_tokens=budget)
    progress(1, 1, "hidden words")
    return found, None


def _speed(folder: Path, texts: Sequence[str], tokenizer: Tokenizer) -> tuple[float, int]:
    """(tokens a second of texts to vectors, threads that are used)."""
    import torch

    encoder = Encoder.from_pretrained(folder, dtype="float32", drop_head=True)
    some = [text[:2_000] for text in texts[:: max(1, len(texts) // _TIMED)]][:_TIMED]
    longest = min(512, encoder.max_seq_length)
    sizes = [min(longest, len(ids)) for ids in tokenizer.encode_batch(some)]
    encoder.encode(some[:1], max_length=longest)
    began, read_, place = time.perf_counter(), 0, 0
    while time.perf_counter() - began < _SECONDS:
        part = slice(place, place + 8)
        encoder.encode(some[part], max_length=longest)
        read_ += sum(sizes[part])
        place = (place + 8) % len(some)
    return read_ / (time.perf_counter() - began), torch.get_num_threads()
