/* Draws the page from its data: the view that the reader chose, its figures in the colours of the theme, its small tables.
   All text goes in as text, never as markup. Figures carry what plotly has no word for in layout.meta and trace.meta: see look.py. */
"use strict";

const page = JSON.parse(document.getElementById("data").textContent);
const root = document.documentElement;
const narrow = () => window.innerWidth <= 640;
const printing = () => root.classList.contains("printing");
const PAPER = { one: 680, two: 335, many: 220 }; // widths of figures in print, pixels: three columns of style.css fit A4 and Letter
const shown = { view: null, hidden: new Map(), choices: new Map() };

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

/* "var(--k4)" anywhere in a figure becomes the colour that the theme gives it; the figure itself is left as it is. */
function painted(value, styles) {
  if (typeof value === "string") {
    const name = /^var\((--[\w-]+)\)$/.exec(value);
    return name ? styles.getPropertyValue(name[1]).trim() : value;
  }
  if (Array.isArray(value)) return typeof value[0] === "number" ? value : value.map((item) => painted(item, styles));
  if (value && typeof value === "object") return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, painted(item, styles)]));
  return value;
}

const colour = (name) => painted(name, getComputedStyle(root));

/* Figures */

/* Names in figures are escaped for plotly, which reads tags. */
const escaped = (text) => String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
const unescaped = (text) => (text ?? "").replaceAll("&lt;", "<").replaceAll("&gt;", ">").replaceAll("&amp;", "&");

const column = Object.fromEntries(page.runs.columns.map(({ name }, i) => [name, i]));
const fixed = (value, digits) => (value === null || value === undefined ? "unknown" : value.toFixed(digits));

function withPrefix(count) {
  const [scale, prefix] = [[1e9, "G"], [1e6, "M"], [1e3, "k"]].find(([least]) => Math.abs(count) >= least) ?? [1, ""];
  return [(count / scale).toPrecision(3), prefix];
}

/* What hovering over a run shows. */
function card(index) {
  const row = page.runs.rows[index];
  const get = (name) => row[column[name]];
  const bits = (name) => withPrefix(get(name)).join(" ") + "bit";
  const lines = [
    `<b>${escaped(get("model"))}</b>`,
    escaped(`${get("format")}, embeddings ${get("embeddings")}`),
    `${bits("total_bits")} (${withPrefix(get("total_bits") / 8).join(" ")}B), ${bits("linear_bits")} in linear layers`,
    `${fixed(get("bits_per_byte"), 4)} ± ${fixed(get("bits_per_byte_stderr"), 4)} bits per byte`,
  ];
  if (get("added") !== null && get("k") < 16) lines.push(`${fixed(get("added"), 4)} above 16 bits`);
  return [...lines, `took ${fixed(get("seconds"), 1)} s`].join("<br>");
}

function drawFigure(place) {
  const styles = getComputedStyle(root);
  const figure = page.figures[place.dataset.figure];
  const meta = figure.layout.meta;
  const slug = place.dataset.slug;
  const hidden = shown.hidden.get(slug) ?? new Set();
  const choice = shown.choices.get(slug) ?? (meta.choices ?? [])[0];
  const traces = figure.data.filter((trace) => !(trace.meta?.group !== undefined && trace.meta.group !== choice) && !hidden.has(trace.legendgroup));
  const layout = painted(figure.layout, styles);
  Object.assign(layout.yaxis, meta.axes?.[choice]);
  const small = narrow();
  layout.width = printing() ? PAPER[place.closest(".figures").classList[1]] : Math.max(200, Math.floor(place.clientWidth));
  layout.height = small || printing() ? meta.phone : meta.height;
  layout.font.family = layout.hoverlabel.font.family = styles.getPropertyValue("--sans").trim();
  layout.dragmode = small ? false : layout.dragmode;
  if (small) {
    layout.margin.r = 8;
    for (const axis of [layout.xaxis, layout.yaxis]) axis.tickfont.size = axis.title.font.size = 11;
  }
  fitTicks(layout, meta, layout.width - 70);
  const options = {
    displaylogo: false, displayModeBar: small ? false : "hover", responsive: false, showTips: false,
    modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
    showSendToCloud: false, plotlyServerURL: "", // by default plotly.js offers to send a chart to its makers
    toImageButtonOptions: { format: "png", scale: 2, filename: `kbit-${slug}` },
  };
  layout.annotations = [];
  const shownTraces = painted(traces, styles);
  for (const trace of shownTraces) if (trace.meta?.runs) trace.text = trace.meta.runs.map(card);
  Plotly.react(place, shownTraces, layout, options);
  const labels = (meta.labels ?? []).filter((label) => (!label.group || label.group === choice) && !hidden.has(label.legendgroup));
  if (labels.length) Plotly.relayout(place, { annotations: placeLabels(place, labels, styles, small) });
}

