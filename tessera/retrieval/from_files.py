"""Retrieval models out of files (fine-tuning): rows of pairs or sentences, their splits, a protocol, and `run`.

fit("retrieve", "models/small", "pairs.csv", Path("runs/retriever"))
fit("distil", "models/small", "pairs.jsonl.zst", Path("runs/student"), teacher="models/e5")
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from tessera import lock
from tessera.files import LOCK, refuse_taken
from tessera.labelled import tables
from tessera.labelled.splits import split_of
from tessera.labelled.tables import DataError
from tessera.plan.recipe import Machine
from tessera.plan.task import Protocol
from tessera.plan.task_data import SPLITS, Column
from tessera.progress import Silent, Watcher
from tessera.retrieval import distil, pairs, rerank, retrieve
from tessera.retrieval.distil import Distilled
from tessera.retrieval.rerank import Reranked
from tessera.retrieval.retrieve import Retrieved
from tessera.retrieval.retriever import Contrast, Retriever

Kind = Literal["retrieve", "rerank", "distil"]
KINDS: tuple[Kind, ...] = ("retrieve", "rerank", "distil")
RATES = (5e-5, 2e-4, 1e-3)
"""Tried where no others are asked for."""


def quick(kind: Kind) -> Protocol:
    """The protocol where none is named: a few rates, three epochs, the best on what is held out."""
    size = {"retrieve": 64, "rerank": 32, "distil": 64}[kind]
    return Protocol(
        name="quick", epochs=3, batch_size=size, learning_rates=RATES, warmup_ratio=0.1, weight_decay=0.01,
        betas=(0.9, 0.98), eps=1e-6, max_length=256, patience=2,
    )  # fmt: skip


def fit(
    kind: Kind,
    model: str | Path,
    data: str | Path,
    out: Path,
    *,
    columns: Mapping[str, Column] | None = None,
    protocol: Protocol | None = None,
    held_out: float | None = None,
    teacher: str | Path | None = None,
    machine: Machine | None = None,
    watcher: Watcher | None = None,
    **options: Any,
) -> Retrieved | Reranked | Distilled:
    """Trains a copy of a model on the rows of a file, a folder or a glob, and writes it to `out`.

    columns   role -> column, as in `pairs.judged` and `pairs.sentences`; None: guessed
    protocol  None: `quick`
    held_out  share of the rows to choose by, where no file is called validation (or dev)
    teacher   distil: its folder
    options   others of `run` of the kind: contrast, retriever, listwise, loss, temperature, cache ...

    Files called test give the score that the card names, of retrieve and rerank. Raises ValueError naming the row, or
    what is missing, before anything is computed; lock.AtWork where another process makes `out`.
    """
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}; give {', '.join(KINDS)}")
    if (kind == "distil") != (teacher is not None):
        raise ValueError(
            "distil needs a teacher, the folder of a model" if teacher is None else "a teacher is of distil"
        )
    refuse_taken(out)
    watcher, protocol = watcher or Silent(), protocol or quick(kind)
    said: list[str] = []
    files = _by_split(str(data), said)
    for line in said:
        watcher.say(line)
    rows = {name: itertools.chain.from_iterable(map(tables.rows, some)) for name, some in files.items()}
    how: dict[str, Any] = {"protocol": protocol, "machine": machine, "watcher": watcher, **options}
    with lock.hold(out.with_name(f".{out.name}.trials{LOCK}"), str(out)):
        if kind == "distil":
            if files["test"]:
                raise DataError(f"{data}: has test rows, which distil has no use for; give it training rows alone")
            held: Any = held_out or distil.HELD_OUT
            held = pairs.sentences(rows["validation"], columns) if files["validation"] else held
            assert teacher is not None
            return distil.run(model, teacher, pairs.sentences(rows["train"], columns), out, held_out=held, **how)
        held = pairs.judged(rows["validation"], columns) if files["validation"] else held_out or retrieve.HELD_OUT
        test = pairs.judged(rows["test"], columns) if files["test"] else ()
        run = retrieve.run if kind == "retrieve" else rerank.run
        return run(model, pairs.judged(rows["train"], columns), out, held_out=held, test=test, **how)


def contrast(model: str | Path, dimensions: Sequence[int] = (), negatives: int | None = None) -> Contrast | None:
    """How a model compares texts, as its folder says, with what is asked for beside; None where nothing is.

    dimensions  the first so many of a vector must do alone (Matryoshka)
    negatives   hard ones of each query, mined before the first step where there are to be some
    """
    if not dimensions and not negatives:
        return None
    own = Retriever.from_pretrained(model)[0].contrast
    return dataclasses.replace(own, dimensions=tuple(dimensions), mine_after=0.0 if negatives else None)


def _by_split(data: str, said: list[str]) -> dict[str, list[tables.File]]:
    """Files by the split that their names say; those that say nothing, or one split alone, are to train on."""
    found: dict[str, list[tables.File]] = {name: [] for name in SPLITS}
    files = tables.find(data, said)
    if not files:
        raise DataError(f"{data}: there are no rows; give a file or a folder of {', '.join(tables.KINDS)}")
    for file in files:
        found[split_of(str(file), data) or "train"].append(file)
    named = [name for name in SPLITS if found[name]]
    if len(named) == 1:  # one split, whatever it is called
        found = {"train": found[named[0]], "validation": [], "test": []}
    elif not found["train"]:
        raise DataError(f"{data}: there are rows for {' and '.join(named)}, but none to train on")
    return found
