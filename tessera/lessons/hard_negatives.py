"""Hard negatives for the pairs of a contrastive phase of a run: mined once before it begins, kept in the run folder.

    <run>/<phase>/negatives/negatives-*.npy   of one group of pairs each, with a checksum
    <run>/<phase>/negatives/mined.json        which groups, for what, by which model; written last

Which pairs a phase reads is computed before it begins. They are dealt by chance into groups of at most `among`; within
a group the model that the phase starts from reads all texts, and each first side is held against every second side.

Cost: for n pairs whose vectors have C numbers the model reads 2 n texts (what recurs in a group once), and products
take 2 n * among * C operations: per million pairs, with among = 16,384 and C = 384, some 13 TFLOP. Memory: the texts
and vectors of a group, and _ROWS rows of similarities. A stop costs the group that is under way.
"""

# Shapes: n pairs of a group, U different second sides among them, C width of a vector, k negatives of a pair.

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tessera.checksums import Damaged
from tessera.data.hashing import keys, named_keys
from tessera.data.packing import ranges
from tessera.data.pair_stream import EmbeddingStream, PairStream, text_keys
from tessera.files import atomic_file, digest, fingerprint, write_json
from tessera.huggingface import hub
from tessera.huggingface.hf_files import find_model
from tessera.inference.encoder import Encoder
from tessera.json_files import Strictly, read_own
from tessera.plan.fields import is_folder
from tessera.plan.phase import Contrast, Phase
from tessera.plan.recipe import Recipe
from tessera.progress import Watcher
from tessera.retrieval.teacher import whole
from tessera.train import distributed
from tessera.train.reading import Mined, reading
from tessera.train.start import Text

FOLDER, INDEX = "negatives", "mined.json"
_READ = 1 << 16  # pairs whose tokens are looked at together
_ROWS = 512  # first sides compared at once

Numbers = NDArray[np.int64]
Keys = NDArray[np.uint64]


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """Which texts answer which, by their keys: the answer of questions[i] is answers[i]; questions rise."""

    questions: Keys
    answers: Keys

    @classmethod
    def of(cls, questions: Keys, answers: Keys) -> "Known":
        order = np.argsort(questions, kind="stable")
        return cls(questions[order], answers[order])

    def among(self, asked: Keys, texts: Keys) -> tuple[Numbers, Numbers]:
        """(row, column) wherever one of `texts`, which rise, answers a question or says the same as it does."""
        first = np.searchsorted(self.questions, asked, side="left")
        count = np.searchsorted(self.questions, asked, side="right") - first
        own = np.arange(len(asked))
        row = np.concatenate((np.repeat(own, count), own))
        said = np.concatenate((self.answers[ranges(first, count)], asked))
        column = np.minimum(np.searchsorted(texts, said), len(texts) - 1)
        there = texts[column] == said
        return row[there], column[there]


def mine(
    recipe: Recipe, phase: Phase, run: Path, text: Text, world: distributed.World, watcher: Watcher
) -> Mined | None:
    """The hard negatives of all pairs that a phase reads; None where it wants none.

    One process mines them, the others read them. Those of a phase that has a checkpoint stay what they are, whatever
    has become of the model; a group that is damaged is mined again.
    """
    how = phase.contrast
    if how is None or not how.negatives:
        return None
    folder = run / phase.name / FOLDER
    if world.leads:
        stream, _ = reading(recipe, phase, text)
        assert isinstance(stream, EmbeddingStream), "a phase that contrasts trains sentence embeddings"
        assert stream.pairs is not None, "a phase that contrasts reads pairs"
        numbers = stream.numbers(phase.tokens)
        seed = int(named_keys([(recipe.seed, phase.name, FOLDER)])[0])
        groups = dealt(numbers, how.among, seed)
        asked = digest([
            stream.pairs.shards.identity, phase.context, how.negatives, how.below,
            [hashlib.sha256(group.tobytes()).hexdigest() for group in groups],
        ])  # fmt: skip
        if not _kept(folder, asked, _model(phase, run)):
            _mine(recipe, phase, _model(phase, run), stream.pairs, text, groups, folder, asked, watcher)
    distributed.wait(world)
    parts = read_own(_Index, folder / INDEX).parts
    found = np.concatenate([np.load(folder / name, allow_pickle=False) for name in parts])
    found = found[np.argsort(found[:, 0])]
    return Mined(found[:, 0], found[:, 1:])


