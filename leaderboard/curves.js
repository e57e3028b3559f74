"use strict";
/* A panel per attack or scheme: the attacker's loss on x, the owner's evidence on y, a line per trial. */

const SYMBOLS = ["Circle", "Square", "Triangle", "Diamond", "Cross", "Star", "Wye"];
const COLOURS = 10;
const TICKS = [-10, -5, 0, 1, 2, 5, 10, 20, 50, 100, 200, 500];
const FEW = [0, 2, 10, 50, 200];
const DOZEN = 12;
const hidden = new Set();
const more = { curves: DOZEN, frontiers: DOZEN, multiples: DOZEN };

/** What tells lines apart: schemes while there are colours for them, otherwise their families. */
function looks(here) {
  const marked = here.allSchemes.filter((name) => name !== data.control);
  const single = here.schemes.filter((name) => name !== data.control).length <= COLOURS;
  const family = (name) => here.declared.get(name)?.family ?? "family unknown";
  const groupOf = (name) => (name === data.control ? data.control : single ? name : family(name));
  const shown = single ? here.schemes.filter((name) => name !== data.control) : [...new Set(marked.map(family))].sort();
  const look = (i) => ({ colour: `var(--c${i % COLOURS})`, symbol: d3[`symbol${SYMBOLS[i % SYMBOLS.length]}`] });
  const styles = new Map(shown.map((name, i) => [name, look(i)]));
  styles.set(data.control, { colour: "var(--faint)", symbol: d3.symbolCircle });
  return { styles, groupOf };
}

function icon({ colour, symbol }) {
  const picture = svg("svg", { viewBox: "-8 -8 16 16", width: 14, height: 14, "aria-hidden": "true" });
  picture.append(svg("path", { d: d3.symbol(symbol, 60)(), fill: colour }));
  return picture;
}

function curveLegend(place, { styles }, redraw) {
  const buttons = [...styles].map(([name, style]) => {
    const toggle = (event) => {
      if (!hidden.delete(name)) hidden.add(name);
      event.currentTarget.setAttribute("aria-pressed", String(!hidden.has(name)));
      redraw();
    };
    return el("button", { type: "button", "aria-pressed": String(!hidden.has(name)), click: toggle }, icon(style), schemeName(name));
  });
  place.replaceChildren(...buttons);
}

/** The attacks that tell most: by how many schemes they remove, then by how weak the evidence they leave is. */
function telling(columns, here) {
  const removed = (column) => here.schemes.filter((name) => here.cell(name, column)?.worst === "removed").length;
  const left = (column) => d3.mean(here.schemes, (name) => here.cell(name, column)?.weakest ?? undefined) ?? -Infinity;
  return columns.length <= DOZEN ? columns : d3.sort(columns, (c) => -removed(c), (c) => -left(c));
}

function drawCurves(here) {
  const look = looks(here);
  const panels = () => {
    const columns = telling(here.columns, here).slice(0, more.curves);
    const axes = axesOf(columns.flatMap((column) => here.under(column)));
    const drawn = columns.map((column) => panel(attackTitle(column), here.under(column), look, axes));
    document.querySelector("#curves").replaceChildren(...drawn);
    moreButton(document.querySelector("#curves-more"), "curves", here.columns.length, "attack", panels);
  };
  curveLegend(document.querySelector("#curve-legend"), look, panels);
  panels();
}

function moreButton(place, what, count, noun, redraw) {
  const step = (shown) => () => {
    more[what] = shown;
    redraw();
  };
  const button = (shown, text) => el("button", { type: "button", click: step(shown) }, text);
  const left = count - more[what];
  const buttons =
    left > 0
      ? [button(more[what] + DOZEN, `${Math.min(DOZEN, left)} more`), button(count, `All ${plural(count, noun)}`)]
      : more[what] > DOZEN && count > DOZEN
        ? [button(DOZEN, "Fewer")]
        : [];
  place.replaceChildren(...buttons);
}

function attackTitle(column) {
  const axis = column.axis && column.axis !== "none" ? `, by ${column.axis}` : "";
  return [attackLink(column.label), ` ${column.claims ? "an accuser’s evidence" : column.needs}${axis}`];
}

const pointsOf = (trials, groupOf) =>
  trials.flatMap((record) =>
    record.curve.map((point) => ({ ...point, record, group: groupOf(record.choices.watermark), proof: -point.log10_p + 0 })),
  );

