"""A retrieval task under a protocol: trained by contrast with every rate and seed, chosen on validation, then tested.

    <out>/<model>.<task>.<protocol>.json             the result; with .oracle before .json where test was chosen on
    <out>/trials/<model>.<task>/<languages>/*.json   one file for each trial, whole or not there

A trial whose file was made from the same weights, texts and settings is finished and is not run again. A task with
`train: none` is searched with the model as it is.
"""

import hashlib
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tessera import __version__
from tessera.evaluation import collection, data, metrics, search, suite, trials
from tessera.evaluation.contrast import train
from tessera.evaluation.data import Search, Triple
from tessera.evaluation.finetune import Diverged
from tessera.evaluation.learner import Pretrained, pretrained
from tessera.evaluation.retriever import Contrast, Retriever
from tessera.evaluation.trials import Json, Trial
from tessera.plan.recipe import Machine
from tessera.plan.strict import name_of
from tessera.plan.task import Protocol, SplitName, Task
from tessera.plan.whole import write_json

Progress = Callable[[int, int, str], None]
Scores = dict[str, dict[str, float]]  # language -> measure -> value


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
    model = name or name_of(model_folder)
    report = on_progress or (lambda done, total, what: None)
    start = _Start(model_folder, machine or Machine())
    found = groups(task, protocol, None if data_folder is None else Path(data_folder))
    if keep is not None and (len(found) > 1 or not task.trained):
        raise ValueError(f"task {task.name} trains {len(found) if task.trained else 'no'} models; `keep` keeps one")
    tried = trials.trials(protocol) if task.trained else [Trial(protocol=protocol, rate=0.0, seed=protocol.seeds[0])]
    folder = out / "trials" / f"{model}.{task.name}"
    outcomes = {g.name: _outcomes(g, tried, start, contrast, task, folder, report) for g in found}
    chosen = {group.name: _choose(group, task, protocol, tried, outcomes[group.name]) for group in found}
    if keep is not None:
        best = next(trial for trial in tried if trial.choice == chosen[found[0].name])
        _fit(found[0], best, start.loaded(), contrast, report)[0].save(model_folder, Path(keep))
    whole = {
        "model": model,
        **_head(task, protocol, contrast),
        "fingerprint": start.fingerprint,
        "data": _hash([group.fingerprint for group in found]),
        **_result(found, tried, chosen, outcomes),
        "chosen": chosen,
        "trials": [
            _trial(group, trial, outcome)
            for group in found
            for trial, outcome in zip(tried, outcomes[group.name], strict=True)
        ],
        "seconds": round(sum(one["seconds"] for several in outcomes.values() for one in several), 2),
        "seconds_now": round(time.perf_counter() - began, 2),
        "tessera": __version__,
    }
    mark = ".oracle" if whole["oracle"] else ""
    path = out / f"{model}.{task.name}.{protocol.name}{mark}.json"
    write_json(path, whole)
    return path


def _head(task: Task, protocol: Protocol, contrast: Contrast) -> Json:
    said = protocol.model_dump(mode="json", by_alias=True)
    return {
        "task": task.name,
        "kind": task.kind,
        "metric": task.metric,
        "protocol": said,
        "protocol_hash": _hash([said, asdict(contrast)]),
        "contrast": asdict(contrast),
        "oracle": protocol.select == "oracle" and task.trained,
        "seeds": list(protocol.seeds) if task.trained else [],
    }


def _outcomes(
    group: Group,
    tried: Sequence[Trial],
    start: "_Start",
    contrast: Contrast,
    task: Task,
    folder: Path,
    report: Progress,
) -> list[Json]:
    """The outcome of each trial; what is not finished is run."""
    outcomes = []
    for number, trial in enumerate(tried):
        path = folder / group.name / f"{trial.name if group.train else 'untrained'}.json"
        of = _identity(group, trial, start.fingerprint, contrast)
        outcome = trials.finished(path, of)
        if outcome is None:
            what = f"{task.name} {group.name}: trial {number + 1} of {len(tried)}, rate {trial.rate:g}"
            outcome = _perform(group, trial, start.loaded(), contrast, task, _telling(report, what))
            outcome = {"identity": of, **outcome, "tessera": __version__}
            write_json(path, outcome)
        outcomes.append(outcome)
    return outcomes