function fitTicks(layout, meta, width) {
  if (!meta.ticks?.length) return;
  const room = (ticks) => Math.max(...ticks.text.map((text) => Math.max(...text.split("<br>").map((line) => line.length)))) * 6.6 + 10;
  const ticks = meta.ticks.find((set) => set.at.length * room(set) <= width) ?? meta.ticks[meta.ticks.length - 1];
  Object.assign(layout.xaxis, { tickmode: "array", tickvals: ticks.at, ticktext: ticks.text });
}

/* Labels take the first of their sides on which they meet no other label and no point; else their short text; else nothing. */
function placeLabels(place, labels, styles, small) {
  const { xaxis, yaxis } = place._fullLayout; // plotly has no public way from a number to its pixel
  const [width, height] = [xaxis._length, yaxis._length];
  const size = small ? 11 : 12.5;
  const pen = document.createElement("canvas").getContext("2d");
  pen.font = `600 ${size}px ${styles.getPropertyValue("--sans")}`;
  const taken = [];
  for (const trace of place._fullData) {
    if (trace.visible !== true || !(trace.mode ?? "").includes("markers") || trace.marker?.opacity < 0.5) continue;
    trace.x.forEach((x, i) => {
      const [px, py] = [xaxis.d2p(x), yaxis.d2p(trace.y[i])];
      taken.push([px - 4, py - 4, px + 4, py + 4]);
    });
  }
  const free = (box) => box[0] > -2 && box[1] > -2 && box[2] < width + 10 && box[3] < height + 2
    && !taken.some((other) => box[0] - 1 < other[2] && other[0] < box[2] + 1 && box[1] < other[3] && other[1] < box[3]);
  const placed = [];
  for (const label of labels) {
    const [px, py] = [xaxis.d2p(label.x), yaxis.d2p(label.y)];
    if (!Number.isFinite(px) || !Number.isFinite(py)) continue;
    const found = [label.text, label.short].flatMap((text) => label.sides.map((side) => boxOf(side, text, px, py, pen.measureText(text.replace(/&lt;|&gt;|&amp;/g, "x")).width, size)))
      .find(({ box, anchor }) => free(box) && (anchor !== "center" || (box[0] >= 0 && box[2] <= width)));
    if (!found) continue;
    taken.push(found.box);
    placed.push({
      x: xaxis.type === "log" ? Math.log10(label.x) : label.x, y: yaxis.type === "log" ? Math.log10(label.y) : label.y,
      text: `<b>${found.text}</b>`, showarrow: false, xanchor: found.anchor, yanchor: "middle", xshift: found.dx, yshift: -found.dy, borderpad: 0,
      font: { size, color: painted(label.colour, styles) },
    });
  }
  return placed;
}

function boxOf(side, text, px, py, wide, size) {
  const gap = 9;
  const dx = side.endsWith("right") ? gap : side.endsWith("left") ? -gap : 0;
  const dy = side.startsWith("below") ? size + 1 : side.startsWith("above") ? -size - 1 : 0;
  const anchor = dx > 0 ? "left" : dx < 0 ? "right" : "center";
  const left = px + dx - (anchor === "right" ? wide : anchor === "center" ? wide / 2 : 0);
  return { text, anchor, dx, dy, box: [left, py + dy - size * 0.6, left + wide, py + dy + size * 0.6] };
}

