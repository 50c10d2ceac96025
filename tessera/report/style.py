"""Plotting style and HTML rendering: colours, templates (jinja2, autoescaped), a chart as a PNG, SVG or HTML file.

All HTML of the house is made here, so a text out of a file is escaped, in JSON too, and a page loads nothing: fonts are
the reader's own, and a content security policy forbids every request.
"""

import functools
import re
from pathlib import Path
from typing import Any

from tessera.files import atomic_file, write_text
from tessera.plan.shipped import pip_line

# Stages take these colours in the order of the recipe, on light and on dark ground.
LIGHT = ("#2f5f9e", "#c06a24", "#35845e", "#9a4a8b", "#8a7a1f", "#2f8fa6", "#b3423f", "#6d6d78")
DARK = ("#7fb0ea", "#eda064", "#6dc79d", "#d992cb", "#cfc268", "#7dcfe2", "#ee8b86", "#acacb8")

INK = {"text": "#1c2128", "muted": "#5b6470", "line": "#d9dde3", "grid": "#e8ebef"}
TOKENS = "replace(format(datum.value, '~s'), 'G', 'B')"  # d3 writes 10^9 as G (giga); token counts are written with B
# What XML does not allow, and bidi overrides, which turn what is read.
_UNDRAWABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")
_FORMATS = (".png", ".svg", ".html")


def altair() -> Any:
    """The altair module, asked for at the door."""
    try:
        import altair
        import vl_convert  # noqa: F401  # draws altair's images and holds the scripts for pages
    except ImportError:
        raise ImportError(f"the report needs altair and vl-convert; {pip_line('report')}") from None
    return altair


def render(template: str, **values: Any) -> str:
    """A page from report/templates; every value is escaped where it is put in, by `tojson` where it is JSON."""
    from markupsafe import Markup

    bundle = Markup(_vega().replace("</script", "<\\/script"))  # nothing of a run is in it
    return str(_templates().get_template(template).render(vega=bundle, light=LIGHT, dark=DARK, **values))


@functools.cache
def _templates() -> Any:
    import jinja2

    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    made.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    return made


@functools.cache
def _vega() -> str:
    """Vega, Vega-Lite and Vega-Embed in one script, about 0.9 MB."""
    import vl_convert

    return str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", _version()))


# -------------------------------------------------------------------------------------------------------- a chart alone


def check_picture(path: Path) -> None:
    """Raises ValueError where a picture cannot have this name: before anything is drawn."""
    if path.suffix.lower() not in _FORMATS:
        raise ValueError(f"--plot: {path} cannot be written; give a name that ends in one of {', '.join(_FORMATS)}")


def write_picture(chart: Any, path: Path, *, scale: float = 2.0, **legend: Any) -> Path:
    """Writes a chart as a document shows it, and returns the file.

    path    ends in .png, .svg or .html, the last of which opens without a network
    scale   pixels of a PNG for each of the chart
    legend  of altair's configure_legend
    """
    axis = {"labelColor": INK["muted"], "titleColor": INK["muted"], "titleFontWeight": "normal", "titlePadding": 8}
    lines = {"gridColor": INK["grid"], "domainColor": INK["line"], "tickColor": INK["line"], "labelFlush": False}
    whole = (
        chart.configure(background="white", font="Liberation Sans, sans-serif", padding=12)
        .configure_axis(**axis, **lines)
        .configure_view(stroke=None)
        .configure_title(anchor="start", color=INK["text"], fontSize=14, subtitleColor=INK["muted"], offset=10)
        .configure_legend(**{"orient": "bottom", "title": None, "labelColor": INK["text"], "columns": 6, **legend})
    )
    spec = drawable(whole.to_dict())
    if path.suffix.lower() == ".html":
        write_text(path, render("picture.html", title=drawable(path.stem), specs=spec))
        return path
    drawn = _drawn(spec, path.suffix.lower(), scale)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as draft:
        draft.write_bytes(drawn)
    return path


def _drawn(spec: dict[str, Any], ending: str, scale: float) -> bytes:
    import vl_convert

    if ending == ".svg":
        return str(vl_convert.vegalite_to_svg(spec, _version())).encode()
    return bytes(vl_convert.vegalite_to_png(spec, _version(), scale=scale))


def _version() -> str:
    """Of Vega-Lite, as vl-convert asks for it."""
    return ".".join(altair().SCHEMA_VERSION.removeprefix("v").split(".")[:2])


def drawable(value: Any) -> Any:
    """What a chart says, with a mark (U+FFFD) for each character that no picture holds: at one, vl-convert aborts."""
    match value:
        case str():
            return _UNDRAWABLE.sub("\ufffd", value)
        case dict():
            return {drawable(key): drawable(inner) for key, inner in value.items()}
        case list():
            return [drawable(inner) for inner in value]
    return value
