"""The HTML report of a run: what it did, in one file that opens anywhere and loads nothing; and its summary as data.

templates/page.html is the page with the order of its sections; here is what stands in it.
"""

import importlib.metadata
import importlib.util
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tessera.files import write_text
from tessera.plan.architecture import parameters
from tessera.report import results, style
from tessera.report.charts import Figure, figures
from tessera.report.run_files import EVERYTHING, NOT_LANGUAGES, Run, open_run
from tessera.report.tables import duration, tokens


def write_report(run: Path) -> Path:
    """Writes `report.html` into a run folder and returns its path.

    A run that is still going on gives a report of what there is. Raises ValueError where the folder is no run,
    ImportError where altair or vl-convert is missing.
    """
    style.altair()
    read = open_run(Path(run))
    path = read.folder / "report.html"
    write_text(path, _page(read))
    return path


def summarize(folder: Path) -> dict[str, Any]:
    """Of a run: {"tables": [{"title", "columns", "rows", "digits"}], "paths": {name: path}}.

    The short tables that a run ends with, for the terminal and for summary.json: a row is a model, a column a language
    group.
    """
    run = open_run(folder)
    tables = []
    for title, metric, values in results.measures(run):
        factor, digits = (100, 1) if metric == "accuracy" else (1, 3)
        groups, means = results.by_group(run, values)
        rows = [
            [model, *(None if mean is None else round(factor * mean, digits) for mean in of)]
            for model, of in means.items()
        ]
        tables.append({"title": title, "columns": ["model", *groups], "rows": rows, "digits": digits})
    finished = [folder / name / "final" for name in run.models if (folder / name / "final").exists()]
    paths = {"model": str(finished[-1])} if finished else {}
    embedders = [folder / name / "embedder" for name in run.models if (folder / name / "embedder").exists()]
    paths |= {"embedder": str(embedders[-1])} if embedders else {}
    return {"tables": tables, "paths": {**paths, "report": str(folder / "report.html")}}


def _page(run: Run) -> str:
    drawn = figures(run)
    names = _language_names(code for codes in run.groups.values() for code in codes)
    version = next((r.tessera for r in run.results if r.tessera), None)
    return style.render(
        "page.html",
        title=run.recipe.name,
        run=run,
        facts=_facts(run),
        gaps=_gaps(run),
        drawn=drawn,
        colours={name: number % len(style.LIGHT) for number, name in enumerate(run.names)},
        summary=results.summary(run),
        mixture=results.mixture(run, names),
        bits=results.bits_per_byte(run, names),
        evaluation=[table for task in results.tasks(run) for table in results.of_task(run, task, names)],
        merges=[table for merge in run.recipe.merges for table in results.of_merge(run, merge)],
        stages=results.stages(run),
        version=version or importlib.metadata.version("tessera-encoders"),
        specs={figure.key: _spec(figure) for several in drawn.values() for figure in several},
    )


def _facts(run: Run) -> dict[str, str]:
    """The tiles on top."""
    read, planned = sum(p.tokens for p in run.phases), sum(p.phase.tokens for p in run.phases)
    going_on = any(not p.finished for p in run.phases)
    spoken = len(run.groups.get(EVERYTHING, ()))
    stages = len(run.phases) + len(run.recipe.merges)
    return {
        **_model(run),
        "languages": f"{spoken:,}" if spoken else "–",
        "tokens read": f"{tokens(read)} of {tokens(planned)}" if going_on else tokens(read),
        "time in training": duration(sum(p.seconds for p in run.phases)),
        "stages finished": f"{stages - len(run.unfinished)} of {stages}",
    }


def _model(run: Run) -> dict[str, str]:
    """The preset where the model has its shape, else how many parameters it has."""
    given = run.recipe.model
    if given.preset is None or not given.override:
        return {"model": given.preset or "from a folder"}
    size = (
        parameters(given.config().model_copy(update={"vocab_size": run.vocab_size}))["total"]
        if run.vocab_size
        else None
    )
    return {"parameters": tokens(size)} if size else {"model": "a shape of its own"}


def _gaps(run: Run) -> list[str]:
    """What is not there, or not yet."""
    going_on = [log for log in run.phases if log.started and not log.finished]
    lines = [f"{log.name} has read {tokens(log.tokens)} of {tokens(log.phase.tokens)} tokens" for log in going_on]
    waiting = [name for name in run.unfinished if name not in {log.name for log in going_on}]
    return [*lines, *([f"not there yet: {', '.join(waiting)}"] if waiting else []), *run.notes]


def _spec(figure: Figure) -> dict[str, Any]:
    """A chart as Vega-Lite, of the width of its place."""
    spec: dict[str, Any] = style.drawable(figure.chart.properties(width="container", height=figure.height).to_dict())
    for key in ("$schema", "config"):  # the page says both, once
        spec.pop(key, None)
    return spec | {"autosize": {"type": "fit-x", "contains": "padding"}}


def _language_names(codes: Iterable[str]) -> dict[str, str]:
    """`fao_Latn` -> Faroese; with its script where a language comes in several. The code where no name is known."""
    if not all(map(importlib.util.find_spec, ("langcodes", "language_data"))):  # the second has the names
        return {}
    import langcodes

    codes = list(dict.fromkeys(codes))
    bare = [code.partition("_")[0] for code in codes]
    names = {}
    for code, language in zip(codes, bare, strict=True):
        if code in NOT_LANGUAGES or not re.fullmatch("[A-Za-z]{2,3}", language):
            continue
        name = langcodes.Language.get(language).language_name()
        script = code.partition("_")[2]
        if bare.count(language) > 1 and re.fullmatch("[A-Za-z]{4}", script):
            name += f" ({langcodes.Language.make(script=script).script_name()})"
        if not name.startswith("Unknown language"):
            names[code] = name
    return names
