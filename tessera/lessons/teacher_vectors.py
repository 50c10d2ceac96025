"""What a teacher says of every text that a phase of a run distils: embedded once, kept in the run folder.

    <run>/<phase>/teacher/teacher-*.npy   its vectors in parts, each with a checksum, as teacher.py writes them

Which texts a phase reads is computed before it begins, so the teacher reads just these, each once.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tessera.data.pair_stream import EmbeddingStream, text_keys
from tessera.data.shards import Shards
from tessera.plan.phase import Phase
from tessera.plan.recipe import Recipe
from tessera.progress import Watcher
from tessera.retrieval.teacher import embed, opened
from tessera.train import distributed
from tessera.train.reading import Taught, reading
from tessera.train.start import Text, TrainingError

FOLDER = "teacher"
_READ = 1 << 16  # texts whose tokens are looked at together


def teach(
    recipe: Recipe, phase: Phase, run: Path, text: Text, world: distributed.World, watcher: Watcher
) -> Taught | None:
    """The teacher's vectors of all that a phase reads; None where it has no teacher.

    One process computes them, the others read them. Raises TrainingError where the teacher's vectors are of another
    width than the model's.
    """
    if phase.distil is None:
        return None
    stream, _ = reading(recipe, phase, text)
    assert isinstance(stream, EmbeddingStream), "a phase that distils trains sentence embeddings"
    keys, texts = _texts(stream, phase.tokens, text)
    teacher = opened(phase.distil.teacher, device=recipe.machine.device, dtype=recipe.machine.dtype)
    width = recipe.model.config().hidden_size if recipe.model.preset is not None else teacher.dimensions
    if teacher.dimensions != width:
        raise TrainingError(
            f"{phase.name}: the vectors of {phase.distil.teacher} have {teacher.dimensions} dimensions, those of the "
            f"model {width}; set model.override.hidden_size: {teacher.dimensions}, or take another teacher"
        )
    cache, prompt = run / phase.name / FOLDER, phase.distil.prompt
    if world.leads:
        embed(teacher, texts, cache, prompt=prompt, on_progress=watcher.progress(f"{phase.name}: teacher"))
    distributed.wait(world)
    return Taught(keys, embed(teacher, texts, cache, prompt=prompt))


def _texts(stream: EmbeddingStream, tokens: int, text: Text) -> tuple[NDArray[np.uint64], list[str]]:
    """(keys, rising; texts) of all that a teacher has to read in so many planned tokens, each once."""
    documents, sides = stream.texts(tokens)
    found: dict[int, str] = {}
    for shards, places in ((text.train, documents), (text.pairs, sides)):
        if shards is not None:
            for keys, ids in _pieces(shards, places):
                new = [n for n, key in enumerate(keys.tolist()) if key not in found]
                for n, words in zip(new, text.tokenizer.decode_batch([ids[n] for n in new]), strict=True):
                    found.setdefault(int(keys[n]), words)
    order = sorted(found)
    return np.array(order, np.uint64), [found[key] for key in order]


def _pieces(shards: Shards, places: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.uint64], list[NDArray[np.int32]]]]:
    """(keys, ids) of pieces of a store [n, 2], some at a time."""
    for first in range(0, len(places), _READ):
        begins, lengths = places[first : first + _READ].T
        starts = np.concatenate(([0], np.cumsum(lengths)))
        tokens = shards.gather(begins, lengths)
        yield text_keys(tokens, starts), np.split(tokens, starts[1:-1])
