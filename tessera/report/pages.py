"""The page: what a run did, in one HTML file that opens anywhere and loads nothing."""

import functools
import importlib.metadata
import importlib.util
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tessera.files import write_text
from tessera.report import results, style
from tessera.report.charts import Figure, altair, figures
from tessera.report.run_files import EVERYTHING, NOT_LANGUAGES, Run, open_run
from tessera.report.tables import (
    duration,
    escape,
    fold,
    tokens,
)

_POLICY = "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; img-src data:"


def write_report(run: Path) -> Path:
    """Writes `report.html` into a run folder and returns its path.

    A run that is still going on gives a report of what there is. Raises ValueError where the folder is no run,
    ImportError where altair or vl-convert is missing.
    """
    altair()
    read = open_run(Path(run))
    path = read.folder / "report.html"
    write_text(path, _page(read))
    return path


def _page(run: Run) -> str:
    drawn = figures(run)
    names = _language_names(code for codes in run.groups.values() for code in codes)
    loss, schedules = drawn.get("loss", []), drawn.get("schedules", [])
    training = _legend(run, loss + schedules) + _plots(loss) + _plots(schedules, grid=True)
    merges = "".join(results.merge_table(run, number) for number in range(len(run.recipe.merges)))
    sections = {
        "Summary": results.summary(run),
        "Training": training + _TRAINING_NOTE if training else "",
        "Mixture": _drawn(run, drawn, "mixture") + results.mixture_table(run, names),
        "Held-out text": _held_out(run, drawn, names),
        "Evaluation": "".join(results.task_tables(run, task, names) for task in results.tasks(run)),
        "Merge": merges + _drawn(run, drawn, "merge"),
        "Throughput": _drawn(run, drawn, "throughput") + results.stages_table(run),
        "Reproduce": _reproduce(run),
    }
    kept = {title: inside for title, inside in sections.items() if inside}
    links = "".join(f'<a href="#{_anchor(title)}">{escape(title)}</a>' for title in kept)
    body = "".join(f'<section id="{_anchor(t)}"><h2>{escape(t)}</h2>{inside}</section>' for t, inside in kept.items())
    specs = {figure.key: _spec(figure) for several in drawn.values() for figure in several}
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(run.recipe.name)} · tessera</title>\n<style>{style.CSS}</style>\n</head>\n<body>\n<main>\n"
        f"{_top(run)}\n<nav>{links}</nav>\n{body}\n</main>\n"
        f'<script type="application/json" id="specs">{_json(specs)}</script>\n'
        f"<script>{_vega()}</script>\n<script>{style.SCRIPT}</script>\n</body>\n</html>\n"
    )


# ------------------------------------------------------------------------------------------------------------ sections


def _top(run: Run) -> str:
    read = sum(p.tokens for p in run.phases)
    planned = sum(p.phase.tokens for p in run.phases)
    going_on = any(not p.finished for p in run.phases)
    spoken = len(run.groups.get(EVERYTHING, ()))
    stages = len(run.phases) + len(run.recipe.merges)
    facts = {
        "model": run.recipe.model.preset or "from a folder",
        "languages": f"{spoken:,}" if spoken else "–",
        "tokens read": f"{tokens(read)} of {tokens(planned)}" if going_on else tokens(read),
        "time in training": duration(sum(p.seconds for p in run.phases)),
        "stages finished": f"{stages - len(run.unfinished)} of {stages}",
    }
    tiles = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in facts.items())
    about = f"<p>{escape(run.recipe.notes)}</p>" if run.recipe.notes else ""
    return f'<h1>{escape(run.recipe.name)}</h1>{about}{_state(run)}<dl class="tiles">{tiles}</dl>'


def _state(run: Run) -> str:
    lines = [
        f"{log.name} has read {tokens(log.tokens)} of {tokens(log.phase.tokens)} tokens"
        for log in run.phases
        if log.started and not log.finished
    ]
    started = {p.name for p in run.phases if p.started or p.finished}
    waiting = [name for name in run.unfinished if name not in started]
    if waiting:
        lines.append(f"not there yet: {', '.join(waiting)}")
    lines += run.notes
    if not lines:
        return ""
    head = (
        "<p><b>This run is not finished.</b> The page shows what there is.</p>"
        if run.unfinished
        else "<p><b>Gaps</b></p>"
    )
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<div class="notes" role="note">{head}<ul>{items}</ul></div>'