function drawAll() {
  places().forEach(drawFigure);
  root.dataset.drawn = "true";
}

const places = () => [...document.querySelectorAll(".canvas")];

/* Draws one figure after the other, so that the page answers meanwhile; a later call takes over from an earlier one. */
let turn = 0;
async function drawInTurn() {
  const mine = ++turn;
  delete root.dataset.drawn;
  for (const place of places()) {
    await new Promise((resolve) => setTimeout(resolve));
    if (mine !== turn) return;
    drawFigure(place);
  }
  root.dataset.drawn = "true";
}

/* Sections of the view */

function fillSection(section) {
  const slug = section.dataset.section;
  const content = page.views[shown.view].sections[slug];
  section.querySelector("[data-finding]").textContent = content.finding;
  section.querySelector("[data-note]").textContent = content.note;
  section.querySelector("[data-formula]").replaceChildren(...content.formula.map(([tag, text]) => (tag ? make(tag, { textContent: text }) : text)));
  const tools = section.querySelector("[data-tools]");
  tools.replaceChildren(...toolsOf(slug, content));
  const figures = section.querySelector("[data-figures]");
  figures.querySelectorAll(".canvas").forEach((place) => Plotly.purge(place));
  figures.className = `figures ${slug === "curve" || content.figures.length < 2 ? "one" : [2, 4].includes(content.figures.length) ? "two" : "many"}`;
  figures.replaceChildren(...content.figures.map((index) => figureOf(slug, index)));
  section.querySelector("[data-tables]").replaceChildren(...content.tables.map(tableOf));
}

function figureOf(slug, index) {
  const meta = page.figures[index].layout.meta;
  const caption = make("figcaption");
  if (meta.title) caption.append(make("b", { textContent: unescaped(meta.title) }));
  if (meta.note) caption.append(make("span", { textContent: unescaped(meta.note) }));
  const place = make("div", { className: "canvas" });
  Object.assign(place.dataset, { figure: index, slug });
  place.setAttribute("role", "img");
  place.setAttribute("aria-label", unescaped(meta.title) || document.querySelector(`#${slug} h2`).textContent);
  return make("figure", {}, ...(caption.children.length ? [caption] : []), place);
}

function toolsOf(slug, content) {
  const tools = [];
  const metas = content.figures.map((index) => page.figures[index].layout.meta);
  const choices = metas[0]?.choices ?? [];
  if (choices.length > 1) {
    const select = make("select", {}, ...choices.map((choice) => make("option", { value: choice, textContent: unescaped(choice) })));
    if (!choices.includes(shown.choices.get(slug))) shown.choices.set(slug, choices[0]);
    select.value = shown.choices.get(slug);
    select.addEventListener("change", () => {
      shown.choices.set(slug, select.value);
      redraw(slug);
    });
    tools.push(make("label", { className: "pick", textContent: `${metas[0].choose} ` }, select));
  }
  const entries = new Map(metas.flatMap((meta) => meta.legend ?? []).map((entry) => [entry.group, entry]));
  const width = ({ group }) => Number(/^k(\d+)$/.exec(group)?.[1] ?? 0); // bit widths ascend; other things keep their order
  const hidden = shown.hidden.get(slug) ?? new Set();
  shown.hidden.set(slug, hidden);
  for (const entry of [...entries.values()].sort((a, b) => width(a) - width(b))) {
    const dot = make("i");
    dot.style.background = entry.colour;
    const button = make("button", { type: "button", title: "Show or hide" }, dot, unescaped(entry.text));
    button.setAttribute("aria-pressed", String(!hidden.has(entry.group)));
    button.addEventListener("click", () => {
      if (!hidden.delete(entry.group)) hidden.add(entry.group);
      button.setAttribute("aria-pressed", String(!hidden.has(entry.group)));
      redraw(slug);
    });
    tools.push(button);
  }
  return tools;
}

