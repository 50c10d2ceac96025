"""How the page looks and what it does without a server: colours, style sheet, script.

The page loads nothing: fonts are the reader's own, and a content security policy forbids every request.
"""

# Stages take these colours in the order of the recipe, on light and on dark ground.
LIGHT = ("#2f5f9e", "#c06a24", "#35845e", "#9a4a8b", "#8a7a1f", "#2f8fa6", "#b3423f", "#6d6d78")
DARK = ("#7fb0ea", "#eda064", "#6dc79d", "#d992cb", "#cfc268", "#7dcfe2", "#ee8b86", "#acacb8")

INK = {"text": "#1c2128", "muted": "#5b6470", "line": "#d9dde3", "grid": "#e8ebef"}

CSS = (
    ":root{color-scheme:light dark;--ground:#fff;--card:#f6f7f9;--text:#1c2128;--muted:#5b6470;--line:#d9dde3;"
    "--grid:#e8ebef;--best:#e4efe6;--note:#fdf3dc;"
    + "".join(f"--stage{i}:{colour};" for i, colour in enumerate(LIGHT))
    + "}\n@media (prefers-color-scheme:dark){:root{--ground:#14171c;--card:#1d2128;--text:#e4e7ec;--muted:#9aa4b1;"
    "--line:#343b46;--grid:#272d36;--best:#20382b;--note:#3a3018;"
    + "".join(f"--stage{i}:{colour};" for i, colour in enumerate(DARK))
    + "}}\n"
    + """
*{box-sizing:border-box}
html{scroll-behavior:smooth;-webkit-text-size-adjust:100%}
body{margin:0;background:var(--ground);color:var(--text);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1160px;margin:0 auto;padding:24px 28px 80px}
h1{font-size:1.9rem;line-height:1.2;margin:.2em 0 .1em;overflow-wrap:anywhere}
h2{font-size:1.3rem;margin:2.6em 0 .4em;padding-top:.7em;border-top:1px solid var(--line)}
h3{font-size:1rem;margin:1.6em 0 .3em;overflow-wrap:anywhere}
p{margin:.4em 0 .8em;max-width:75ch}
a{color:var(--stage0)}
code,pre{font:.875em/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
.small,figcaption,.muted{color:var(--muted);font-size:.875rem}
nav{display:flex;flex-wrap:wrap;gap:.2em 1.1em;margin:1em 0 1.4em;font-size:.9375rem}
nav a{text-decoration:none}nav a:hover{text-decoration:underline}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(135px,1fr));gap:10px;margin:1.2em 0;padding:0}
.tiles div{background:var(--card);border-radius:8px;padding:10px 14px}
.tiles dt{color:var(--muted);font-size:.8125rem}
.tiles dd{margin:0;font-size:1.25rem;font-weight:600;font-variant-numeric:tabular-nums}
.notes{background:var(--note);border-radius:8px;padding:10px 16px;margin:1em 0}
.notes ul{margin:.2em 0;padding-left:1.2em}
.notes p{margin:.2em 0;max-width:none}
.legend{display:flex;flex-wrap:wrap;gap:.2em 1.2em;font-size:.875rem;margin:.6em 0;padding:0;list-style:none}
.legend i{display:inline-block;width:1.1em;height:.28em;border-radius:2px;margin-right:.45em;vertical-align:middle}
figure{margin:.9em 0 1em;min-width:0}
figure h3{margin:0 0 .1em}
figcaption{margin-top:.2em}
.chart{width:100%;min-width:0}
.chart svg{display:block}
.grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,300px),1fr));gap:4px 26px}
.scroll{overflow:auto;width:fit-content;max-width:100%;max-height:30rem;
border:1px solid var(--line);border-radius:8px;margin:.6em 0}
.scroll.whole{max-height:none}
table{border-collapse:separate;border-spacing:0;font-size:.875rem;font-variant-numeric:tabular-nums}
th,td{padding:5px 12px;line-height:1.25rem;text-align:right;
white-space:nowrap;border-bottom:1px solid var(--grid);background:var(--ground)}
th{font-weight:600}
thead th{position:sticky;top:0;z-index:2;background:var(--card)}
thead tr+tr th{top:var(--row,2rem)}
thead th.span{text-align:center}
tr>:first-child,td.word,th.word{text-align:left}
tr>.first{position:sticky;left:0;z-index:1}
thead tr>.first{z-index:3}
.edge{border-left:1px solid var(--line)}
tbody tr:last-child>*{border-bottom:0}
td.best{background:var(--best);font-weight:600}
td.unseen{color:var(--muted);font-style:italic}
th button{all:unset;cursor:pointer}
th button:focus-visible,summary:focus-visible{outline:2px solid var(--stage0);outline-offset:2px}
th button::after{content:"";padding-left:.25em}
th[aria-sort=ascending] button::after{content:"\\2191"}
th[aria-sort=descending] button::after{content:"\\2193"}
details{margin:.6em 0}
summary{cursor:pointer;color:var(--stage0)}
summary:hover{text-decoration:underline}
input[type=search]{font:inherit;font-size:16px;color:inherit;background:var(--ground);border:1px solid var(--line);
border-radius:8px;padding:5px 11px;width:min(100%,22rem);margin:.6em 0 0}
pre{background:var(--card);border-radius:8px;padding:12px 16px;overflow:auto;max-height:36rem;margin:.6em 0}
#vg-tooltip-element{max-width:90vw}
@media (max-width:600px){main{padding:14px 16px 60px}h1{font-size:1.5rem}th,td{padding:5px 9px}
td.first{min-width:6.5rem;max-width:42vw;white-space:normal}
.tiles{grid-template-columns:1fr 1fr}.tiles dd{font-size:1.0625rem}}
@media print{.scroll{max-height:none;overflow:visible}nav,input{display:none}}
"""
)

