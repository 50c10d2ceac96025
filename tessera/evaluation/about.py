"""Warnings about the data of a result: rows left out, answers out of reach, languages without training rows.

They lie in `about_data` of a result; results/remarks.py says them in words, beneath the tables.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

from tessera.evaluation import catalogue, load
from tessera.inference import runtime
from tessera.model.precision import compute_dtype, find_device
from tessera.plan.languages import spelled
from tessera.plan.task import Task
from tessera.prediction import windows
from tessera.results.result import OWN, TESSERA, Json
from tessera.tokenizer.tokenizer import Tokenizer


def dtype_of(folder: Path, name: str, device: str) -> str:
    """The number format that a model folder, maybe an exported one, computes in where `name` is asked for."""
    engine = runtime.kind(folder)
    if engine == "onnx":
        return "float32"
    where = find_device("cpu" if engine else device)
    return str(compute_dtype(cast(Literal["auto"], name), where)).removeprefix("torch.")


def of_task(
    task: Task, folder: Path | None, labels: Sequence[str] = (), left_out: Sequence[str] = (), more: Json | None = None
) -> Json:
    """What a result says of where its task is defined, and its warnings.

    labels    their names, as load.labels gives them: `f1` is of the second of two
    left_out  in words, the rows that a task with `skip` leaves out
    more      warnings that were found otherwise

    Languages with test rows, but none to train on, are not tested where each is trained by itself.
    """
    lacking = load.without_training(task, folder)
    of_f1 = "f1" in (task.metric, *task.also) and len(labels) == 2
    found = {
        **({"left_out": len(left_out), "first": left_out[0]} if left_out else {}),
        **({"without_training": sorted(map(spelled, lacking))} if lacking else {}),
        **({"f1_of": labels[1]} if of_f1 else {}),
        **(more or {}),
    }
    return {"defined": TESSERA if catalogue.comes_along(task) else OWN, "about_data": found}


def unseen(test: Mapping[str, Iterable[str]], train: Mapping[str, Iterable[str]]) -> Json:
    """Labels of test rows that no training row has, by language: nothing can ever give them."""
    found = {code: sorted(set(labels) - set(train[code])) for code, labels in test.items()}
    found = {code: labels for code, labels in found.items() if labels}
    return {"unseen_labels": found} if found else {}


def out_of_reach(folder: Path, trials: Iterable[Json], rows: Mapping[str, Any]) -> Json:
    """How many questions have answers, but none that can be given: too long, or whole in no window; by language.

    folder  of the model, for its tokenizer
    trials  what their files say; those of kind span say how the questions were put to the model
    """
    reader = next((one["reader"] for one in trials if "reader" in one), None)
    if reader is None:
        return {}
    tokenizer = Tokenizer.load(folder)
    found = {
        spelled(language): windows.out_of_reach(tokenizer, several, **reader) for language, several in rows.items()
    }
    return {"out_of_reach": {code: count for code, count in found.items() if count}} if any(found.values()) else {}
