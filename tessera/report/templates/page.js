"use strict";
const specs = JSON.parse(document.getElementById("specs").textContent);
const ground = matchMedia("(prefers-color-scheme: dark)");
function draw() {
  const css = getComputedStyle(document.documentElement), colour = name => css.getPropertyValue("--" + name).trim();
  const font = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif", muted = colour("muted");
  const category = [...Array({{ light|length }}).keys()].map(i => colour("stage" + i));
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
// What goes on beyond the right edge of a table fades out there.
const fade = box => box.classList.toggle("more", box.scrollLeft + box.clientWidth < box.scrollWidth - 4);
const fades = () => document.querySelectorAll(".scroll").forEach(fade);
document.querySelectorAll(".scroll").forEach(box => box.addEventListener("scroll", () => fade(box), {passive: true}));
fades();
window.addEventListener("resize", fades);
document.querySelectorAll("details").forEach(part => part.addEventListener("toggle", () => { settle(); fades(); }));