/** Domains that hold all points, the same in every panel. */
function axesOf(trials) {
  const points = trials.flatMap((record) => record.curve);
  const x = d3.extent([0, data.budget_pp + 1, ...points.map((p) => p.loss_pp)]);
  return { x: [Math.max(x[0], -20), x[1]], y: [0, Math.max(3, d3.max(points, (p) => -p.log10_p) ?? 0)] };
}

function panel(title, trials, look, axes, size = { width: 380, height: 250 }) {
  const shown = pointsOf(trials, look.groupOf).filter((point) => !hidden.has(point.group));
  const missing = trials.filter((record) => !record.curve.length).length;
  const without = missing ? el("span", { title: plural(missing, "trial") }, ` (${missing} without a curve)`) : null;
  const body = shown.length ? chart(shown, look.styles, axes, size) : el("p", { class: "note" }, "No points.");
  return el("figure", { class: "panel" }, el("figcaption", {}, title, without), body);
}

/** Log-like scales that hold zero. */
const scale = (domain, label, ticks) => ({
  type: "symlog",
  constant: 2,
  domain,
  ticks: ticks.filter((t) => t >= domain[0] && t <= domain[1]),
  tickFormat: (value) => signed(String(value)),
  label,
});

function rules(rates, axes) {
  const right = { x: axes.x[1], textAnchor: "end", dy: -6, fill: "var(--soft)" };
  const top = { x: Number, frameAnchor: "top", textAnchor: "start", dx: 4, dy: -4, fill: "var(--soft)" };
  const height = (rate) => -Math.log10(rate);
  return [
    Plot.ruleY(rates, { y: height, stroke: "var(--rule)", strokeDasharray: "5 3" }),
    Plot.text(rates, { ...right, y: height, text: (rate) => `p = ${rate}` }),
    Plot.ruleX([data.budget_pp], { stroke: "var(--rule)", strokeDasharray: "2 3" }),
    Plot.text([data.budget_pp], { ...top, text: (pp) => `${pp} pp` }),
  ];
}

function chart(shown, styles, axes, { width, height }) {
  const rates = [...new Set(shown.map((point) => point.record.marked.fpr))];
  const groups = [...styles.keys()];
  const crowded = shown.length > 150;
  const ticks = height < 200 ? FEW : TICKS;
  const place = { x: "loss_pp", y: "proof" };
  const dots = { ...place, symbol: "group", stroke: "group", r: crowded ? 2.2 : 3.4, strokeWidth: crowded ? 1 : 1.4 };
  const pick = { ...place, fontSize: 12, lineHeight: 1.3, maxRadius: 30 };
  return Plot.plot({
    width,
    height,
    marginLeft: 38,
    marginBottom: 36,
    marginTop: 20,
    ariaLabel: "Accuracy lost against evidence",
    x: scale(axes.x, "accuracy lost (pp)", ticks),
    y: { ...scale(axes.y, "evidence (−log₁₀ p)", ticks), nice: false },
    color: { domain: groups, range: groups.map((name) => styles.get(name).colour) },
    symbol: { domain: groups, range: groups.map((name) => styles.get(name).symbol) },
    marks: [
      ...rules(rates, axes),
      Plot.line(shown, { ...place, z: (p) => p.record.id, stroke: "group", strokeWidth: 1.1, strokeOpacity: crowded ? 0.35 : 0.6 }),
      Plot.dot(shown, { ...dots, filter: (point) => point.detected === true, fill: "group" }),
      Plot.dot(shown, { ...dots, filter: (point) => point.detected !== true, fill: "var(--page)" }),
      Plot.tip(shown, Plot.pointer({ ...pick, title: tip })),
    ],
  });
}

function tip(point) {
  const { record } = point;
  const axis = record.attack?.axis ?? "strength";
  const found = { true: "yes", false: "no", null: "undecided" }[point.detected];
  return [
    `${schemeName(record.choices.watermark)} under ${attackName(record.choices.attack)}, seed ${record.seed}`,
    axis === "none" ? "one strength" : `${axis} ${compact(point.strength)}`,
    `accuracy ${percent(point.accuracy)} (${lost(point.loss_pp)})`,
    `${record.marked.unit}: ${statistic(point, record.marked.trials)}`,
    `log10 p = ${fixed(point.log10_p, 2)}`,
    record.marked.source === "none" ? "nothing to detect" : `detected: ${found}`,
  ].join("\n");
}
