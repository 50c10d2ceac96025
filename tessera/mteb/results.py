"""What mteb found, by language and by example: the numbers of its result files as ours have them."""

import re
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from tessera.statistics import interval

Scores = Mapping[str, Sequence[Mapping[str, Any]]]  # split -> scores of each subset
_NOT_SCORES = {"main_score", "hf_subset", "languages", "mteb_version"}
_CODE = re.compile(r"[a-z]{3}_[A-Z][a-z]{3}")


def by_language(task: Any, scores: Scores) -> tuple[dict[str, dict[str, float]], dict[str, int]]:
    """({language: {metric: mean over the splits}}, {language: examples scored}); mteb's own average is over both.

    A pair with English is called by the other language; a subset that no language names alone keeps its own name.
    """
    names = _languages({row["hf_subset"]: row["languages"] for rows in scores.values() for row in rows})
    gathered: dict[str, dict[str, list[float]]] = {}
    examples: dict[str, int] = {}
    for split, rows in scores.items():
        for row in rows:
            language = names[row["hf_subset"]]
            found = _rows(task, row["hf_subset"], split)
            asked: Any = found.get("queries", found.get("sentence1")) if isinstance(found, dict) else found
            examples[language] = examples.get(language, 0) + len(asked)
            for metric, value in row.items():
                if _is_score(metric, value):
                    gathered.setdefault(language, {}).setdefault(metric, []).append(float(value))
    means = {name: {metric: statistics.fmean(v) for metric, v in row.items()} for name, row in gathered.items()}
    return means, examples


def half_widths(scores: Scores) -> dict[str, float]:
    """Half the width of the 95% interval of the average over the experiments that mteb repeats; {} without any.

    Every experiment is averaged over subsets and splits first: in all of them mteb draws the same training rows, so
    the languages are no independent samples.
    """
    series: dict[str, list[list[float]]] = {}
    for rows in scores.values():
        for row in rows:
            for metric, values in _experiments(row).items():
                series.setdefault(metric, []).append(values)
    widths = {}
    for metric, several in series.items():
        if len({len(values) for values in several}) == 1 and len(several[0]) > 1:
            runs = [statistics.fmean(column) for column in zip(*several, strict=True)]
            widths[metric] = interval(runs)[1]
    return widths


def _experiments(row: Mapping[str, Any]) -> dict[str, list[float]]:
    """{metric: one value for each experiment}"""
    if row.get("scores_per_experiment"):
        first = row["scores_per_experiment"]
        return {m: [float(one[m]) for one in first] for m, value in first[0].items() if isinstance(value, float)}
    # Of clustering, by the level of its labels; one of whole sets (a list) is of other text each time, no experiment.
    levels = {metric: row.get(key) for metric, key in (("v_measure", "v_measures"), ("ami", "ami_scores"))}
    return {
        metric: [statistics.fmean(one) for one in zip(*of.values(), strict=True)]
        for metric, of in levels.items()
        if isinstance(of, Mapping) and len({len(values) for values in of.values()}) == 1
    }


def catch_predictions(task: Any) -> dict[str, dict[str, Any]]:
    """Will hold what the task predicts, {subset: {split: predictions}}, when it has been evaluated.

    mteb writes them to one file, which it reads and writes again for each subset: minutes for some hundred languages.
    """
    caught: dict[str, dict[str, Any]] = {}

    def keep(predictions: Any, *_: Any, hf_split: str, hf_subset: str, **__: Any) -> None:
        caught.setdefault(hf_subset, {})[hf_split] = predictions

    task._save_task_predictions = keep
    return caught


def outcomes(task: Any, found: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """{metric: {language: one value for each example}} where predictions say which examples were right.

    Classification: the share of experiments that had the example right. Bitext: whether the nearest sentence was the
    translation. {} for other kinds. Examples stand in the order of the data, splits one after the other.
    """
    kind = task.metadata.type
    if kind not in ("Classification", "BitextMining") or not found:
        return {}
    mining = kind == "BitextMining"
    if mining and "parallel" in found:  # all pairs at once, as of NTREX: predictions are by pair
        splits = found["parallel"].items()
        pairs = {pair for _, said in splits for pair in said}
        found = {pair: {split: {_PAIR: said[pair]} for split, said in splits if pair in said} for pair in sorted(pairs)}
    names = _languages({subset: task.metadata.hf_subsets_to_langscripts.get(subset, []) for subset in found})
    each: dict[str, dict[str, list[float]]] = {}
    for subset, splits_of in found.items():
        for split in (split for split in task.eval_splits if split in splits_of):
            if mining:
                nearest = [one["corpus_id"] for one in splits_of[split].get(_PAIR, [])]
                rows = _rows(task, subset, split)
                # The sets of BUCC say which is whose translation; in all others they stand in one order.
                gold = [right for _, right in rows["gold"]] if isinstance(rows, dict) else range(len(nearest))
                scored = _mined(nearest, gold)
            else:
                labels = _rows(task, subset, split)[task.label_column_name]
                tries = zip(*splits_of[split], strict=True)
                right = [
                    statistics.fmean(g == label for g in guesses) for guesses, label in zip(tries, labels, strict=True)
                ]
                scored = {"accuracy": right}
            for metric, values in scored.items():
                of = each.setdefault(metric, {}).setdefault(names[subset], [])
                of.extend(round(value, 4) for value in values)
    return each


_PAIR = "sentence1-sentence2"


def _mined(nearest: Sequence[int], gold: Sequence[int]) -> dict[str, list[float]]:
    """Of each sentence whether its translation was nearest, and its F1; the means are mteb's accuracy and F1.

    Each sentence is a class of one example, so its F1 is 2 / (1 + how often it was found) where it was found rightly.
    """
    times = Counter(nearest)
    right = [float(found == true) for found, true in zip(nearest, gold, strict=True)]
    return {"accuracy": right, "f1": [hit * 2 / (1 + times[true]) for hit, true in zip(right, gold, strict=True)]}


def _languages(subsets: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """What subsets are called among results, given the codes of their languages."""
    names = {subset: _language(subset, codes) for subset, codes in subsets.items()}
    times = Counter(names.values())
    return {subset: name if times[name] == 1 else subset for subset, name in names.items()}


def _language(subset: str, codes: Sequence[str]) -> str:
    if _CODE.fullmatch(subset):
        return subset
    names = [code.replace("-", "_") for code in codes if not code.endswith("-Code")]  # CosQA's are two
    if len(names) == 2 and subset != "default":
        names = [name for name in names if not name.startswith("eng")]
    return names[0] if len(names) == 1 else subset


def _is_score(metric: str, value: Any) -> bool:
    if metric in _NOT_SCORES or isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        return False
    depth = re.search(r"_at_(\d+)$", metric)  # retrieval has a hundred more, at depths that nobody reports
    return not metric.startswith("nauc") and (depth is None or depth[1] in ("1", "10", "100"))


def _rows(task: Any, subset: str, split: str) -> Any:
    return task.dataset[subset][split] if subset in task.dataset else task.dataset[split]