SCRIPT = """
"use strict";
const specs = JSON.parse(document.getElementById("specs").textContent);
const ground = matchMedia("(prefers-color-scheme: dark)");
function draw() {
  const css = getComputedStyle(document.documentElement), colour = name => css.getPropertyValue("--" + name).trim();
  const font = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif", muted = colour("muted");
  const category = [...Array(STAGES).keys()].map(i => colour("stage" + i));
  const config = {
    background: "transparent", font, view: {stroke: null}, range: {category}, rule: {color: muted},
    axis: {labelColor: muted, titleColor: muted, gridColor: colour("grid"), domainColor: colour("line"),
           tickColor: colour("line"), labelFontSize: 12, titleFontSize: 12, titleFontWeight: "normal", titlePadding: 8},
  };
  for (const place of document.querySelectorAll("[data-chart]")) {
    vegaEmbed(place, specs[place.dataset.chart],
              {config, mode: "vega-lite", actions: false, renderer: "svg",
               tooltip: {theme: ground.matches ? "dark" : "light"}})
      .catch(error => { place.textContent = "This chart could not be drawn: " + error.message; });
  }
}
draw();
ground.addEventListener("change", draw);

for (const field of document.querySelectorAll("input[type=search]")) {
  field.addEventListener("input", () => {
    const word = field.value.trim().toLowerCase();
    for (const row of document.getElementById(field.dataset.table).tBodies[0].rows)
      row.hidden = !row.textContent.toLowerCase().includes(word);
  });
}

for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
  const from = table.tHead.rows.length > 1 ? table.tHead.rows[0].querySelectorAll("[rowspan]").length : 0;
  const titles = [...[...table.tHead.rows[0].cells].slice(0, from), ...heads];
  titles.forEach((head, column) => {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") === "descending" || (head.matches(".word") && !head.ariaSort);
      titles.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const key = row => { const cell = row.cells[column], text = cell.textContent;
                           return cell.matches(".word") ? text : Number(cell.dataset.value ?? text); };
      const body = table.tBodies[0], keyed = [...body.rows].map(row => [key(row), row]);
      keyed.sort(([a], [b]) => typeof a === "string" ? (up ? 1 : -1) * a.localeCompare(b)
        : (Number.isNaN(a) - Number.isNaN(b)) || (up ? a - b : b - a));
      body.append(...keyed.map(([, row]) => row));
    });
  });
}
// A second row of column titles sticks below the first, however tall that is.
const settle = () => document.querySelectorAll("thead").forEach(head =>
  head.style.setProperty("--row", head.rows[0].getBoundingClientRect().height + "px"));
settle();
document.querySelectorAll("details").forEach(part => part.addEventListener("toggle", settle));
""".replace("STAGES", str(len(LIGHT)))