const redraw = (slug) => document.querySelectorAll(`#${slug} .canvas`).forEach(drawFigure);

function tableOf(content) {
  const numeric = content.head.map((_, i) => i > 0 && content.rows.every((row) => /^[-+]?[\d.]/.test(row[i]) || row[i] === "" || row[i].startsWith("over") || row[i].startsWith("under")));
  const cell = (tag, text, i) => make(tag, { textContent: text, className: numeric[i] ? "number" : "" });
  const table = make("table", {},
    make("thead", {}, make("tr", {}, ...content.head.map((text, i) => cell("th", text, i)))),
    make("tbody", {}, ...content.rows.map((row) => make("tr", {}, ...row.map((text, i) => cell("td", text, i))))));
  return make("details", { open: !content.folded }, make("summary", { textContent: content.caption }), make("div", { className: "frame" }, table));
}

function fillMasthead() {
  const view = page.views[shown.view];
  document.querySelector("[data-text=headline]").textContent = view.headline;
  document.querySelector("[data-text=lead]").textContent = view.lead;
  document.querySelector("[data-ruler]").replaceChildren(...view.ruler.map((part) => {
    const bar = make("i", { title: `${part.text}: ${part.from} to ${part.to}, probability ${part.probability}` }, String(part.k), make("em", { textContent: part.k === 1 ? " bit" : " bits" }));
    bar.style.background = `var(--k${part.k})`;
    const stretch = make("div", {}, bar, make("span", {}, ...[part.from, ...(part === view.ruler.at(-1) ? [part.to] : [])].map((textContent) => make("b", { textContent }))));
    stretch.style.flex = `${part.share} 1 0`;
    return stretch;
  }));
  document.querySelector("[data-tiles]").replaceChildren(...view.tiles.map((tile) => make("div", {},
    make("dd", { className: "value", textContent: tile.value }), make("dt", { textContent: tile.label }),
    ...(tile.note ? [make("dd", { className: "note", textContent: tile.note })] : []))));
}

/* The reader's choice of a view; where a combination was not run, the nearest that was. */
function chooseView(place, value) {
  const parts = shown.view.split("\n");
  parts[place] = value;
  const keys = Object.keys(page.views).filter((key) => key.split("\n")[place] === value);
  const alike = (key) => key.split("\n").filter((part, i) => part === parts[i]).length;
  showView(keys.sort((a, b) => alike(b) - alike(a))[0]);
}

function showView(key) {
  shown.view = key;
  fillMasthead();
  fillSwitches();
  document.querySelectorAll("[data-section]").forEach(fillSection);
  return drawInTurn();
}

function fillSwitches() {
  const now = shown.view.split("\n");
  const form = document.querySelector("[data-switches]");
  const focused = document.activeElement?.name;
  form.replaceChildren(...page.switches.map((item, place) => ({ ...item, place })).filter((item) => item.options.length > 1).map((item) => {
    const segments = item.options.map((option) => {
      const input = make("input", { type: "radio", name: item.name, value: option.value, checked: option.value === now[item.place] });
      input.addEventListener("change", () => chooseView(item.place, option.value));
      return make("label", {}, input, option.text);
    });
    return make("fieldset", {}, make("legend", { textContent: item.text }), make("div", { className: "segments" }, ...segments));
  }));
  if (focused) form.querySelector(`input[name="${CSS.escape(focused)}"]:checked`)?.focus();
}

/* Themes, paper and widths */

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawInTurn);
window.addEventListener("beforeprint", () => {
  root.classList.add("printing");
  turn++; // the screen's drawing ends here
  drawAll();
});
window.addEventListener("afterprint", () => {
  root.classList.remove("printing");
  drawInTurn();
});
let width = window.innerWidth;
let waiting = 0;
window.addEventListener("resize", () => {
  if (window.innerWidth === width || printing()) return;
  width = window.innerWidth;
  clearTimeout(waiting);
  waiting = setTimeout(drawInTurn, 120);
});
