"""Results beside one another and beside published ones: tables, what differs for certain, and CSV."""

import csv
import math
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tessera.files import atomic_file, csv_cells
from tessera.plan.errors import did_you_mean, some
from tessera.plan.languages import resolve
from tessera.report.tables import LOWER_IS_BETTER
from tessera.results.published import AVERAGE, EUROPEAN, Score, read, read_published
from tessera.results.remarks import of_one_name
from tessera.results.result import OWN
from tessera.results.significance import Verdict, differ

_YOURS = " (yours)"  # a task of the user's own by the name of another
_SHORT = 30  # languages of a table that nobody asked for
SUITES = {  # whose average papers print, every task counting once
    "glue": ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte"),
    "xtreme": ("xnli", "paws-x", "xcopa", "xquad", "mlqa", "tydiqa", "wikiann", "udpos"),
}


Table = tuple[str, list[str], list[list[str]]]
"""Title, columns, rows; the first column holds words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Results by task, our own first, and what is known of their differences from the reference."""

    tasks: dict[str, list[Score]]
    verdicts: dict[tuple[str, str], Verdict]  # (task, model) -> against the reference, where it could be judged
    reference: str | None  # the model that others are measured against
    left_out: tuple[str, ...] = ()  # in words, what of the folders is no result or is damaged

    @property
    def models(self) -> list[str]:
        """What tables and pictures call them: our own first."""
        results = [result for several in self.tasks.values() for result in several]
        return list(dict.fromkeys(result.label for result in sorted(results, key=lambda result: bool(result.source))))

    def verdict(self, result: Score | None) -> Verdict | None:
        """Whether a result differs from the reference; None where that could not be judged."""
        return None if result is None or result.source else self.verdicts.get((result.task, result.name))


def compare(
    paths: Sequence[str | Path],
    *,
    published: bool = False,
    tasks: Iterable[str] = (),
    models: Iterable[str] = (),
    metric: str | None = None,
    reference: str | None = None,
    common: bool = False,
    languages: Sequence[str] = (),
) -> Comparison:
    """Reads results and puts them side by side, task by task.

    paths      result files, or folders that hold some
    published  also what papers and leaderboards report, on the tasks that the results have; all tasks without any paths
    tasks      only these
    models     only these of the published ones
    metric     instead of each task's own
    reference  the model that others are compared with; None: the first
    common     averages over the languages that all results of a task have, those without languages left out
    languages  only these, by any code (plan/languages.py), and averages over them

    A task of the user's own by the name of one that comes along is another task: it is called so and stands apart.
    Raises ValueError naming a file that is no result, or a task, model or language that nobody has.
    """
    left_out: list[str] = []
    found = {one.path: one for path in paths for one in read(Path(path).resolve(), metric, left_out)}  # each file once
    theirs = read_published() if published or not paths else []
    ours = _told_apart(_own_apart(list(found.values()), {result.task for result in theirs}))
    if languages:
        ours, theirs = _in_languages(ours, languages), _in_languages(theirs, languages)
        if not ours + theirs:
            raise ValueError(f"no result has a language of {', '.join(languages)}; write it as ron, ron_Latn or ro")
    ours += _suites(ours)
    theirs += _suites(theirs)
    known = {result.task.lower(): result.task for result in [*theirs, *ours]}
    wanted = _asked(tasks, known) or list(dict.fromkeys(r.task.lower() for r in (ours if paths else theirs)))
    chosen, names = list(models), sorted({name for result in theirs for name in (result.name, result.model)})
    for name in chosen:
        if name not in names:
            raise ValueError(f"nobody published results of {name!r} here; {did_you_mean(name, names)}")
    together: dict[str, list[Score]] = {}
    for task in wanted:
        own = [result for result in ours if result.task.lower() == task]
        metrics = {result.metric: result for result in own}
        if len(metrics) > 1:
            several = ", ".join(f"{one.path} by {name}" for name, one in metrics.items())
            raise ValueError(f"task {known[task]}: {several}; name the one to compare by (--metric), or compare apart")
        other = [r for r in theirs if r.task.lower() == task and (not chosen or {r.name, r.model} & set(chosen))]
        beside = own + [r for r in other if not metrics or r.metric in metrics]
        together[known[task]] = _shared(beside) if common else beside
    first = reference or next((result.name for result in ours), None)
    if reference is not None and reference not in {result.name for result in ours}:
        raise ValueError(
            f"reference is {reference!r}; {did_you_mean(reference, {r.name for r in ours})} (published results come "
            "without the spread that a comparison needs)"
        )
    return Comparison(
        tasks=together, verdicts=_verdicts(together, first), reference=first, left_out=tuple(dict.fromkeys(left_out))
    )


