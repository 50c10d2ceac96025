"""A retrieval task under a protocol: trained by contrast with every rate and seed, chosen on validation, then tested.

    <out>/<model>.<task>.<protocol>.json             the result; with .oracle before .json where test was chosen on
    <out>/trials/<model>.<task>/<languages>/*.json   one file for each trial, whole or not there

A trial whose file was made from the same weights, texts and settings is finished and is not run again. A task with
`train: none` is searched with the model as it is.
"""

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tessera.evaluation import load, load_retrieval, ranking, selection, trials
from tessera.evaluation.selection import Start
from tessera.evaluation.trials import Json, Trial
from tessera.files import model_name
from tessera.finetune.contrastive import train
from tessera.finetune.examples import Search, Triple
from tessera.finetune.learner import Pretrained
from tessera.finetune.loop import Diverged
from tessera.finetune.retriever import Contrast, Retriever
from tessera.plan.recipe import Machine
from tessera.plan.task import Protocol, SplitName, Task
from tessera.progress import Progress, silent


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Languages that one model is trained on, and those it is tested on."""

    name: str
    train: tuple[Triple, ...]  # empty where nothing is trained
    validation: Mapping[str, Search]
    test: Mapping[str, Search]
    fingerprint: str


def retrieve(
    model_folder: str | Path,
    task: Task,
    protocol: Protocol,
    data_folder: str | Path | None,
    out: str | Path,
    machine: Machine | None = None,
    on_progress: Progress | None = None,
    *,
    name: str | None = None,
    contrast: Contrast | None = None,
    keep: str | Path | None = None,
) -> Path:
    """Runs what is not finished and returns the file of the result.

    model_folder  a Hugging Face folder with its tokenizer, of any family
    data_folder   local data; None: the Hub
    name          of the model in the result; None: that of its folder
    keep          folder for the chosen model, with the first seed, as sentence-transformers loads it; it is trained
                  once more for that

    Raises DataError for rows that cannot be used, ValueError where there is a choice but no validation set, or where no
    training of any rate went well.
    """
    began = time.perf_counter()
    model_folder, out, contrast = Path(model_folder), Path(out), contrast or Contrast()
    model = name or model_name(model_folder)
    report = on_progress or silent
    start = Start.of(model_folder, machine or Machine())
    found = groups(task, protocol, None if data_folder is None else Path(data_folder))
    if keep is not None and (len(found) > 1 or not task.trained):
        raise ValueError(f"task {task.name} trains {len(found) if task.trained else 'no'} models; `keep` keeps one")
    tried = trials.trials(protocol) if task.trained else [Trial(protocol=protocol, rate=0.0, seed=protocol.seeds[0])]
    folder = out / "trials" / f"{model}.{task.name}"
    outcomes = {group.name: _all_trials(group, tried, start, contrast, task, folder, report) for group in found}
    chosen = {group.name: _choose(group, task, protocol, tried, outcomes[group.name]) for group in found}
    if keep is not None:
        best = next(trial for trial in tried if trial.choice == chosen[found[0].name])
        _fit(found[0], best, start.weights(), contrast, report)[0].save(model_folder, Path(keep))
    parts = {
        "protocol_hash": trials.digest([protocol.model_dump(mode="json", by_alias=True), asdict(contrast)]),
        "contrast": asdict(contrast),
        "fingerprint": start.fingerprint,
        "data": trials.digest([group.fingerprint for group in found]),
        **_result(found, tried, chosen, outcomes),
        "chosen": chosen if task.trained else {name: {} for name in chosen},
        "trials": [
            selection.told(name, trial.how if task.trained else {}, outcome, outcome["test"])
            for name, several in outcomes.items()
            for trial, outcome in zip(tried, several, strict=True)
        ],
    }
    return selection.write(out, model, task, protocol, began, parts)


def _all_trials(
    group: Group,
    tried: Sequence[Trial],
    start: Start,
    contrast: Contrast,
    task: Task,
    folder: Path,
    report: Progress,
) -> list[Json]:
    """The outcome of each trial; what is not finished is run."""

    def file(trial: Trial) -> tuple[Path, Json]:
        path = folder / group.name / f"{trial.name if group.train else 'untrained'}.json"
        return path, _identity(group, trial, start.fingerprint, contrast)

    def perform(trial: Trial, weights: Pretrained, said: Progress) -> Json:
        return _perform(group, trial, weights, contrast, task, said)

    return selection.perform(f"{task.name} {group.name}", tried, start, file, perform, report)


def groups(task: Task, protocol: Protocol, folder: Path | None) -> list[Group]:
    """The data of a task, by what is trained together. Raises DataError as data.load and collection.search do."""
    if task.kind != "retrieve":
        raise ValueError(f"task {task.name}: kind {task.kind} is not of retrieval")
    found = []
    for name, sources, languages in trials.together(task, folder):
        triples: list[Triple] = []
        if task.trained:
            read = sources if task.source("train").by_language else sources[0]
            loaded = load.load(task, "train", read, folder, limit=protocol.train_examples)
            triples = [example for example in loaded if isinstance(example, Triple)]
        held = {}
        if task.trained and task.source("validation").splits.validation is not None:
            # Of the tested languages where that is the task's own data, else of those trained on.
            judged = languages if task.source("validation") == task.data else sources
            held = _searches(task, "validation", judged, folder, protocol.test_examples)
        asked = _searches(task, "test", languages, folder, protocol.test_examples)
        found.append(
            Group(
                name=name,
                train=tuple(triples),
                validation=held,
                test=asked,
                fingerprint=trials.fingerprint([triples, held, asked]),
            )
        )
    return found


def _searches(
    task: Task, split: SplitName, languages: Sequence[str], folder: Path | None, limit: int | None
) -> dict[str, Search]:
    languages = languages if task.source(split).by_language else languages[:1]
    return {x: load_retrieval.search(task, split, x, folder, limit=limit) for x in languages}


def _identity(group: Group, trial: Trial, start: str, contrast: Contrast) -> Json:
    """All that the outcome of a trial depends on."""
    if not group.train:
        science = [contrast.pooling, contrast.query_prompt, contrast.document_prompt, trial.protocol.max_length]
        return {"start": start, "data": group.fingerprint, "settings": trials.digest(science)}
    named = {"name", "learning_rates", "sweep", "seeds", "select", "cite", "notes"}
    settings = [trial.protocol.model_dump(mode="json", exclude=named), asdict(contrast)]
    return {"start": start, "data": group.fingerprint, "settings": trials.digest(settings), **trial.how}


def _perform(group: Group, trial: Trial, start: Pretrained, contrast: Contrast, task: Task, report: Progress) -> Json:
    """Trains, searches; a training that diverges is written down as such."""
    try:
        retriever, course = _fit(group, trial, start, contrast, report)
    except Diverged as error:
        return {"failed": str(error), "validation": None, "validation_by_language": {}, "test": {}, "lengths": {}}
    held = {x: ranking.averages(_measured(retriever, one)) for x, one in group.validation.items()}
    test = {x: _measured(retriever, one) for x, one in group.test.items()}
    return {
        "failed": None,
        "validation": statistics.fmean(row[task.metric] for row in held.values()) if held else None,
        "validation_by_language": {x: row[task.metric] for x, row in held.items()},
        "test": {x: ranking.averages(rows) for x, rows in test.items()},
        "lengths": {x: ranking.by_length(group.test[x], rows) for x, rows in test.items()},
        "outcomes": {x: ranking.outcomes(rows) for x, rows in test.items()},
        **course,
    }


def _fit(group: Group, trial: Trial, start: Pretrained, contrast: Contrast, report: Progress) -> tuple[Retriever, Json]:
    retriever = Retriever.of(start, contrast, max_length=trial.protocol.max_length)
    if not group.train:
        return retriever, {}
    course = train(retriever, group.train, trial.protocol, rate=trial.rate, seed=trial.seed, on_progress=report)
    return retriever, trials.told(course)


def _measured(retriever: Retriever, one: Search) -> dict[str, dict[str, float]]:
    """Of each query each measure."""
    return ranking.measure(one, ranking.rank(one, retriever.queries, retriever.documents))


def _choose(group: Group, task: Task, protocol: Protocol, tried: Sequence[Trial], outcomes: Sequence[Json]) -> Json:
    """The settings of a group, by validation or, if so asked, by the test set."""
    values = [outcome["validation"] for outcome in outcomes] if group.validation else None
    if protocol.select == "oracle":
        values = selection.on_test(task, [outcome["test"] for outcome in outcomes])
    return selection.choose(task, group.name, tried, outcomes, values)


def _result(
    found: Sequence[Group], tried: Sequence[Trial], chosen: Mapping[str, Json], outcomes: Mapping[str, Sequence[Json]]
) -> Json:
    """What was found with the chosen settings; by the length of what answers, that of the first seed."""
    test, lengths, each = (
        selection.by_seed(tried, chosen, {g: [one.get(key, {}) for one in several] for g, several in outcomes.items()})
        for key in ("test", "lengths", "outcomes")  # files of older trials have no outcomes
    )
    bins = list(dict.fromkeys(name for rows in lengths[0].values() for name in rows))
    return {
        **selection.summary(test),
        "lengths": lengths[0],
        "by_length": {
            name: {
                m: statistics.fmean(rows[name][m] for rows in lengths[0].values() if name in rows)
                for m in ranking.MEASURES
            }
            for name in bins
        },
        "examples": {x: len(one.queries) for group in found for x, one in group.test.items()},
        "outcomes": selection.outcomes(each, list(test[0])),
    }