def dealt(numbers: Numbers, among: int, seed: int) -> list[Numbers]:
    """Pairs [n] in groups of at most `among`, about equal, dealt by chance; each rising."""
    order = np.argsort(keys(seed, numbers), kind="stable")
    return [np.sort(group) for group in np.array_split(numbers[order], -(-len(numbers) // among))]


def hardest(
    first: NDArray[np.float32], second: NDArray[np.float32], asked: Keys, said: Keys, known: Known, how: Contrast
) -> Numbers:
    """For each pair the pairs whose second sides are its hardest negatives: int64 [n, how.negatives], -1 for none.

    first, second   [n, C], vectors of both sides, of length 1
    asked, said     [n], keys of their texts
    known           what answers what

    The most similar second sides, the nearest first, but for those that are known to answer, those that say what the
    first side says, and those whose cosine is above how.below of the answer's. Each text counts once.
    Source: Moreira et al. 2024, arXiv:2407.15831, section 4, "TopK-PercPos".
    """
    texts, place = np.unique(said, return_index=True)
    documents = np.ascontiguousarray(second[place].T)
    positive = (first * second).sum(1)
    limit = positive - (1 - how.below) * np.abs(positive)
    found = np.full((len(first), how.negatives), -1, np.int64)
    for begin in range(0, len(first), _ROWS):
        rows = slice(begin, begin + _ROWS)
        similar = first[rows] @ documents
        similar[similar > limit[rows, None]] = -np.inf
        similar[known.among(asked[rows], texts)] = -np.inf
        every = np.arange(len(similar))
        for column in range(how.negatives):
            best = similar.argmax(1)
            found[rows, column] = np.where(similar[every, best] > -np.inf, place[best], -1)
            similar[every, best] = -np.inf
    return found


class _Index(Strictly):
    """mined.json, as far as it is read again."""

    asked: str
    model: str
    parts: list[str]


def _model(phase: Phase, run: Path) -> Path:
    """The folder of the model that a phase starts from."""
    return find_model(phase.from_) if is_folder(phase.from_) else (run / phase.from_ / "final").resolve()


def _kept(folder: Path, asked: str, model: Path) -> bool:
    """Whether all that is asked for was mined before, and is whole."""
    try:
        index = read_own(_Index, folder / INDEX)
    except FileNotFoundError:
        return False
    except Damaged as error:
        logging.getLogger("tessera").warning("%s; what it names is looked at again", error)
        return False
    if index.asked != asked or not all(whole(folder / name) for name in index.parts):
        return False
    begun = any(folder.parent.glob("checkpoint-*"))
    return begun or index.model == fingerprint(model)


def _mine(
    recipe: Recipe, phase: Phase, model: Path, pairs: PairStream, text: Text, groups: list[Numbers], folder: Path,
    asked: str, watcher: Watcher,
) -> None:  # fmt: skip
    """Mines group by group; what an earlier try left whole is taken."""
    machine, how = recipe.machine, phase.contrast
    assert how is not None
    by, total, done = fingerprint(model), sum(map(len, groups)), 0
    loaded = hub.load_encoder(model, machine.attention)
    encoder = Encoder(loaded, text.tokenizer, device=machine.device, dtype=machine.dtype)
    known = _known(pairs, np.concatenate(groups))
    progress, names, counts = watcher.progress(f"{phase.name}: negatives"), [], np.zeros(how.negatives + 1, np.int64)
    for number, group in enumerate(groups):
        name = f"negatives-{digest([by, asked, str(encoder.dtype), number])}.npy"

        def report(share: float, done: int = done, size: int = len(group)) -> None:
            progress(done + int(share * size), total, "mining hard negatives")

        if not whole(folder / name):
            found = _of_group(encoder, pairs, group, known, how, report)
            folder.mkdir(parents=True, exist_ok=True)
            with atomic_file(folder / name, many=True, sealed=True) as draft, draft.open("wb") as file:
                np.save(file, np.column_stack((group, found)), allow_pickle=False)
        found = np.load(folder / name, allow_pickle=False)[:, 1:]
        counts += np.bincount((found >= 0).sum(1), minlength=len(counts))
        names.append(name)
        done += len(group)
        report(1.0, done - len(group), len(group))
    mined, lacking = int(counts @ np.arange(len(counts))), int(counts[:-1].sum())
    about = {"pairs": total, "negatives": mined, "lacking": lacking}
    write_json(folder / INDEX, {"asked": asked, "model": by, "parts": names, **about}, sealed=True)
    watcher.say(
        f"{phase.name}: {mined:,} hard negatives of {total:,} pairs, looked for among {len(groups[0]):,} each; "
        f"{lacking:,} pairs have fewer than {how.negatives}"
    )


def _of_group(
    encoder: Encoder, pairs: PairStream, group: Numbers, known: Known, how: Contrast, report: Callable[[float], None]
) -> Numbers:
    """The negatives of the pairs of a group, by their numbers in the store: [n, k]."""
    tokens, starts = pairs.read(group)
    texts = text_keys(tokens, starts)
    _, place, again = np.unique(texts, return_index=True, return_inverse=True)
    ids = np.split(tokens, starts[1:-1])
    vectors = encoder.engine.vectors([[ids[n]] for n in place.tolist()], encoder.how(), report)
    encoder.engine.check(vectors, 0)
    first, second = vectors[again[0::2]], vectors[again[1::2]]
    found = hardest(first, second, texts[0::2], texts[1::2], known, how)
    return np.where(found >= 0, group[found], -1)


def _known(pairs: PairStream, numbers: Numbers) -> Known:
    """What answers what among all pairs that are read."""
    parts = [text_keys(*pairs.read(numbers[first : first + _READ])) for first in range(0, len(numbers), _READ)]
    found = np.concatenate(parts)
    return Known.of(found[0::2], found[1::2])