def _asked(tasks: Iterable[str], known: dict[str, str]) -> list[str]:
    """The tasks that are asked for, in small letters; of two by one name that which is not the user's own."""
    wanted = []
    for task in (task.lower() for task in tasks):
        found = next((name for name in (task, task + _YOURS) if name in known), None)
        if found is None:
            raise ValueError(f"no result is of task {task!r}; {did_you_mean(task, known.values())}")
        wanted.append(found)
    return wanted


def tables(comparison: Comparison, languages: bool = False) -> tuple[list[Table], list[str]]:
    """(tables, notes): averages of all tasks first; then each task by language, where asked for or if short."""
    models, notes = comparison.models, _notes(comparison)
    made: list[Table] = [("Averages", ["task", "metric", *models], _averages(comparison, models))]
    for task, results in comparison.tasks.items():
        codes = sorted({code for result in results for code in result.values})
        if codes and (languages or (len(comparison.tasks) == 1 and len(codes) <= _SHORT)):
            rows = [[code, *(_number(r.values.get(code)) for r in results)] for code in codes]
            made.append((f"{task}, {results[0].metric}", ["language", *(r.label for r in results)], rows))
        elif len(codes) > 1:
            notes.append(f"{task} has {len(codes)} languages; tessera compare --languages shows each")
    return made, notes


def write_csv(comparison: Comparison, path: Path) -> None:
    """One row for each value, with what is known of its certainty."""
    head = ["model", "size", "task", "metric", "language", "length", "value", "half_width", "interval_over"]
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as draft, draft.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*head, "differs_from", "difference", "p", "test", "source"])
        for task, results in comparison.tasks.items():
            for one in results:
                start = [one.model, one.size, task, one.metric]
                verdict = comparison.verdict(one)
                judged = [comparison.reference, verdict.difference, verdict.p, verdict.test] if verdict else [""] * 4
                if one.average is not None:
                    average = [*start, AVERAGE, "", one.average, one.half, one.over, *judged, one.source]
                    writer.writerow(csv_cells(average))
                empty = ["", "", "", "", "", "", one.source]
                rows = [[*start, code, "", value, *empty] for code, value in one.values.items()]
                rows += [[*start, AVERAGE, name, value, *empty] for name, value in one.by_length.items()]
                writer.writerows(map(csv_cells, rows))


def _averages(comparison: Comparison, models: list[str]) -> list[list[str]]:
    rows = []
    for task, results in comparison.tasks.items():
        by_model: dict[str, Score] = {}
        for result in results:
            by_model.setdefault(result.label, result)
        metric = results[0].metric if results else ""
        cells = [_cell(by_model.get(name), comparison) for name in models]
        if any(cells):
            rows.append([task, metric, *cells])
        european = [_number(by_model[name].european) if name in by_model else "" for name in models]
        if any(r.source and EUROPEAN in r.values for r in results) and any(european):
            rows.append([f"{task}, European languages", metric, *european])
    return rows