_TRAINING_NOTE = (
    '<p class="small">The loss is per predicted token and depends on the mask ratio, so it compares within a phase; '
    "held-out bits per byte uses one mask ratio throughout. Dashed lines: a phase begins. "
    "Branches with equal schedules lie on one another.</p>"
)


def _held_out(run: Run, drawn: dict[str, list[Figure]], names: dict[str, str]) -> str:
    html = ""
    if "held_out" in drawn:
        html += _legend(run, drawn["held_out"]) + "<h3>Bits per byte during training, mean of each language group</h3>"
        html += _plots(drawn["held_out"], grid=True)
    return html + _drawn(run, drawn, "languages") + results.bits_table(run, names)


def _reproduce(run: Run) -> str:
    version = next((r.tessera for r in run.results if r.tessera), None) or importlib.metadata.version(
        "tessera-encoders"
    )
    lines = f'pip install "tessera-encoders=={version}"\ntessera run recipe.yaml'
    return (
        "<p>Save the recipe below as <code>recipe.yaml</code>, put the text where it says, and run:</p>"
        f"<pre>{escape(lines)}</pre>"
        f'<p class="small">Seed {run.recipe.seed}. What is under <code>machine</code> changes speed only.</p>'
        + fold("recipe.yaml", f"<pre>{escape(run.recipe_text)}</pre>")
    )


# ---------------------------------------------------------------------------------------------------- parts of a page


def _plots(several: list[Figure], grid: bool = False) -> str:
    html = ""
    for figure in several:
        title, key = escape(figure.title), escape(figure.key)
        caption = f"<figcaption>{escape(figure.caption)}</figcaption>" if figure.caption else ""
        attributes = f'style="min-height:{figure.height}px" role="img" aria-label="{title}" data-chart="{key}"'
        html += f'<figure><h3>{title}</h3><div class="chart" {attributes}></div>{caption}</figure>'
    return f'<div class="grid">{html}</div>' if grid and html else html


def _drawn(run: Run, drawn: dict[str, list[Figure]], name: str) -> str:
    several = drawn.get(name, [])
    return _legend(run, several) + _plots(several)


def _legend(run: Run, several: list[Figure]) -> str:
    """The colours of the stages in some charts: outside of them, so that it wraps on a phone."""
    shown = {stage for figure in several for stage in figure.stages}
    items = (
        f'<li><i style="background:var(--stage{number % len(style.LIGHT)})"></i>{escape(name)}</li>'
        for number, name in enumerate(run.names)
        if name in shown
    )
    return f'<ul class="legend">{"".join(items)}</ul>' if len(shown) > 1 else ""


def _spec(figure: Figure) -> dict[str, Any]:
    spec: dict[str, Any] = figure.chart.properties(width="container", height=figure.height).to_dict()
    for key in ("$schema", "config"):  # the page says both, once
        spec.pop(key, None)
    return spec | {"autosize": {"type": "fit-x", "contains": "padding"}}


def _json(data: Any) -> str:
    """JSON that cannot end the element it stands in."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


@functools.cache
def _vega() -> str:
    """Vega, Vega-Lite and Vega-Embed in one script, about 0.9 MB."""
    import vl_convert

    version = ".".join(altair().SCHEMA_VERSION.removeprefix("v").split(".")[:2])
    snippet = "window.vegaEmbed = vegaEmbed;"
    bundle: str = vl_convert.javascript_bundle(snippet, version)
    return bundle.replace("</script", "<\\/script")


def _language_names(codes: Iterable[str]) -> dict[str, str]:
    """`fao_Latn` -> Faroese; with its script where a language comes in several. The code where no name is known."""
    try:
        import langcodes
    except ImportError:
        return {}
    if importlib.util.find_spec("language_data") is None:  # where langcodes finds names
        return {}
    codes = list(dict.fromkeys(codes))
    bare = [code.partition("_")[0] for code in codes]
    names = {}
    for code, language in zip(codes, bare, strict=True):
        if code in NOT_LANGUAGES or not (2 <= len(language) <= 3 and language.isascii() and language.isalpha()):
            continue
        name = langcodes.Language.get(language).language_name()
        script = code.partition("_")[2]
        if script and bare.count(language) > 1 and script.isascii() and script.isalpha() and len(script) == 4:
            name += f" ({langcodes.Language.make(script=script).script_name()})"
        if not name.startswith("Unknown language"):
            names[code] = name
    return names


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")
