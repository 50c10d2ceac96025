"""Task scores before and after: each task in the languages that are adapted, replayed and watched, as far as it has
them."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tessera.evaluation import catalogue, load
from tessera.evaluation.evaluate import evaluate
from tessera.evaluation.rows import DataError
from tessera.plan.languages import resolve
from tessera.progress import Silent, Watcher
from tessera.results.result import read


def scores(
    models: Mapping[str, Path],
    tasks: Sequence[str],
    languages: Iterable[str],
    out: Path,
    *,
    data: str | None = None,
    protocol: str = "quick",
    watcher: Watcher | None = None,
) -> dict[str, dict[str, float]]:
    """{task (metric): {model: main metric, the mean over languages}}; results lie in `out`, and are not made twice.

    models     by name
    languages  a task that has none of them is measured in all of its own
    """
    watcher, mine = watcher or Silent(), list(languages)
    found: dict[str, dict[str, float]] = {}
    for name in tasks:
        chosen = languages_of(name, mine, data)
        for model, folder in models.items():
            progress = watcher.progress(f"{name}: {model}")
            given = {"protocol": protocol, "data": data, "languages": chosen, "name": model, "on_progress": progress}
            for path in evaluate(folder, [name], out, **given):  # type: ignore[arg-type]
                result = read(path)
                values = [row[result.metric] for row in result.results.values() if result.metric in row]
                if values:
                    row = found.setdefault(f"{result.task} ({result.metric}, {_said(chosen, len(values))})", {})
                    row[model] = sum(values) / len(values)
    return found


def languages_of(name: str, mine: Sequence[str], data: str | None) -> list[str]:
    """Those of the languages that a task has, as it calls them; empty where it has none, or does not say."""
    try:
        there = {
            code for task in catalogue.choose([name]) for code in load.languages(task, Path(data) if data else None)
        }
    except DataError:
        return []
    return sorted({code for language in mine for code in resolve(language, there)})


def _said(chosen: Sequence[str], count: int) -> str:
    return "+".join(chosen) if 0 < len(chosen) <= 3 else f"{count} languages"