def _cell(result: Score | None, comparison: Comparison) -> str:
    if result is None or result.average is None:
        return ""
    verdict = comparison.verdict(result)
    mark = "" if verdict is None else {1: " +", -1: " -", 0: " ="}[verdict.sign]
    spread = "" if result.half is None else f" ±{_number(result.half)}"
    return f"{_number(result.average)}{spread}{' °' if result.oracle else ''}{mark}"


def _notes(comparison: Comparison) -> list[str]:
    results = [result for several in comparison.tasks.values() for result in several]
    notes = list(comparison.left_out)
    if overs := sorted({result.over for result in results if result.over}):
        notes.append(f"± half of the 95% interval of the average, over {', '.join(overs)}")
    if comparison.verdicts:
        notes.append(f"+ - = : better, worse than, or not told apart from {comparison.reference} (p < 0.05)")
    tests: dict[str, list[str]] = {}
    for (task, model), verdict in comparison.verdicts.items():
        tests.setdefault(verdict.test, []).append(f"{task} {model} p={verdict.p:.2g}")
    notes += [f"  {test}: {'; '.join(where)}" for test, where in tests.items()]
    if any(result.oracle for result in results):
        notes.append("° settings chosen on the test set: an upper bound, not a result")
    notes += _remarks(results)
    for task, several in comparison.tasks.items():
        notes += [
            f"{task}: {line}"
            for line in of_one_name([(r.name, r.protocol, r.settings) for r in several if not r.source])
        ]
    for task, several in comparison.tasks.items():
        spoken = {result.label: set(result.values) - {EUROPEAN} for result in several}
        spoken = {label: codes for label, codes in spoken.items() if codes}
        shared = set.intersection(*spoken.values()) if spoken else set()
        if any(len(codes) > 1.1 * len(shared) for codes in spoken.values()):
            sizes = ", ".join(f"{label} has {len(codes)}" for label, codes in spoken.items())
            notes.append(f"{task}: averages are over different languages ({sizes}; {len(shared)} shared): see --common")
    sources = sorted({result.source for result in results if result.source})
    if sources:
        notes.append(f"† published, without spread, so nothing is said of differences: {'; '.join(sources)}")
    return notes


def _remarks(results: list[Score]) -> list[str]:
    """What is to be known of our own results, each once, with the results that it is of."""
    said: dict[str, list[str]] = {}
    for one in results:
        for remark in one.remarks:
            said.setdefault(remark, []).append(f"{one.task} {one.name}")
        if one.task.endswith(_YOURS):
            why = "a task of your own by the name of another, so neither that nor what is published stands beside it"
            said.setdefault(why, []).append(one.task)
    beside = {one.task for one in results if one.source}
    for one in (one for one in results if one.limit is not None and one.task in beside):
        few = f"at most {one.limit} examples of a language were tested, of published results all"
        said.setdefault(few, []).append(f"{one.task} {one.name}")
    lines = [f"{', '.join(dict.fromkeys(of))}: {remark}" for remark, of in said.items()]
    dtypes: dict[str, list[str]] = {}
    for one in (one for one in results if one.dtype):
        dtypes.setdefault(one.dtype, []).append(f"{one.task} {one.name}")
    if len(dtypes) == 1:
        lines.append(f"computed in {next(iter(dtypes))}")
    elif dtypes:
        lines.append("computed in " + "; ".join(f"{dtype}: {some(of, 8)}" for dtype, of in sorted(dtypes.items())))
    return lines


def _verdicts(tasks: dict[str, list[Score]], reference: str | None) -> dict[tuple[str, str], Verdict]:
    """Of our own results alone: published ones have no spread."""
    found = {}
    for task, results in tasks.items():
        base = next((r for r in results if r.name == reference and not r.source), None)
        for one in results:
            if base is None or one is base or one.source or one.metric != base.metric:
                continue
            verdict = differ(one, base, lower_is_better=one.metric in LOWER_IS_BETTER)
            if verdict is not None:
                found[task, one.name] = verdict
    return found


