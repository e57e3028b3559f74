"use strict";
/* One panel per attack: the attacker's loss on x, the owner's evidence on y, a line per trial. */

const SYMBOLS = ["Circle", "Square", "Triangle", "Diamond", "Cross", "Star", "Wye"];
const COLOURS = 10;
const TICKS = [0, 1, 2, 5, 10, 20, 50, 100, 200, 500];
const hidden = new Set();

/** Scheme -> colour and symbol, the same in every panel; the control is grey. */
function looks(schemes) {
  const marked = schemes.filter((name) => name !== data.control);
  const look = (i) => ({ colour: `var(--c${i % COLOURS})`, symbol: d3[`symbol${SYMBOLS[i % SYMBOLS.length]}`] });
  const out = new Map(marked.map((name, i) => [name, look(i)]));
  out.set(data.control, { colour: "var(--faint)", symbol: d3.symbolCircle });
  return out;
}

function curveLegend(schemes, styles, redraw) {
  const buttons = schemes.map((name) => {
    const { colour, symbol } = styles.get(name);
    const icon = svg("svg", { viewBox: "-8 -8 16 16", width: 14, height: 14, "aria-hidden": "true" });
    icon.append(svg("path", { d: d3.symbol(symbol, 60)(), fill: colour }));
    const toggle = (event) => {
      if (!hidden.delete(name)) hidden.add(name);
      event.currentTarget.setAttribute("aria-pressed", String(!hidden.has(name)));
      redraw();
    };
    return el(
      "button",
      { type: "button", "aria-pressed": String(!hidden.has(name)), click: toggle },
      icon,
      schemeName(name),
    );
  });
  const all = el(
    "button",
    { type: "button", class: "link", click: () => toggleAll(schemes, styles, redraw) },
    hidden.size ? "show all" : "hide all",
  );
  document.querySelector("#curve-legend").replaceChildren(...buttons, ...(schemes.length > 6 ? [all] : []));
}

function toggleAll(schemes, styles, redraw) {
  if (hidden.size) hidden.clear();
  else schemes.forEach((name) => hidden.add(name));
  curveLegend(schemes, styles, redraw);
  redraw();
}

const pointsOf = (trials) =>
  trials.flatMap((record) =>
    record.curve.map((point) => ({ ...point, record, scheme: record.choices.watermark, proof: -point.log10_p + 0 })),
  );

function drawCurves(columns, trials, styles) {
  const drawn = pointsOf(trials);
  const x = d3.extent([0, data.budget_pp + 1, ...drawn.map((p) => p.loss_pp)]);
  const y = [0, Math.max(3, d3.max(drawn, (p) => p.proof) ?? 0)];
  const panels = columns.map((column) =>
    panel(
      column,
      trials.filter((r) => column.holds(r)),
      styles,
      x,
      y,
    ),
  );
  document.querySelector("#curves").replaceChildren(...panels);
}

function panel(column, trials, styles, x, y) {
  const shown = pointsOf(trials).filter((point) => !hidden.has(point.scheme));
  const missing = trials.filter((record) => !record.curve.length).length;
  const title = el("figcaption", {}, el("strong", {}, column.label), ` ${column.needs}${column.claims ? ", an accuser’s evidence" : ""}`);
  const axis = trials.find((record) => record.attack)?.attack.axis;
  if (axis && axis !== "none") title.append(`, by ${axis}`);
  if (missing) title.append(`; ${plural(missing, "trial")} without a curve`);
  const body = shown.length ? chart(column, shown, styles, x, y) : el("p", { class: "note" }, "No points.");
  return el("figure", { class: "panel" }, title, body);
}

function chart(column, shown, styles, x, y) {
  const rates = [...new Set(shown.map((point) => point.record.marked.fpr))];
  const schemes = [...styles.keys()];
  const look = { x: "loss_pp", y: "proof", symbol: "scheme", stroke: "scheme", r: 3.6, strokeWidth: 1.4 };
  const plot = Plot.plot({
    width: 380,
    height: 260,
    marginLeft: 38,
    marginBottom: 36,
    marginTop: 20,
    ariaLabel: `Attack ${column.label}: accuracy lost against evidence`,
    x: {
      type: "symlog",
      constant: 2,
      domain: x,
      ticks: [-5, ...TICKS].filter((t) => t >= x[0] && t <= x[1]),
      tickFormat: tick,
      label: "accuracy lost (pp)",
    },
    y: {
      type: "symlog",
      constant: 2,
      domain: y,
      ticks: TICKS.filter((t) => t <= y[1]),
      tickFormat: String,
      label: "evidence (−log₁₀ p)",
      nice: false,
    },
    color: { domain: schemes, range: schemes.map((name) => styles.get(name).colour) },
    symbol: { domain: schemes, range: schemes.map((name) => styles.get(name).symbol) },
    marks: [
      Plot.ruleY(
        rates.map((rate) => -Math.log10(rate)),
        { stroke: "var(--rule)", strokeDasharray: "5 3" },
      ),
      Plot.text(rates, {
        x: x[1],
        y: (rate) => -Math.log10(rate),
        text: (rate) => `p = ${rate}`,
        textAnchor: "end",
        dy: -6,
        fill: "var(--soft)",
      }),
      Plot.ruleX([data.budget_pp], { stroke: "var(--rule)", strokeDasharray: "2 3" }),
      Plot.text([data.budget_pp], {
        x: Number,
        frameAnchor: "top",
        text: (pp) => `${pp} pp`,
        textAnchor: "start",
        dx: 4,
        dy: -4,
        fill: "var(--soft)",
      }),
      Plot.line(shown, {
        x: "loss_pp",
        y: "proof",
        z: (point) => point.record.id,
        stroke: "scheme",
        strokeWidth: 1.2,
        strokeOpacity: 0.6,
      }),
      Plot.dot(shown, { ...look, filter: (point) => point.detected === true, fill: "scheme" }),
      Plot.dot(shown, { ...look, filter: (point) => point.detected !== true, fill: "var(--page)" }),
      Plot.tip(
        shown,
        Plot.pointer({ x: "loss_pp", y: "proof", title: tip, fontSize: 12, lineHeight: 1.3, maxRadius: 30 }),
      ),
    ],
  });
  return plot;
}

const tick = (value) => signed(String(value));

function tip(point) {
  const { record } = point;
  const axis = record.attack?.axis ?? "strength";
  return [
    `${schemeName(record.choices.watermark)}, seed ${record.seed}`,
    axis === "none" ? "verbatim copy" : `${axis} ${compact(point.strength)}`,
    `accuracy ${percent(point.accuracy)} (${lost(point.loss_pp)})`,
    `${record.marked.unit}: ${statistic(point, record.marked.trials)}`,
    `log10 p = ${fixed(point.log10_p, 2)}`,
    record.marked.source === "none"
      ? "nothing to detect"
      : `detected: ${{ true: "yes", false: "no", null: "undecided" }[point.detected]}`,
  ].join("\n");
}