class _Start:
    """What every trial begins with, read when the first one does."""

    def __init__(self, folder: Path, machine: Machine) -> None:
        self.fingerprint = suite.fingerprint(folder)
        self._folder, self._machine = folder, machine
        self._loaded: Pretrained | None = None

    def loaded(self) -> Pretrained:
        self._loaded = self._loaded or pretrained(self._folder, self._machine)
        return self._loaded


def groups(task: Task, protocol: Protocol, folder: Path | None) -> list[Group]:
    """The data of a task, by what is trained together. Raises DataError as data.load and collection.search do."""
    if task.kind != "retrieve":
        raise ValueError(f"task {task.name}: kind {task.kind} is not of retrieval")
    tested = data.languages(task, folder)
    together: dict[tuple[str, ...], list[str]] = {}
    for language in tested:
        together.setdefault(task.trained_on(language) if task.trained else (), []).append(language)
    found = []
    for trained, languages in together.items():
        sources = trained or tested
        triples: list[Triple] = []
        if task.trained:
            read = sources if task.source("train").by_language else sources[0]
            loaded = data.load(task, "train", read, folder, limit=protocol.train_examples)
            triples = [example for example in loaded if isinstance(example, Triple)]
        held = {}
        if task.trained and task.source("validation").splits.validation is not None:
            # Of the tested languages where that is the task's own data, else of those trained on.
            judged = languages if task.source("validation") == task.data else sources
            held = _searches(task, "validation", judged, folder, protocol.test_examples)
        asked = _searches(task, "test", languages, folder, protocol.test_examples)
        found.append(
            Group(
                name="untrained" if not task.trained else _name(trained, sources),
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
    return {x: collection.search(task, split, x, folder, limit=limit) for x in languages}


def _name(trained: Sequence[str], sources: Sequence[str]) -> str:
    return "+".join(trained) if 0 < len(trained) < 4 else f"{len(sources)}-languages"


def _identity(group: Group, trial: Trial, start: str, contrast: Contrast) -> Json:
    """All that the outcome of a trial depends on."""
    if not group.train:
        science = [contrast.pooling, contrast.query_prompt, contrast.document_prompt, trial.protocol.max_length]
        return {"start": start, "data": group.fingerprint, "settings": _hash(science)}
    named = {"name", "learning_rates", "sweep", "seeds", "select", "cite", "notes"}
    settings = [trial.protocol.model_dump(mode="json", exclude=named), asdict(contrast)]
    whole = {"start": start, "data": group.fingerprint, "settings": _hash(settings), **trial.choice}
    return {**whole, "seed": trial.seed}


def _perform(group: Group, trial: Trial, start: Pretrained, contrast: Contrast, task: Task, report: Progress) -> Json:
    """Trains, searches; a training that diverges is written down as such."""
    began = time.perf_counter()
    outcome: Json
    try:
        retriever, course = _fit(group, trial, start, contrast, report)
    except Diverged as error:
        outcome = {"failed": str(error), "validation": None, "validation_by_language": {}, "test": {}, "lengths": {}}
    else:
        held = {x: _measured(retriever, one)[0] for x, one in group.validation.items()}
        test = {x: _measured(retriever, one) for x, one in group.test.items()}
        outcome = {
            "failed": None,
            "validation": statistics.fmean(row[task.metric] for row in held.values()) if held else None,
            "validation_by_language": {x: row[task.metric] for x, row in held.items()},
            "test": {x: row for x, (row, _) in test.items()},
            "lengths": {x: lengths for x, (_, lengths) in test.items()},
            **course,
        }
    return {**outcome, "seconds": round(time.perf_counter() - began, 2)}


def _fit(group: Group, trial: Trial, start: Pretrained, contrast: Contrast, report: Progress) -> tuple[Retriever, Json]:
    retriever = Retriever.of(start, contrast, max_length=trial.protocol.max_length)
    if not group.train:
        return retriever, {}
    course = train(retriever, group.train, trial.protocol, rate=trial.rate, seed=trial.seed, on_progress=report)
    last = course.losses[-max(1, len(course.losses) // 10) :]
    return retriever, {
        "steps": course.steps,
        "tokens": course.tokens,
        "loss": statistics.fmean(last),
    }  # of its last tenth


def _measured(retriever: Retriever, one: Search) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Means over queries, and the same by the length of what answers them."""
    rows = search.measure(one, search.rank(one, retriever.queries, retriever.documents))
    return search.averages(rows), search.by_length(one, rows)


def _choose(group: Group, task: Task, protocol: Protocol, tried: Sequence[Trial], outcomes: Sequence[Json]) -> Json:
    """The settings whose mean over seeds is best on validation, or on test if so asked; the first of equals."""
    if not group.train:
        return {}
    choices: dict[str, list[int]] = {}
    for number, trial in enumerate(tried):
        choices.setdefault(json.dumps(trial.choice), []).append(number)
    whole = {key: numbers for key, numbers in choices.items() if not any(outcomes[n]["failed"] for n in numbers)}
    if not whole:
        failed = next(outcome["failed"] for outcome in outcomes if outcome["failed"])
        raise ValueError(
            f"task {task.name}, {group.name}: of no settings did all seeds go well ({failed}); try lower rates"
        )
    if len(choices) == 1:
        return tried[0].choice
    if protocol.select == "oracle":
        value = [statistics.fmean([row[task.metric] for row in o["test"].values()] or [0.0]) for o in outcomes]
    elif group.validation:
        value = [outcome["validation"] for outcome in outcomes]
    else:
        raise ValueError(
            f"task {task.name}: {len(choices)} settings are tried, but there is no validation set to choose on; "
            "give the task one (splits: {validation: {from: train, share: 0.1}}), or try a single rate"
        )
    best = max(whole, key=lambda key: statistics.fmean(value[n] for n in whole[key]))
    return tried[whole[best][0]].choice


def _result(
    found: Sequence[Group], tried: Sequence[Trial], chosen: Mapping[str, Json], outcomes: Mapping[str, Sequence[Json]]
) -> Json:
    """Means over seeds of what was chosen, by language and on average, and half the 95% interval of the averages."""
    kept = {
        g.name: [o for t, o in zip(tried, outcomes[g.name], strict=True) if not g.train or t.choice == chosen[g.name]]
        for g in found
    }
    seeds: list[Scores] = [{} for _ in next(iter(kept.values()))]
    for several in kept.values():
        for scores, outcome in zip(seeds, several, strict=True):
            scores.update(outcome["test"])
    names = list(search.MEASURES)
    averages = {m: [statistics.fmean(row[m] for row in seed.values()) for seed in seeds] for m in names}
    lengths = {x: rows for g in found for x, rows in kept[g.name][0]["lengths"].items()}  # of the first seed
    bins = list(dict.fromkeys(name for rows in lengths.values() for name in rows))
    return {
        "results": {x: {m: statistics.fmean(seed[x][m] for seed in seeds) for m in names} for x in seeds[0]},
        "average": {m: statistics.fmean(values) for m, values in averages.items()},
        "interval": {m: metrics.interval(v)[1] if len(v) > 1 else None for m, v in averages.items()},
        "lengths": lengths,
        "by_length": {
            name: {m: statistics.fmean(rows[name][m] for rows in lengths.values() if name in rows) for m in names}
            for name in bins
        },
        "examples": {x: len(one.queries) for g in found for x, one in g.test.items()},
    }


def _trial(group: Group, trial: Trial, outcome: Json) -> Json:
    """What the result says of a trial."""
    said = ("validation", "validation_by_language", "failed", "steps", "tokens", "loss", "seconds", "test")
    how = {**trial.choice, "seed": trial.seed} if group.train else {}
    return {"trained_on": group.name, **how, **{key: outcome[key] for key in said if key in outcome}}


def _telling(report: Progress, what: str) -> Progress:
    return lambda done, total, doing: report(done, total, f"{what}: {doing}")


def _hash(what: object) -> str:
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]