def _own_apart(results: list[Score], names: set[str]) -> list[Score]:
    """Tasks of the user's own that bear the name of one that comes along, or was published, are called so."""
    named = {name.lower() for name in names} | {one.task.lower() for one in results if one.defined != OWN}
    return [
        replace(one, task=one.task + _YOURS) if one.defined == OWN and one.task.lower() in named else one
        for one in results
    ]


def _told_apart(results: list[Score]) -> list[Score]:
    """Several results of one model on one task are called by their protocols too; if that is one, by where they lie.

    Raises ValueError where even so two would have one name.
    """
    ways = {(r.model, r.task, r.protocol) for r in results}
    named = Counter((model, task) for model, task, _ in ways)
    results = [replace(r, model=f"{r.model} ({r.protocol})") if named[r.model, r.task] > 1 else r for r in results]
    times = Counter((r.model, r.task) for r in results)
    twins = {model for (model, _), number in times.items() if number > 1}
    places = _short({r.path.parent for r in results if r.model in twins and r.path is not None})
    named_by: dict[tuple[str, str], Score] = {}
    for place, one in enumerate(results):
        if one.model in twins and one.path is not None:
            results[place] = one = replace(one, model=f"{one.model} ({places[one.path.parent]})")
        other = named_by.setdefault((one.model, one.task), one)
        if other is not one:
            raise ValueError(f"{other.path} and {one.path} are both {one.model} on {one.task}; leave one of them out")
    return results


def _short(folders: set[Path]) -> dict[Path, str]:
    """The shortest ends of some folders that tell them apart."""
    names: dict[Path, str] = {}
    for end in range(1, 1 + max((len(folder.parts) for folder in folders), default=0)):
        names = {folder: "/".join(folder.parts[-end:]) for folder in folders}
        if len(set(names.values())) == len(names):
            break
    return names


def _shared(results: list[Score]) -> list[Score]:
    """Results on the languages that all of them have."""
    spoken = [result for result in results if result.values]
    codes = set.intersection(*(set(result.values) for result in spoken)) if spoken else set()
    codes -= {EUROPEAN}
    return [_among(one, codes) for one in spoken] if codes else []


def _in_languages(results: list[Score], languages: Sequence[str]) -> list[Score]:
    """Results in some languages; those that have none of them are left out."""
    meant = [(one, {code for asked in languages for code in resolve(asked, one.values)}) for one in results]
    return [_among(one, codes) for one, codes in meant if codes]


def _among(one: Score, codes: Collection[str]) -> Score:
    """The result on some of its languages."""
    values = {code: value for code, value in one.values.items() if code in codes}
    outcomes = {code: row for code, row in one.outcomes.items() if code in codes}
    same = values.keys() == one.values.keys()
    average = one.average if same and one.average is not None else sum(values.values()) / len(values)
    half, lengths = (one.half, one.by_length) if same else (None, {})
    return replace(one, values=values, outcomes=outcomes, average=average, half=half, by_length=lengths)


def _suites(results: Sequence[Score]) -> list[Score]:
    """Averages over the tasks of GLUE and XTREME for models that have them all, each task counting once."""
    made = []
    for suite, members in SUITES.items():
        for model in dict.fromkeys((result.name, result.source) for result in results):
            found = {
                r.task: r for r in results if (r.name, r.source) == model and r.task in members and r.defined != OWN
            }
            values = [r.average for r in found.values() if r.average is not None]
            if len(values) == len(members):
                some = next(iter(found.values()))
                oracle = any(r.oracle for r in found.values())
                average = sum(values) / len(values)
                made.append(replace(some, task=suite, metric=AVERAGE, values={}, average=average, half=None, over="",
                                    outcomes={}, by_length={}, data=None, oracle=oracle))  # fmt: skip
    return made


def _number(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return ""
    return f"{value:.3f}" if abs(value) < 0.1 else f"{value:,.0f}" if value >= 1000 else f"{value:.2f}"
