"""One model on tasks of the catalogue: each by what its kind needs."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tessera.evaluation import catalogue, frozen, load, sweep
from tessera.evaluation.rows import DataError
from tessera.evaluation.trial import Progress
from tessera.files import digest
from tessera.model.hf_files import read_json
from tessera.plan.errors import did_you_mean
from tessera.plan.recipe import Machine
from tessera.plan.task import Task

_MMBERT_VOCABULARY = 200_000  # tokens, at least: its model_type is ModernBERT's


def judge(
    model_folder: str | Path,
    tasks: Iterable[str],
    protocol: str,
    data_folder: str | Path | None,
    out: str | Path,
    *,
    languages: Sequence[str] = (),
    oracle: bool = False,
    machine: Machine | None = None,
    name: str | None = None,
    on_progress: Progress | None = None,
) -> Iterator[Path]:
    """The file of each task's result, as soon as it is there; finished trials are not run again.

    tasks        names, groups of tasks, or files of your own; see catalogue.choose
    protocol     by name, or of a file; see catalogue.protocol
    data_folder  local data; None: the Hub
    languages    only these of each task, as its data calls them, to test on and where it trains on all to train on;
                 their results lie in a folder of `out` that is called after them
    oracle       choose the rate on the test set: results are marked, and are no results

    Raises TaskError for names that nobody knows and DataError for languages that a task does not have, before anything
    is run; else as sweep.run.
    """
    family = family_of(Path(model_folder))
    chosen = [
        (_only(task, languages, data_folder), catalogue.protocol(protocol, task, family))
        for task in catalogue.choose(tasks)
    ]
    out = Path(out, *_folder(languages))
    for task, how in chosen:
        if task.kind in frozen.KINDS:
            yield frozen.run(model_folder, task, data_folder, out, machine, on_progress, name=name)
            continue
        how = how.model_copy(update={"select": "oracle"}) if oracle else how
        yield sweep.run(model_folder, task, how, data_folder, out, machine, on_progress, name=name)


def _only(task: Task, languages: Sequence[str], data_folder: str | Path | None) -> Task:
    """The task in some of its languages."""
    if not languages:
        return task
    there = load.languages(task, None if data_folder is None else Path(data_folder))
    for language in languages:
        if language not in there:
            raise DataError(f"task {task.name} has no language {language!r}; {did_you_mean(language, there)}")
    return task.model_copy(update={"languages": tuple(dict.fromkeys(languages))})


def _folder(languages: Sequence[str]) -> list[str]:
    """Where results of some languages lie, so that they do not take the place of those of all."""
    some = list(dict.fromkeys(languages))
    if len(some) < 4:
        return ["+".join(some)] if some else []
    return [f"{len(some)}-languages-{digest(some)[:6]}"]


def family_of(folder: Path) -> str | None:
    """What protocols call the family of a model folder: its model_type, or mmbert."""
    config = read_json(folder / "config.json")
    kind = config.get("model_type")
    return "mmbert" if kind == "modernbert" and config.get("vocab_size", 0) >= _MMBERT_VOCABULARY else kind
