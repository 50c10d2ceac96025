"""Retrieval models out of files (fine-tuning): rows of pairs or sentences, their splits, a protocol, and `run`.

fit("retrieve", "models/small", "pairs.csv", Path("runs/retriever"))
fit("distil", "models/small", "pairs.jsonl.zst", Path("runs/student"), teacher="models/e5")
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from tessera.files import refuse_taken
from tessera.labelled import tables
from tessera.labelled.splits import split_of
from tessera.labelled.tables import DataError, Placed
from tessera.plan.recipe import Machine
from tessera.plan.task import Protocol
from tessera.plan.task_data import SPLITS, Column
from tessera.progress import Silent, Watcher
from tessera.retrieval import distil, pairs, rerank, retrieve
from tessera.retrieval.distil import Distilled
from tessera.retrieval.rerank import Reranked
from tessera.retrieval.retrieve import Retrieved

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
    what is missing, before anything is computed.
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
    rows = _by_split(str(data), said)
    for line in said:
        watcher.say(line)
    watcher.say(", ".join(f"{name} {len(some):,} rows" for name, some in rows.items() if some))
    how: dict[str, Any] = {"protocol": protocol, "machine": machine, "watcher": watcher, **options}
    if kind == "distil":
        if rows["test"]:
            raise DataError(f"{data}: has test rows, which distil has no use for; give it training rows alone")
        held: Any = pairs.sentences(rows["validation"], columns) if rows["validation"] else held_out or distil.HELD_OUT
        assert teacher is not None
        return distil.run(model, teacher, pairs.sentences(rows["train"], columns), out, held_out=held, **how)
    held = pairs.judged(rows["validation"], columns) if rows["validation"] else held_out or retrieve.HELD_OUT
    test = pairs.judged(rows["test"], columns) if rows["test"] else ()
    run = retrieve.run if kind == "retrieve" else rerank.run
    return run(model, pairs.judged(rows["train"], columns), out, held_out=held, test=test, **how)


def _by_split(data: str, said: list[str]) -> dict[str, list[Placed]]:
    """Rows by what their files are called; those of files that say nothing, or of one set alone, are to train on."""
    found: dict[str, list[Placed]] = {name: [] for name in SPLITS}
    files = tables.find(data, said)
    if not files:
        raise DataError(f"{data}: there are no rows; give a file or a folder of {', '.join(tables.KINDS)}")
    for file in files:
        found[split_of(str(file), data) or "train"] += tables.rows(file)
    named = [name for name in SPLITS if found[name]]
    if len(named) == 1:  # one set, whatever it is called
        found = {"train": found[named[0]], "validation": [], "test": []}
    elif not found["train"]:
        raise DataError(f"{data}: there are rows for {' and '.join(named)}, but none to train on")
    return found
